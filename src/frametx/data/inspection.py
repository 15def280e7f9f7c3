"""Whether a file is sound: decoded once from end to end, in bounded memory, before training."""

from dataclasses import dataclass
from pathlib import Path

from frametx.audio.io import probe, read_blocks

BLOCK_SAMPLES = 1 << 18
SILENT = "is silent from end to end"
"""How the reason begins for which such a file is rejected."""
SILENCE_PEAK = 1e-4
"""A file that never exceeds this (-80 dBFS) is silent: dither and codec noise stay below it."""


@dataclass(frozen=True)
class Inspection:
    """What was found by decoding a whole file."""

    num_samples: int
    sample_rate: int
    num_channels: int
    peak: float


def inspect(path: Path) -> Inspection:
    """Decode all of `path`.

    Raises:
        ValueError: with one line that says why the file cannot be trained on, without its path.
        OSError: if the file cannot be opened, whatever it holds.
    """
    path.open("rb").close()
    decoded, peak = 0, 0.0
    try:
        info = probe(path)
        for block in read_blocks(path, block_samples=BLOCK_SAMPLES):
            decoded += block.shape[-1]
            peak = max(peak, float(block.abs().max()))
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{path}: ")) from error
    if peak < SILENCE_PEAK:
        raise ValueError(f"{SILENT}: its peak is {peak:.1e}")
    return Inspection(decoded, info.sample_rate, info.num_channels, peak)
