"""Melodies stay in their scale and range, and move as a voice does."""

from itertools import pairwise

import numpy as np
import pytest

from frametx.data.corpora.melody import (
    FRAME_SECONDS,
    SCALES,
    draw_beat,
    draw_contour,
    draw_key,
    draw_note_frames,
    draw_pitches,
    hz_to_midi,
    midi_to_hz,
)


@pytest.mark.parametrize("median_hz", [90.0, 133.0, 244.0])
def test_keys_lie_around_and_above_the_speaking_pitch(median_hz: float) -> None:
    keys = [draw_key(median_hz, np.random.default_rng(seed)) for seed in range(300)]
    assert {key.scale for key in keys} == set(SCALES)
    assert {key.tonic for key in keys} == set(range(12))
    spoken = hz_to_midi(median_hz)
    for key in keys:
        assert all((pitch - key.tonic) % 12 in SCALES[key.scale] for pitch in key.pitches)
        assert spoken - 3 <= key.pitches[0] <= spoken + 4  # the first note may lie 3 above the edge
        assert key.pitches[-1] <= spoken + 1 + 19
        assert 7 <= key.pitches[-1] - key.pitches[0] <= 19
    widths = [key.pitches[-1] - key.pitches[0] for key in keys]
    assert 11 <= np.mean(widths) <= 16


def test_a_melody_stays_in_its_key_and_mostly_takes_small_steps() -> None:
    for seed in range(50):
        rng = np.random.default_rng(seed)
        key = draw_key(150, rng)
        pitches = draw_pitches(key, 500, rng)
        assert set(pitches) <= set(key.pitches)
        assert len(set(pitches)) == len(key.pitches)  # and all of it is used
        places = np.array([key.pitches.index(pitch) for pitch in pitches])
        steps = np.abs(np.diff(places))
        assert steps.max() <= 4
        assert (steps <= 2).mean() > 0.75


def test_a_phrase_goes_on_near_the_note_before_it() -> None:
    key = draw_key(150, np.random.default_rng(0))
    for start in key.pitches:
        (following,) = draw_pitches(key, 1, np.random.default_rng(1), start=start)
        assert abs(key.pitches.index(following) - key.pitches.index(start)) <= 4


def test_notes_are_counted_in_beats_and_the_last_is_longer() -> None:
    rng = np.random.default_rng(0)
    beats = [draw_beat(rng) for _ in range(1_000)]
    assert 60 / 150 <= min(beats) < 0.41
    assert 0.84 < max(beats) <= 60 / 70
    frames = draw_note_frames([40] * 999 + [10] * 1_000 + [40], 0.5, rng)
    lengths = np.array(frames) * FRAME_SECONDS / 0.5
    assert set(lengths[:999]) == {0.5, 1, 1.5, 2}
    assert set(lengths[999:-1]) == {0.5}  # 50 ms of speech are not held for long
    assert 1.5 <= lengths[-1] <= 3


def test_a_contour_reaches_its_notes_and_shakes_only_those_that_are_held() -> None:
    for seed in range(20):
        pitches, frames = [60, 64, 62], [40, 200, 60]
        contour = draw_contour(pitches, frames, np.random.default_rng(seed))
        assert [len(note) for note in contour] == frames
        cents = [100 * (note - pitch) for note, pitch in zip(contour, pitches, strict=True)]
        # 90 ms after its beginning every note is reached, and until 200 ms only drifts.
        assert max(np.abs(note[18:40]).max() for note in cents) <= 6
        assert np.abs(np.diff(np.concatenate(contour))).max() < 0.85  # 4 semitones within 40 ms
        for note, following in pairwise(contour):
            assert abs(following[0] - note[-1]) < 0.01  # no jump: it glides from where it is
        held = cents[1][120:]  # the vibrato has faded in
        assert 20 - 6 <= np.abs(held).max() <= 60 + 6
        crossings = (np.diff(np.sign(held - held.mean())) != 0).sum()
        assert crossings / 2 / (len(held) * FRAME_SECONDS) == pytest.approx(5.75, abs=2)


def test_pitch_in_hz_and_back() -> None:
    assert hz_to_midi(440) == 69
    np.testing.assert_allclose(midi_to_hz(np.array([57.0, 69.0, 81.0])), [220, 440, 880])
