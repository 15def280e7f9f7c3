"""What a library leaves out, and that it says so."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

from frametx.data import inspection
from frametx.data.decoded import decode, decode_excerpt
from frametx.data.files import SUFFIXES
from frametx.data.findings import KINDS
from frametx.data.left_out import COUNTED_AS, kind_of_rejection, left_out_line
from frametx.data.library import Library
from frametx.data.survey import FactsCache
from frametx.songs import AUDIO_SUFFIXES

RATE = 8_000


def tone(seconds: float = 0.5, level: float = 0.5) -> np.ndarray:
    return level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)


def write(path: Path | bytes, samples: np.ndarray, *, subtype: str = "FLOAT") -> None:
    with open(path, "wb") as file:  # noqa: PTH123 - a name may be no text
        soundfile.write(file, samples, RATE, format="WAV", subtype=subtype)


def opened(root: Path, **options) -> Library:
    return Library.open(root, role="vocals", cache_dir=root.parent / "cache", **options)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A library with one good file."""
    folder = tmp_path / "songs"
    folder.mkdir()
    write(folder / "good.wav", tone())
    return folder


def kinds(library: Library) -> dict[str, str]:
    return {file.name: kind_of_rejection(file.reason) for file in library.rejected}


@pytest.mark.parametrize(
    ("samples", "kind"),
    [
        (1e20 * tone(), "absurd"),
        (3e38 * tone(), "absurd"),
        (32_768 * tone(), "absurd"),  # integers that were written as floats
        (-2_000.0 * (np.arange(RATE) == 5), "absurd"),  # one sample, downwards
        (1e-40 * tone(), "silent"),  # denormal numbers
        (np.full(RATE, -0.25), "silent"),  # a DC offset and no sound
        (np.where(np.arange(RATE) == 7, np.inf, 0.1), "non_finite"),
        (np.where(np.arange(RATE) == 7, np.nan, 0.1), "non_finite"),
        (tone()[:3], "short"),
        (np.zeros(0), "empty"),
    ],
)
def test_what_is_no_sound_is_left_out_with_its_kind(
    root: Path, samples: np.ndarray, kind: str
) -> None:
    write(root / "bad.wav", samples)
    library = opened(root)
    assert [file.name for file in library.files] == ["good.wav"]
    assert kinds(library) == {"bad.wav": kind}
    assert kinds(opened(root)) == {"bad.wav": kind}  # from the index


