"""V10: a U-Net over frames that keeps every bin, with a transformer at every level."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import (
    LeakyResidualBlock,
    MultichannelAttention,
    MultichannelLayerNorm,
    MultichannelLinear,
    resized_to,
)

WIDTHS = (1, 2, 4, 6, 8, 10)
MAP_WIDTHS = (1, 2, 4, 8, 12, 14)


def attention(
    *, channels: int, maps: int, num_heads: int, features: int, memory_channels: int | None = None
) -> MultichannelAttention:
    """A 3x3 convolution to the attention's maps, a linear layer, then three taps over frames."""

    def projection(reads_memory: bool) -> nn.Module:
        from_channels = (reads_memory and memory_channels) or channels
        return nn.Sequential(
            nn.Conv2d(from_channels, maps, 3, padding=1, bias=False),
            MultichannelLinear(channels=maps, features=features),
            nn.Conv2d(maps, maps, (1, 3), padding=(0, 1), bias=False),
        )

    out = MultichannelLinear(channels=maps, features=features)
    return MultichannelAttention(
        projection=projection, out=out, num_heads=num_heads, features=features
    )


class EncoderTransformer(nn.Module):
    def __init__(
        self,
        *,
        channels: int,
        maps: int,
        features: int,
        num_heads: int,
        expansion: int,
        dropout: float,
    ) -> None:
        super().__init__()
        width = channels + maps
        self.norm1 = MultichannelLayerNorm(channels=channels, features=features)
        self.attn = attention(channels=channels, maps=maps, num_heads=num_heads, features=features)
        self.norm2 = MultichannelLayerNorm(channels=width, features=features)
        self.conv1 = nn.Conv2d(width, width * expansion, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width * expansion, channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout) if maps > 1 else nn.Identity()

    def forward(self, x: Float[Tensor, "B C F T"]) -> tuple[Tensor, Tensor, Tensor]:
        attended, scores = self.attn(self.norm1(x))
        z = self.norm2(torch.cat([x, attended], 1))
        h = x + self.dropout(self.conv2(F.leaky_relu(self.conv1(z))))
        return torch.cat([h, attended], 1), attended, scores


class DecoderTransformer(nn.Module):
    def __init__(
        self,
        *,
        channels: int,
        maps: int,
        features: int,
        num_heads: int,
        expansion: int,
        dropout: float,
    ) -> None:
        super().__init__()
        width = channels + 3 * maps
        self.norm1 = MultichannelLayerNorm(channels=channels, features=features)
        self.self_attn = attention(
            channels=channels, maps=maps, num_heads=num_heads, features=features
        )
        self.norm2 = MultichannelLayerNorm(channels=channels + maps, features=features)
        self.skip_attn = attention(
            channels=channels + maps,
            maps=maps,
            num_heads=num_heads,
            features=features,
            memory_channels=channels + 2 * maps,
        )
        self.norm3 = MultichannelLayerNorm(channels=width, features=features)
        self.conv1 = nn.Conv2d(width, width * expansion, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(width * expansion, channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B C F T"],
        skip: Float[Tensor, "B D F T"],
        attended: Float[Tensor, "B A F T"],
        scores: Float[Tensor, "B A H T T"],
    ) -> Float[Tensor, "B C_out F T"]:
        """`attended` and `scores` are of the encoder's transformer; `skip` ends in the former."""
        first, _ = self.self_attn(self.norm1(x), scores=scores)
        memory = torch.cat([skip, attended], 1)
        second, _ = self.skip_attn(
            self.norm2(torch.cat([x, first], 1)), memory=memory, scores=scores
        )
        maps = torch.cat([attended, first, second], 1)
        z = self.norm3(torch.cat([x, maps], 1))
        h = x + self.dropout(self.conv2(F.leaky_relu(self.conv1(z))))
        return torch.cat([h, maps], 1)


class PlainV10Temporal(nn.Module):
    def __init__(
        self,
        *,
        in_channels: int = 2,
        out_channels: int = 2,
        embedding: int = 2,
        dropout: float = 0.1,
        n_fft: int = 2048,
        num_heads: int = 8,
        expansion: int = 4,
        num_attention_maps: int = 1,
    ) -> None:
        super().__init__()
        features = n_fft // 2
        widths = [embedding * width for width in WIDTHS]
        maps = [num_attention_maps * width for width in MAP_WIDTHS]

        def block(channels: int, channels_out: int, stride: int) -> nn.Module:
            return LeakyResidualBlock(
                norm=MultichannelLayerNorm(channels=channels, features=features),
                channels=channels,
                channels_out=channels_out,
                stride=(1, stride),
            )

        bottom = len(widths) - 1
        for i, width in enumerate(widths):
            transformer = {
                "channels": width,
                "maps": maps[i],
                "features": features,
                "num_heads": num_heads,
                "expansion": expansion,
                "dropout": dropout,
            }
            above = widths[i - 1] + maps[i - 1] if i else in_channels
            self.add_module(f"enc{i + 1}", block(above, width, 2 if i else 1))
            self.add_module(f"enc{i + 1}_transformer", EncoderTransformer(**transformer))
            if i == bottom:
                break
            below = widths[i + 1] + maps[i + 1] * (1 if i + 1 == bottom else 3)
            self.add_module(f"dec{i + 1}", block(below + width + maps[i], width, 1))
            self.add_module(f"dec{i + 1}_transformer", DecoderTransformer(**transformer))
        self.out = nn.Conv2d(widths[0] + 3 * maps[0], out_channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        h, levels = x, []
        for i in range(1, len(WIDTHS) + 1):
            h, attended, scores = getattr(self, f"enc{i}_transformer")(getattr(self, f"enc{i}")(h))
            levels.append((h, attended, scores))
        for i in range(len(WIDTHS) - 1, 0, -1):
            skip, attended, scores = levels[i - 1]
            h = getattr(self, f"dec{i}")(torch.cat([skip, resized_to(h, skip)], 1))
            h = getattr(self, f"dec{i}_transformer")(h, skip, attended, scores)
        return self.out(h)
