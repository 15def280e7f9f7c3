"""V9: a shallow U-Net over both axes; at its bottom a transformer whose tokens are square patches.

Letters: L patches of a spectrogram, s the sides of a patch.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import LeakyResidualBlock, MultichannelLinear, Rotary, attend, resized_to


def to_chunks(x: Float[Tensor, "B C F T"], side: int) -> Float[Tensor, "B C L s s"]:
    """Frames run fast, bins slowly."""
    batch, channels, features, frames = x.shape
    x = x.reshape(batch, channels, features // side, side, frames // side, side)
    return x.transpose(3, 4).flatten(2, 3)


def from_chunks(x: Float[Tensor, "B C L s s"], features: int) -> Float[Tensor, "B C F T"]:
    batch, channels, _, side, _ = x.shape
    x = x.reshape(batch, channels, features // side, -1, side, side).transpose(3, 4)
    return x.flatten(4, 5).flatten(2, 3)


class PatchAttention(nn.Module):
    """Attention between the patches of each map.

    Two slips of the original that its weights need: the scores are divided by the root of a patch's
    side, and only the first `side // num_heads` features of each head's many are turned.
    """

    def __init__(self, *, channels: int, num_heads: int, side: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = side**0.5
        self.embedding = Rotary(features=side // num_heads)
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Sequential(
                nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                MultichannelLinear(channels=channels, features=side),
            )
            for _ in range(3)
        )
        self.o_proj = MultichannelLinear(channels=channels, features=side)

    def forward(
        self, x: Float[Tensor, "BL C s s"], num_chunks: int, scores: Tensor | None
    ) -> tuple[Float[Tensor, "BL C s s"], Float[Tensor, "B C H L L"]]:
        def heads(y: Tensor) -> Float[Tensor, "B C H L D"]:
            y = y.flatten(2).unflatten(0, (-1, num_chunks)).unflatten(3, (self.num_heads, -1))
            return y.permute(0, 2, 3, 1, 4)

        q, k = self.embedding(heads(self.q_proj(x))), self.embedding(heads(self.k_proj(x)))
        attended, scores = attend(q, k, heads(self.v_proj(x)), scale=self.scale, scores=scores)
        merged = attended.permute(0, 3, 1, 2, 4).reshape(x.shape)
        return self.o_proj(merged), scores


class Layer(nn.Module):
    def __init__(
        self, *, channels: int, side: int, num_heads: int, expansion: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.InstanceNorm2d(channels, affine=True)
        self.attn = PatchAttention(channels=channels, num_heads=num_heads, side=side)
        self.norm2 = nn.InstanceNorm2d(2 * channels, affine=True)
        self.conv1 = MultichannelLinear(
            channels=2 * channels, features=side, features_out=expansion
        )
        self.conv2 = MultichannelLinear(
            channels=2 * channels, channels_out=channels, features=expansion, features_out=side
        )
        self.dropout = nn.Dropout2d(dropout) if channels > 1 else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B C L s s"], scores: Float[Tensor, "B C H L L"] | None
    ) -> tuple[Float[Tensor, "B C L s s"], Float[Tensor, "B C H L L"]]:
        num_chunks = x.shape[2]
        h = x.transpose(1, 2).flatten(0, 1)
        z, total = self.attn(self.norm1(h), num_chunks, scores)
        z = self.norm2(torch.cat([h, z], 1))
        h = h + self.dropout(self.conv2(F.leaky_relu(self.conv1(z))))
        return h.unflatten(0, (-1, num_chunks)).transpose(1, 2), total


def block(*, channels: int, channels_out: int, stride: int = 1) -> LeakyResidualBlock:
    return LeakyResidualBlock(
        norm=nn.InstanceNorm2d(channels, affine=True),
        channels=channels,
        channels_out=channels_out,
        stride=(stride, stride),
    )


class PlainV9Patch(nn.Module):
    """Logits of a mask, for bins and frames that are multiples of `8 * chunk_size`.

    Args:
        expansion: hidden features of the feed-forward.
        num_attention_maps: 1; the original takes the number and never reads it.

    Raises:
        ValueError: if another number of attention maps is asked for.
    """

    def __init__(
        self,
        *,
        in_channels: int = 2,
        out_channels: int = 2,
        channels: int = 8,
        dropout: float = 0.1,
        n_fft: int = 2048,
        num_heads: int = 4,
        expansion: int = 2,
        num_attention_maps: int = 1,
        num_layers: int = 8,
        chunk_size: int = 32,
    ) -> None:
        super().__init__()
        if num_attention_maps != 1:
            raise ValueError(
                f"num_attention_maps ({num_attention_maps}) must be 1: every map of the bottom "
                "attends on its own, and `channels` says how many there are"
            )
        if n_fft // 2 % (8 * chunk_size):
            raise ValueError(
                f"n_fft // 2 ({n_fft // 2}) must be a multiple of 8 * chunk_size "
                f"({8 * chunk_size}): take another n_fft, or a chunk_size that divides it"
            )
        c = channels
        self.chunk_size = chunk_size
        self.enc1 = block(channels=in_channels, channels_out=c)
        self.enc2 = block(channels=c, channels_out=2 * c, stride=2)
        self.enc3 = block(channels=2 * c, channels_out=4 * c, stride=2)
        self.enc4 = block(channels=4 * c, channels_out=8 * c, stride=2)
        self.transformer = nn.ModuleList(
            Layer(
                channels=8 * c,
                side=chunk_size,
                num_heads=num_heads,
                expansion=expansion,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.dec3 = block(channels=8 * c + 4 * c, channels_out=4 * c)
        self.dec2 = block(channels=4 * c + 2 * c, channels_out=2 * c)
        self.dec1 = block(channels=2 * c + c, channels_out=c)
        self.out = nn.Conv2d(c, out_channels, 1)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        if x.shape[-1] % (8 * self.chunk_size):
            raise ValueError(
                f"{x.shape[-1]} frames are not a multiple of {8 * self.chunk_size}: pad them"
            )
        e1 = self.enc1(x)
        e2 = self.enc2(e1)
        e3 = self.enc3(e2)
        h = self.enc4(e3)
        chunks, scores = to_chunks(h, self.chunk_size), None
        for layer in self.transformer:
            chunks, scores = layer(chunks, scores)
        h = from_chunks(chunks, h.shape[2])
        h = self.dec3(torch.cat([e3, resized_to(h, e3)], 1))
        h = self.dec2(torch.cat([e2, resized_to(h, e2)], 1))
        h = self.dec1(torch.cat([e1, resized_to(h, e1)], 1))
        return self.out(h)
