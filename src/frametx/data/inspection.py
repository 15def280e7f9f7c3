"""Whether a file is sound: decoded once from end to end, in bounded memory, before training."""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

BLOCK_SAMPLES = 1 << 18
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
        ValueError: with one line that says why the file cannot be trained on.
        OSError: if the file cannot be opened, whatever it holds.
    """
    path.open("rb").close()
    try:
        with soundfile.SoundFile(path) as file:
            promised, rate, channels = file.frames, file.samplerate, file.channels
            decoded, peak = _decode(file)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"cannot be decoded: {error.error_string}") from error
    if decoded == 0:
        raise ValueError("holds no samples")
    if path.suffix.lower() == ".wav":
        promised = max(promised, _samples_a_wav_header_promises(path))
    if decoded < promised:
        raise ValueError(
            f"truncated: its header promises {promised} samples, only {decoded} are there"
        )
    if peak < SILENCE_PEAK:
        raise ValueError(f"silent from end to end: its peak is {peak:.1e}")
    return Inspection(decoded, rate, channels, peak)


def _decode(file: soundfile.SoundFile) -> tuple[int, float]:
    decoded, peak = 0, 0.0
    while len(block := file.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
        block_peak = float(max(block.max(), -block.min()))
        if not np.isfinite(block_peak):
            finite = np.isfinite(block).all(axis=1)
            where = (decoded + int(finite.argmin())) / file.samplerate
            raise ValueError(f"holds values that are not numbers, the first at {where:.3f} s")
        decoded, peak = decoded + len(block), max(peak, block_peak)
    return decoded, peak


def _samples_a_wav_header_promises(path: Path) -> int:
    """Frames according to the data chunk; libsndfile reports what is there instead.

    0 where the header makes no promise: other containers that are called .wav, and streams
    whose writer could not come back to fill in a length (0 or the largest number).
    """
    with path.open("rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"WAVE":
            return 0
        frame_bytes = 0
        while len(chunk := file.read(8)) == 8:
            name, size = chunk[:4], struct.unpack("<I", chunk[4:])[0]
            if name == b"data":
                return 0 if size >= 0xFFFFFF00 or not frame_bytes else size // frame_bytes
            if name == b"fmt ":
                body = file.read(size)
                tag, _, _, _, block_align = struct.unpack("<HHIIH", body[:14])
                # A frame of a compressed .wav (ADPCM) is not block_align bytes long.
                frame_bytes = block_align if tag in (1, 3, 0xFFFE) else 0
                file.seek(size % 2, 1)
            else:
                file.seek(size + size % 2, 1)
    return 0
