import numpy as np
import pytest

from frametx.data.loudness import decibels, levels, loud_starts, loudest
from frametx.data.sampling import CropSampler, LoudnessFloor

RATE = 1_000
BLOCK = 100


def rms_db(samples: np.ndarray) -> float:
    return float(10 * np.log10(max(np.square(samples.astype(np.float64)).mean(), 1e-30)))


def patchy(num_samples: int, seed: int, *, channels: int = 2) -> np.ndarray:
    """Noise whose level jumps between -100 and -20 dB, and pauses of exact silence."""
    rng = np.random.default_rng(seed)
    gains = []
    while sum(map(len, gains)) < num_samples:
        gain = 0.0 if rng.random() < 0.3 else 10 ** (rng.uniform(-100, -20) / 20)
        gains.append(np.full(rng.integers(1, 700), gain))
    gain = np.concatenate(gains)[:num_samples]
    return (rng.standard_normal((channels, num_samples)) * gain).astype(np.float32)


def test_levels_of_a_tone_are_its_rms_rounded_down() -> None:
    tone = 0.1 * np.sin(2 * np.pi * 50 * np.arange(2 * RATE) / RATE).astype(np.float32)[None]
    level = levels(tone, RATE)
    assert len(level) == 20
    assert {decibels(int(step)) for step in level} == {-23.5}  # 0.1 / sqrt(2) is -23.01 dB
    assert loudest(level.tobytes()) == -23.5


def test_silence_is_quieter_than_any_floor_and_the_last_block_may_be_short() -> None:
    samples = np.zeros((1, 250), np.float32)
    assert levels(samples, RATE).tolist() == [255, 255, 255]
    samples[0, 240] = 1.0
    assert levels(samples, RATE).tolist() == [255, 255, 34]  # one of fifty samples: -16.99 dB


@pytest.mark.parametrize("num_samples", [300, 999, 2_047])
@pytest.mark.parametrize("seed", range(4))
def test_no_excerpt_that_may_be_drawn_is_below_the_floor(num_samples: int, seed: int) -> None:
    floor_db = -50.0
    samples = patchy(20_050, seed)
    runs = loud_starts(
        levels(samples, RATE),
        block=BLOCK,
        length=samples.shape[1],
        num_samples=num_samples,
        min_db=floor_db,
    )
    starts = [start for first, stop in runs.tolist() for start in range(first, stop)]
    found = np.array([rms_db(samples[:, at : at + num_samples]) for at in starts])
    assert found.min() >= floor_db
    assert starts[-1] <= samples.shape[1] - num_samples
    # And little is left out for safety: two blocks, and half a decibel that levels are rounded by.
    whole = num_samples // BLOCK - 1
    margin_db = 0.5 + 10 * np.log10(num_samples / (whole * BLOCK))
    clearly_loud = [
        at
        for at in range(0, samples.shape[1] - num_samples, 37)
        if rms_db(samples[:, (at // BLOCK + 1) * BLOCK :][:, : whole * BLOCK])
        >= floor_db + margin_db
    ]
    assert clearly_loud
    assert set(clearly_loud) <= set(starts)


def test_every_loud_start_is_equally_likely_and_no_quiet_one_is_drawn() -> None:
    loud, quiet = np.full((1, 3_000), 0.1, np.float32), np.full((1, 5_000), 1e-4, np.float32)
    files = [np.concatenate([loud, quiet, loud], axis=1), np.concatenate([quiet, loud], axis=1)]
    floor = LoudnessFloor(-50.0, tuple(levels(f, RATE).tobytes() for f in files), (BLOCK, BLOCK))
    lengths = [file.shape[1] for file in files]
    sampler = CropSampler.build(lengths, seed=0, stream="v", floor=floor)
    crops = [sampler.draw(sample, 1_000) for sample in range(20_000)]
    for crop in crops[:2_000]:
        assert rms_db(files[crop.file][:, crop.start : crop.start + 1_000]) >= -50
    runs = {n: floor.starts(n, length=lengths[n], num_samples=1_000) for n in range(2)}
    counts = [int(np.diff(runs[n]).sum()) for n in range(2)]
    share = sum(crop.file == 0 for crop in crops) / len(crops)
    # A start of file 0 stands for a bit more audio: its last second of excerpts starts nowhere.
    weights = [counts[n] * lengths[n] / (lengths[n] - 999) for n in range(2)]
    assert share == pytest.approx(weights[0] / sum(weights), abs=0.015)
    drawn = np.array([crop.start for crop in crops if crop.file == 0])
    (first, second) = runs[0].tolist()
    in_first = ((drawn >= first[0]) & (drawn < first[1])).mean()
    in_second = ((drawn >= second[0]) & (drawn < second[1])).mean()
    assert in_first + in_second == 1
    expected = (first[1] - first[0]) / counts[0]
    assert in_first == pytest.approx(expected, abs=0.02)


def test_a_short_file_is_drawn_if_it_is_loud_enough_within_its_silence() -> None:
    short = levels(np.full((1, 100), 0.01, np.float32), RATE)
    starts = [
        loud_starts(short, block=BLOCK, length=100, num_samples=n, min_db=-50.0).tolist()
        for n in (100, 500, 2_000)
    ]
    assert starts == [[[0, 1]], [[0, 1]], []]  # -40 dB; -47 dB; -53 dB


def test_a_floor_that_nothing_reaches_says_how_to_lower_it() -> None:
    level = levels(np.full((1, 5_000), 1e-4, np.float32), RATE).tobytes()
    floor = LoudnessFloor(-50.0, (level,), (BLOCK,))
    sampler = CropSampler.build([5_000], seed=0, stream="vocals", floor=floor)
    with pytest.raises(ValueError, match=r"vocals: no excerpt of 700 samples reaches -50\.0 dBFS"):
        sampler.draw(0, 700)


def test_files_without_known_levels_are_drawn_as_they_are() -> None:
    floor = LoudnessFloor(-50.0, (b"",), (BLOCK,))
    with_floor = CropSampler.build([5_000], seed=0, stream="v", floor=floor)
    without = CropSampler.build([5_000], seed=0, stream="v")
    assert [with_floor.draw(n, 700) for n in range(50)] == [without.draw(n, 700) for n in range(50)]


def test_draws_for_another_length_do_not_change_those_for_this_one() -> None:
    level = levels(patchy(30_000, 1), RATE).tobytes()
    floor = LoudnessFloor(-50.0, (level,), (BLOCK,))
    sampler = CropSampler.build([30_000], seed=0, stream="v", floor=floor)
    alone = [sampler.draw(n, 2_000) for n in range(20)]
    for length in range(300, 320):  # more lengths than tables are kept for
        sampler.draw(3, length)
    assert [sampler.draw(n, 2_000) for n in range(20)] == alone
