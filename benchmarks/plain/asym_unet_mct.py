"""AsymUNetMCT: evolved transformers beside a U-Net over frequency, gates between chains of scores.

With `has_vocal_bands` it is the generator of the original's adversarial training.
"""

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import (
    ConvolutionalEmbedding,
    FrameDecoder,
    FrameEncoder,
    MultichannelLayerNorm,
    MultichannelLinear,
    ResidualBlock,
    Rotary,
    attend,
    attention_after_linear,
    embed,
    joining_block,
    squared_relu,
)

WIDTHS = (1, 2, 4, 6, 8, 10, 12, 14, 16)
NUM_DROPPED_DECODERS = 4  # of the generator, from the deepest up


class ChannelNorm(nn.Module):
    """Layer norm over the maps of each bin."""

    def __init__(self, *, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class FrameConv(nn.Module):
    """A convolution of each map, then a linear layer over its features."""

    def __init__(self, *, channels: int, features: int, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            channels, channels, kernel_size, padding=kernel_size // 2, groups=channels
        )
        bound = features**-0.5
        self.weight_pw = nn.Parameter(
            torch.empty(channels, features, features).uniform_(-bound, bound)
        )

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
        x = self.conv(x)
        return torch.matmul(x.transpose(2, 3), self.weight_pw.transpose(1, 2)).transpose(2, 3)


class SquaredReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return squared_relu(x)


class ConvolutionalAttention(nn.Module):
    """Attention between all bins of all frames; heads are bands of maps."""

    def __init__(self, *, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = channels**0.5
        self.embedding = Rotary(features=channels // num_heads)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            nn.Conv2d(channels, channels, 3, padding=1) for _ in range(4)
        )

    def forward(
        self, x: Float[Tensor, "B C F T"], scores: Float[Tensor, "B H N N"] | None
    ) -> tuple[Float[Tensor, "B C F T"], Float[Tensor, "B H N N"]]:
        def heads(y: Float[Tensor, "B C F T"]) -> Float[Tensor, "B H N D"]:
            return y.flatten(2).unflatten(1, (self.num_heads, -1)).transpose(2, 3)

        q, k = self.embedding(heads(self.q_proj(x))), self.embedding(heads(self.k_proj(x)))
        attended, scores = attend(q, k, heads(self.v_proj(x)), scale=self.scale, scores=scores)
        return self.o_proj(attended.transpose(2, 3).reshape(x.shape)), scores


class EncoderTransformer(nn.Module):
    def __init__(
        self,
        *,
        channels: int,
        maps: int,
        features: int,
        expansion: int,
        num_heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        shape = {"channels": maps, "features": features}
        linear = partial(MultichannelLinear, channels=maps, features=features)
        self.embed = embed(channels, maps)
        self.norm1, self.norm2, self.norm3, self.norm4, self.norm5 = (
            MultichannelLayerNorm(**shape) for _ in range(5)
        )
        self.glu = nn.Sequential(linear(features_out=2 * features), nn.GLU(2))
        self.conv1a = linear()
        self.conv1b = FrameConv(**shape, kernel_size=3)
        self.conv2 = FrameConv(**shape, kernel_size=9)
        self.attn = attention_after_linear(**shape, num_heads=num_heads)
        self.conv3 = linear(features_out=expansion)
        self.conv4 = MultichannelLinear(channels=maps, features=expansion, features_out=features)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B C F T"], scores: Float[Tensor, "B A H T T"] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        drop = self.dropout
        h = self.embed(x)
        h = h + drop(self.glu(self.norm1(h)))
        z = self.norm2(h)
        h = h + drop(squared_relu(self.conv1a(z))) + drop(squared_relu(self.conv1b(z)))
        h = h + drop(self.conv2(self.norm3(h)))
        z, total = self.attn(self.norm4(h), scores=scores)
        h = h + drop(z)
        h = h + drop(self.conv4(squared_relu(self.conv3(self.norm5(h)))))
        return torch.cat([x, h], 1), h, total


def gate(maps: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(2 * maps, maps, 3, padding=1),
        SquaredReLU(),
        nn.Conv3d(maps, 1, 3, padding=1),
        nn.Sigmoid(),
    )


def blend(
    gate: nn.Sequential, previous: Float[Tensor, "B A H T T"], skip: Float[Tensor, "B A H T T"]
) -> Float[Tensor, "B A H T T"]:
    g = gate(torch.cat([previous, skip], 1))
    return g * previous + (1 - g) * skip


class DecoderTransformer(nn.Module):
    """`is_deepest`: no chain comes from below, and there is no gate for it."""

    def __init__(
        self,
        *,
        channels: int,
        maps: int,
        features: int,
        expansion: int,
        num_heads: int,
        dropout: float,
        is_deepest: bool,
    ) -> None:
        super().__init__()
        shape = {"channels": maps, "features": features}
        linear = partial(MultichannelLinear, channels=maps, features=features)
        self.gate1 = None if is_deepest else gate(maps)
        self.gate2 = gate(maps)
        self.embed = embed(channels, maps)
        self.norm1, self.norm2, self.norm3, self.norm4, self.norm5, self.norm6 = (
            MultichannelLayerNorm(**shape) for _ in range(6)
        )
        self.attn1a, self.attn1b, self.attn2, self.attn3 = (
            attention_after_linear(**shape, num_heads=num_heads) for _ in range(4)
        )
        self.conv1a = FrameConv(**shape, kernel_size=11)
        self.conv1b = FrameConv(**shape, kernel_size=7)
        self.conv2 = FrameConv(**shape, kernel_size=7)
        self.conv3 = linear(features_out=expansion)
        self.conv4 = MultichannelLinear(channels=maps, features=expansion, features_out=features)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B C F T"],
        skip: Float[Tensor, "B A F T"],
        scores: Float[Tensor, "B A H T T"] | None,
        memory_scores: Float[Tensor, "B A H T T"] | None,
        skip_scores: Float[Tensor, "B A H T T"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        drop = self.dropout
        h = self.embed(x)
        z = self.norm1(h)
        za, own = self.attn1a(z, scores=scores)
        total = skip_scores
        if self.gate1 is not None and memory_scores is not None:
            total = blend(self.gate1, memory_scores, skip_scores)
        zb, total = self.attn1b(z, memory=skip, scores=total)
        h = h + drop(za) + drop(zb)
        z = self.norm2(h)
        h = h + drop(self.conv2(self.norm3(squared_relu(self.conv1a(z)) + self.conv1b(z))))
        z, own = self.attn2(self.norm4(h), scores=own)
        h = h + drop(z)
        total = blend(self.gate2, total, skip_scores)
        z, total = self.attn3(self.norm5(h), memory=skip, scores=total)
        h = h + drop(z)
        h = h + drop(self.conv4(squared_relu(self.conv3(self.norm6(h)))))
        return torch.cat([x, h], 1), own, total


class BridgeTransformer(nn.Module):
    def __init__(self, *, channels: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        c = channels
        self.norm1, self.norm2, self.norm3, self.norm4, self.norm5 = (
            ChannelNorm(channels=c) for _ in range(5)
        )
        self.glu = nn.Sequential(nn.Conv2d(c, 2 * c, 1), nn.GLU(1))
        self.conv1a = nn.Conv2d(c, c, 1)
        self.conv1b = nn.Sequential(nn.Conv2d(c, c, 3, padding=1, groups=c), nn.Conv2d(c, c, 1))
        self.conv2 = nn.Sequential(nn.Conv2d(c, c, 9, padding=4, groups=c), nn.Conv2d(c, c, 1))
        self.attn = ConvolutionalAttention(channels=c, num_heads=num_heads)
        self.conv3 = nn.Conv2d(c, 4 * c, 3, padding=1)
        self.conv4 = nn.Conv2d(4 * c, c, 3, padding=1)
        self.dropout = nn.Dropout2d(dropout)

    def forward(
        self, x: Float[Tensor, "B C F T"], scores: Float[Tensor, "B H N N"] | None
    ) -> tuple[Float[Tensor, "B C F T"], Float[Tensor, "B H N N"]]:
        drop = self.dropout
        h = x + drop(self.glu(self.norm1(x)))
        z = self.norm2(h)
        h = h + drop(squared_relu(self.conv1a(z))) + drop(squared_relu(self.conv1b(z)))
        h = h + drop(self.conv2(self.norm3(h)))
        z, total = self.attn(self.norm4(h), scores)
        h = x + drop(z)  # as the original: the residual restarts at the block's input
        return h + drop(self.conv4(squared_relu(self.conv3(self.norm5(h))))), total


class PlainAsymUNetMCT(nn.Module):
    """Logits of a mask; as a generator, also logits of four vocal bands over frames.

    Args:
        expansion: hidden features of the transformers' feed-forward.
        has_vocal_bands: be the generator: a head at the bridge, read by the deepest decoder, and
            dropout in the blocks of the four deepest decoders. The original then has one attention
            map unless told otherwise; here the default stays.
    """

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
        num_bridge_layers: int = 4,
        num_attention_maps: int = 4,
        has_vocal_bands: bool = False,
    ) -> None:
        super().__init__()
        maps, bins = num_attention_maps, n_fft // 2
        widths = [channels * width for width in WIDTHS]
        bottom, num_dropped = widths[-1], NUM_DROPPED_DECODERS if has_vocal_bands else 0
        self.has_vocal_bands = has_vocal_bands
        self.positional_embedding = ConvolutionalEmbedding(
            channels=in_channels, features=bins, out=joining_block(bins)
        )

        def body(
            channels: int, channels_out: int, features: int, stride: int = 1, dropout: float = 0.0
        ) -> nn.Module:
            return ResidualBlock(
                norm=MultichannelLayerNorm(channels=channels, features=features),
                channels=channels,
                channels_out=channels_out,
                stride=(stride, 1),
                dropout=dropout,
            )

        self.enc1 = FrameEncoder(body=body(in_channels + 1, widths[0], bins))
        for i in range(8):
            features, is_deepest = bins >> i, i == 7
            transformer = {
                "channels": widths[i],
                "maps": maps,
                "features": features,
                "expansion": expansion,
                "num_heads": num_heads,
                "dropout": dropout,
            }
            down = body(widths[i] + maps, widths[i + 1], features, stride=2)
            below = widths[i + 1] + maps
            if is_deepest:
                below = bottom + (out_channels if has_vocal_bands else 0)
            up = body(
                below + widths[i] + maps,
                widths[i],
                features,
                dropout=0.5 if i >= 8 - num_dropped else 0.0,
            )
            self.add_module(f"enc{i + 1}_transformer", EncoderTransformer(**transformer))
            self.add_module(f"enc{i + 2}", FrameEncoder(body=down))
            self.add_module(f"dec{i + 1}", FrameDecoder(body=up))
            decoder = DecoderTransformer(**transformer, is_deepest=is_deepest)
            self.add_module(f"dec{i + 1}_transformer", decoder)
        bridge = {"channels": bottom, "num_heads": num_heads, "dropout": dropout}
        self.enc9_transformer = nn.ModuleList(
            BridgeTransformer(**bridge) for _ in range(num_bridge_layers)
        )
        if has_vocal_bands:
            self.vout_norm = ChannelNorm(channels=bottom)  # in the original's weights, but unused
            self.vout_transform = BridgeTransformer(**bridge)
            self.vout_conv = nn.Conv2d(bottom, out_channels, 1)
        self.out = nn.Conv2d(widths[0] + maps, out_channels, 1)

    def forward(
        self, x: Float[Tensor, "B C F T"]
    ) -> Float[Tensor, "B C_out F T"] | tuple[Tensor, Tensor]:
        h = self.enc1(torch.cat([x, self.positional_embedding(x)], 1))
        streams, skips, chain = [], [], []
        scores = None
        for i in range(1, 9):
            h, skip, scores = getattr(self, f"enc{i}_transformer")(h, scores)
            streams.append(h)
            skips.append(skip)
            chain.append(scores)
            h = getattr(self, f"enc{i + 1}")(h)
        scores = None
        for layer in self.enc9_transformer:
            h, scores = layer(h, scores)
        bands = None
        if self.has_vocal_bands:
            transformed, _ = self.vout_transform(h, None)
            bands = self.vout_conv(transformed)
            h = torch.cat([h, bands], 1)
        scores, memory_scores = None, None
        for i in range(8, 0, -1):
            h = getattr(self, f"dec{i}")(h, streams[i - 1])
            transformer = getattr(self, f"dec{i}_transformer")
            h, scores, memory_scores = transformer(
                h, skips[i - 1], scores, memory_scores, chain[i - 1]
            )
        logits = self.out(h)
        return logits if bands is None else (logits, bands)
