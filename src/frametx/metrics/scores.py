"""All metrics of one track: of the estimates, and of the mixture itself taken as each estimate."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from frametx.metrics.sdr import si_sdr, usdr
from frametx.metrics.windowed_sdr import csdr

# What each number is, told wherever one is printed: figures of two protocols must not be compared.
PROTOCOLS = {
    "usdr": "uSDR: whole track, dB (Music Demixing Challenge 2021)",
    "csdr": "cSDR: median of 1 s windows, dB (BSSEval v4, museval's silence rule)",
    "si_sdr": "SI-SDR: whole track, level fitted, channels together, dB",
}


@dataclass(frozen=True)
class Score:
    """One stem of one track; each mapping goes from a metric of PROTOCOLS to dB."""

    track: str
    stem: str
    seconds: float
    estimate: Mapping[str, float]
    mixture: Mapping[str, float]

    def improvement(self, metric: str) -> float:
        """How much better than leaving the mixture as it is, dB; NaN where either is undefined."""
        return self.estimate[metric] - self.mixture[metric]

    def counts(self, metric: str) -> bool:
        """Whether the metric is defined here: the stem sounds, and so does its estimate."""
        return not math.isnan(self.improvement(metric))


def measure(
    estimates: Float[Tensor, "S C L"], stems: Float[Tensor, "S C L"], *, sample_rate: int
) -> dict[str, Float[Tensor, " S"]]:
    """Every metric of PROTOCOLS for every stem, dB; NaN where a stem is silent."""
    return {
        "usdr": usdr(estimates, stems),
        "csdr": csdr(estimates, stems, sample_rate=sample_rate),
        "si_sdr": si_sdr(estimates, stems),
    }


def score_track(
    estimates: Float[Tensor, "S C L"],
    stems: Float[Tensor, "S C L"],
    *,
    track: str,
    stem_names: Sequence[str],
    sample_rate: int,
) -> list[Score]:
    """One score for each stem of a track.

    Raises:
        ValueError: if an estimate holds a NaN or infinity, which no metric may hide as silence.
    """
    if not estimates.isfinite().all():
        raise ValueError(
            f"the estimates of {track} hold NaN or infinity: the checkpoint's weights, or the "
            "precision it runs in, are broken; try another checkpoint or device=cpu"
        )
    mixture = stems.sum(dim=0).expand_as(stems)
    ours = measure(estimates, stems, sample_rate=sample_rate)
    untouched = measure(mixture, stems, sample_rate=sample_rate)
    return [
        Score(
            track=track,
            stem=stem,
            seconds=stems.shape[-1] / sample_rate,
            estimate={metric: float(values[at]) for metric, values in ours.items()},
            mixture={metric: float(values[at]) for metric, values in untouched.items()},
        )
        for at, stem in enumerate(stem_names)
    ]
