from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from frametx.data.crops import CropReader, Crops
from frametx.data.library import Library
from frametx.data.sampling import SegmentPool
from frametx.data.synthetic import write_synthetic_libraries

RATE = 8_000


@pytest.fixture
def music(tmp_path: Path) -> Library:
    _, root = write_synthetic_libraries(tmp_path, seconds=3, num_files=4, sample_rate=RATE, seed=0)
    return Library.open(root, role="instrumental", cache_dir=tmp_path / "cache")


def reader(library: Library, cache_dir: Path | None, *, rate: int = RATE) -> CropReader:
    return CropReader(library, sample_rate=rate, num_channels=2, cache_dir=cache_dir)


def write_one(root: Path, waveform: np.ndarray, rate: int = RATE) -> Library:
    root.mkdir()
    soundfile.write(root / "one.wav", waveform, rate, subtype="FLOAT")
    return Library.open(root, role="vocals", cache_dir=root.parent / "cache")


@pytest.mark.parametrize("rate", [RATE, 11_025])
def test_kept_and_fresh_excerpts_are_the_same(music: Library, tmp_path: Path, rate: int) -> None:
    kept, fresh = reader(music, tmp_path / "kept", rate=rate), reader(music, None, rate=rate)
    for file in range(4):
        step = 1.25 * music.files[file].peak / 32_767
        for start, num_samples in [(0, 1_000), (777, 5_000), (-50, 200), (3 * rate - 10, 99)]:
            expected = fresh.read(file, start, num_samples)
            np.testing.assert_allclose(kept.read(file, start, num_samples), expected, atol=step)
            assert expected.dtype == np.float32
            assert expected.shape == (2, num_samples)


def test_a_short_file_is_placed_in_silence(tmp_path: Path) -> None:
    library = write_one(tmp_path / "a", np.full(10, 0.5))
    excerpt = reader(library, None).read(0, -3, 20)
    assert (excerpt[:, 3:13] == 0.5).all()
    assert np.abs(excerpt).sum() == pytest.approx(2 * 10 * 0.5)
    assert (reader(library, None).read(0, 10, 5) == 0).all()


def test_a_file_is_decoded_once(music: Library, tmp_path: Path) -> None:
    first = reader(music, tmp_path / "kept").read(1, 100, 500)
    music.files[1].path.unlink()
    np.testing.assert_array_equal(reader(music, tmp_path / "kept").read(1, 100, 500), first)
    assert sorted(path.suffix for path in (tmp_path / "kept").iterdir()) == [".json", ".npy"]


def test_loud_and_quiet_files_neither_clip_nor_lose_precision(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for peak in (7.0, 1e-3):
        waveform = (peak * np.sign(rng.standard_normal(2 * 44_100))).astype(np.float32)
        library = write_one(tmp_path / f"{peak}", waveform, 44_100)
        kept = reader(library, tmp_path / "kept", rate=22_050).read(0, 0, 44_100)
        fresh = reader(library, None, rate=22_050).read(0, 0, 44_100)
        assert np.abs(fresh).max() > 1.05 * peak, "resampling this must overshoot, or tests nothing"
        np.testing.assert_allclose(kept, fresh, atol=2e-4 * peak)


def test_a_damaged_store_is_written_anew(music: Library, tmp_path: Path) -> None:
    first = reader(music, tmp_path / "kept").read(0, 0, 500)
    for suffix, damage in ((".npy", b"\x93NUMPY"), (".json", b"{")):
        (path,) = (tmp_path / "kept").glob(f"*{suffix}")
        path.write_bytes(damage)
        np.testing.assert_array_equal(reader(music, tmp_path / "kept").read(0, 0, 500), first)


def test_a_changed_file_is_not_served_from_the_store(music: Library, tmp_path: Path) -> None:
    before = reader(music, tmp_path / "kept").read(0, 0, 500)
    soundfile.write(music.files[0].path, np.full((900, 2), 0.25), RATE)
    root = music.files[0].path.parent
    changed = Library.open(root, role="instrumental", cache_dir=tmp_path / "cache")
    after = reader(changed, tmp_path / "kept").read(0, 0, 500)
    np.testing.assert_allclose(after, 0.25, atol=1e-4)
    assert not np.allclose(before, after)


def test_a_full_disk_is_not_taken_for_a_broken_file(music: Library) -> None:
    crops = Crops(reader(music, Path("/dev/null/kept")), seed=0, stream="v")
    with pytest.raises(OSError, match=r"paths\.cache_dir=.*data\.decode_once=false"):
        crops.read(0, 100)


def test_lost_files_are_replaced_until_none_is_left(music: Library) -> None:
    crops = Crops(reader(music, None), seed=0, stream="instrumental")
    samples = {crops.sampler.draw(sample, 500).file: sample for sample in range(200)}
    untouched = crops.read(samples[3], 500)
    music.files[0].path.unlink()
    with pytest.warns(
        UserWarning, match=r"instrumental: 1 of 4 files .*music_000\.wav: it is gone"
    ):
        replaced = crops.read(samples[0], 500)
    assert crops.describe(samples[0], 500).startswith("music_001.wav")
    fresh = Crops(reader(music, None), seed=0, stream="instrumental")
    with pytest.warns(UserWarning, match="1 of 4"):
        np.testing.assert_array_equal(fresh.read(samples[0], 500), replaced)
    np.testing.assert_array_equal(crops.read(samples[0], 500), replaced)  # and no second warning
    np.testing.assert_array_equal(crops.read(samples[3], 500), untouched)
    for file in music.files[1:]:
        file.path.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="[24] of 4"),
        pytest.raises(ValueError, match="instrumental: none of the 4 files can be read any more"),
    ):
        crops.read(samples[0], 500)


