"""Decode a library's files at one rate and channel count: whole, or only an excerpt.

Both ways give the same samples (up to 1e-5 where the rate changes), so that a run may keep decoded
files or not without learning from other audio.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import gcd

import numpy as np
import soxr
from jaxtyping import Float32

from frametx.data.files import AudioFile, Folder

BLOCK_SAMPLES = 1 << 18
RESAMPLER_MARGIN = 4_096
"""Samples of the source decoded on either side of an excerpt; soxr's filter is shorter."""


class UnreadableFileError(Exception):
    """A file that has vanished or broken since it was indexed."""


def decode(
    file: AudioFile, *, sample_rate: int, num_channels: int
) -> Iterator[Float32[np.ndarray, "L C"]]:
    """The whole file in blocks, resampled; their lengths add up to `file.num_samples_at(...)`.

    Raises:
        UnreadableFileError: if it cannot be decoded.
    """
    left = file.num_samples_at(sample_rate)
    for block in _resampled_blocks(file, sample_rate, num_channels):
        yield block[:left]
        left -= min(len(block), left)
    if left:  # the resampler's last sample, or a file that has become shorter
        yield np.zeros((left, num_channels), np.float32)


def decode_excerpt(
    file: AudioFile, first: int, last: int, *, sample_rate: int, num_channels: int
) -> Float32[np.ndarray, "L C"]:
    """Samples `first` to `last` (at `sample_rate`) of the file, as if all of it were decoded.

    Resampling starts where a sample of the source falls on a sample of the result: every `down`
    samples of the source, which are `up` samples of the result.

    Raises:
        UnreadableFileError: if it cannot be decoded.
    """
    divisor = gcd(file.sample_rate, sample_rate)
    up, down = sample_rate // divisor, file.sample_rate // divisor
    margin = 0 if up == down else RESAMPLER_MARGIN
    period = max(first // up - -(-margin // down), 0)
    start, stop = period * down, min(-(-last * down // up) + margin, file.num_samples)
    with _reading(file), file.open() as source:
        source.seek(start)
        samples = source.read(stop - start, dtype="float32", always_2d=True)
    samples = _with_channels(samples, num_channels)
    if up != down and len(samples):
        samples = soxr.resample(samples, file.sample_rate, sample_rate)
    samples = samples[first - period * up :][: last - first]
    return np.pad(samples, ((0, last - first - len(samples)), (0, 0)))


def _resampled_blocks(
    file: AudioFile, sample_rate: int, num_channels: int
) -> Iterator[Float32[np.ndarray, "L C"]]:
    resampler = soxr.ResampleStream(file.sample_rate, sample_rate, num_channels, dtype="float32")
    with _reading(file), file.open() as source:
        while len(block := source.read(BLOCK_SAMPLES, dtype="float32", always_2d=True)):
            block = _with_channels(block, num_channels)
            yield block if file.sample_rate == sample_rate else resampler.resample_chunk(block)
    if file.sample_rate != sample_rate:
        yield resampler.resample_chunk(np.zeros((0, num_channels), np.float32), last=True)


def _with_channels(
    samples: Float32[np.ndarray, "L C_in"], num_channels: int
) -> Float32[np.ndarray, "L C"]:
    """Average to mono, double to stereo, or keep front left and right of more channels."""
    if samples.shape[1] == num_channels:
        return samples
    if num_channels == 1:
        return samples.mean(axis=1, keepdims=True)
    if samples.shape[1] == 1:
        return np.repeat(samples, num_channels, axis=1)
    return np.ascontiguousarray(samples[:, :num_channels])


@contextmanager
def _reading(file: AudioFile) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        # Remote and sharded files are named by where they come from, not by their copy.
        is_gone = isinstance(error, FileNotFoundError) or (
            isinstance(file.source, Folder) and not file.path.exists()
        )
        reason = "it is gone" if is_gone else str(error).removeprefix(f"{file.path}: ")
        raise UnreadableFileError(f"{file.path}: {reason}") from error
