"""Speech that is made to sing, by the vocoder WORLD.

Timbre, consonants and breath are real, pitch and rhythm are not: call it synthetic singing wherever
it is used.

A phrase is what somebody speaks between two silences. WORLD takes it apart into pitch, spectral
envelope and aperiodicity, one frame each 5 ms. Voiced stretches become notes of a melody and are
stretched to their lengths, unvoiced ones keep theirs, and WORLD puts it together again.

Source: Morise, Yokomori and Ozawa, "WORLD: a vocoder-based high-quality speech synthesis system for
real-time applications", IEICE Transactions 2016.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64

from frametx.data.corpora.melody import (
    FRAME_SECONDS,
    Key,
    draw_beat,
    draw_contour,
    draw_key,
    draw_note_frames,
    draw_pitches,
    midi_to_hz,
)
from frametx.data.corpora.voices import FRAME_SECONDS as FRAME_OF_LEVEL_SECONDS
from frametx.data.corpora.voices import frame_levels_dbfs, normalise_level

LEVEL_DBFS = -20.0
SILENCE_DB = 50.0  # below the loudest frame
SHORTEST_SILENCE_SECONDS = 0.09  # the gaps between joined clips begin at 0.1 s
PHRASE_SECONDS = (0.3, 15.0)
PERIODIC = 0.99
SHORTEST_NOTE_SECONDS = 0.04
SYLLABLE_SECONDS = 0.2
STEADY_EDGE_SECONDS = 0.03
"""Where a voiced stretch begins and ends it keeps its pace: consonants are heard there."""
SONG_SECONDS = (20.0, 30.0)
REST_BEATS = 0.5


@dataclass(frozen=True)
class Stretch:
    """Frames `start` to `stop` of a phrase, voiced or not."""

    start: int
    stop: int
    is_voiced: bool

    @property
    def num_frames(self) -> int:
        """How long it is."""
        return self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What WORLD hears in a phrase."""

    f0_hz: Float64[np.ndarray, " frames"]  # 0 where unvoiced
    envelope: Float64[np.ndarray, "frames F"]  # power
    aperiodicity: Float64[np.ndarray, "frames F"]


@dataclass(frozen=True, kw_only=True)
class Sung:
    """A phrase of singing and the pitch that was asked for."""

    waveform: Float32[np.ndarray, " L"]
    f0_hz: Float64[np.ndarray, " frames"]  # 0 where unvoiced
    beat_seconds: float
    last_pitch: int


def have_world() -> bool:
    """Whether the package pyworld is installed."""
    return importlib.util.find_spec("pyworld") is not None


def median_f0_hz(speech: Float32[np.ndarray, " L"], sample_rate: int) -> float:
    """The pitch at which somebody speaks.

    Raises:
        ValueError: if less than a tenth of it is voiced.
    """
    f0_hz = _world().dio(speech.astype(np.float64), sample_rate)[0]
    voiced = f0_hz[f0_hz > 0]
    if len(voiced) < 0.1 * len(f0_hz):
        raise ValueError("nothing voiced to sing: less than a tenth of it has a pitch")
    return float(np.median(voiced))


def split_phrases(
    speech: Float32[np.ndarray, " L"], sample_rate: int
) -> Iterator[Float32[np.ndarray, " _"]]:
    """What is spoken between silences, in order; under 0.3 s or over 15 s it is left out."""
    levels = frame_levels_dbfs(speech, sample_rate)
    if len(levels) == 0:
        return
    is_loud = levels > max(float(levels.max()) - SILENCE_DB, -100.0)
    for start, stop in _runs(~is_loud):
        if (stop - start) * FRAME_OF_LEVEL_SECONDS < SHORTEST_SILENCE_SECONDS:
            is_loud[start:stop] = True
    frame_samples = round(FRAME_OF_LEVEL_SECONDS * sample_rate)
    for start, stop in _runs(is_loud):
        phrase = speech[start * frame_samples : stop * frame_samples]
        if PHRASE_SECONDS[0] <= len(phrase) / sample_rate <= PHRASE_SECONDS[1]:
            yield phrase


