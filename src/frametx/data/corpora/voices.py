"""Short clips of speech become long voice tracks: fold, clean, trim, level, join with gaps.

Clips last a second or two and differ in level by 20 dB. A training library wants a few long files
of even level instead. Levels are RMS over the frames in which somebody speaks, in dBFS (0 dBFS is
the RMS of a square wave at full scale), so that pauses inside a clip do not count.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Shaped

FRAME_SECONDS = 0.02
PEAK_LIMIT = 0.95


def fold_to_mono(clip: Shaped[np.ndarray, "L C"]) -> Float32[np.ndarray, " L"]:
    """The mean of the channels."""
    return clip.mean(axis=1, dtype=np.float32)


def remove_rumble(
    clip: Float32[np.ndarray, " L"],
    sample_rate: int,
    *,
    stop_hz: float = 50.0,
    pass_hz: float = 85.0,
) -> Float32[np.ndarray, " L"]:
    """Remove offset, mains hum and rumble: nothing below `stop_hz`, all above `pass_hz`.

    Home recordings carry them, some louder than the pauses between words, and speech has next to
    nothing there. Between the two frequencies the gain rises as half a cosine; no phase is turned.
    """
    padding = sample_rate // 10  # the filter rings for about 1 / (pass - stop) on either side
    spectrum = np.fft.rfft(clip, n=len(clip) + 2 * padding)
    frequency_hz = np.fft.rfftfreq(len(clip) + 2 * padding, 1 / sample_rate)
    rise = np.clip((frequency_hz - stop_hz) / (pass_hz - stop_hz), 0, 1)
    filtered = np.fft.irfft(spectrum * (0.5 - 0.5 * np.cos(np.pi * rise)), len(clip) + 2 * padding)
    return filtered[: len(clip)].astype(np.float32)


def frame_levels_dbfs(
    clip: Float32[np.ndarray, " L"], sample_rate: int
) -> Float32[np.ndarray, " frames"]:
    """RMS of each 20 ms frame in dBFS, the last one padded with zeros; -120 where it is silent."""
    frame_samples = round(FRAME_SECONDS * sample_rate)
    padded = np.pad(clip, (0, -len(clip) % frame_samples))
    power = np.square(padded.reshape(-1, frame_samples)).mean(axis=1)
    return (10 * np.log10(np.maximum(power, 1e-12))).astype(np.float32)


def trim_silence(
    clip: Float32[np.ndarray, " L"],
    sample_rate: int,
    *,
    threshold_db: float = 40.0,
    margin_seconds: float = 0.04,
) -> Float32[np.ndarray, " kept"]:
    """Cut both ends where they stay `threshold_db` below the loudest frame; keep a small margin.

    The margin saves soft consonants and the breath before them. A silent clip becomes empty.
    """
    levels = frame_levels_dbfs(clip, sample_rate)
    if len(levels) == 0 or levels.max() <= -100:
        return clip[:0]
    (spoken,) = np.nonzero(levels > levels.max() - threshold_db)
    frame_samples = round(FRAME_SECONDS * sample_rate)
    margin = round(margin_seconds * sample_rate)
    first = max(0, int(spoken[0]) * frame_samples - margin)
    return clip[first : (int(spoken[-1]) + 1) * frame_samples + margin]


def is_clipped(clip: Float32[np.ndarray, " L"], *, share: float = 1e-3) -> bool:
    """Whether more than `share` of the samples lie at full scale."""
    return float((np.abs(clip) >= 0.999).mean()) > share if len(clip) else False


def active_level_dbfs(
    clip: Float32[np.ndarray, " L"], sample_rate: int, *, range_db: float = 30.0
) -> float:
    """RMS in dBFS over the frames within `range_db` of the loudest one.

    Raises:
        ValueError: if the clip is silent, which has no level to speak of.
    """
    levels = frame_levels_dbfs(clip, sample_rate)
    if len(levels) == 0 or levels.max() <= -100:
        raise ValueError("the clip is silent: a level needs at least one frame above -100 dBFS")
    active = levels[levels > levels.max() - range_db]
    return float(10 * np.log10(np.mean(10 ** (active / 10))))


def normalise_level(
    clip: Float32[np.ndarray, " L"], sample_rate: int, *, level_dbfs: float
) -> Float32[np.ndarray, " L"]:
    """Scale the clip to an active level of `level_dbfs`, or less where its peak would pass 0.95."""
    gain = 10 ** ((level_dbfs - active_level_dbfs(clip, sample_rate)) / 20)
    gain = min(gain, PEAK_LIMIT / float(np.abs(clip).max()))
    return (clip * np.float32(gain)).astype(np.float32)


def draw_gaps(
    num_clips: int,
    sample_rate: int,
    rng: np.random.Generator,
    *,
    shortest_seconds: float = 0.1,
    longest_seconds: float = 0.6,
) -> list[int]:
    """Lengths in samples of the silences after each of `num_clips` clips, evenly distributed."""
    seconds = rng.uniform(shortest_seconds, longest_seconds, size=num_clips)
    return [round(float(gap) * sample_rate) for gap in seconds]


def join_with_gaps(
    clips: Sequence[Float32[np.ndarray, " _"]], gaps: Sequence[int]
) -> Float32[np.ndarray, " L"]:
    """Each clip followed by its silence of `gaps` samples; the length is the sum of all of them."""
    assert len(clips) == len(gaps), f"{len(clips)} clips, {len(gaps)} gaps"
    parts = [
        part
        for clip, gap in zip(clips, gaps, strict=True)
        for part in (clip, np.zeros(gap, dtype=np.float32))
    ]
    return np.concatenate([np.zeros(0, dtype=np.float32), *parts])
