"""V3: transformers over all bins, one after another, that keep every map at full size."""

from jaxtyping import Float
from torch import Tensor, nn

from .blocks import (
    MultichannelLayerNorm,
    MultichannelLinear,
    Rotary,
    attend,
    merge_heads,
    split_heads,
    squared_relu,
)


class MixingAttention(nn.Module):
    """All four projections also mix the maps."""

    def __init__(self, *, channels: int, num_heads: int, features: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = features**0.5
        self.rotary_embedding = Rotary(features=features // num_heads)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            MultichannelLinear(channels=channels, features=features, depthwise=True)
            for _ in range(4)
        )

    def forward(
        self, x: Float[Tensor, "B C F T"], scores: Float[Tensor, "B C H T T"] | None
    ) -> tuple[Float[Tensor, "B C F T"], Float[Tensor, "B C H T T"]]:
        q = self.rotary_embedding(split_heads(self.q_proj(x), self.num_heads))
        k = self.rotary_embedding(split_heads(self.k_proj(x), self.num_heads))
        v = split_heads(self.v_proj(x), self.num_heads)
        attended, scores = attend(q, k, v, scale=self.scale, scores=scores)
        return self.o_proj(merge_heads(attended)), scores


class Layer(nn.Module):
    def __init__(
        self, *, channels: int, features: int, num_heads: int, expansion: int, dropout: float
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        self.norm1 = MultichannelLayerNorm(channels=channels, features=features, eps=1e-5)
        self.attn = MixingAttention(channels=channels, num_heads=num_heads, features=features)
        self.norm2 = MultichannelLayerNorm(channels=channels, features=features, eps=1e-5)
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(hidden, channels, 3, padding=1, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "B C F T"], scores: Float[Tensor, "B C H T T"] | None
    ) -> tuple[Float[Tensor, "B C F T"], Float[Tensor, "B C H T T"]]:
        z, total = self.attn(self.norm1(x), scores)
        h = x + self.dropout(z)
        return h + self.dropout(self.conv2(squared_relu(self.conv1(self.norm2(h))))), total


class PlainV3(nn.Module):
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
        num_layers: int = 15,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
        self.transformer = nn.ModuleList(
            Layer(
                channels=channels,
                features=n_fft // 2,
                num_heads=num_heads,
                expansion=expansion,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.out = nn.Conv2d(channels, out_channels, 1, bias=False)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        h, scores = self.embed(x), None
        for layer in self.transformer:
            h, scores = layer(h, scores)
        return self.out(h)
