"""Melodies drawn by chance: keys, notes, and the pitch that a singer makes of them.

Pitches are MIDI numbers: 69 is A4, 440 Hz, and 1 is a semitone. Time is counted in frames of 5 ms.

Source of the vibrato's rate and extent: Sundberg, "The Science of the Singing Voice", 1987.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

FRAME_SECONDS = 0.005
SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "pentatonic": (0, 2, 4, 7, 9),
}
STEPS = (-4, -3, -2, -1, 0, 1, 2, 3, 4)
STEP_SHARES = (0.02, 0.04, 0.13, 0.24, 0.14, 0.24, 0.13, 0.04, 0.02)
BEATS_PER_MINUTE = (70.0, 150.0)
NOTE_BEATS = (0.5, 1.0, 1.5, 2.0)
NOTE_SHARES = (0.5, 0.35, 0.08, 0.07)
LAST_NOTE_BEATS = (1.5, 3.0)
GLIDE_SECONDS = (0.04, 0.09)
VIBRATO_HZ = (5.0, 6.5)
VIBRATO_CENTS = (20.0, 60.0)
VIBRATO_AFTER_SECONDS = (0.2, 0.3)
VIBRATO_FADE_SECONDS = 0.2
DRIFT_CENTS = 6.0
DRIFT_HZ = (0.3, 1.2)


@dataclass(frozen=True, kw_only=True)
class Key:
    """The notes of a song, from low to high."""

    scale: str
    tonic: int  # 0 (C) to 11 (B)
    pitches: tuple[int, ...]


def hz_to_midi(frequency_hz: float) -> float:
    """440 Hz is 69, twice the frequency 12 more."""
    return 69 + 12 * float(np.log2(frequency_hz / 440))


def midi_to_hz(pitch: Float64[np.ndarray, " frames"]) -> Float64[np.ndarray, " frames"]:
    """The inverse of `hz_to_midi`."""
    return 440 * 2 ** ((pitch - 69) / 12)


def draw_key(median_hz: float, rng: np.random.Generator) -> Key:
    """Draw scale, tonic and range for a voice that speaks at `median_hz`.

    The range spans 12 to 19 semitones and begins between 3 semitones below the speaking pitch and
    1 above it: people sing higher than they speak.
    """
    scale = str(rng.choice(list(SCALES)))
    tonic = int(rng.integers(12))
    lowest = hz_to_midi(median_hz) + rng.uniform(-3, 1)
    highest = lowest + rng.uniform(12, 19)
    pitches = tuple(
        pitch
        for pitch in range(int(np.ceil(lowest)), int(highest) + 1)
        if (pitch - tonic) % 12 in SCALES[scale]
    )
    return Key(scale=scale, tonic=tonic, pitches=pitches)


def draw_pitches(
    key: Key, num_notes: int, rng: np.random.Generator, *, start: int | None = None
) -> list[int]:
    """Draw `num_notes` pitches of a key: a random walk over its notes, turned back at both ends.

    Args:
        key: whose notes are sung.
        num_notes: how many.
        rng: source of chance.
        start: the note before the first one, of the same key; None begins in the lower half.
    """
    last = len(key.pitches) - 1
    place = int(rng.integers(last // 2 + 1)) if start is None else key.pitches.index(start)
    pitches = []
    for step in rng.choice(STEPS, size=num_notes, p=STEP_SHARES):
        place += int(step)
        place = abs(place)  # turned back at the lowest note
        place = last - abs(last - place)  # and at the highest
        pitches.append(key.pitches[place])
    return pitches


def draw_beat(rng: np.random.Generator) -> float:
    """Seconds of a beat, from a tempo between 70 and 150 beats a minute."""
    return 60 / float(rng.uniform(*BEATS_PER_MINUTE))


def draw_note_frames(
    sources: Sequence[int], beat_seconds: float, rng: np.random.Generator
) -> list[int]:
    """Draw how many frames each note of a phrase lasts, the last one longer.

    Args:
        sources: frames of speech of which each note is made. Less than a tenth of a second has
            too little in it to be held: it becomes half a beat.
        beat_seconds: of the phrase.
        rng: source of chance.
    """
    beats = rng.choice(NOTE_BEATS, size=len(sources), p=NOTE_SHARES)
    beats = np.where(np.asarray(sources) * FRAME_SECONDS < 0.1, NOTE_BEATS[0], beats)
    beats[-1] = rng.uniform(*LAST_NOTE_BEATS)
    return [round(float(count) * beat_seconds / FRAME_SECONDS) for count in beats]


def draw_contour(
    pitches: Sequence[int], frames: Sequence[int], rng: np.random.Generator
) -> list[Float64[np.ndarray, " _"]]:
    """Draw the pitch of each note over its frames, as a singer would make it.

    Each note is reached from the one before in 40 to 90 ms; when it is held, a vibrato fades in
    after 0.2 to 0.3 s; the whole phrase drifts by up to 6 cents.

    Args:
        pitches: of the notes.
        frames: how long each note lasts.
        rng: source of chance.
    """
    vibrato_hz = rng.uniform(*VIBRATO_HZ)
    drift_hz, drift_phase = rng.uniform(*DRIFT_HZ), rng.uniform(0, 2 * np.pi)
    contour = []
    before, begin_s = float(pitches[0]), 0.0  # where the voice is, but for the drift
    for pitch, num_frames in zip(pitches, frames, strict=True):
        time_s = np.arange(num_frames) * FRAME_SECONDS
        left = 0.5 + 0.5 * np.cos(np.pi * np.minimum(time_s / rng.uniform(*GLIDE_SECONDS), 1))
        held_s = time_s - rng.uniform(*VIBRATO_AFTER_SECONDS)
        extent_cents = rng.uniform(*VIBRATO_CENTS) * np.clip(held_s / VIBRATO_FADE_SECONDS, 0, 1)
        vibrato_cents = extent_cents * np.sin(2 * np.pi * vibrato_hz * held_s)
        drift_cents = DRIFT_CENTS * np.sin(2 * np.pi * drift_hz * (begin_s + time_s) + drift_phase)
        contour.append(pitch + (before - pitch) * left + (vibrato_cents + drift_cents) / 100)
        before = pitch + float(vibrato_cents[-1]) / 100
        begin_s += num_frames * FRAME_SECONDS
    return contour
