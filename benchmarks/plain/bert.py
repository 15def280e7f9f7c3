"""BERT for every map: post-norm layers with the frames of a map as tokens.

The layers stand for those of a trained BERT, and so have no gradient, as in the original.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .blocks import (
    ConvolutionalEmbedding,
    MultichannelLayerNorm,
    MultichannelLinear,
    attend,
    merge_heads,
    split_heads,
)


class BertAttention(nn.Module):
    def __init__(self, *, channels: int, num_heads: int, features: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.scale = features**0.5
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (
            MultichannelLinear(channels=channels, features=features, bias=True) for _ in range(4)
        )

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
        q, k, v = (
            split_heads(projection(x), self.num_heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        return self.o_proj(merge_heads(attend(q, k, v, scale=self.scale)[0]))


class Layer(nn.Module):
    def __init__(
        self, *, channels: int, features: int, num_heads: int, expansion: int, dropout: float
    ) -> None:
        super().__init__()
        hidden = expansion * features
        self.attn = BertAttention(channels=channels, num_heads=num_heads, features=features)
        self.norm1 = MultichannelLayerNorm(channels=channels, features=features, eps=1e-5)
        self.conv1 = MultichannelLinear(
            channels=channels, features=features, features_out=hidden, bias=True
        )
        self.conv2 = MultichannelLinear(
            channels=channels, features=hidden, features_out=features, bias=True
        )
        self.norm2 = MultichannelLayerNorm(channels=channels, features=features, eps=1e-5)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
        h = self.norm1(x + self.dropout(self.attn(x)))
        return self.norm2(h + self.dropout(self.conv2(F.gelu(self.conv1(h)))))


class PlainBert(nn.Module):
    """Logits of a mask.

    Raises:
        ValueError: if `hidden_size` is not the number of bins; the original cannot run then.
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
        num_layers: int = 15,
        hidden_size: int = 1024,
    ) -> None:
        super().__init__()
        bins = n_fft // 2
        if hidden_size != bins:
            raise ValueError(
                f"hidden_size ({hidden_size}) must be n_fft // 2 ({bins}): the layers are made for "
                f"as many features as there are bins; take n_fft={2 * hidden_size}"
            )
        self.positional_embedding = ConvolutionalEmbedding(
            channels=in_channels,
            features=bins,
            out=nn.Conv2d(9, 1, 1),
            kernel_size=9,
            has_sinusoids=False,
            eps=1e-5,
        )
        self.embed = MultichannelLinear(
            channels=in_channels + 1,
            channels_out=channels,
            features=bins,
            features_out=hidden_size,
            depthwise=True,
        )
        self.transformer = nn.ModuleList(
            Layer(
                channels=channels,
                features=hidden_size,
                num_heads=num_heads,
                expansion=expansion,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.transformer.requires_grad_(False)
        self.out = MultichannelLinear(
            channels=channels,
            channels_out=out_channels,
            features=hidden_size,
            features_out=bins,
            depthwise=True,
        )

    def forward(self, x: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        h = self.embed(torch.cat([x, self.positional_embedding(x)], 1))
        for layer in self.transformer:
            h = layer(h)
        return self.out(h)
