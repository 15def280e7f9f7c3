"""The block of the bridge: an evolved transformer encoder made of convolutions."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.block import Block
from frametx.nn.convolutional_attention import ConvolutionalMultiheadAttention
from frametx.nn.norm import ChannelNorm
from frametx.nn.residual_scores import ResidualScores
from frametx.nn.squared_relu import squared_relu


class ConvolutionalTransformerEncoder(Block):
    """Gate, two branches, a wide convolution, attention, feed-forward, each with a residual.

    Args:
        num_channels: feature maps.
        num_heads: of the attention between all bins of all frames.
        dropout: probability that a whole map of a branch is dropped.
        restarts_residual: add the attention to what entered the block instead of to the running
            stream, so that the first three branches reach the output only through the attention's
            input. The original does so; nothing speaks for it but its weights.
        attention_kernel_size: of the projections of the attention; odd.

    Source: So et al., "The Evolved Transformer", 2019, for the order of the branches.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        num_heads: int,
        dropout: float,
        restarts_residual: bool,
        attention_kernel_size: int = 3,
    ) -> None:
        super().__init__()
        c = num_channels
        self.restarts_residual = restarts_residual
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()
        self.norm_gate = ChannelNorm(num_channels=c)
        self.gate = nn.Conv2d(c, 2 * c, 1)
        self.norm_branches = ChannelNorm(num_channels=c)
        self.branch_narrow = nn.Conv2d(c, c, 1)
        self.branch_wide = _separable_conv(c, kernel_size=3)
        self.norm_context = ChannelNorm(num_channels=c)
        self.context = _separable_conv(c, kernel_size=9)
        self.norm_attention = ChannelNorm(num_channels=c)
        self.attention = ConvolutionalMultiheadAttention(
            num_channels=c, num_heads=num_heads, kernel_size=attention_kernel_size
        )
        self.norm_expand = ChannelNorm(num_channels=c)
        self.expand = nn.Conv2d(c, 4 * c, 3, padding=1)
        self.contract = nn.Conv2d(4 * c, c, 3, padding=1)

    def forward(
        self, x: Float[Tensor, "B C T F"], *, scores: ResidualScores | None = None
    ) -> tuple[Float[Tensor, "B C T F"], ResidualScores]:
        """Run the branches; returns new maps, and the attention's scores for the next block.

        Args:
            x: maps of the bridge.
            scores: of the block before, added to this block's.
        """
        drop = self.dropout
        h = x + drop(F.glu(self.gate(self.norm_gate(x)), 1))
        z = self.norm_branches(h)
        h = h + drop(squared_relu(self.branch_narrow(z))) + drop(squared_relu(self.branch_wide(z)))
        h = h + drop(self.context(self.norm_context(h)))
        z, total = self.attention(self.norm_attention(h), scores=scores)
        h = (x if self.restarts_residual else h) + drop(z)
        h = h + drop(self.contract(squared_relu(self.expand(self.norm_expand(h)))))
        return h, total


def _separable_conv(num_channels: int, *, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(
            num_channels, num_channels, kernel_size, padding=kernel_size // 2, groups=num_channels
        ),
        nn.Conv2d(num_channels, num_channels, 1),
    )
