"""A separator whose network takes samples and gives samples: no STFT, no phase of the mixture."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.masking import with_rest
from frametx.separator import check_rate, check_stems

_RIDGE = 1e-5  # of the mean energy of the estimates, so that equal estimates share a mixture


class WaveformSeparator(nn.Module):
    """A network that learns its own basis: mixture B C L -> stems B S_out C L.

    The stem named `complement` is what the others leave of the mixture, so the estimates sum to it
    exactly. Without one the network gives all stems, and they sum to what they sum to.

    Args:
        network: mixture -> as many stems as there are but the complement.
        stems: names, in the order of the estimates.
        complement: the stem that is mixture minus the others; None lets the network give all.
        sample_rate: Hz.
        num_channels: C.
        chunk_seconds: length of a chunk at separation time.
        levels: of the estimates. `network` leaves them; `mixture` gives each estimate the one
            factor with which all together come nearest to the mixture (least squares), for a
            network whose loss cannot hear levels, as SI-SNR.
        ordered_stems: False for stems that the network may give in any order, as speakers. Chunks
            of a longer recording are then brought into one order by what they have in common.

    Attributes:
        sums_to_mixture: the estimates do.

    Raises:
        ValueError: if `complement` is no stem, the network gives another number of stems, or there
            is no such way to set levels.
    """

    def __init__(
        self,
        *,
        network: nn.Module,
        stems: Sequence[str],
        complement: str | None,
        sample_rate: int,
        num_channels: int,
        chunk_seconds: float,
        levels: Literal["network", "mixture"],
        ordered_stems: bool = True,
    ) -> None:
        super().__init__()
        check_stems(stems, complement)
        check_rate(sample_rate, num_channels)
        if levels not in ("network", "mixture"):
            raise ValueError(f"levels={levels} must be network or mixture")
        if chunk_seconds <= 0:
            raise ValueError(f"chunk_seconds={chunk_seconds} must be more than 0")
        num_wanted = len(stems) - (complement is not None)
        num_given = int(getattr(network, "num_stems", num_wanted))
        if num_given != num_wanted:
            raise ValueError(
                f"the network gives {num_given} stem(s), but {list(stems)} with "
                f"complement={complement} need {num_wanted}: give both the same stems"
            )
        self.network = network
        self.stems = tuple(stems)
        self.complement = complement
        self.sums_to_mixture = complement is not None
        self.ordered_stems = ordered_stems
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.chunk_samples = max(1, round(chunk_seconds * sample_rate))
        self.levels = levels

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """Separate a batch of mixtures of any length."""
        estimates = self.network(mixture)
        if self.levels == "mixture":
            estimates = with_levels_of(mixture, estimates)
        if self.complement is None:
            return estimates
        return with_rest(estimates, mixture, self.stems.index(self.complement))


def with_levels_of(
    mixture: Float[Tensor, "B C L"],
    estimates: Float[Tensor, "B S C L"],
    *,
    solve: Callable[[Tensor, Tensor], Tensor] = torch.linalg.solve,
) -> Float[Tensor, "B S C L"]:
    """Estimates, each times a factor: those whose sum differs least from the mixture in energy.

    The factors are a function of the estimates like any other, and the gradient goes through them.

    Args:
        mixture: of the estimates.
        estimates: at any level.
        solve: of matrices B S S and right sides B S the solutions; for graphs that have no solver.
    """
    with torch.autocast(mixture.device.type, enabled=False):
        parts, whole = estimates.flatten(2).float(), mixture.flatten(1).float()
        energies = parts @ parts.mT
        mean_energy = energies.diagonal(dim1=1, dim2=2).mean(dim=1)
        ridge = (_RIDGE * mean_energy).clamp_min(torch.finfo(parts.dtype).tiny)
        ridged = energies + ridge[:, None, None] * torch.eye(parts.shape[1], device=parts.device)
        gains = solve(ridged, (parts @ whole[..., None]).squeeze(-1))
    return estimates * gains[..., None, None].to(estimates.dtype)