def sing(
    speech: Float32[np.ndarray, " L"],
    sample_rate: int,
    rng: np.random.Generator,
    *,
    median_hz: float,
) -> Iterator[Float32[np.ndarray, " _"]]:
    """Sing the phrases of a recording one after the other, each followed by its rest.

    Every 20 to 30 s a new song begins, in a key of its own. Phrases without a note are left out.

    Args:
        speech: of one person, at any level.
        sample_rate: in Hz.
        rng: source of chance.
        median_hz: pitch at which the person speaks.
    """
    left_seconds, key, last_pitch = 0.0, draw_key(median_hz, rng), None
    for phrase in split_phrases(speech, sample_rate):
        if left_seconds <= 0:
            left_seconds = rng.uniform(*SONG_SECONDS)
            key, last_pitch = draw_key(median_hz, rng), None
        try:
            sung = sing_phrase(phrase, sample_rate, key, rng, start=last_pitch)
        except ValueError:
            continue
        last_pitch = sung.last_pitch
        rest = np.zeros(round(REST_BEATS * sung.beat_seconds * sample_rate), dtype=np.float32)
        sounding = normalise_level(sung.waveform, sample_rate, level_dbfs=LEVEL_DBFS)
        left_seconds -= (len(sounding) + len(rest)) / sample_rate
        yield np.concatenate([sounding, rest])


def sing_phrase(
    phrase: Float32[np.ndarray, " L"],
    sample_rate: int,
    key: Key,
    rng: np.random.Generator,
    *,
    start: int | None = None,
) -> Sung:
    """Sing one phrase to a melody of a key.

    Args:
        phrase: speech.
        sample_rate: in Hz.
        key: whose notes are sung.
        rng: source of chance.
        start: the pitch sung before; None if this is the first phrase of a song.

    Raises:
        ValueError: if nothing in it is voiced for 40 ms, so that there is no note to sing, or if it
            is noise, in which DIO finds a pitch by mistake.
    """
    analysis = analyse(phrase, sample_rate)
    # D4C looks again at what DIO calls voiced: noise has an aperiodicity of 1 at all frequencies.
    is_periodic = analysis.aperiodicity[analysis.f0_hz > 0].min(axis=1) < PERIODIC
    if is_periodic.sum() < 0.5 * len(is_periodic):
        raise ValueError("nothing voiced to sing: what has a pitch in this phrase is noise")
    stretches = split_stretches(analysis)
    sources = [stretch.num_frames for stretch in stretches if stretch.is_voiced]
    if not sources:
        raise ValueError("nothing voiced to sing: no note of 40 ms in this phrase")
    beat_seconds = draw_beat(rng)
    frames = draw_note_frames(sources, beat_seconds, rng)
    pitches = draw_pitches(key, len(frames), rng, start=start)
    notes = iter(draw_contour(pitches, frames, rng))
    f0_hz, places = [], []
    for stretch in stretches:
        note_hz = midi_to_hz(next(notes)) if stretch.is_voiced else np.zeros(stretch.num_frames)
        f0_hz.append(note_hz)
        places.append(stretch.start + time_map(stretch.num_frames, len(note_hz)))
    sung_hz = np.concatenate(f0_hz)
    waveform = synthesise(analysis, sung_hz, np.concatenate(places), sample_rate)
    return Sung(waveform=waveform, f0_hz=sung_hz, beat_seconds=beat_seconds, last_pitch=pitches[-1])


def analyse(phrase: Float32[np.ndarray, " L"], sample_rate: int) -> Analysis:
    """Take a phrase apart; DIO for the pitch, as Harvest takes ten times as long."""
    world = _world()
    samples = phrase.astype(np.float64)
    coarse_hz, time_s = world.dio(samples, sample_rate)
    f0_hz = world.stonemask(samples, coarse_hz, time_s, sample_rate)
    return Analysis(
        f0_hz=f0_hz,
        envelope=world.cheaptrick(samples, f0_hz, time_s, sample_rate),
        aperiodicity=world.d4c(samples, f0_hz, time_s, sample_rate),
    )