@pytest.mark.parametrize(
    "samples",
    [
        100 * tone(),  # floats 34 dB over full scale
        np.concatenate((np.full(RATE, 0.25), tone())),  # an offset, and then sound
        np.full(RATE // 10, 0.5),  # a pulse
        4e-4 * tone(),
        tone(0.01),
    ],
)
def test_odd_sounds_are_kept(root: Path, samples: np.ndarray) -> None:
    write(root / "odd.wav", samples)
    library = opened(root)
    assert len(library.files) == 2
    assert library.rejected == ()


@pytest.mark.parametrize(
    ("name", "format", "subtype"),
    [
        ("a.aiff", "AIFF", "PCM_16"),
        ("b.AIF", "AIFF", "PCM_24"),
        ("c.opus", "OGG", "OPUS"),
        ("d.oga", "OGG", "VORBIS"),
        ("e.w64", "W64", "PCM_16"),
        ("f.rf64", "RF64", "FLOAT"),
        ("g.caf", "CAF", "PCM_16"),
        ("h.au", "AU", "PCM_16"),
    ],
)
def test_what_libsndfile_reads_is_read_and_excerpts_are_exact(
    root: Path, name: str, format: str, subtype: str
) -> None:
    soundfile.write(root / name, tone(2), RATE, format=format, subtype=subtype)
    files = {file.name: file for file in opened(root).files}
    file = files[name]
    assert file.num_samples == 2 * RATE
    whole = np.concatenate(list(decode(file, sample_rate=RATE, num_channels=1)))
    excerpt = decode_excerpt(file, 5_000, 9_000, sample_rate=RATE, num_channels=1)
    np.testing.assert_allclose(excerpt, whole[5_000:9_000], atol=1e-5)


def test_every_suffix_that_is_read_is_one_of_audio() -> None:
    assert set(SUFFIXES) < AUDIO_SUFFIXES
    assert COUNTED_AS.keys() <= KINDS.keys()


def test_other_formats_are_named_and_text_is_not(root: Path) -> None:
    for name in ("a.m4a", "b.WMA", "c.mp4", "deep/d.ape", ".e.m4a", "cover.jpg", "notes.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"content")
    library = opened(root)
    assert kinds(library) == dict.fromkeys(("a.m4a", "b.WMA", "c.mp4", "deep/d.ape"), "not_read")
    assert all("convert it to" in file.reason for file in library.rejected)
    assert kinds(opened(root, exclude=["*.m4a", "*.mp4"])).keys() == {"b.WMA", "deep/d.ape"}


def test_a_folder_of_nothing_but_other_formats_says_so(tmp_path: Path) -> None:
    (tmp_path / "songs").mkdir()
    (tmp_path / "songs" / "a.m4a").write_bytes(b"content")
    with pytest.raises(ValueError, match=r"none of the 1 files .* a\.m4a is \.m4a, which"):
        opened(tmp_path / "songs")


def test_a_link_to_nowhere_is_left_out_until_it_leads_somewhere(root: Path) -> None:
    (root / "link.wav").symlink_to(root.parent / "elsewhere.wav")
    assert "No such file" in opened(root).rejected[0].reason
    write(root.parent / "elsewhere.wav", tone())
    assert opened(root).rejected == ()


def test_a_file_that_libsndfile_would_read_in_part_is_left_out(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other decoders find more in it: excerpts would be silent behind what libsndfile finds."""
    read = inspection.read_blocks

    def read_twice(path: Path, *, block_samples: int):
        yield from read(path, block_samples=block_samples)
        yield from read(path, block_samples=block_samples)

    write(root / "long.wav", tone(2))
    monkeypatch.setattr(inspection, "read_blocks", read_twice)
    with pytest.raises(ValueError, match="its header tells of 16000 of its 32000 samples"):
        inspection.inspect(root / "long.wav")


def test_one_line_counts_what_is_left_out_and_names_some(root: Path) -> None:
    assert left_out_line("data.vocals", 1, opened(root).rejected) == []
    for number in range(3):
        (root / f"junk{number}.wav").write_text("junk")
    write(root / "loud\n.wav", 1e20 * tone())
    (root / "a.m4a").write_bytes(b"content")
    library = opened(root)
    (line,) = left_out_line("data.vocals", len(library.files), library.rejected)
    assert line == (
        "data.vocals: 6 files, 5 left out (3 unreadable, 1 too loud to be audio, 1 in formats that "
        "are not read): junk0.wav, junk1.wav, junk2.wav and 2 more; python -m frametx.check names "
        "all"
    )
    (line,) = left_out_line("v", 1, [file for file in library.rejected if "loud" in file.name])
    assert r"loud\n.wav" in line


STRANGE = [b"caf\xe9.wav", b"\xff\xfe\x80.wav", b"a\nb.wav", b"\x1b[31m.wav", "\u202e.wav".encode()]


@pytest.mark.skipif(os.name != "posix", reason="names of any bytes")
@pytest.mark.parametrize("folder", [b".", b"f\xfclder"])
def test_a_name_of_any_bytes_stops_nothing(root: Path, folder: bytes) -> None:
    place = os.path.join(os.fsencode(root), folder)  # noqa: PTH118 - bytes
    os.makedirs(place, exist_ok=True)  # noqa: PTH103
    for name in STRANGE:
        write(os.path.join(place, name), tone())  # noqa: PTH118
    with open(os.path.join(place, b"b\xe4d.wav"), "wb") as file:  # noqa: PTH118, PTH123
        file.write(b"junk")
    first = opened(root)
    assert len(first.files) == 1 + len(STRANGE)
    assert len(first.rejected) == 1
    learnt: list[int] = []
    again = opened(root, progress=lambda done, _: learnt.append(done))
    assert again == first
    assert not learnt
    assert again.fingerprint == first.fingerprint
    assert sum(len(part.files) for part in again.split(0.5)) == len(first.files)
    for file in first.files:
        assert sum(map(len, decode(file, sample_rate=RATE, num_channels=1))) == RATE // 2
    left_out_line("v", 1, first.rejected)[0].encode()


def test_an_unusable_cache_names_the_key_that_moves_it(root: Path) -> None:
    (root.parent / "cache").write_text("a file where the folder should be")
    with pytest.raises(OSError, match=r"paths\.cache_dir=\.\.\."):
        opened(root)
    with pytest.raises(OSError, match=r"paths\.cache_dir=\.\.\."):
        FactsCache(root.parent / "cache" / "survey.sqlite")
