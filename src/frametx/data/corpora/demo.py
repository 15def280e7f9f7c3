"""The small library in data/demo: a musician's rock songs and telephone prompts, freely licensed.

One song and one speaker are held out for validation. Every file holds work of one author under
one licence; voice and music meet only in memory.
"""

from pathlib import Path

import numpy as np
import soxr
from jaxtyping import Float32

from frametx.data.corpora.music import read_record
from frametx.data.corpora.packages import copyright_text, unpack
from frametx.data.corpora.prompts import SAMPLE_RATE, read_prompt, spoken_prompts
from frametx.data.corpora.voices import (
    PEAK_LIMIT,
    active_level_dbfs,
    draw_gaps,
    join_with_gaps,
    normalise_level,
    trim_silence,
)
from frametx.data.corpora.writing import write_whole

SONGS_PACKAGE = "fretsonfire-songs-sectoid"
PROMPTS_PACKAGE = "asterisk-core-sounds-{language}-g722"
# Title -> seconds kept of it. The training songs fill nine and a half minutes.
TRAINING_SONGS = {"Escape from chaosland": 204.0, "Feelings": 218.0, "Metal madness": 143.0}
HELD_OUT_SONG = "War of freedom"
TRAINING_LANGUAGES = ("en", "es", "fr", "it")  # en and es are the same person
HELD_OUT_LANGUAGE = "ru"
VOICE_SECONDS = 240.0
VOICE_DBFS = -20.0
EXCERPT_STARTS_SECONDS = (8.0, 48.0, 88.0, 128.0)
EXCERPT_SECONDS = 28.0
SEED = 0


def build_demo(output: Path, cache: Path) -> None:
    """Write train/, validation/ and LICENSES/ below `output`, over what is there."""
    songs = unpack(SONGS_PACKAGE, cache)
    rng = np.random.default_rng(SEED)
    for title, seconds in TRAINING_SONGS.items():
        record, sample_rate = read_record(songs, title)
        path = output / "train" / "instrumental" / f"{_slug(title)}.ogg"
        write_whole(path, record[: round(seconds * sample_rate)], sample_rate, compression=0.9)
    for language in TRAINING_LANGUAGES:
        folder = unpack(PROMPTS_PACKAGE.format(language=language), cache)
        clips = read_prose(folder, rng)
        voice = _speech_of(clips, VOICE_SECONDS, rng)
        path = output / "train" / "vocals" / f"asterisk_{language}.ogg"
        write_whole(path, voice, SAMPLE_RATE, compression=0.9)
    _build_validation(output / "validation", songs, cache, rng)
    licenses = output / "LICENSES"
    licenses.mkdir(parents=True, exist_ok=True)
    (licenses / f"{SONGS_PACKAGE}.txt").write_text(copyright_text(songs))
    (licenses / "asterisk-core-sounds.txt").write_text(
        copyright_text(cache / PROMPTS_PACKAGE.format(language=HELD_OUT_LANGUAGE))
    )


def read_prose(folder: Path, rng: np.random.Generator) -> list[Float32[np.ndarray, " _"]]:
    """Trimmed and levelled prompts of 1 to 15 s, shuffled: whole phrases, no single digits."""
    clips = []
    for path in spoken_prompts(folder, with_single_words=False):
        clip = trim_silence(read_prompt(path), SAMPLE_RATE)
        if 1.0 <= len(clip) / SAMPLE_RATE <= 15.0:
            clips.append(normalise_level(clip, SAMPLE_RATE, level_dbfs=VOICE_DBFS))
    return [clips[number] for number in rng.permutation(len(clips))]


def _speech_of(
    clips: list[Float32[np.ndarray, " _"]], seconds: float, rng: np.random.Generator
) -> Float32[np.ndarray, " L"]:
    """Take clips off the list until they fill `seconds` with gaps between them; cut the last."""
    length = round(seconds * SAMPLE_RATE)
    voice = np.zeros(0, dtype=np.float32)
    while len(voice) < length:
        (gap,) = draw_gaps(1, SAMPLE_RATE, rng)
        voice = join_with_gaps([voice, clips.pop()], [0, gap])
    fade_samples = SAMPLE_RATE // 50
    voice = voice[:length]
    voice[-fade_samples:] *= np.linspace(1, 0, fade_samples, dtype=np.float32)
    return voice


def _build_validation(output: Path, songs: Path, cache: Path, rng: np.random.Generator) -> None:
    record, sample_rate = read_record(songs, HELD_OUT_SONG)
    clips = read_prose(unpack(PROMPTS_PACKAGE.format(language=HELD_OUT_LANGUAGE), cache), rng)
    length = round(EXCERPT_SECONDS * sample_rate)
    for number, start_seconds in enumerate(EXCERPT_STARTS_SECONDS, start=1):
        start = round(start_seconds * sample_rate)
        instrumental = record[start : start + length]
        voice = soxr.resample(_speech_of(clips, EXCERPT_SECONDS, rng), SAMPLE_RATE, sample_rate)
        music_dbfs = 10 * np.log10(np.square(instrumental).mean())
        gain = 10 ** ((music_dbfs - active_level_dbfs(voice, sample_rate)) / 20)
        vocals = np.repeat((gain * voice[:length, None]).astype(np.float32), 2, axis=1)
        peak = max(np.abs(stem).max() for stem in (vocals, instrumental, vocals + instrumental))
        scale = np.float32(min(1.0, 0.9 * PEAK_LIMIT / peak))
        folder = output / f"{_slug(HELD_OUT_SONG)}_{number}"
        write_whole(folder / "vocals.ogg", scale * vocals, sample_rate, compression=0.8)
        write_whole(folder / "instrumental.ogg", scale * instrumental, sample_rate, compression=0.6)


def _slug(title: str) -> str:
    return title.lower().replace(" ", "_")
