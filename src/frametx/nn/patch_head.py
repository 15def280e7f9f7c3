"""From the maps of an encoder to logits of patches: bands of bins times a few frames."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.multichannel_linear import MultichannelLinear
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.squared_relu import squared_relu


class PatchHead(nn.Module):
    """A convolution over frames to twice as many maps, and a 1x1 convolution to the logits.

    Args:
        in_channels: maps that come in.
        out_channels: maps of logits.
        num_features: features of a frame that come in, and bands of patches that go out.
        frames_per_patch: frames from one logit to the next; each sees those up to its neighbours.
        normalizes: norm what comes in.

    Raises:
        ValueError: if a patch has no frames.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        num_features: int,
        frames_per_patch: int,
        normalizes: bool,
    ) -> None:
        super().__init__()
        if frames_per_patch < 1:
            raise ValueError(f"frames_per_patch ({frames_per_patch}) must be at least 1")
        reach = frames_per_patch - 1  # to either side; less would miss frames at the end
        self.norm = (
            MultichannelLayerNorm(num_channels=in_channels, num_features=num_features)
            if normalizes
            else nn.Identity()
        )
        self.conv = nn.Conv2d(
            in_channels,
            2 * in_channels,
            (2 * reach + 1, 1),
            stride=(frames_per_patch, 1),
            padding=(reach, 0),
        )
        self.out = PointwiseConv(in_channels=2 * in_channels, out_channels=out_channels, bias=True)

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T_out F"]:
        """Norm, convolution, activation, logits."""
        return self.out(squared_relu(self.conv(self.norm(x))))


class LinearHead(nn.Module):
    """A logit for every frame: a weight per map and feature, and one per map, without a bias.

    Args:
        in_channels: maps that come in.
        out_channels: maps of logits.
        num_features: features of a frame that come in; one goes out.
    """

    def __init__(self, *, in_channels: int, out_channels: int, num_features: int) -> None:
        super().__init__()
        self.linear = MultichannelLinear(
            num_channels=in_channels,
            in_features=num_features,
            out_features=1,
            out_channels=out_channels,
            mix_channels=True,
        )

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T 1"]:
        """All features of a frame at once."""
        return self.linear(x)


class BandHead(nn.Module):
    """Two 3x3 convolutions to one map of logits, and their mean over bands of equal width.

    Args:
        in_channels: maps that come in.
        num_bands: how many go out; more than there are features repeats them.
    """

    def __init__(self, *, in_channels: int, num_bands: int) -> None:
        super().__init__()
        self.num_bands = num_bands
        self.conv = nn.Conv2d(in_channels, in_channels, 3, padding=1)
        self.out = nn.Conv2d(in_channels, 1, 3, padding=1)

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B 1 T bands"]:
        """Convolve, activate, convolve, and take the mean of every band."""
        logits = self.out(squared_relu(self.conv(x)))
        return F.adaptive_avg_pool2d(logits, (x.shape[2], self.num_bands))
