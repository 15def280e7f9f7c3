"""A side output at the bridge: where in time and in which band somebody sings."""

from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.block import Block
from frametx.nn.convolutional_transformer_encoder import ConvolutionalTransformerEncoder
from frametx.nn.norm import ChannelNorm


class VocalBandHead(Block):
    """One bridge block and a 1x1 convolution to logits of singing per frame and remaining bin.

    Args:
        num_channels: maps of the bridge.
        out_channels: maps of logits.
        num_heads: of the block's attention.
        dropout: of the block.
        restarts_residual: of the block.
        normalizes: read the normalised bridge. The original computes this norm and overwrites the
            result; with False its two parameters are kept for weights of that form and do not
            learn: several devices wait for the gradient of every parameter that does.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        out_channels: int,
        num_heads: int,
        dropout: float,
        restarts_residual: bool,
        normalizes: bool,
    ) -> None:
        super().__init__()
        self.normalizes = normalizes
        self.norm = ChannelNorm(num_channels=num_channels).requires_grad_(normalizes)
        self.transform = ConvolutionalTransformerEncoder(
            num_channels=num_channels,
            num_heads=num_heads,
            dropout=dropout,
            restarts_residual=restarts_residual,
        )
        self.out = nn.Conv2d(num_channels, out_channels, 1)

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T F"]:
        """Logits, one for every frame and remaining bin."""
        transformed, _ = self.transform(self.norm(x) if self.normalizes else x)
        return self.out(transformed)
