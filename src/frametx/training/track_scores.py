"""What validation finds out: scores of whole tracks, separated as `separate` would."""

import math
from collections.abc import Callable
from typing import cast

import lightning as L
import torch
from torch import Tensor

from frametx.data.tracks import Mixture
from frametx.metrics.permutation import in_best_order
from frametx.metrics.sdr import si_sdr, usdr
from frametx.separator import Separator
from frametx.streaming import separate_waveform

METRICS = {"usdr": usdr, "si_sdr": si_sdr}


class TrackScores:
    """Separates tracks, keeps their scores, and averages them over all devices.

    Args:
        overlap: of chunks.
    """

    def __init__(self, *, overlap: float) -> None:
        self.overlap = overlap
        self._scores: dict[str, list[float]] = {}

    def add(self, separator: Separator, track: Mixture, device: torch.device) -> None:
        """Separate one track and keep its scores."""
        stems = track.stems
        estimates = separate_waveform(
            separator,
            stems.sum(dim=0),
            sample_rate=track.sample_rate,
            overlap=self.overlap,
            batch_size=1,
            device=device,
        ).cpu()
        # A network that has diverged scores as one that gives silence, not as a silent stem.
        estimates = torch.nan_to_num(estimates, nan=0.0, posinf=0.0, neginf=0.0)
        if not track.has_order:
            estimates = in_best_order(estimates, stems.cpu())
        for name, metric in METRICS.items():
            values = metric(estimates, stems.cpu())
            for stem, value in zip(separator.stems, values, strict=True):
                self._scores.setdefault(f"val/{name}/{stem}", []).append(float(value))
                self._scores.setdefault(f"val/{name}", []).append(float(value))

    def log(self, module: L.LightningModule, separator: Separator) -> None:
        """Log the means over all tracks of all devices, on every device, and forget the scores."""

        def total(sums: Tensor) -> Tensor:
            return cast(Tensor, module.trainer.strategy.reduce(sums, reduce_op="sum"))

        for key, mean in self.means(separator, module.device, total).items():
            module.log(key, mean, prog_bar=key == "val/si_sdr", rank_zero_only=False)

    def means(
        self, separator: Separator, device: torch.device, total: Callable[[Tensor], Tensor]
    ) -> dict[str, float]:
        """By name, over all tracks of all devices, forgotten then; silent stems (NaN) do not count.

        Args:
            separator: which was scored.
            device: where devices exchange sums.
            total: sums a tensor over all devices.
        """
        keys = [f"val/{m}{s}" for m in METRICS for s in ("", *(f"/{s}" for s in separator.stems))]
        sums = torch.tensor(
            [
                [
                    sum(finite := [v for v in self._scores.get(key, []) if math.isfinite(v)]),
                    len(finite),
                ]
                for key in keys
            ],
            device=device,
            dtype=torch.float32,
        )
        self._scores.clear()
        found = zip(keys, total(sums).tolist(), strict=True)
        return {key: sum_ / count for key, (sum_, count) in found if count}
