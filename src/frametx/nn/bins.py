"""The bins a network is given: how many, and how often they can be halved."""

from jaxtyping import Float
from torch import Tensor


def features_last(
    magnitude: Float[Tensor, "B C F T"], *, num_bins: int
) -> Float[Tensor, "B C T F"]:
    """The layout inside a network; the bins must be those it was made for.

    Raises:
        ValueError: if there are more or fewer bins.
    """
    if magnitude.shape[2] != num_bins:
        raise ValueError(
            f"magnitude has {magnitude.shape[2]} bins, the network takes {num_bins}: "
            "slice the Nyquist bin away, and use the n_fft the network was made for"
        )
    return magnitude.transpose(2, 3).contiguous()


def check_halving(n_fft: int, *, num_levels: int, name: str) -> None:
    """Every level but the first halves the bins.

    Args:
        n_fft: of the STFT; the network takes `n_fft // 2` bins.
        num_levels: how many there are.
        name: of the option that decides it, for the message.

    Raises:
        ValueError: if the bins cannot be halved so often.
    """
    halvings = num_levels - 1
    if n_fft % 2 ** (halvings + 1):
        raise ValueError(
            f"n_fft ({n_fft}) gives {n_fft // 2} bins, which cannot be halved {halvings} times for "
            f"the {num_levels} levels of {name}: take an n_fft divisible by {2 ** (halvings + 1)}, "
            "or fewer levels"
        )
