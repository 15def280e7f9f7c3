"""Attention between frames, map by map: the tokens are frames, the features are frequencies."""

from collections.abc import Callable
from typing import Literal

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.frame_projection import FrameProjection
from frametx.nn.multichannel_linear import MultichannelLinear
from frametx.nn.residual_scores import Backend, ResidualScores, residual_attention
from frametx.nn.rotary import AnglePrecision, Rotary

ScoreScale = Literal["features", "head"]


class MultichannelMultiheadAttention(nn.Module):
    """Multi-head attention over frames in every map; a head is a contiguous band of features.

    Args:
        num_channels: maps that attention runs in, and that go out.
        num_features: features of a frame that comes in and goes out.
        num_heads: bands of equal width the features are split into.
        in_channels: maps that come in; None is `num_channels`.
        attends_memory: keys and values come from a second input instead of the first.
        memory_channels: maps of that input; None is `num_channels`.
        memory_features: features of its frames; None is `num_features`.
        project: makes the layers to queries, keys and values, see `FrameProjection`.
        project_memory: makes the layer to keys and values of a memory; None is `project`.
        mixes_output: the last layer mixes the maps.
        rotary_features: what positions turn of every head; None is all of it.
        angle_precision: of the positions, see `Rotary`.
        score_scale: scores are divided by the square root of all features, as in the originals, or
            of one head's, as in most transformers.
        normalizes_heads: layer norm of every query and key over the features of its head, behind
            the rotation.
        needs_matrix: whoever reads the scores wants the matrix, so it is always written down.

    Attributes:
        attention_backend: see `residual_attention`.

    Raises:
        ValueError: if the features cannot be split evenly into the heads.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        num_features: int,
        num_heads: int,
        in_channels: int | None = None,
        attends_memory: bool = False,
        memory_channels: int | None = None,
        memory_features: int | None = None,
        project: Callable[..., nn.Module] = FrameProjection,
        project_memory: Callable[..., nn.Module] | None = None,
        mixes_output: bool = False,
        rotary_features: int | None = None,
        angle_precision: AnglePrecision = "float32",
        score_scale: ScoreScale = "features",
        normalizes_heads: bool = False,
        needs_matrix: bool = False,
    ) -> None:
        super().__init__()
        if num_features < num_heads or num_features % num_heads:
            raise ValueError(
                f"{num_features} features cannot be split into {num_heads} heads of equal width: "
                "take fewer heads, fewer levels or a larger n_fft"
            )
        if score_scale not in ("features", "head"):
            raise ValueError(f"score_scale={score_scale} must be features or head")
        head_features = num_features // num_heads
        self.num_heads = num_heads
        self.scale = (num_features if score_scale == "features" else head_features) ** -0.5
        self.rotary = Rotary(
            num_features=head_features if rotary_features is None else rotary_features,
            angle_precision=angle_precision,
        )
        attended = {"num_channels": num_channels, "num_features": num_features}
        self.attends_memory = attends_memory
        if attends_memory:
            self.to_q = project(**attended, in_channels=in_channels, num_projections=1)
            self.to_kv = (project_memory or project)(
                **attended,
                in_channels=memory_channels,
                in_features=memory_features,
                num_projections=2,
            )
        else:
            self.to_qkv = project(**attended, in_channels=in_channels, num_projections=3)
        self.norm_q = nn.LayerNorm(head_features) if normalizes_heads else nn.Identity()
        self.norm_k = nn.LayerNorm(head_features) if normalizes_heads else nn.Identity()
        self.to_out = MultichannelLinear(
            num_channels=num_channels,
            in_features=num_features,
            out_features=num_features,
            mix_channels=mixes_output,
        )
        self.needs_matrix = needs_matrix
        self.attention_backend: Backend = "auto"

    def forward(
        self,
        x: Float[Tensor, "B C_in T F"],
        *,
        memory: Float[Tensor, "B C_memory T F_memory"] | None = None,
        scores: ResidualScores | None = None,
    ) -> tuple[Float[Tensor, "B C T F"], ResidualScores]:
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
        attended, total = residual_attention(
            self.norm_q(q),
            self.norm_k(k),
            v,
            scale=self.scale,
            scores=scores,
            backend="materialised" if self.needs_matrix else self.attention_backend,
        )
        return self.to_out(rearrange(attended, "b c h t d -> b c t (h d)")), total

    def _split_heads(self, x: Float[Tensor, "B P C T F"]) -> Float[Tensor, "P B C H T D"]:
        return rearrange(x, "b p c t (h d) -> p b c h t d", h=self.num_heads)
