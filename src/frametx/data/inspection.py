"""Whether a file is sound: decoded once from end to end, in bounded memory, before training."""

import errno
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32

from frametx.audio.io import as_on_disk, probe, read_blocks
from frametx.data.loudness import block_samples, levels

BLOCK_SAMPLES = 1 << 18
SILENT = "is silent from end to end"
"""How the reason begins for which such a file is rejected."""
SILENCE_PEAK = 1e-4
"""A file that never exceeds this (-80 dBFS) is silent: dither and codec noise stay below it."""
ABSURD = "is no audio at full scale 1"
"""How the reason begins for which a file of far too large samples is rejected."""
MOST_PEAK = 1e3
"""60 dB over full scale. Mixes in floats exceed 1 by tens of dB at most; integers that were written
as floats (32768), and what an arithmetic error left (1e20), lie above."""
SHORT = "is too short"
"""How the reason begins for which a file of a few samples is rejected."""
LEAST_SECONDS = 1e-3
LEAST_DC_SECONDS = 1.0
"""Of a file of one value all through: the silence around a shorter one makes it a pulse."""


@dataclass(frozen=True)
class Inspection:
    """What was found by decoding a whole file."""

    num_samples: int
    sample_rate: int
    num_channels: int
    peak: float
    loudness: bytes
    """Level of every tenth of a second, see `loudness.py`."""

    def checked(self) -> "Inspection":
        """Itself, if the file can be trained on.

        Raises:
            ValueError: if it is too loud to be audio, silent, or too short to hold any sound.
        """
        if self.peak > MOST_PEAK:
            over_db = 20 * np.log10(self.peak)
            raise ValueError(
                f"{ABSURD}: its peak is {self.peak:.1e}, {over_db:.0f} dB over it: scale it down"
            )
        if self.peak < SILENCE_PEAK:
            raise ValueError(f"{SILENT}: its peak is {self.peak:.1e}")
        if self.num_samples < LEAST_SECONDS * self.sample_rate:
            raise ValueError(
                f"{SHORT}: {self.num_samples} sample(s) at {self.sample_rate} Hz, less than "
                f"{LEAST_SECONDS} s"
            )
        return self


def inspect(path: Path) -> Inspection:
    """Decode all of `path`.

    Raises:
        ValueError: with one line that says why the file cannot be trained on, without its path.
        OSError: if the file cannot be opened, whatever it holds.
    """
    if path.is_dir():
        next(path.iterdir(), None)  # raises where it may not be listed
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(path))
    path.open("rb").close()
    meter = _Meter()
    try:
        info = probe(path)
        size = block_samples(info.sample_rate)  # no level spans two blocks of the reader
        for block in read_blocks(path, block_samples=size * max(1, BLOCK_SAMPLES // size)):
            meter.push(block.numpy(), info.sample_rate)
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{path}: ")) from error
    found = Inspection(
        meter.num_samples, info.sample_rate, info.num_channels, meter.peak, bytes(meter.loudness)
    ).checked()
    if meter.is_constant and found.num_samples >= LEAST_DC_SECONDS * found.sample_rate:
        raise ValueError(f"{SILENT}: all its samples are {meter.peak:.1e} (a DC offset, no sound)")
    _check_seekable(path, found)
    return found


class _Meter:
    """Peak, levels and range of a file that comes in blocks."""

    def __init__(self) -> None:
        self.num_samples = 0
        self.peak = 0.0
        self.loudness = bytearray()
        self._lowest: Float32[np.ndarray, " C"] | None = None
        self._highest: Float32[np.ndarray, " C"] | None = None

    @property
    def is_constant(self) -> bool:
        """Whether no channel moves by more than silence may."""
        assert self._lowest is not None, "a file has at least one block"
        assert self._highest is not None, "a file has at least one block"
        return bool((self._highest - self._lowest).max() < SILENCE_PEAK)

    def push(self, block: Float32[np.ndarray, "C L"], sample_rate: int) -> None:
        """Measure the next samples."""
        lowest, highest = block.min(axis=1), block.max(axis=1)
        self.num_samples += block.shape[-1]
        self.peak = max(self.peak, float(highest.max()), -float(lowest.min()))
        self.loudness += levels(block, sample_rate).tobytes()
        self._lowest = lowest if self._lowest is None else np.minimum(self._lowest, lowest)
        self._highest = highest if self._highest is None else np.maximum(self._highest, highest)


def _check_seekable(path: Path, found: Inspection) -> None:
    """See that libsndfile, which reads excerpts, finds the samples that decoding found.

    Files that only other decoders read whole, or whose header does not tell their length, would be
    silence where training reads them.

    Raises:
        ValueError: if it does not.
    """
    try:
        with soundfile.SoundFile(as_on_disk(path)) as file:
            seen = (file.frames, file.samplerate, file.channels)
    except soundfile.SoundFileError as error:
        raise ValueError(
            "is not read by excerpts: its content is of another format than its name: convert it "
            "to wav or flac"
        ) from error
    # An MP3 counts frames, and decoders differ by a few samples at its ends.
    is_near = abs(seen[0] - found.num_samples) <= 4096
    if not is_near or seen[1:] != (found.sample_rate, found.num_channels):
        raise ValueError(
            f"cannot be read by excerpts: its header tells of {seen[0]} of its "
            f"{found.num_samples} samples: convert it to wav or flac"
        )
