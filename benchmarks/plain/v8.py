"""V8 and V8.1: a U-Net over frequency whose every transformer also attends to the magnitudes."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import (
    FrameDecoder,
    FrameEncoder,
    MultichannelAttention,
    MultichannelLayerNorm,
    MultichannelLinear,
    ResidualBlock,
)

WIDTHS = (1, 2, 4, 6, 8, 10)


def attention(
    *,
    channels: int,
    maps: int,
    num_heads: int,
    features: int,
    memory_channels: int | None = None,
    memory_features: int | None = None,
) -> MultichannelAttention:
    """A 3x3 convolution to the attention's maps, then a linear layer to its features."""

    def projection(reads_memory: bool) -> nn.Module:
        from_channels = (reads_memory and memory_channels) or channels
        from_features = (reads_memory and memory_features) or features
        return nn.Sequential(
            nn.Conv2d(from_channels, maps, 3, padding=1),
            MultichannelLinear(channels=maps, features=from_features, features_out=features),
        )

    out = MultichannelLinear(channels=maps, features=features, depthwise=True)
    return MultichannelAttention(
        projection=projection, out=out, num_heads=num_heads, features=features
    )


def feed_forward(
    *, channels: int, channels_out: int, features: int, hidden: int
) -> tuple[MultichannelLinear, MultichannelLinear]:
    """Both layers mix the maps; the second brings them back to `channels_out`."""
    return (
        MultichannelLinear(
            channels=channels, features=features, features_out=hidden, depthwise=True
        ),
        MultichannelLinear(
            channels=channels, channels_out=channels_out, features=hidden, features_out=features
        ),
    )


class EncoderTransformer(nn.Module):
    def __init__(
        self,
        *,
        channels: int,
        maps: int,
        features: int,
        hidden: int,
        num_heads: int,
        dropout: float,
        source_channels: int,
        source_features: int,
    ) -> None:
        super().__init__()
        shape = {"maps": maps, "num_heads": num_heads, "features": features}
        self.norm = MultichannelLayerNorm(channels=channels, features=features)
        self.self_attn = attention(channels=channels, **shape)
        self.src_attn = attention(
            channels=channels + maps,
            memory_channels=source_channels,
            memory_features=source_features,
            **shape,
        )
        self.conv1, self.conv2 = feed_forward(
            channels=channels + 2 * maps, channels_out=channels, features=features, hidden=hidden
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B C F T"],
        source: Float[Tensor, "B C_in F_in T"],
        scores: Float[Tensor, "B A H T T"] | None,
        source_scores: Float[Tensor, "B A H T T"] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        h = self.norm(x)
        z, own = self.self_attn(h, scores=scores)
        h = torch.cat([h, z], 1)
        z, total = self.src_attn(h, memory=source, scores=source_scores)
        h = torch.cat([h, z], 1)
        return x + self.dropout(self.conv2(F.gelu(self.conv1(h)))), own, total


class DecoderTransformer(nn.Module):
    def __init__(
        self,
        *,
        channels: int,
        maps: int,
        features: int,
        hidden: int,
        num_heads: int,
        dropout: float,
        source_channels: int,
        source_features: int,
    ) -> None:
        super().__init__()
        shape = {"maps": maps, "num_heads": num_heads, "features": features}
        self.norm = MultichannelLayerNorm(channels=channels, features=features)
        self.self_attn = attention(channels=channels, **shape)
        self.skip_attn = attention(channels=channels + maps, memory_channels=channels, **shape)
        self.src_attn = attention(
            channels=channels + 2 * maps,
            memory_channels=source_channels,
            memory_features=source_features,
            **shape,
        )
        self.conv1, self.conv2 = feed_forward(
            channels=channels + 3 * maps, channels_out=channels, features=features, hidden=hidden
        )
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B C F T"],
        skip: Float[Tensor, "B C F T"],
        source: Float[Tensor, "B C_in F_in T"],
        scores: Float[Tensor, "B A H T T"],
        skip_scores: Float[Tensor, "B A H T T"],
        source_scores: Float[Tensor, "B A H T T"],
    ) -> tuple[Tensor, Tensor, Tensor]:
        h = self.norm(x)
        z, scores = self.self_attn(h, scores=scores)
        h = torch.cat([h, z], 1)
        z, _ = self.skip_attn(h, memory=skip, scores=skip_scores)
        h = torch.cat([h, z], 1)
        z, source_scores = self.src_attn(h, memory=source, scores=source_scores)
        h = torch.cat([h, z], 1)
        return x + self.dropout(self.conv2(F.gelu(self.conv1(h)))), scores, source_scores


class PlainV8(nn.Module):
    """Logits of a mask.

    Args:
        expansions: hidden features of each level as a multiple of its features; the first entry
            belongs to no level.
        rounds: stretch through half precision and bfloat16, as the released V8; V8.1 does not.
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
        num_attention_maps: int = 1,
        expansions: Sequence[float] = (-1, 2.1, 3, 3, 4, 4, 5),
        rounds: bool = False,
    ) -> None:
        super().__init__()
        bins = n_fft // 2
        widths = [channels * width for width in WIDTHS]

        def body(channels: int, channels_out: int, features: int, stride: int) -> nn.Module:
            return ResidualBlock(
                norm=MultichannelLayerNorm(channels=channels, features=features),
                channels=channels,
                channels_out=channels_out,
                activation=F.gelu,
                stride=(stride, 1),
            )

        for i, width in enumerate(widths):
            features = bins >> i
            above = widths[i - 1] if i else in_channels
            down = body(above, width, 2 * features if i else features, 2 if i else 1)
            transformer = {
                "channels": width,
                "maps": num_attention_maps,
                "features": features,
                "hidden": int(features * expansions[i + 1]),
                "num_heads": num_heads,
                "dropout": dropout,
                "source_channels": in_channels,
                "source_features": bins,
            }
            self.add_module(f"enc{i + 1}", FrameEncoder(body=down))
            self.add_module(f"enc{i + 1}_transformer", EncoderTransformer(**transformer))
            if i == len(widths) - 1:
                break
            up = FrameDecoder(body=body(widths[i + 1] + width, width, features, 1), rounds=rounds)
            self.add_module(f"dec{i + 1}", up)
            self.add_module(f"dec{i + 1}_transformer", DecoderTransformer(**transformer))
        self.out = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        h, skips, chain = x, [], []
        scores, source_scores = None, None
        for i in range(1, len(WIDTHS) + 1):
            h = getattr(self, f"enc{i}")(h)
            transformer = getattr(self, f"enc{i}_transformer")
            h, scores, source_scores = transformer(h, x, scores, source_scores)
            skips.append(h)
            chain.append(scores)
        for i in range(len(WIDTHS) - 1, 0, -1):
            skip = skips[i - 1]
            h = getattr(self, f"dec{i}")(h, skip)
            transformer = getattr(self, f"dec{i}_transformer")
            h, scores, source_scores = transformer(h, skip, x, scores, chain[i - 1], source_scores)
        return self.out(h)
