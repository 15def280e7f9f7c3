"""A conventional pre-norm transformer layer over frames, and how a U-Net takes it in."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.block import Block
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.residual_scores import ResidualScores


class LayerOutput(NamedTuple):
    """What a transformer layer hands on.

    Attributes:
        maps: as many as came in.
        scores: of the attention of frames to one another.
        memory_scores: of the attention to a memory, if there is one.
    """

    maps: Float[Tensor, "B C T F"]
    scores: ResidualScores
    memory_scores: ResidualScores | None


class TransformerLayer(Block):
    """Attention between frames, to a memory if there is one, and feed-forward, each pre-norm.

    Args:
        attention: of frames to one another.
        feed_forward: the last part.
        norm: makes each part's norm.
        dropout: probability on every branch.
        memory_attention: of frames to those of a memory; None leaves it out.
        shares_attention_norm: one norm serves both attentions, as one original did by mistake. The
            norm of the second is there all the same, as that original's weights need; it takes no
            part and gets no gradient.
        adds_own_scores: the scores of this layer's first attention are added to its second's.
    """

    def __init__(
        self,
        *,
        attention: nn.Module,
        feed_forward: nn.Module,
        norm: Callable[[], nn.Module],
        dropout: float,
        memory_attention: nn.Module | None = None,
        shares_attention_norm: bool = False,
        adds_own_scores: bool = False,
    ) -> None:
        super().__init__()
        self.shares_attention_norm = shares_attention_norm
        self.adds_own_scores = adds_own_scores
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.norm_attention = norm()
        self.attention = attention
        self.memory_attention = memory_attention
        self.norm_memory = None if memory_attention is None else norm()
        self.norm_feed_forward = norm()
        self.feed_forward = feed_forward

    def forward(
        self,
        x: Float[Tensor, "B C T F"],
        *,
        memory: Float[Tensor, "B C_memory T F_memory"] | None = None,
        scores: ResidualScores | None = None,
        memory_scores: ResidualScores | None = None,
    ) -> LayerOutput:
        """Run the branches.

        Args:
            x: frames of every map.
            memory: what the second attention reads.
            scores: chain that the first attention adds to.
            memory_scores: chain that the second adds to.
        """
        z, own_scores = self.attention(self.norm_attention(x), scores=scores)
        x = x + self.dropout(z)
        if self.memory_attention is not None:
            norm = self.norm_attention if self.shares_attention_norm else self.norm_memory
            assert norm is not None
            if self.adds_own_scores:
                started = memory_scores is not None
                memory_scores = memory_scores + own_scores if started else own_scores
            z, memory_scores = self.memory_attention(norm(x), memory=memory, scores=memory_scores)
            x = x + self.dropout(z)
        x = x + self.dropout(self.feed_forward(self.norm_feed_forward(x)))
        return LayerOutput(x, own_scores, memory_scores)


class LevelOutput(NamedTuple):
    """What the transformer of a U-Net's level hands on.

    Attributes:
        stream: the input and, behind it, the attention maps: what the U-Net goes on with.
        maps: the attention maps alone.
        scores: of the attention of frames to one another.
        memory_scores: of the attention to a memory, if there is one.
    """

    stream: Float[Tensor, "B C_stream T F"]
    maps: Float[Tensor, "B C T F"]
    scores: ResidualScores
    memory_scores: ResidualScores | None


class LevelTransformer(Block):
    """A transformer layer on a few attention maps beside the many maps of a U-Net.

    Args:
        embed: from the maps of the U-Net to the attention maps, see `embed_maps`.
        layer: the transformer layer.
        embed_memory: from the maps of the memory to the attention maps; None reads it as it is.
    """

    def __init__(
        self,
        *,
        embed: nn.Module,
        layer: TransformerLayer,
        embed_memory: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.layer = layer
        self.embed_memory = embed_memory

    def forward(
        self,
        x: Float[Tensor, "B C_in T F"],
        *,
        memory: Float[Tensor, "B C_memory T F"] | None = None,
        scores: ResidualScores | None = None,
        memory_scores: ResidualScores | None = None,
    ) -> LevelOutput:
        """Embed, run the layer, and join its maps to the U-Net's; see `TransformerLayer`."""
        if memory is not None and self.embed_memory is not None:
            memory = self.embed_memory(memory)
        out = self.layer(self.embed(x), memory=memory, scores=scores, memory_scores=memory_scores)
        return LevelOutput(torch.cat([x, out.maps], 1), *out)


def embed_maps(in_channels: int, num_attention_maps: int) -> nn.Module:
    """A 1x1 convolution to the attention maps; nothing where the number is right already."""
    if in_channels == num_attention_maps:
        return nn.Identity()
    return PointwiseConv(in_channels=in_channels, out_channels=num_attention_maps, bias=True)
