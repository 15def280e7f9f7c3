import pickle
from pathlib import Path

import numpy as np
import pytest
import soundfile

from frametx.data.crops import CropReader, Crops
from frametx.data.decoded import UnreadableFileError, decode_excerpt
from frametx.data.library import Library
from frametx.data.shards import SHARD_LIST, write_shards
from frametx.data.synthetic import write_synthetic_libraries

pytest.importorskip("litdata", reason="pip install frametx[litdata]")
RATE = 8_000


@pytest.fixture
def music(tmp_path: Path) -> Library:
    _, root = write_synthetic_libraries(tmp_path, seconds=3, num_files=4, sample_rate=RATE, seed=0)
    soundfile.write(root / "loud.wav", 3 * np.sin(np.arange(5_000)), 11_025, subtype="FLOAT")
    return Library.open(root, role="music", cache_dir=tmp_path / "cache", min_loudness_db=-50)


def shard(library: Library, folder: Path, **options) -> Library:
    settings = {"sample_rate": None, "piece_seconds": 0.5, "chunk_mb": 1, "num_threads": 2}
    files = ((file.name, file) for file in library.files)
    written = list(write_shards(files, folder, **(settings | options)))
    assert [file.name for file in written] == [file.name for file in library.files]
    return Library.open(folder, role="music", cache_dir=folder.parent / "c", min_loudness_db=-50)


def test_a_sharded_library_gives_the_crops_of_the_one_it_was_made_of(
    music: Library, tmp_path: Path
) -> None:
    sharded = shard(music, tmp_path / "shards")
    draws = []
    for library in (music, sharded):
        reader = CropReader(library, sample_rate=RATE, num_channels=2, cache_dir=None)
        crops = Crops(reader, seed=0, stream="v")
        draws.append([crops.read(sample, 9_000) for sample in range(24)])
        assert crops.describe(3, 9_000).startswith("music_") or "loud" in crops.describe(3, 9_000)
    for own, sharded_one in zip(*draws, strict=True):
        step = np.abs(own).max() / 32_767
        np.testing.assert_allclose(sharded_one, own, atol=2 * step + 2e-5)
    for own, sharded_file in zip(music.files, sharded.files, strict=True):
        assert sharded_file.num_samples == own.num_samples
        assert sharded_file.loudness == own.loudness or own.sample_rate == 11_025


def test_any_piece_of_a_song_can_be_read_in_any_order(music: Library, tmp_path: Path) -> None:
    sharded = shard(music, tmp_path / "shards")
    for first, last in [(23_990, 24_000), (0, 1), (3_999, 4_001), (100, 17_000), (0, 24_000)]:
        own, packed = (
            decode_excerpt(library.files[2], first, last, sample_rate=RATE, num_channels=2)
            for library in (music, sharded)
        )
        np.testing.assert_allclose(packed, own, atol=2e-5)


def test_songs_can_be_packed_at_another_rate(music: Library, tmp_path: Path) -> None:
    sharded = shard(music, tmp_path / "shards", sample_rate=4_000)
    assert {file.sample_rate for file in sharded.files} == {4_000}
    own, packed = (
        decode_excerpt(library.files[1], 500, 9_000, sample_rate=4_000, num_channels=1)
        for library in (music, sharded)
    )
    np.testing.assert_allclose(packed, own, atol=1e-4)


def test_shards_go_to_another_process_and_are_listed_in_the_order_of_names(
    music: Library, tmp_path: Path
) -> None:
    sharded = shard(music, tmp_path / "shards")
    before = decode_excerpt(sharded.files[0], 0, 99, sample_rate=RATE, num_channels=2)
    again = pickle.loads(pickle.dumps(sharded))
    after = decode_excerpt(again.files[0], 0, 99, sample_rate=RATE, num_channels=2)
    np.testing.assert_array_equal(after, before)
    assert [file.name for file in sharded.files] == sorted(file.name for file in sharded.files)


def test_a_split_of_shards_is_the_split_of_the_files(music: Library, tmp_path: Path) -> None:
    sharded = shard(music, tmp_path / "shards")
    for own, packed in zip(music.split(0.4), sharded.split(0.4), strict=True):
        assert [file.name for file in packed.files] == [file.name for file in own.files]


def test_a_damaged_list_and_a_missing_chunk_are_named(music: Library, tmp_path: Path) -> None:
    sharded = shard(music, tmp_path / "shards")
    for chunk in (tmp_path / "shards").glob("chunk-*.bin"):
        chunk.unlink()
    with pytest.raises(UnreadableFileError, match=r"loud\.wav"):
        decode_excerpt(sharded.files[0], 0, 9, sample_rate=RATE, num_channels=1)
    (tmp_path / "shards" / SHARD_LIST).write_text('{"version": 1}')
    with pytest.raises(ValueError, match=r"music: .*frametx\.json cannot be used .*write the sh"):
        Library.open(tmp_path / "shards", role="music", cache_dir=tmp_path / "c")


def test_a_piece_shorter_than_a_tenth_of_a_second_is_refused(tmp_path: Path) -> None:
    settings = {"sample_rate": None, "chunk_mb": 1, "num_threads": 1}
    with pytest.raises(ValueError, match=r"piece_seconds \(0\.01\) must be at least 0\.1"):
        list(write_shards([], tmp_path, piece_seconds=0.01, **settings))
