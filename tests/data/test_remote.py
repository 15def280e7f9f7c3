import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from frametx.data.crops import CropReader, Crops
from frametx.data.decoded import UnreadableFileError, decode_excerpt
from frametx.data.files import AudioFile
from frametx.data.library import Library
from frametx.data.remote import FetchedFiles, RemoteFolder

fsspec = pytest.importorskip("fsspec")
RATE = 8_000


@pytest.fixture
def bucket() -> Iterator[str]:
    system = fsspec.filesystem("memory")
    yield "memory://bucket"
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def put(address: str, path: Path, seconds: float = 0.5, *, seed: int = 0) -> np.ndarray:
    noise = 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))
    soundfile.write(path, noise, RATE, subtype="FLOAT")
    with fsspec.open(address, "wb") as target:
        target.write(path.read_bytes())  # type: ignore[union-attr]
    return noise.astype(np.float32)


def open_library(address: str, tmp_path: Path, **options) -> Library:
    return Library.open(address, role="vocals", cache_dir=tmp_path / "cache", **options)


def fetched(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "remote").iterdir())


def test_files_at_an_address_are_found_and_read_as_if_they_were_here(
    bucket: str, tmp_path: Path
) -> None:
    noise = put(f"{bucket}/voices/ann/1.wav", tmp_path / "x.wav")
    put(f"{bucket}/voices/2.WAV", tmp_path / "x.wav", seed=1)
    put(f"{bucket}/voices/.hidden/3.wav", tmp_path / "x.wav")
    with fsspec.open(f"{bucket}/voices/cover.jpg", "wb") as target:
        target.write(b"no audio")  # type: ignore[union-attr]
    library = open_library(f"{bucket}/voices/", tmp_path)
    assert [file.name for file in library.files] == ["2.WAV", "ann/1.wav"]
    assert library.total_seconds == 1.0
    excerpt = decode_excerpt(library.files[1], 100, 900, sample_rate=RATE, num_channels=1)
    np.testing.assert_array_equal(excerpt[:, 0], noise[100:900])
    assert library.files[1].local_path() in fetched(tmp_path)