def synthesise(
    analysis: Analysis,
    f0_hz: Float64[np.ndarray, " sung"],
    places: Float64[np.ndarray, " sung"],
    sample_rate: int,
) -> Float32[np.ndarray, " L"]:
    """Put a phrase together again, with another pitch and at another pace.

    Args:
        analysis: of the phrase.
        f0_hz: pitch of each sung frame, 0 where it is unvoiced.
        places: which frame of the phrase each sung frame is, perhaps between two of them.
        sample_rate: in Hz.

    Returns:
        As many samples as the sung frames of 5 ms last.
    """
    left = np.minimum(places.astype(int), len(analysis.f0_hz) - 1)
    right = np.minimum(left + 1, len(analysis.f0_hz) - 1)
    share = (places - left)[:, None]
    envelope, aperiodicity = (
        (1 - share) * frames[left] + share * frames[right]
        for frames in (analysis.envelope, analysis.aperiodicity)
    )
    waveform = _world().synthesize(f0_hz, envelope, aperiodicity, sample_rate)
    length = round(len(f0_hz) * FRAME_SECONDS * sample_rate)
    return np.pad(waveform, (0, max(0, length - len(waveform))))[:length].astype(np.float32)


def split_stretches(analysis: Analysis) -> list[Stretch]:
    """Cut a phrase into notes and what is unvoiced between them; together they are all of it.

    Voiced runs under 40 ms count as unvoiced. Long ones are cut into syllables of about 0.2 s,
    where the voice is softest.
    """
    is_voiced = analysis.f0_hz > 0
    for start, stop in _runs(is_voiced):
        if (stop - start) * FRAME_SECONDS < SHORTEST_NOTE_SECONDS:
            is_voiced[start:stop] = False
    energy = analysis.envelope.sum(axis=1)
    notes = [
        Stretch(begin, end, is_voiced=True)
        for start, stop in _runs(is_voiced)
        for begin, end in pairwise([start, *_syllable_bounds(energy, start, stop), stop])
    ]
    others = [Stretch(start, stop, is_voiced=False) for start, stop in _runs(~is_voiced)]
    return sorted([*notes, *others], key=lambda stretch: stretch.start)


def time_map(num_frames: int, num_sung: int) -> Float64[np.ndarray, " num_sung"]:
    """Which frame of a stretch each sung frame is: both ends keep their pace, the middle is held.

    It never turns back, begins at 0 and ends at the last frame.
    """
    if num_frames == num_sung:
        return np.arange(num_sung, dtype=np.float64)
    edge = min(round(STEADY_EDGE_SECONDS / FRAME_SECONDS), num_frames // 4, num_sung // 4)
    sung = [0, edge, num_sung - 1 - edge, num_sung - 1]
    spoken = [0, edge, num_frames - 1 - edge, num_frames - 1]
    return np.interp(np.arange(num_sung), sung, spoken)


def _syllable_bounds(energy: Float64[np.ndarray, " frames"], start: int, stop: int) -> list[int]:
    """Frames between `start` and `stop` at which a voiced run is cut."""
    num_syllables = max(1, round((stop - start) * FRAME_SECONDS / SYLLABLE_SECONDS))
    length = (stop - start) / num_syllables
    bounds = []
    for number in range(1, num_syllables):
        first = start + round((number - 0.3) * length)
        last = start + round((number + 0.3) * length)
        bounds.append(first + int(energy[first:last].argmin()))
    return bounds


def _runs(mask: Bool[np.ndarray, " frames"]) -> list[tuple[int, int]]:
    """Start and end of every stretch that is true."""
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    return [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2)]


def _world() -> Any:
    # Only here, as it is an extra and has to be compiled; it still imports pkg_resources, which
    # warns of its own end.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")
        return importlib.import_module("pyworld")
