"""Attention between all bins of all frames: the tokens of the bridge."""

from functools import partial

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.residual_scores import Backend, ResidualScores, residual_attention
from frametx.nn.rotary import Rotary


class ConvolutionalMultiheadAttention(nn.Module):
    """Multi-head attention whose tokens are (bin, frame) pairs and whose features are the maps.

    Tokens are counted frame by frame within a bin, then bin by bin: n = bin * T + frame. Memory
    grows with the square of their number, so this belongs where few bins are left.

    Args:
        num_channels: feature maps.
        num_heads: groups of maps of equal size.
        kernel_size: of the four projections, over frames and bins; odd.

    Attributes:
        attention_backend: see `residual_attention`.

    Raises:
        ValueError: if the maps cannot be split evenly into the heads.
    """

    def __init__(self, *, num_channels: int, num_heads: int, kernel_size: int = 3) -> None:
        super().__init__()
        if num_channels % num_heads:
            raise ValueError(
                f"{num_channels} maps cannot be split into {num_heads} heads of equal size: "
                "take another number of heads or of maps at the bridge"
            )
        self.num_heads = num_heads
        self.scale = num_channels**-0.5
        self.rotary = Rotary(num_features=num_channels // num_heads)
        conv = partial(nn.Conv2d, kernel_size=kernel_size, padding=kernel_size // 2)
        self.to_qkv = conv(num_channels, 3 * num_channels)
        self.to_out = conv(num_channels, num_channels)
        self.attention_backend: Backend = "auto"

    def forward(
        self, x: Float[Tensor, "B C T F"], *, scores: ResidualScores | None = None
    ) -> tuple[Float[Tensor, "B C T F"], ResidualScores]:
        """Attend from every bin of every frame; returns new maps, and scores for the next layer.

        Args:
            x: queries, keys and values are made of it.
            scores: of the layer before, added to this layer's.
        """
        qkv = rearrange(self.to_qkv(x), "b (p h d) t f -> p b h (f t) d", p=3, h=self.num_heads)
        qk, v = qkv.split([2, 1])
        q, k = self.rotary(qk)
        attended, total = residual_attention(
            q,
            k,
            v.squeeze(0),
            scale=self.scale,
            scores=scores,
            backend=self.attention_backend,
        )
        return self.to_out(rearrange(attended, "b h (f t) d -> b (h d) t f", t=x.shape[2])), total
