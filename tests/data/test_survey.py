import sqlite3
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch

from frametx.data.index import AudioFile
from frametx.data.library import Library
from frametx.data.survey import (
    LOWEST_DB,
    Facts,
    FactsCache,
    Meter,
    examine,
    steepest_fall,
    survey,
)

RATE = 44_100


def tone(seconds: float = 2.0, *, rate: int = RATE, hz: float = 440, level: float = 0.5):
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate)


def noise(seconds: float, *, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal((round(seconds * rate), 2))


def files_of(folder: Path, **waveforms: tuple[np.ndarray, int]) -> dict[str, AudioFile]:
    folder.mkdir(exist_ok=True)
    for name, (waveform, rate) in waveforms.items():
        soundfile.write(folder / f"{name}.wav", waveform, rate, subtype="FLOAT")
    library = Library.open(folder, role="any", cache_dir=folder.parent / "cache")
    return {file.path.stem: file for file in library.files}


def facts_of(folder: Path, waveform: np.ndarray, rate: int = RATE) -> Facts:
    return examine(files_of(folder, one=(waveform, rate))["one"])


def test_levels_are_in_decibels_re_full_scale(tmp_path: Path) -> None:
    quarter = np.concatenate([tone(3), np.zeros(RATE)])
    facts = facts_of(tmp_path / "a", quarter)
    assert facts.peak == pytest.approx(0.5, abs=1e-3)
    assert facts.rms_db == pytest.approx(20 * np.log10(0.5) - 3.01 - 1.25, abs=0.01)
    assert facts.loudest_second_db == pytest.approx(20 * np.log10(0.5) - 3.01, abs=0.01)
    assert facts.silent_share == 0.25
    assert facts.end_db == LOWEST_DB - facts.rms_db
    assert facts.seconds == pytest.approx(4)
    assert facts.spectrum_db[4] > facts.spectrum_db[10] + 60


def test_a_sine_of_full_scale_has_0_db_in_its_own_bin() -> None:
    meter = Meter(sample_rate=RATE, num_channels=1)
    at_a_bin = 100 * RATE / 4096
    meter.push(torch.from_numpy(tone(1, hz=at_a_bin, level=1.0)).float()[None])
    band = meter.finish().spectrum_db[int(at_a_bin // 100)]
    # Of about nine bins in the band, a Hann window lets three see the sine: 0, -6 and -6 dB.
    assert band == pytest.approx(10 * np.log10(1.5 / 9.3), abs=0.6)


@pytest.mark.parametrize("block", [1000, 7, 44_100])
def test_only_runs_at_full_scale_are_clipped_however_the_stream_is_cut(block: int) -> None:
    waveform = torch.zeros(2, 5000)
    waveform[0, 100:102] = 1.0  # two: no run
    waveform[0, 998:1003] = -1.0  # five, across a border
    waveform[1, 13:16] = 1.2  # three
    waveform[1, 20] = 1.0
    meter = Meter(sample_rate=8_000, num_channels=2)
    for part in waveform.split(block, dim=1):
        meter.push(part)
    assert meter.finish().clipped_share == pytest.approx(8 / 10_000)


def test_facts_do_not_depend_on_the_cut_of_the_stream() -> None:
    waveform = torch.from_numpy(noise(2, rate=8_000).T).float()
    found = []
    for size in (16_000, 8_000, 1_600):
        meter = Meter(sample_rate=8_000, num_channels=2)
        for part in waveform.split(size, dim=1):
            meter.push(part)
        found.append(meter.finish())
    for other in found[1:]:
        assert other.content == found[0].content
        assert other.rms_db == pytest.approx(found[0].rms_db)
        np.testing.assert_allclose(other.spectrum_db, found[0].spectrum_db, atol=1e-3)
        np.testing.assert_array_equal(other.fingerprint.frames, found[0].fingerprint.frames)
        np.testing.assert_array_equal(other.fingerprint.words, found[0].fingerprint.words)


def test_equal_samples_have_one_digest_in_all_lossless_formats(tmp_path: Path) -> None:
    steps = np.round(tone(0.5) * 32_767).astype(np.int16)
    for name in ("a.wav", "b.flac"):
        (tmp_path / "s").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "s" / name, steps, RATE, subtype="PCM_16")
    soundfile.write(tmp_path / "s" / "c.wav", steps, 48_000, subtype="PCM_16")
    library = Library.open(tmp_path / "s", role="any", cache_dir=tmp_path)
    digests = [examine(file).content for file in library.files]
    assert digests[0] == digests[1] != digests[2]


def test_equal_channels_have_no_side(tmp_path: Path) -> None:
    left, right = noise(1).T
    assert facts_of(tmp_path / "a", np.stack([left, left], axis=1)).side_db == LOWEST_DB
    assert facts_of(tmp_path / "b", noise(1)).side_db == pytest.approx(-3, abs=0.2)
    nearly = np.stack([left, left + 1e-3 * right], axis=1)
    assert facts_of(tmp_path / "c", nearly).side_db == pytest.approx(-66, abs=0.3)
    assert facts_of(tmp_path / "d", left).side_db == 0.0


def test_the_cut_of_a_filter_is_found_and_a_gentle_slope_is_none(tmp_path: Path) -> None:
    narrow = soxr.resample(noise(4, rate=16_000), 16_000, RATE)
    facts = facts_of(tmp_path / "a", narrow)
    assert facts.cliff_db > 40
    assert facts.highest_hz == pytest.approx(8_000, abs=400)
    wide = facts_of(tmp_path / "b", noise(4))
    assert wide.cliff_db < 10
    assert wide.highest_hz > 21_000
    spectrum = np.fft.rfft(noise(4), axis=0)
    frequency_hz = np.fft.rfftfreq(4 * RATE, 1 / RATE)[:, None]
    brown = np.fft.irfft(spectrum * (100 / np.maximum(frequency_hz, 100)) ** 2, axis=0)
    assert facts_of(tmp_path / "c", brown).cliff_db < 10
    low_rate = facts_of(tmp_path / "d", noise(4, rate=16_000), 16_000)
    assert low_rate.cliff_db < 10


def test_a_gap_in_the_spectrum_is_no_cut() -> None:
    spectrum = np.full(220, -60, np.float32)
    spectrum[100:130] = -150
    assert steepest_fall(spectrum, nyquist_hz=22_050)[1] < 1
    spectrum[130:] = -150
    assert steepest_fall(spectrum, nyquist_hz=22_050) == pytest.approx((10_000, 90), abs=500)


@pytest.mark.parametrize("num_samples", [1, 3, 500])
@pytest.mark.parametrize("rate", [50, 8_000, 96_000])
def test_the_shortest_files_at_any_rate_have_facts(num_samples: int, rate: int) -> None:
    meter = Meter(sample_rate=rate, num_channels=1)
    meter.push(torch.full((1, num_samples), 0.5))
    facts = meter.finish()
    assert facts.rms_db == pytest.approx(-6.02, abs=0.01)
    assert np.isfinite(facts.spectrum_db).all()


def test_a_second_survey_measures_only_what_has_changed(tmp_path: Path) -> None:
    folder, measured = tmp_path / "a", []
    facts = {}
    files = files_of(folder, a=(tone(0.5), RATE), b=(noise(0.5), RATE))
    for _ in range(2):
        with FactsCache(tmp_path / "cache" / "survey.sqlite") as cache:
            facts = survey(
                list(files.values()),
                cache=cache,
                progress=lambda done, total: measured.append(done),
            )
    assert measured == [1, 2]
    again = facts[files["b"].path]
    fresh = examine(files["b"])
    assert again == fresh
    assert isinstance(again, Facts)
    np.testing.assert_array_equal(again.spectrum_db, fresh.spectrum_db)
    np.testing.assert_array_equal(again.fingerprint.words, fresh.fingerprint.words)
    files = files_of(folder, b=(noise(0.6), RATE))
    with FactsCache(tmp_path / "cache" / "survey.sqlite") as cache:
        facts = survey(
            list(files.values()), cache=cache, progress=lambda done, total: measured.append(total)
        )
    assert measured == [1, 2, 1]
    changed = facts[files["b"].path]
    assert isinstance(changed, Facts)
    assert changed.seconds == pytest.approx(0.6)


def test_a_file_that_breaks_after_indexing_is_told_with_the_reason(tmp_path: Path) -> None:
    files = files_of(tmp_path / "a", a=(tone(0.5), RATE), b=(tone(0.5), RATE), c=(tone(1), RATE))
    files["a"].path.unlink()
    files["b"].path.write_text("no audio any more")
    with FactsCache(tmp_path / "survey.sqlite") as cache:
        facts = survey(list(files.values()), cache=cache, threads=2)
    assert isinstance(facts[files["a"].path], str)
    assert "is not audio" in str(facts[files["b"].path])
    assert isinstance(facts[files["c"].path], Facts)


def test_a_damaged_cache_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "survey.sqlite"
    files = files_of(tmp_path / "a", a=(tone(0.5), RATE))
    for content in (b"no database at all, but long enough to look like one" * 50, b""):
        path.write_bytes(content)
        with FactsCache(path) as cache:
            assert cache.get(files["a"]) is None
            survey(list(files.values()), cache=cache)
        with FactsCache(path) as cache:
            assert cache.get(files["a"]) is not None
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE facts")
        database.execute("CREATE TABLE facts (something TEXT)")
    database.close()
    with FactsCache(path) as cache:
        assert cache.get(files["a"]) is None


def test_notes_hold_as_long_as_the_file_is_unchanged(tmp_path: Path) -> None:
    files = files_of(tmp_path / "a", a=(tone(0.5), RATE))
    with FactsCache(tmp_path / "survey.sqlite") as cache:
        cache.put_note(files["a"], "one", "yes")
        cache.put_note(files["a"], "two", "no")
    with FactsCache(tmp_path / "survey.sqlite") as cache:
        assert cache.get_note(files["a"], "one") == "yes"
        assert cache.get_note(files["a"], "three") is None
        changed = files_of(tmp_path / "a", a=(tone(0.7), RATE))
        assert cache.get_note(changed["a"], "one") is None
