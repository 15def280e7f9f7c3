"""Voices, music and weather made of sines and noise: tests and dry runs need no recordings.

They can be told apart by ear and by a network within a minute of training: voices glide and pause,
music holds its chords and beats time, weather has no pitch and blows in gusts.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32, Float64

PEAK = 0.5
PHRASE_SECONDS = (0.4, 1.6)
PAUSE_SECONDS = (0.1, 0.5)
BEAT_SECONDS = 0.5
MINOR_CHORD = (0, 3, 7, 12)  # semitones
GUST_SECONDS = 1.5
VOICES = ("vocals", "voice", "speech")
"""Stems that are voices; "noise" is weather, and every other stem is music of its own."""
FILE_NAMES = {"vocals": "voice", "instrumental": "music"}


def voice(
    num_samples: int, *, sample_rate: int, rng: np.random.Generator
) -> Float32[np.ndarray, " L"]:
    """Phrases of a gliding, trembling pitch (90 to 400 Hz) with falling harmonics, and pauses."""
    waveform = np.zeros(num_samples)
    start = 0
    while start < num_samples:
        length = min(int(rng.uniform(*PHRASE_SECONDS) * sample_rate) + 2, num_samples - start)
        time_s = np.arange(length) / sample_rate
        from_hz, to_hz = rng.uniform(90, 400, size=2)
        pitch_hz = np.geomspace(from_hz, to_hz, length) * (
            1 + 0.02 * np.sin(2 * np.pi * rng.uniform(4, 7) * time_s)
        )
        phase = 2 * np.pi * np.cumsum(pitch_hz) / sample_rate
        phrase = np.zeros(length)
        for harmonic in range(1, 13):
            is_below_nyquist = harmonic * pitch_hz < sample_rate / 2
            phrase += is_below_nyquist * np.sin(harmonic * phase) * rng.uniform(0.3, 1) / harmonic
        waveform[start : start + length] = phrase * np.sin(np.pi * np.linspace(0, 1, length))
        start += length + int(rng.uniform(*PAUSE_SECONDS) * sample_rate)
    return _with_peak(waveform)


def music(
    num_samples: int, *, sample_rate: int, rng: np.random.Generator
) -> Float32[np.ndarray, "L C"]:
    """Stereo chords, each note at its own place, over a noise burst on every beat."""
    waveform = np.zeros((num_samples, 2))
    beat = int(BEAT_SECONDS * sample_rate)
    for start in range(0, num_samples, 4 * beat):
        time_s = np.arange(min(4 * beat, num_samples - start)) / sample_rate
        root_hz = 110 * 2 ** (rng.integers(0, 12) / 12)
        for semitones in MINOR_CHORD:
            right = rng.uniform(0.2, 0.8)
            tone = np.sin(2 * np.pi * root_hz * 2 ** (semitones / 12) * time_s)
            waveform[start : start + len(time_s)] += 0.25 * tone[:, None] * (1 - right, right)
    for start in range(0, num_samples, beat):
        length = min(beat, num_samples - start)
        decay = np.exp(-np.arange(length) / (0.03 * sample_rate))
        waveform[start : start + length] += 0.3 * (rng.standard_normal(length) * decay)[:, None]
    return _with_peak(waveform)


def weather(
    num_samples: int, *, sample_rate: int, rng: np.random.Generator
) -> Float32[np.ndarray, " L"]:
    """Noise that falls by 3 dB an octave and swells and fades by 12 dB."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum /= np.sqrt(np.arange(1, len(spectrum) + 1))
    time_s = np.arange(num_samples) / sample_rate
    phase = rng.uniform(0, 2 * np.pi)
    gusts_db = 6 * np.sin(2 * np.pi * time_s / GUST_SECONDS + phase)
    return _with_peak(np.fft.irfft(spectrum, num_samples) * 10 ** (gusts_db / 20))


def sound_of(
    stem: str, num_samples: int, *, sample_rate: int, rng: np.random.Generator
) -> Float32[np.ndarray, "L *C"]:
    """What a stem of this name sounds like: a voice, weather or, in stereo, music."""
    if stem in VOICES:
        return voice(num_samples, sample_rate=sample_rate, rng=rng)
    make = weather if stem == "noise" else music
    return make(num_samples, sample_rate=sample_rate, rng=rng)


def write_synthetic_libraries(
    root: Path | str,
    *,
    seconds: float,
    num_files: int,
    sample_rate: int,
    seed: int,
    stems: Sequence[str] = ("vocals", "instrumental"),
) -> tuple[Path, ...]:
    """Write `num_files` wav files of `seconds` each to root/<stem>, for every stem.

    What they hold says `sound_of`; all but music is mono.

    Returns:
        The folders.
    """
    folders = tuple(Path(root, stem) for stem in stems)
    num_samples = round(seconds * sample_rate)
    for number in range(num_files):
        rng = np.random.default_rng((seed, number))
        for folder in folders:
            sound = sound_of(folder.name, num_samples, sample_rate=sample_rate, rng=rng)
            name = FILE_NAMES.get(folder.name, folder.name)
            _write(folder / f"{name}_{number:03d}.wav", sound, sample_rate)
    return folders


def write_synthetic_tracks(
    root: Path | str,
    *,
    seconds: float,
    num_tracks: int,
    sample_rate: int,
    seed: int,
    stems: Sequence[str] = ("vocals", "instrumental"),
) -> Path:
    """Write folders of aligned stereo stems: root/track_000/vocals.wav and so on.

    What they hold says `sound_of`.
    """
    num_samples = round(seconds * sample_rate)
    for number in range(num_tracks):
        rng = np.random.default_rng((seed, number))
        for stem in stems:
            waveform = sound_of(stem, num_samples, sample_rate=sample_rate, rng=rng)
            if waveform.ndim == 1:
                waveform = np.stack((waveform, waveform), axis=1)
            _write(Path(root, f"track_{number:03d}", f"{stem}.wav"), waveform, sample_rate)
    return Path(root)


def _with_peak(waveform: Float64[np.ndarray, "..."]) -> Float32[np.ndarray, "..."]:
    return (waveform * (PEAK / np.abs(waveform).max())).astype(np.float32)


def _write(path: Path, waveform: Float32[np.ndarray, "..."], sample_rate: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, waveform, sample_rate, subtype="PCM_16")
