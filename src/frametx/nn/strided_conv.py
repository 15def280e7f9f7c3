"""Convolutions that halve bins and frames together, and those that double them again."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class HalvingConv(nn.Module):
    """A convolution of stride 2 over frames and bins: half of both, for even numbers of them.

    The zeros around the input are those of TensorFlow's `same`: where their number is odd, one
    more lies at the end. Weights of such networks need it, for zeros on both sides alike shift.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        kernel_size: frames and bins that one output sees.
    """

    def __init__(self, *, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.before, self.after = _around(kernel_size)
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride=2)

    def forward(self, x: Float[Tensor, "B C_in T F"]) -> Float[Tensor, "B C_out T_half F_half"]:
        """Every second frame and bin."""
        return self.conv(F.pad(x, (self.before, self.after) * 2))


class DoublingConv(nn.Module):
    """The transpose of `HalvingConv`: twice the frames and the bins.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        kernel_size: frames and bins that one input reaches.
    """

    def __init__(self, *, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.before, self.after = _around(kernel_size)
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, kernel_size, stride=2)

    def forward(self, x: Float[Tensor, "B C_in T F"]) -> Float[Tensor, "B C_out T_double F_double"]:
        """What reaches beyond the ends is cut away."""
        return F.pad(self.conv(x), (-self.before, -self.after) * 2)


def check_halvings(num_bins: int, *, num_levels: int) -> None:
    """Every level halves the bins.

    Raises:
        ValueError: if they cannot be halved so often.
    """
    if num_levels < 1 or num_bins < 1 or num_bins % 2**num_levels:
        raise ValueError(
            f"num_bins ({num_bins}) cannot be halved {num_levels} times, once for each of widths: "
            f"take a multiple of {2 ** max(num_levels, 1)}, or fewer levels"
        )


def check_frames(magnitude: Float[Tensor, "B C F T"], *, multiple: int) -> None:
    """Every level halves the frames.

    Raises:
        ValueError: if they cannot be halved so often.
    """
    if magnitude.shape[3] % multiple:
        raise ValueError(
            f"magnitude has {magnitude.shape[3]} frames, which must be a multiple of {multiple}: "
            "fill up with zeros, as SpectrogramSeparator does"
        )


def _around(kernel_size: int) -> tuple[int, int]:
    if kernel_size < 2:
        raise ValueError(f"kernel_size ({kernel_size}) must be at least the stride, 2")
    return (kernel_size - 2) // 2, (kernel_size - 1) // 2
