"""References: what no separation scores, and what the best masks score that know the truth."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.masking import ideal_ratio_mask
from frametx.audio.stft import Stft

PREFIX = "reference:"
N_FFT, HOP_LENGTH = 4096, 1024  # samples


@dataclass(frozen=True)
class Reference:
    """Estimates that are computed from the true stems; evaluated as a checkpoint is.

    Args:
        name: `reference:mixture`, `reference:ratio_mask` or `reference:best_mask`.
        stems: names, in the order of the estimates.
        sample_rate: Hz, of the tracks where the data leaves it open.
        num_channels: likewise.

    Raises:
        ValueError: if there is no reference of this name.
    """

    name: str
    stems: tuple[str, ...] = ("vocals", "instrumental")
    sample_rate: int = 44_100
    num_channels: int = 2

    def __post_init__(self) -> None:
        if self.name not in REFERENCES:
            raise ValueError(f"{self.name}: no reference of this name; there is {NAMES}")

    @property
    def facts(self) -> dict[str, Any]:
        """How the estimates are computed, for a report."""
        has_mask = REFERENCES[self.name] is not mixture_itself
        return {"stft": {"n_fft": N_FFT, "hop_length": HOP_LENGTH}} if has_mask else {}

    def estimates(self, stems: Float[Tensor, "S C L"]) -> Float[Tensor, "S C L"]:
        """The estimates for a mixture of these stems."""
        return REFERENCES[self.name](stems)


def mixture_itself(stems: Float[Tensor, "S C L"]) -> Float[Tensor, "S C L"]:
    """The mixture as the estimate of every stem: nothing is separated."""
    return stems.sum(dim=0).expand_as(stems)


def ratio_mask(stems: Float[Tensor, "S C L"]) -> Float[Tensor, "S C L"]:
    """Ideal ratio mask: each stem's share of the summed magnitudes, with the mixture's phase."""
    return _masked(stems, lambda true, _: ideal_ratio_mask(true.abs()[None])[0])


def best_mask(stems: Float[Tensor, "S C L"]) -> Float[Tensor, "S C L"]:
    """The mask between 0 and 1 with the least squared error in every bin of every stem.

    Re(S conj(X)) / |X|^2 for a stem S and the mixture X, clipped to [0, 1]: no mask that a sigmoid
    can give has a smaller error in any bin, with the phase of the mixture.
    """

    def least_squares(true: Tensor, mixture: Tensor) -> Tensor:
        power = mixture.abs().square().clamp_min(torch.finfo(mixture.real.dtype).tiny)
        return ((true * mixture.conj()).real / power).clamp(0, 1)

    return _masked(stems, least_squares)


def _masked(
    stems: Float[Tensor, "S C L"], mask_of: Callable[[Tensor, Tensor], Tensor]
) -> Float[Tensor, "S C L"]:
    """The mixture under the masks (S C F T) of stems (S C F T) and mixture (C F T), in 64 bits."""
    stft = Stft(n_fft=N_FFT, hop_length=HOP_LENGTH)
    true = stft(stems.double())  # S C F T
    mixture = true.sum(dim=0)
    masked = mask_of(true, mixture) * mixture
    return stft.inverse(masked, length=stems.shape[-1]).to(stems)


REFERENCES: dict[str, Callable[[Tensor], Tensor]] = {
    f"{PREFIX}mixture": mixture_itself,
    f"{PREFIX}ratio_mask": ratio_mask,
    f"{PREFIX}best_mask": best_mask,
}
NAMES = ", ".join(REFERENCES)


def is_reference(ckpt: object) -> bool:
    """Whether `ckpt=` names a reference, be there one of this name or not."""
    return isinstance(ckpt, str) and ckpt.startswith(PREFIX)
