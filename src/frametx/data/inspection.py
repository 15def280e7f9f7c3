"""Whether a file is sound: decoded once from end to end, in bounded memory, before training."""

from dataclasses import dataclass
from pathlib import Path

from frametx.audio.io import probe, read_blocks
from frametx.data.loudness import block_samples, levels

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
    loudness: bytes
    """Level of every tenth of a second, see `loudness.py`."""


def inspect(path: Path) -> Inspection:
    """Decode all of `path`.

    Raises:
        ValueError: with one line that says why the file cannot be trained on, without its path.
        OSError: if the file cannot be opened, whatever it holds.
    """
    path.open("rb").close()
    decoded, peak, loudness = 0, 0.0, bytearray()
    try:
        info = probe(path)
        size = block_samples(info.sample_rate)  # no level spans two blocks of the reader
        for block in read_blocks(path, block_samples=size * max(1, BLOCK_SAMPLES // size)):
            decoded += block.shape[-1]
            peak = max(peak, float(block.abs().max()))
            loudness += levels(block.numpy(), info.sample_rate).tobytes()
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{path}: ")) from error
    if peak < SILENCE_PEAK:
        raise ValueError(f"{SILENT}: its peak is {peak:.1e}")
    return Inspection(decoded, info.sample_rate, info.num_channels, peak, bytes(loudness))
