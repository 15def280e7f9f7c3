"""The small library in data/demo: rock songs, telephone prompts and noises, freely licensed.

One song, one speaker and the noises of two packages are held out for validation. Every file holds
work of one package under one licence; voices, music and noises meet only in memory.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from jaxtyping import Float32

from frametx.data.corpora.music import read_record
from frametx.data.corpora.noise import GAP_SECONDS, read_noise, recordings
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
NOISE_RATE = 16_000
SEED = 0


@dataclass(frozen=True, kw_only=True)
class DemoNoise:
    """A file of noises of one package and one licence."""

    name: str
    split: str
    package: str
    patterns: tuple[str, ...]
    longest_seconds: float  # of a recording

    @property
    def path(self) -> Path:
        """Where it lies in the demo: not in validation/, which is a folder of tracks."""
        folder = "train/noise" if self.split == "train" else "validation_noise"
        return Path(folder) / f"{self.name}.ogg"


NOISES = (
    DemoNoise(
        name="megaglest",
        split="train",
        package="megaglest-data",
        patterns=(
            *(
                "autumn/sounds/nightime.ogg",
                "autumn/sounds/rain.ogg",
                "autumn/sounds/sunny_day.ogg",
            ),
            *("birch_forest/sounds/day.ogg", "birch_forest/sounds/rain.ogg"),
            *("dark_forest/sounds/day.ogg", "dark_forest/sounds/night.ogg"),
            *("dark_forest/sounds/rain.ogg", "desert2/sounds/day.ogg", "desert2/sounds/night.ogg"),
            *("fernland/sounds/day.ogg", "mediterran/sounds/night.ogg", "winter/sounds/wind.ogg"),
        ),
        longest_seconds=8.0,
    ),
    DemoNoise(
        name="ufoai",
        split="train",
        package="ufoai-sound",
        patterns=(  # those under CC-BY-SA-3.0
            *("ambience/alien-device.ogg", "ambience/alien-ventilation.ogg"),
            *("ambience/arcticwind.ogg", "ambience/fire.ogg", "ambience/fire0?.ogg"),
            *("ambience/smallfire.ogg", "ambience/thunder1.ogg", "ambience/tv_static.ogg"),
            *("ambience/water0?.ogg", "ambience/waterfontain.ogg", "ambience/wind_turbine.ogg"),
            *("ugv/diesel-*.ogg", "ugv/hover-*.ogg"),
        ),
        longest_seconds=6.0,
    ),
    DemoNoise(
        name="minetest_water",
        split="train",
        package="minetest-data",
        patterns=("env_sounds_*.ogg", "default_furnace_active.ogg"),
        longest_seconds=6.0,
    ),
    DemoNoise(
        name="minetest_fire",
        split="train",
        package="minetest-data",
        patterns=(
            *("fire_fire.*.ogg", "fire_large.ogg", "fire_small.ogg"),
            "default_water_footstep.*.ogg",
        ),
        longest_seconds=6.0,
    ),
    DemoNoise(
        name="flare",
        split="validation",
        package="flare-game",
        patterns=(
            *("environment/anvil_loop.ogg", "environment/bird_twitter_loop.ogg"),
            *("environment/cave_wind_loop.ogg", "environment/falling_rocks.ogg"),
            *("environment/open_fire.ogg", "environment/rain.ogg", "environment/river_loop.ogg"),
            *("environment/stairs.ogg", "environment/stone_open.ogg", "environment/wind_loop.ogg"),
        ),
        longest_seconds=12.0,
    ),
    DemoNoise(
        name="unknown_horizons",
        split="validation",
        package="unknown-horizons",
        patterns=(
            *("sounds/lumberjack.ogg", "sounds/main_square.ogg", "sounds/sheepfield.ogg"),
            *("sounds/smith.ogg", "sounds/stonemason.ogg", "sounds/warehouse.ogg"),
            "sounds/windmill.ogg",
        ),
        longest_seconds=12.0,
    ),
)


def build_demo(output: Path, cache: Path) -> None:
    """Write train/, validation/ and LICENSES/ below `output`, over what is there."""
    _build_songs_and_voices(output, cache)
    build_noises(output, cache)


def build_noises(output: Path, cache: Path) -> None:
    """Write the files of noises and their licences below `output`, over what is there."""
    for noise in NOISES:
        folder = unpack(noise.package, cache)
        paths = recordings(folder, noise.patterns)
        rng = np.random.default_rng(SEED)
        read = (
            read_noise(paths[number], NOISE_RATE, longest_seconds=noise.longest_seconds)
            for number in rng.permutation(len(paths))
        )
        clips = [clip for clip in read if clip is not None]
        shortest, longest = GAP_SECONDS
        gaps = draw_gaps(
            len(clips), NOISE_RATE, rng, shortest_seconds=shortest, longest_seconds=longest
        )
        # Vorbis overshoots the crackle of a fire by a quarter.
        joined = np.float32(0.75) * join_with_gaps(clips, gaps)
        write_whole(output / noise.path, joined, NOISE_RATE, compression=0.9)
        _write_licence(output, noise.package, folder)


def _build_songs_and_voices(output: Path, cache: Path) -> None:
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
    _write_licence(output, SONGS_PACKAGE, songs)
    held_out = cache / PROMPTS_PACKAGE.format(language=HELD_OUT_LANGUAGE)
    _write_licence(output, "asterisk-core-sounds", held_out)


def _write_licence(output: Path, name: str, package: Path) -> None:
    path = output / "LICENSES" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(copyright_text(package), encoding="utf-8")


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
