"""The transformer of an encoder level: frames are tokens, a few maps run in parallel."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.block import Block
from frametx.nn.frame_conv import FrameConv
from frametx.nn.multichannel_linear import MultichannelLinear
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.residual_scores import ResidualScores
from frametx.nn.squared_relu import squared_relu
from frametx.nn.transformer_layer import LevelOutput, embed_maps


class FrameTransformerEncoder(Block):
    """Gate, two branches, a wide convolution, attention, feed-forward, each with a residual.

    Args:
        in_channels: maps of the U-Net at this level.
        num_attention_maps: maps the transformer works on; the input is embedded into as many,
            unless it has as many already.
        num_features: features of a frame.
        expansion: hidden features of the feed-forward.
        kernel_sizes: of the second branch and of the wide convolution; odd.
        dropout: probability on every branch.
        attend: makes the attention between frames, see `MultichannelMultiheadAttention`.

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
        attend: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        features = num_features
        frames = {"num_channels": num_attention_maps, "num_features": features}
        norm = partial(MultichannelLayerNorm, **frames)
        linear = partial(MultichannelLinear, num_channels=num_attention_maps)
        branch_kernel, context_kernel = kernel_sizes
        self.embed = embed_maps(in_channels, num_attention_maps)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.norm_gate = norm()
        self.gate = linear(in_features=features, out_features=2 * features)
        self.norm_branches = norm()
        self.branch_linear = linear(in_features=features, out_features=features)
        self.branch_conv = FrameConv(**frames, kernel_size=branch_kernel)
        self.norm_context = norm()
        self.context = FrameConv(**frames, kernel_size=context_kernel)
        self.norm_attention = norm()
        self.attention = attend(**frames)
        self.norm_expand = norm()
        self.expand = linear(in_features=features, out_features=expansion)
        self.contract = linear(in_features=expansion, out_features=features)

    def forward(
        self,
        x: Float[Tensor, "B C_in T F"],
        *,
        scores: ResidualScores | None = None,
    ) -> LevelOutput:
        """Run the branches on the embedded input.

        Args:
            x: maps of the U-Net at this level.
            scores: of the encoder transformer one level up, added to this one's.
        """
        drop = self.dropout
        h = self.embed(x)
        h = h + drop(F.glu(self.gate(self.norm_gate(h))))
        z = self.norm_branches(h)
        branches = squared_relu(self.branch_linear(z)), squared_relu(self.branch_conv(z))
        h = h + drop(branches[0]) + drop(branches[1])
        h = h + drop(self.context(self.norm_context(h)))
        z, total = self.attention(self.norm_attention(h), scores=scores)
        h = h + drop(z)
        h = h + drop(self.contract(squared_relu(self.expand(self.norm_expand(h)))))
        return LevelOutput(torch.cat([x, h], 1), h, total, None)