def test_a_file_system_of_fsspec_gives_the_fingerprint_of_the_folder_itself(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    put(f"file://{tmp_path}/a/1.wav", tmp_path / "x.wav")
    here = open_library(str(tmp_path / "a"), tmp_path)
    there = open_library(f"file://{tmp_path}/a", tmp_path)
    assert there.fingerprint == here.fingerprint


def test_a_second_opening_fetches_nothing_and_a_changed_file_is_fetched_again(
    bucket: str, tmp_path: Path
) -> None:
    put(f"{bucket}/1.wav", tmp_path / "x.wav")
    first = open_library(bucket, tmp_path)
    for path in fetched(tmp_path):
        path.unlink()
    assert open_library(bucket, tmp_path) == first
    assert fetched(tmp_path) == []
    noise = put(f"{bucket}/1.wav", tmp_path / "x.wav", seed=5)
    (file,) = open_library(bucket, tmp_path).files
    assert file.mtime_ns != first.files[0].mtime_ns
    excerpt = decode_excerpt(file, 0, 4_000, sample_rate=RATE, num_channels=1)
    np.testing.assert_array_equal(excerpt[:, 0], noise)


def test_the_copies_stay_below_their_limit_and_the_longest_unused_goes_first(
    tmp_path: Path,
) -> None:
    copies = FetchedFiles(tmp_path / "copies", limit_gb=2_500e-9)
    asked: list[str] = []

    def fetch(name: str) -> Path:
        def write(path: Path) -> None:
            asked.append(name)
            path.write_bytes(bytes(1_000))

        return copies.path(name, 1_000, write)

    for seconds, name in enumerate(("a", "b")):
        os.utime(fetch(name), (seconds, seconds))
    fetch("a")  # used again, so that b is the older one
    fetch("c")
    assert sorted(path.name for path in copies.folder.iterdir()) == ["a", "c"]
    fetch("a")
    fetch("b")
    assert asked == ["a", "b", "c", "b"]
    with pytest.raises(ValueError, match="raise remote_cache_gb"):
        copies.path("d", 3_000, lambda path: None)


def test_a_copy_that_is_held_outlives_the_room_it_has_to_make(tmp_path: Path) -> None:
    copies = FetchedFiles(tmp_path / "copies", limit_gb=1_500e-9)

    def fetch(letter: bytes) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            path.write_bytes(1_000 * letter)

        return write

    with copies.held("a.wav", 1_000, fetch(b"a")) as held:
        copies.path("b.wav", 1_000, fetch(b"b"))
        assert not (copies.folder / "a.wav").exists()
        assert held.suffix == ".wav"
        assert held.read_bytes() == 1_000 * b"a"
    assert [path.name for path in copies.folder.iterdir()] == ["b.wav"]


def test_reading_goes_on_while_copies_come_and_go(bucket: str, tmp_path: Path) -> None:
    noises = [put(f"{bucket}/{n}.wav", tmp_path / "x.wav", seed=n) for n in range(3)]
    size = (tmp_path / "x.wav").stat().st_size
    library = open_library(bucket, tmp_path, remote_cache_gb=1.5e-9 * size)
    for n in (0, 1, 2, 0, 2):
        excerpt = decode_excerpt(library.files[n], 5, 50, sample_rate=RATE, num_channels=1)
        np.testing.assert_array_equal(excerpt[:, 0], noises[n][5:50])
        assert len(fetched(tmp_path)) == 1


def test_a_library_at_an_address_goes_to_another_process(bucket: str, tmp_path: Path) -> None:
    noise = put(f"{bucket}/1.wav", tmp_path / "x.wav")
    file: AudioFile = pickle.loads(pickle.dumps(open_library(bucket, tmp_path).files[0]))
    excerpt = decode_excerpt(file, 0, 9, sample_rate=RATE, num_channels=1)
    np.testing.assert_array_equal(excerpt[:, 0], noise[:9])


def test_a_file_that_vanished_or_changed_at_its_address_is_replaced_by_another(
    bucket: str, tmp_path: Path
) -> None:
    for n in range(3):
        put(f"{bucket}/{n}.wav", tmp_path / "x.wav", seed=n)
    library = open_library(bucket, tmp_path)
    for path in fetched(tmp_path):
        path.unlink()
    fsspec.filesystem("memory").rm("/bucket/0.wav")
    put(f"{bucket}/1.wav", tmp_path / "x.wav", seconds=0.75)
    with pytest.raises(UnreadableFileError, match=r"0\.wav: it is gone"):
        decode_excerpt(library.files[0], 0, 9, sample_rate=RATE, num_channels=1)
    with pytest.raises(UnreadableFileError, match=r"1\.wav: .*has \d+ bytes and had"):
        decode_excerpt(library.files[1], 0, 9, sample_rate=RATE, num_channels=1)
    reader = CropReader(library, sample_rate=RATE, num_channels=1, cache_dir=None)
    crops = Crops(reader, seed=0, stream="v")
    with pytest.warns(UserWarning, match="of 3 files cannot be read any more"):
        drawn = {crops.read(sample, 100).tobytes() for sample in range(12)}
    assert len(drawn) == 12
    assert reader.num_lost == 2


def test_addresses_that_lead_nowhere_are_named(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vocals: memory://bucket/nowhere does not exist"):
        open_library(f"{bucket}/nowhere", tmp_path)
    with pytest.raises(ValueError, match="gopher://x"):
        open_library("gopher://x", tmp_path)


def test_an_unreachable_address_is_tried_again(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(f"{bucket}/1.wav", tmp_path / "x.wav")
    monkeypatch.setattr("frametx.data.remote.PAUSE_SECONDS", 0.0)
    system_class, tries = type(fsspec.filesystem("memory")), []
    true_open = system_class.open

    def failing_twice(self, *args, **kwargs):
        tries.append(args)
        if len(tries) < 3:
            raise OSError("connection reset")
        return true_open(self, *args, **kwargs)

    folder = RemoteFolder(bucket, cache_dir=tmp_path / "c", limit_gb=1.0)
    (file,) = folder.scan()
    monkeypatch.setattr(system_class, "open", failing_twice)
    assert folder.local_path(file).stat().st_size == file.size
    assert len(tries) == 3
