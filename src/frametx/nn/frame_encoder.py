"""One step down the U-Net."""

from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.residual_block import ResBlock


class FrameEncoder(nn.Module):
    """A residual block that, if asked, halves the features; frames are never merged."""

    def __init__(
        self, *, in_channels: int, out_channels: int, num_features: int, downsample: bool
    ) -> None:
        super().__init__()
        self.body = ResBlock(
            in_channels=in_channels,
            out_channels=out_channels,
            num_features=num_features,
            stride=(1, 2) if downsample else (1, 1),
        )

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T F_out"]:
        """Half the features if downsampling, else as many."""
        return self.body(x)
