"""Attention between frames, map by map: the tokens are frames, the features are frequencies."""

from functools import partial

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.frame_projection import FrameProjection
from frametx.nn.multichannel_linear import MultichannelLinear
from frametx.nn.residual_attention import residual_attention
from frametx.nn.rotary import Rotary


class MultichannelMultiheadAttention(nn.Module):
    """Multi-head attention over frames in every map; a head is a contiguous band of features.

    Args:
        num_channels: feature maps.
        num_features: features of a frame.
        num_heads: bands of equal width the features are split into.
        attends_memory: keys and values come from a second input instead of the first.

    Raises:
        ValueError: if the features cannot be split evenly into the heads.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        num_features: int,
        num_heads: int,
        attends_memory: bool = False,
    ) -> None:
        super().__init__()
        if num_features < num_heads or num_features % num_heads:
            raise ValueError(
                f"{num_features} features cannot be split into {num_heads} heads of equal width: "
                "take fewer heads, fewer levels or a larger n_fft"
            )
        self.num_heads = num_heads
        self.scale = num_features**-0.5
        self.rotary = Rotary(head_features=num_features // num_heads)
        project = partial(FrameProjection, num_channels=num_channels, num_features=num_features)
        if attends_memory:
            self.to_q = project(num_projections=1)
            self.to_kv = project(num_projections=2)
        else:
            self.to_qkv = project(num_projections=3)
        self.to_out = MultichannelLinear(
            num_channels=num_channels, in_features=num_features, out_features=num_features
        )
        self.attends_memory = attends_memory

    def forward(
        self,
        x: Float[Tensor, "B C T F"],
        *,
        memory: Float[Tensor, "B C T F"] | None = None,
        scores: Float[Tensor, "B C H T T"] | None = None,
    ) -> tuple[Float[Tensor, "B C T F"], Float[Tensor, "B C H T T"]]:
        """Attend from the frames of `x`; returns new frames and the scores for the next layer.

        Args:
            x: where queries come from.
            memory: where keys and values come from, exactly if the layer attends a memory.
            scores: of the layer before, added to this layer's.
        """
        assert (memory is not None) == self.attends_memory
        if memory is None:
            # split, not indexed: the gradient of an index is a buffer of zeros as large as all
            qk, v = self._split_heads(self.to_qkv(x)).split([2, 1])
            (q, k), v = self.rotary(qk), v.squeeze(0)
        else:
            q = self.rotary(self._split_heads(self.to_q(x)).squeeze(0))
            k, v = self._split_heads(self.to_kv(memory))
            k = self.rotary(k)
        attended, total = residual_attention(q, k, v, scale=self.scale, scores=scores)
        return self.to_out(rearrange(attended, "b c h t d -> b c t (h d)")), total

    def _split_heads(self, x: Float[Tensor, "B P C T F"]) -> Float[Tensor, "P B C H T D"]:
        return rearrange(x, "b p c t (h d) -> p b c h t d", h=self.num_heads)
