"""V1, "thin": a U-Net over frequency with a transformer of one map at every level."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import (
    FrameDecoder,
    FrameEncoder,
    FrameNorm,
    MultichannelLinear,
    ResidualBlock,
    Rotary,
    attend,
    merge_heads,
    out_matrix,
    split_heads,
    squared_relu,
)

WIDTHS = (1, 2, 4, 6, 8, 10)


class ThinAttention(nn.Module):
    def __init__(self, *, features: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = features**0.5
        self.rotary_embedding = Rotary(features=features // num_heads)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            MultichannelLinear(channels=1, features=features) for _ in range(4)
        )

    def forward(
        self, x: Float[Tensor, "B 1 F T"], memory: Float[Tensor, "B 1 F T"] | None = None
    ) -> Float[Tensor, "B 1 F T"]:
        memory = x if memory is None else memory
        q = self.rotary_embedding(split_heads(self.q_proj(x), self.num_heads))
        k = self.rotary_embedding(split_heads(self.k_proj(memory), self.num_heads))
        v = split_heads(self.v_proj(memory), self.num_heads)
        return self.out_proj(merge_heads(attend(q, k, v, scale=self.scale)[0]))


class EncoderTransformer(nn.Module):
    def __init__(
        self, *, channels: int, features: int, num_heads: int, expansion: int, dropout: float
    ) -> None:
        super().__init__()
        hidden = expansion * features
        self.embed = nn.Conv2d(channels, 1, 1)
        self.norm1 = FrameNorm(features=features)
        self.attn = ThinAttention(features=features, num_heads=num_heads)
        self.norm2 = FrameNorm(features=features)
        self.conv1 = MultichannelLinear(channels=1, features=features, features_out=hidden)
        self.conv2 = MultichannelLinear(channels=1, features=hidden, features_out=features)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B C F T"]
    ) -> tuple[Float[Tensor, "B C_out F T"], Float[Tensor, "B 1 F T"]]:
        h = self.embed(x)
        h = h + self.dropout(self.attn(self.norm1(h)))
        h = h + self.dropout(self.conv2(squared_relu(self.conv1(self.norm2(h)))))
        return torch.cat([x, h], 1), h


class DecoderTransformer(nn.Module):
    def __init__(
        self, *, channels: int, features: int, num_heads: int, expansion: int, dropout: float
    ) -> None:
        super().__init__()
        hidden = expansion * features
        self.embed = nn.Conv2d(channels, 1, 1)
        self.norm1 = FrameNorm(features=features)
        self.attn1 = ThinAttention(features=features, num_heads=num_heads)
        self.attn2 = ThinAttention(features=features, num_heads=num_heads)
        self.norm2 = FrameNorm(features=features)
        self.norm3 = FrameNorm(features=features)  # in the original's weights, but never called
        self.conv1 = MultichannelLinear(channels=1, features=features, features_out=hidden)
        self.conv2 = MultichannelLinear(channels=1, features=hidden, features_out=features)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B C F T"], memory: Float[Tensor, "B 1 F T"]
    ) -> Float[Tensor, "B C_out F T"]:
        h = self.embed(x)
        h = h + self.dropout(self.attn1(self.norm1(h)))
        # the same norm again, as the original has it
        h = h + self.dropout(self.attn2(self.norm1(h), memory))
        h = h + self.dropout(self.conv2(squared_relu(self.conv1(self.norm2(h)))))
        return torch.cat([x, h], 1)


class PlainFrameTransformerV1(nn.Module):
    def __init__(
        self,
        *,
        in_channels: int = 2,
        out_channels: int = 2,
        channels: int = 2,
        dropout: float = 0.1,
        n_fft: int = 2048,
        num_heads: int = 4,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        bins, num_levels = n_fft // 2, len(WIDTHS)
        maps = [channels * width for width in WIDTHS]

        def transformer(kind: Callable[..., nn.Module], channels: int, features: int) -> nn.Module:
            return kind(
                channels=channels,
                features=features,
                num_heads=num_heads,
                expansion=expansion,
                dropout=dropout,
            )

        def body(channels: int, channels_out: int, features: int, stride: int) -> nn.Sequential:
            block = ResidualBlock(
                norm=FrameNorm(features=features),
                channels=channels,
                channels_out=channels_out,
                stride=(stride, 1),
            )
            return nn.Sequential(block)

        self.enc0_transformer = transformer(EncoderTransformer, in_channels, bins)
        for i in range(num_levels):
            above = maps[i - 1] if i else in_channels
            down = body(above + 1, maps[i], bins >> max(i - 1, 0), 2 if i else 1)
            self.add_module(f"enc{i + 1}", FrameEncoder(body=down))
            level = transformer(EncoderTransformer, maps[i], bins >> i)
            self.add_module(f"enc{i + 1}_transformer", level)
        for i in range(num_levels - 1):
            up = body(maps[i + 1] + 1 + maps[i] + 1, maps[i], bins >> i, 1)
            self.add_module(f"dec{i + 1}", FrameDecoder(body=up))
            level = transformer(DecoderTransformer, maps[i], bins >> i)
            self.add_module(f"dec{i + 1}_transformer", level)
        width = maps[0] + 1
        self.out = out_matrix(channels=width, channels_out=out_channels, fan_in=width)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        h, _ = self.enc0_transformer(x)
        streams, memories = [], []
        for i in range(1, len(WIDTHS) + 1):
            h, memory = getattr(self, f"enc{i}_transformer")(getattr(self, f"enc{i}")(h))
            streams.append(h)
            memories.append(memory)
        for i in range(len(WIDTHS) - 1, 0, -1):
            h = getattr(self, f"dec{i}")(h, streams[i - 1])
            h = getattr(self, f"dec{i}_transformer")(h, memories[i - 1])
        return torch.matmul(h.transpose(1, 3), self.out.T).transpose(1, 3)
