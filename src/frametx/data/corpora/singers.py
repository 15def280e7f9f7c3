"""Every speaker gets files of synthetic singing, made of the finished files of speech."""

import zlib
from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np
import soundfile as sf
from jaxtyping import Float32

from frametx.data.corpora.catalogue import Speaker
from frametx.data.corpora.singing import LEVEL_DBFS, median_f0_hz, sing
from frametx.data.corpora.voices import normalise_level
from frametx.data.corpora.writing import write_whole

FULL_BAND_RATE = 44_100
HELD_OUT_SECONDS = 300.0
FULL_BAND_SECONDS = 420.0
NARROW_BAND_SECONDS = 240.0
LISTEN_SECONDS = 60.0  # to find the pitch at which somebody speaks
FLAC_BYTES_PER_SAMPLE = 1.0
WITHOUT_WORLD = (
    "synthetic singing: left out, as pyworld is not installed; with a C++ compiler at hand: "
    'uv pip install --python .venv/bin/python "pyworld>=0.3.4" "setuptools<82", then the command '
    "again"
)


def wanted_seconds(speaker: Speaker) -> float:
    """How long a speaker sings: seven minutes with all treble, four without, five if held out."""
    if speaker.split != "train":
        return HELD_OUT_SECONDS
    return FULL_BAND_SECONDS if speaker.sample_rate >= FULL_BAND_RATE else NARROW_BAND_SECONDS


def missing_seconds(speaker: Speaker, output: Path) -> float:
    """How much singing a speaker still lacks, as far as there is speech to make it of."""
    speech, finished = speech_files(speaker, output), singing_files(speaker, output)
    if speech and len(finished) >= len(speech):
        return 0.0
    return max(0.0, wanted_seconds(speaker) - sum(map(_seconds, finished)))


def singing_mb(speaker: Speaker, output: Path) -> float:
    """Room that what is missing will take."""
    samples = missing_seconds(speaker, output) * speaker.sample_rate
    return samples * FLAC_BYTES_PER_SAMPLE / 1e6


def build_singing(speaker: Speaker, output: Path) -> Generator[float, None, None]:
    """Write `<split>/singing/synthetic_singing_<speaker>_01.flac` and so on, of files of speech.

    Each is sung of the file of speech with its number, until the speaker has sung long enough. What
    is drawn depends on the speaker's name and the number alone. Finished files are kept.

    Yields:
        Seconds of singing, after every phrase.

    Raises:
        ValueError: if a file holds nothing that could be sung.
    """
    sung = 0.0
    for speech_path in speech_files(speaker, output):
        path = speech_path.parents[1] / "singing" / f"synthetic_singing_{speech_path.name}"
        left = wanted_seconds(speaker) - sung
        if left <= 0:
            return
        if not path.exists():
            parts = []
            for part in sing_file(speech_path, left):
                parts.append(part)
                yield len(part) / speaker.sample_rate
            singing = normalise_level(
                np.concatenate(parts), speaker.sample_rate, level_dbfs=LEVEL_DBFS
            )
            write_whole(path, singing, speaker.sample_rate)
        sung += _seconds(path)


def sing_file(speech_path: Path, seconds: float) -> Iterator[Float32[np.ndarray, " _"]]:
    """Sing a file of speech phrase by phrase, until `seconds` are full; the last one is whole.

    Raises:
        ValueError: if the file holds nothing that could be sung.
    """
    speech, sample_rate = sf.read(speech_path, dtype="float32")
    rng = np.random.default_rng(zlib.crc32(f"synthetic_singing_{speech_path.stem}".encode()))
    try:
        median_hz = median_f0_hz(speech[: round(LISTEN_SECONDS * sample_rate)], sample_rate)
    except ValueError as error:
        raise ValueError(f"{speech_path}: {error}") from error
    num_samples = 0
    for part in sing(speech, sample_rate, rng, median_hz=median_hz):
        num_samples += len(part)
        yield part
        if num_samples >= seconds * sample_rate:
            return
    if not num_samples:
        raise ValueError(f"{speech_path}: no phrase with a note of 40 ms, so nothing to sing")


def speech_files(speaker: Speaker, output: Path) -> list[Path]:
    """The speaker's finished files of speech."""
    return sorted((output / speaker.split / "vocals").glob(f"{speaker.name}_[0-9][0-9].flac"))


def singing_files(speaker: Speaker, output: Path) -> list[Path]:
    """The speaker's finished files of singing."""
    pattern = f"synthetic_singing_{speaker.name}_[0-9][0-9].flac"
    return sorted((output / speaker.split / "singing").glob(pattern))


def _seconds(path: Path) -> float:
    return sf.info(path).duration
