"""The transformer of a decoder level: it attends to itself and to the encoder of its level."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.block import Block
from frametx.nn.frame_conv import FrameConv
from frametx.nn.multichannel_linear import MultichannelLinear
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.residual_scores import ResidualScores
from frametx.nn.squared_relu import squared_relu
from frametx.nn.transformer_layer import embed_maps


class DecoderOutput(NamedTuple):
    """What a decoder transformer hands on.

    Attributes:
        stream: the input and, behind it, the attention maps: what the U-Net goes on with.
        self_scores: of the attention of frames to one another, for the next level.
        skip_scores: of the attention to the encoder's maps, for the next level.
    """

    stream: Float[Tensor, "B C_stream T F"]
    self_scores: ResidualScores
    skip_scores: ResidualScores


class FrameTransformerDecoder(Block):
    """Two rounds of attention to itself and to the encoder, around convolutions; then feed-forward.

    Two chains of residual scores run through the decoders. That of self-attention simply adds up.
    In that of the attention to the encoder, a gate chooses before each round between the chain and
    the scores of the encoder of this level.

    Args:
        in_channels: maps of the U-Net at this level.
        num_attention_maps: maps the transformer works on.
        num_features: features of a frame.
        expansion: hidden features of the feed-forward.
        kernel_sizes: of the two branches and of the convolution that joins them; odd.
        dropout: probability on every branch.
        is_deepest: no decoder came before: the chain starts at the encoder's scores, with no gate.
        attend: makes every attention between frames, see `MultichannelMultiheadAttention`.
        make_gate: makes a gate from `previous_features`, the features of a frame where the chain
            comes from.
        gates_scores: the gate reads the scores themselves, so they have to be written down.

    Source: So et al., "The Evolved Transformer", 2019, for the order of the branches.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_attention_maps: int,
        num_features: int,
        expansion: int,
        kernel_sizes: Sequence[int],
        dropout: float,
        is_deepest: bool,
        attend: Callable[..., nn.Module],
        make_gate: Callable[..., nn.Module],
        gates_scores: bool,
    ) -> None:
        super().__init__()
        frames = {"num_channels": num_attention_maps, "num_features": num_features}
        norm = partial(MultichannelLayerNorm, **frames)
        frame_conv = partial(FrameConv, **frames)
        recall = partial(attend, **frames, attends_memory=True, needs_matrix=gates_scores)
        linear = partial(MultichannelLinear, num_channels=num_attention_maps)
        branch_a_kernel, branch_b_kernel, join_kernel = kernel_sizes
        self.embed = embed_maps(in_channels, num_attention_maps)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.norm_first = norm()
        self.self_attention_first = attend(**frames)
        self.gate_first = None if is_deepest else make_gate(previous_features=num_features // 2)
        self.skip_attention_first = recall()
        self.norm_branches = norm()
        self.branch_a = frame_conv(kernel_size=branch_a_kernel)
        self.branch_b = frame_conv(kernel_size=branch_b_kernel)
        self.norm_join = norm()
        self.join = frame_conv(kernel_size=join_kernel)
        self.norm_self = norm()
        self.self_attention = attend(**frames)
        self.norm_skip = norm()
        self.gate = make_gate(previous_features=num_features)
        self.skip_attention = recall()
        self.norm_expand = norm()
        self.expand = linear(in_features=num_features, out_features=expansion)
        self.contract = linear(in_features=expansion, out_features=num_features)

    def forward(
        self,
        x: Float[Tensor, "B C_in T F"],
        *,
        skip: Float[Tensor, "B C T F"],
        skip_scores: ResidualScores,
        previous_self_scores: ResidualScores | None = None,
        previous_skip_scores: ResidualScores | None = None,
    ) -> DecoderOutput:
        """Run the branches on the embedded input.

        Args:
            x: maps of the U-Net at this level.
            skip: attention maps of the encoder of this level.
            skip_scores: its scores.
            previous_self_scores: of the decoder one level down; None at the deepest.
            previous_skip_scores: likewise.
        """
        drop = self.dropout
        h = self.embed(x)

        z = self.norm_first(h)
        attended, self_scores = self.self_attention_first(z, scores=previous_self_scores)
        scores = skip_scores
        if self.gate_first is not None:
            assert previous_skip_scores is not None, "only the deepest decoder starts a chain"
            scores = self.gate_first(previous_skip_scores, skip_scores)
        recalled, scores = self.skip_attention_first(z, memory=skip, scores=scores)
        h = h + drop(attended) + drop(recalled)

        z = self.norm_branches(h)
        z = squared_relu(self.branch_a(z)) + self.branch_b(z)
        h = h + drop(self.join(self.norm_join(z)))

        z, self_scores = self.self_attention(self.norm_self(h), scores=self_scores)
        h = h + drop(z)

        scores = self.gate(scores, skip_scores)
        z, scores = self.skip_attention(self.norm_skip(h), memory=skip, scores=scores)
        h = h + drop(z)

        h = h + drop(self.contract(squared_relu(self.expand(self.norm_expand(h)))))
        return DecoderOutput(torch.cat([x, h], 1), self_scores, scores)
