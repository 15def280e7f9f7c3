"""V2b: a U-Net over frequency with conventional transformers and one running sum of scores."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import (
    ConvolutionalEmbedding,
    FrameDecoder,
    FrameEncoder,
    MultichannelAttention,
    MultichannelLayerNorm,
    MultichannelLinear,
    ResidualBlock,
    joining_block,
    out_matrix,
    squared_relu,
)

WIDTHS = (1, 2, 4, 6, 8, 10)
FIRST_LINEAR_LEVEL = 5  # from here down the U-Net's blocks are linear layers


def attention(*, channels: int, num_heads: int, features: int) -> MultichannelAttention:
    """A 9x9 convolution of each map in front of the linear layer."""

    def projection(_reads_memory: bool) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 9, padding=4, groups=channels, bias=False),
            MultichannelLinear(channels=channels, features=features),
        )

    out = MultichannelLinear(channels=channels, features=features)
    return MultichannelAttention(
        projection=projection, out=out, num_heads=num_heads, features=features
    )


class LinearResidualBlock(nn.Module):
    """Linear layers over features; the identity takes every other feature where they halve."""

    def __init__(self, *, channels: int, channels_out: int, features: int, stride: int) -> None:
        super().__init__()
        self.norm = MultichannelLayerNorm(channels=channels, features=features)
        self.conv1 = MultichannelLinear(
            channels=channels, channels_out=channels_out, features=features
        )
        self.conv2 = MultichannelLinear(
            channels=channels_out, features=features, features_out=features // stride
        )
        self.identity = nn.Conv2d(channels, channels_out, 1, (stride, 1), bias=False)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F_out T"]:
        return self.identity(x) + self.conv2(squared_relu(self.conv1(self.norm(x))))


def block(*, channels: int, channels_out: int, features: int, stride: int, level: int) -> nn.Module:
    """The residual block of a level, counted from 1."""
    if level >= FIRST_LINEAR_LEVEL:
        return LinearResidualBlock(
            channels=channels, channels_out=channels_out, features=features, stride=stride
        )
    return ResidualBlock(
        norm=MultichannelLayerNorm(channels=channels, features=features),
        channels=channels,
        channels_out=channels_out,
        stride=(stride, 1),
        is_projected=True,
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
        self.embed = nn.Conv2d(channels, maps, 1)
        self.norm1 = MultichannelLayerNorm(channels=maps, features=features)
        self.attn = attention(channels=maps, num_heads=num_heads, features=features)
        self.norm2 = MultichannelLayerNorm(channels=maps, features=features)
        self.conv1 = nn.Conv2d(maps, expansion * maps, 3, padding=1)
        self.conv2 = nn.Conv2d(expansion * maps, maps, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B C F T"], scores: Float[Tensor, "B A H T T"] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        h = self.embed(x)
        z, total = self.attn(self.norm1(h), scores=scores)
        h = h + self.dropout(z)
        h = h + self.dropout(self.conv2(squared_relu(self.conv1(self.norm2(h)))))
        return torch.cat([x, h], 1), h, total


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
        self.embed = nn.Conv2d(channels, maps, 1)
        self.norm1, self.norm2, self.norm3 = (
            MultichannelLayerNorm(channels=maps, features=features) for _ in range(3)
        )
        self.attn1, self.attn2 = (
            attention(channels=maps, num_heads=num_heads, features=features) for _ in range(2)
        )
        self.conv1 = nn.Conv2d(maps, expansion * maps, 3, padding=1)
        self.conv2 = nn.Conv2d(expansion * maps, maps, 3, padding=1)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B C F T"],
        memory: Float[Tensor, "B A F T"],
        scores: Float[Tensor, "B A H T T"],
        skip_scores: Float[Tensor, "B A H T T"],
    ) -> tuple[Tensor, Tensor]:
        h = self.embed(x)
        z, scores = self.attn1(self.norm1(h), scores=scores)
        h = h + self.dropout(z)
        z, _ = self.attn2(self.norm2(h), memory=memory, scores=skip_scores)
        h = h + self.dropout(z)
        h = h + self.dropout(self.conv2(squared_relu(self.conv1(self.norm3(h)))))
        return torch.cat([x, h], 1), scores


class PlainV2b(nn.Module):
    """Logits of a mask.

    Args:
        transformer_channels: maps of the transformers of the seven levels; the sum of scores runs
            through them all, so they are all the same.
        has_sinusoids: of the embedding; without them it is the earlier form ("v2b_posemb").
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
        transformer_channels: Sequence[int] = (12, 12, 12, 12, 12, 12, 12),
        has_sinusoids: bool = True,
    ) -> None:
        super().__init__()
        bins, num_levels, attending = n_fft // 2, len(WIDTHS), transformer_channels
        maps = [in_channels + 1, *(channels * width for width in WIDTHS)]
        self.positional_embedding = ConvolutionalEmbedding(
            channels=in_channels,
            features=bins,
            out=joining_block(bins),
            has_sinusoids=has_sinusoids,
        )
        for i in range(num_levels + 1):
            features = bins >> max(i - 1, 0)
            transformer = {
                "channels": maps[i],
                "maps": attending[i],
                "features": features,
                "num_heads": num_heads,
                "expansion": expansion,
                "dropout": dropout,
            }
            self.add_module(f"enc{i}_transformer", EncoderTransformer(**transformer))
            if i == 0:
                continue
            down = block(
                channels=maps[i - 1] + attending[i - 1],
                channels_out=maps[i],
                features=features if i == 1 else 2 * features,
                stride=1 if i == 1 else 2,
                level=i,
            )
            self.add_module(f"enc{i}", FrameEncoder(body=down))
            if i == num_levels:
                break
            up = block(
                channels=maps[i + 1] + attending[i + 1] + maps[i] + attending[i],
                channels_out=maps[i],
                features=features,
                stride=1,
                level=i,
            )
            self.add_module(f"dec{i}", FrameDecoder(body=up))
            self.add_module(f"dec{i}_transformer", DecoderTransformer(**transformer))
        width = maps[1] + attending[1]
        self.out = out_matrix(channels=width, channels_out=out_channels, fan_in=width)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        h = torch.cat([x, self.positional_embedding(x)], 1)
        h, _, total = self.get_submodule("enc0_transformer")(h, None)
        streams, memories, scores = [], [], []
        for i in range(1, len(WIDTHS) + 1):
            h = getattr(self, f"enc{i}")(h)
            h, memory, total = getattr(self, f"enc{i}_transformer")(h, total)
            streams.append(h)
            memories.append(memory)
            scores.append(total)
        for i in range(len(WIDTHS) - 1, 0, -1):
            h = getattr(self, f"dec{i}")(h, streams[i - 1])
            transformer = getattr(self, f"dec{i}_transformer")
            h, total = transformer(h, memories[i - 1], total, scores[i - 1])
        return torch.matmul(h.transpose(1, 3), self.out.T).transpose(1, 3)
