"""The U-Net of multichannel linear layers, with a transformer over all maps at every level."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import (
    FrameNorm,
    MultichannelLinear,
    Rotary,
    attend,
    merge_heads,
    out_matrix,
    split_heads,
    squared_relu,
)

WIDTHS = (1, 2, 4, 6, 8, 10)


def mixing(channels: int, channels_out: int, features: int, features_out: int) -> nn.Module:
    """A linear layer over features and over maps."""
    return MultichannelLinear(
        channels=channels,
        channels_out=channels_out,
        features=features,
        features_out=features_out,
        depthwise=True,
    )


def identity(channels: int, channels_out: int, features: int, features_out: int) -> nn.Module:
    """Over features only where their number changes."""
    return MultichannelLinear(
        channels=channels,
        channels_out=channels_out,
        features=features,
        features_out=features_out,
        positionwise=False,
        depthwise=True,
    )


class PositionwiseEncoder(nn.Module):
    def __init__(
        self, *, channels: int, channels_out: int, features: int, stride: int, dropout: float
    ) -> None:
        super().__init__()
        features_out = features // stride
        self.norm1 = FrameNorm(features=features)
        self.linear1 = mixing(channels, channels_out, features, 2 * features)
        self.linear2 = mixing(channels_out, channels_out, 2 * features, features_out)
        self.identity = identity(channels, channels_out, features, features_out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F_out T"]:
        h = self.linear2(F.gelu(self.linear1(self.norm1(x))))
        return self.identity(x) + self.dropout(h)


class PositionwiseDecoder(nn.Module):
    """`features` are those that go out: twice those that come in."""

    def __init__(self, *, channels: int, channels_out: int, features: int, dropout: float) -> None:
        super().__init__()
        self.norm = FrameNorm(features=features // 2)
        self.linear1 = mixing(channels, channels_out, features // 2, 2 * features)
        self.linear2 = mixing(channels_out, channels_out, 2 * features, features)
        self.identity = identity(channels, channels_out, features // 2, features)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = FrameNorm(features=features)
        self.linear3 = mixing(2 * channels_out, channels_out, features, features)
        self.linear4 = mixing(channels_out, channels_out, features, features)

    def forward(
        self, x: Float[Tensor, "B C _F T"], skip: Float[Tensor, "B C_out F T"]
    ) -> Float[Tensor, "B C_out F T"]:
        h = self.linear2(F.gelu(self.linear1(self.norm(x))))
        x = self.identity(x) + self.dropout(h)
        h = self.norm2(torch.cat([x, skip], 1))
        return x + self.linear4(F.gelu(self.linear3(h)))  # the original drops nothing here


class NormedAttention(nn.Module):
    """Nine taps over frames behind the projections; half of each head is turned, then normed."""

    def __init__(self, *, channels: int, num_heads: int, features: int) -> None:
        super().__init__()
        width = features // num_heads
        self.num_heads = num_heads
        self.scale = features**0.5
        self.rotary_embedding = Rotary(features=width // 2)
        self.q_proj, self.k_proj, self.v_proj = (
            nn.Sequential(
                MultichannelLinear(channels=channels, features=features),
                nn.Conv2d(channels, channels, (1, 9), padding=(0, 4), bias=False),
            )
            for _ in range(3)
        )
        self.q_norm, self.k_norm = HeadNorm(features=width), HeadNorm(features=width)
        self.out_proj = MultichannelLinear(channels=channels, features=features)

    def forward(
        self, x: Float[Tensor, "B C F T"], memory: Float[Tensor, "B C F T"] | None = None
    ) -> Float[Tensor, "B C F T"]:
        memory = x if memory is None else memory
        q = self.q_norm(self.rotary_embedding(split_heads(self.q_proj(x), self.num_heads)))
        k = self.k_norm(self.rotary_embedding(split_heads(self.k_proj(memory), self.num_heads)))
        v = split_heads(self.v_proj(memory), self.num_heads)
        return self.out_proj(merge_heads(attend(q, k, v, scale=self.scale)[0]))


class HeadNorm(nn.Module):
    def __init__(self, *, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Float[Tensor, "B C H T D"]) -> Float[Tensor, "B C H T D"]:
        return self.norm(x)


class EncoderTransformer(nn.Module):
    def __init__(
        self, *, channels: int, features: int, num_heads: int, expansion: int, dropout: float
    ) -> None:
        super().__init__()
        hidden = expansion * features
        self.norm1 = FrameNorm(features=features)
        self.attn = NormedAttention(channels=channels, num_heads=num_heads, features=features)
        self.norm2 = FrameNorm(features=features)
        self.linear1 = mixing(channels, channels, features, hidden)
        self.norm3 = FrameNorm(features=hidden)  # in the original's weights, but never called
        self.linear2 = mixing(channels, channels, hidden, features)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
        x = x + self.dropout(self.attn(self.norm1(x)))
        return x + self.dropout(self.linear2(squared_relu(self.linear1(self.norm2(x)))))


class DecoderTransformer(nn.Module):
    def __init__(
        self, *, channels: int, features: int, num_heads: int, expansion: int, dropout: float
    ) -> None:
        super().__init__()
        hidden = expansion * features
        self.norm1, self.norm2, self.norm3 = (FrameNorm(features=features) for _ in range(3))
        self.attn1, self.attn2 = (
            NormedAttention(channels=channels, num_heads=num_heads, features=features)
            for _ in range(2)
        )
        self.linear1 = mixing(channels, channels, features, hidden)
        self.linear2 = mixing(channels, channels, hidden, features)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B C F T"], skip: Float[Tensor, "B C F T"]
    ) -> Float[Tensor, "B C F T"]:
        x = x + self.dropout(self.attn1(self.norm1(x)))
        x = x + self.dropout(self.attn2(self.norm2(x), skip))
        return x + self.dropout(self.linear2(squared_relu(self.linear1(self.norm3(x)))))


class PlainPositionwise(nn.Module):
    """Logits in as many channels as come in.

    Args:
        num_heads: of each of the six levels.
        frame_dropout: of the U-Net's own blocks. The original cannot set it; with 0.1 it is the
            original's, without it a run can be repeated.
    """

    def __init__(
        self,
        *,
        in_channels: int = 2,
        channels: int = 2,
        dropout: float = 0.1,
        n_fft: int = 2048,
        num_heads: Sequence[int] = (4, 4, 4, 4, 4, 4),
        expansion: int = 2,
        frame_dropout: float = 0.1,
    ) -> None:
        super().__init__()
        maps = [channels * width for width in WIDTHS]
        for i in range(len(WIDTHS)):
            features = n_fft // 2 >> i
            encoder = PositionwiseEncoder(
                channels=maps[i - 1] if i else in_channels,
                channels_out=maps[i],
                features=2 * features if i else features,
                stride=2 if i else 1,
                dropout=frame_dropout,
            )
            transformer = {
                "channels": maps[i],
                "features": features,
                "num_heads": num_heads[i],
                "expansion": expansion,
                "dropout": dropout,
            }
            self.add_module(f"enc{i + 1}", encoder)
            self.add_module(f"enc{i + 1}_transformer", EncoderTransformer(**transformer))
            if i == len(WIDTHS) - 1:
                break
            decoder = PositionwiseDecoder(
                channels=maps[i + 1],
                channels_out=maps[i],
                features=features,
                dropout=frame_dropout,
            )
            self.add_module(f"dec{i + 1}", decoder)
            self.add_module(f"dec{i + 1}_transformer", DecoderTransformer(**transformer))
        self.out = out_matrix(channels=channels, channels_out=in_channels, fan_in=in_channels)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
        skips = []
        for i in range(1, len(WIDTHS) + 1):
            x = getattr(self, f"enc{i}_transformer")(getattr(self, f"enc{i}")(x))
            skips.append(x)
        for i in range(len(WIDTHS) - 1, 0, -1):
            skip = skips[i - 1]
            x = getattr(self, f"dec{i}_transformer")(getattr(self, f"dec{i}")(x, skip), skip)
        return torch.matmul(x.transpose(1, 3), self.out.T).transpose(1, 3)
