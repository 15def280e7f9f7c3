"""Training samples as files to listen to: mixture, stems, and what chance did to each of them."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import default_collate

from frametx.audio.io import write_wav

AT_ONCE = 8
"""Samples mixed together, so that a long preview fits into memory."""


class Sampled(Protocol):
    """Gives sample number n, so many samples long; what training reads from is one."""

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """The crops of (sample number, length in samples)."""
        ...

    def describe(self, sample: int, num_samples: int) -> str:
        """Files and places."""
        ...


def write_preview(
    output: Path,
    *,
    source: Sampled,
    mix: Callable[[dict[str, Tensor]], Float[Tensor, "B S C L"]],
    drawn: Callable[[int], Mapping[str, Any]],
    stems: tuple[str, ...],
    count: int,
    num_samples: int,
    sample_rate: int,
    on_sample: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Write the first samples of a run: `sample_000/{mixture,<stem>}.wav` and `preview.json`.

    The files are 32-bit floats at the level that the network is given, which may exceed full scale.

    Args:
        output: folder; older files of these names are replaced.
        source: what training reads from.
        mix: what training makes stems with.
        drawn: all that chance decides about a sample, for the report.
        stems: names, in the order of the second axis of what `mix` returns.
        count: how many samples.
        num_samples: length of each.
        sample_rate: Hz.
        on_sample: called with the number of each sample when it is written.

    Returns:
        What stands in preview.json.
    """
    output.mkdir(parents=True, exist_ok=True)
    told: list[dict[str, Any]] = []
    for first in range(0, count, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, count))
        batch = default_collate([source[number, num_samples] for number in numbers])
        for number, mixed in zip(numbers, mix(batch), strict=True):
            folder = output / f"sample_{number:03d}"
            waveforms = {"mixture": mixed.sum(dim=0), **dict(zip(stems, mixed, strict=True))}
            for name, waveform in waveforms.items():
                write_wav(folder / f"{name}.wav", waveform.cpu(), sample_rate=sample_rate)
            told.append(
                {
                    "sample": number,
                    "seconds": mixed.shape[-1] / sample_rate,
                    "files": source.describe(number, num_samples),
                    "drawn": dict(drawn(number)),
                    "levels": {name: _level(waveform) for name, waveform in waveforms.items()},
                }
            )
            if on_sample is not None:
                on_sample(number)
    (output / "preview.json").write_text(json.dumps(told, indent=1, default=str) + "\n")
    return told


def _level(waveform: Float[Tensor, "C L"]) -> dict[str, float | None]:
    """Peak, and RMS in dB re full scale; none where all is silent."""
    mean = float(waveform.double().square().mean())
    return {
        "peak": float(torch.as_tensor(waveform).abs().max()),
        "rms_db": 10 * math.log10(mean) if mean > 0 else None,
    }