def with_pool(library: Library, pool: SegmentPool) -> Library:
    return replace(library, rules=replace(library.rules, pool=pool))


def test_a_pool_reads_each_segment_once_and_gives_the_same_to_any_number_of_workers(
    music: Library,
) -> None:
    pooled = with_pool(music, SegmentPool(segments=8, uses=4))
    alone = Crops(reader(pooled, None), seed=0, stream="v")
    heard = [alone.read(sample, 500) for sample in range(120)]
    assert alone._recent.num_read <= 120 // 4 + 8
    workers = [Crops(reader(pooled, None), seed=0, stream="v") for _ in range(3)]
    for sample in range(0, 120, 7):  # resumed in the middle, and in another order
        np.testing.assert_array_equal(workers[sample % 3].read(sample, 500), heard[sample])
        segment = pooled.rules.pool.segment(0, sample, "v")  # type: ignore[union-attr]
        own = Crops(reader(music, None), seed=0, stream="v").read(segment, 500)
        step = np.abs(own).max() / 32_767
        np.testing.assert_allclose(heard[sample], own, atol=0.51 * step + 1e-9)
    assert alone.describe(5, 500) == workers[0].describe(5, 500)


def test_a_pool_holds_no_more_than_its_segments(music: Library) -> None:
    crops = Crops(
        reader(with_pool(music, SegmentPool(segments=5, uses=1)), None), seed=0, stream=""
    )
    for sample in range(60):
        crops.read(sample, 100)
        assert len(crops._recent._held) <= 5


def test_a_file_lost_in_one_process_is_not_tried_in_another(music: Library) -> None:
    shared = reader(music, None)
    first, second = (Crops(shared, seed=0, stream="v") for _ in range(2))
    sample = next(n for n in range(99) if first.sampler.draw(n, 500).file == 0)
    kept = music.files[0].path.read_bytes()
    music.files[0].path.unlink()
    with pytest.warns(UserWarning, match="1 of 4"):
        replaced = first.read(sample, 500)
    music.files[0].path.write_bytes(kept)
    np.testing.assert_array_equal(second.read(sample, 500), replaced)
    assert shared.num_lost == 1


def test_workers_count_lost_files_where_the_main_process_sees_it(music: Library) -> None:
    shared = reader(music, None)
    process = torch.multiprocessing.get_context("fork").Process(target=shared.lose, args=(2, "x"))
    process.start()
    process.join()
    assert [shared.is_lost(file) for file in range(4)] == [False, False, True, False]


def test_three_channels_are_refused(music: Library) -> None:
    with pytest.raises(ValueError, match=r"num_channels \(3\) must be 1 \(mono\) or 2"):
        CropReader(music, sample_rate=RATE, num_channels=3, cache_dir=None)
