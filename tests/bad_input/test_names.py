"""Names, lists, pipes and folders as a person's disk may hold them."""

import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import example, given, settings
from hypothesis import strategies as st

from frametx.config import one_line

PROFILE = settings.get_profile("bad_input")
NOBODY = 65_534


def tone(path: Path, length: int = 300) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = 0.3 * np.sin(np.arange(length) * 0.05)
    with path.open("wb") as file:  # libsndfile itself cannot open every name by its text
        sf.write(file, samples, 8_000, format="WAV", subtype="PCM_16")
    return path


# Whatever a file system takes: any bytes but a slash and a null.
STRANGE = [
    "\n",
    "\r",
    "\x1b[2J",
    "🎤",
    "👩‍🎤",
    "'",
    '"',
    "\\",
    "-",
    ".",
    " ",
    "~",
    ":smile:",
    "[b]",
    "{x}",
]
STRANGE += [
    "$HOME",
    "*",
    "?",
    "é",
    "e\u0301",
    "\u2028",
    "\u202e",
    "ß",
    "SS",
    "\udcff",
    "%s",
    "=",
    ",",
]
NAMES = st.one_of(
    st.lists(st.sampled_from(STRANGE), min_size=1, max_size=8).map("".join),
    st.binary(min_size=1, max_size=12).map(os.fsdecode),
    st.text(max_size=60),
).map(lambda name: name.replace("/", "_").replace("\0", "_").encode("utf-8", "surrogateescape"))


def decoded(name: bytes) -> str:
    return os.fsdecode(name[:240])


@st.composite
def folders(draw: st.DrawFn) -> list[str]:
    """Paths of songs below a folder; no two are the same."""
    name = NAMES.map(decoded).filter(lambda name: name.strip(".") and not name.startswith("."))
    parts = st.lists(name, min_size=0, max_size=1)
    found = {"/".join([*draw(parts), draw(name) + ".wav"]) for _ in range(draw(st.integers(1, 4)))}
    return sorted(found)


@settings(PROFILE, max_examples=100)
@given(names=folders())
@example(names=["A.wav", "a.wav", "e\u0301.wav", "\u00e9.wav", "SS/x.wav", "ß/x.wav"])
@example(names=["x" * 250 + ".wav", "x" * 249 + "y.wav", "🎤" * 60 + ".wav"])
@example(names=["-rf.wav", "a. .wav", "a..wav", "a .wav", " .wav", "~root.wav", "~.wav"])
@example(names=["bad\udcff.wav", "bad\udcfe.wav", "line\nbreak.wav"])
def test_a_song_is_separated_whatever_it_is_called(separated: Any, names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        songs = {tone(Path(folder) / "songs" / name) for name in names}
        bad = Path(folder) / "songs" / f"{Path(names[0]).name[:100]}-bad.wav"
        bad.write_text("la la la")
        outcome = separated(Path(folder) / "songs", Path(folder) / "out")
        outcome.check(sorted({*songs, bad}))
        failed = [file.input for file in outcome.report.files if file.status != "done"]
        assert failed == [str(bad)]
        outcome.check_samples()


def test_a_file_of_any_name_is_an_input_of_its_own(separated: Any, tmp_path: Path) -> None:
    for number, name in enumerate(
        ["~nobody.wav", "-x.wav", "bad\udcff", "a\nb.wav", "..wav", "x. "]
    ):
        song = tone(tmp_path / "songs" / name)
        outcome = separated(song, tmp_path / f"out{number}")
        outcome.check([song])
        assert outcome.report.exit_code == 0


def test_what_is_no_file_is_left_out_and_nothing_waits_for_it(
    separated: Any, tmp_path: Path
) -> None:
    songs = tmp_path / "songs"
    good = tone(songs / "good.wav")
    (songs / "folder.wav").mkdir()
    inside = tone(songs / "folder.wav" / "inside.wav")
    os.mkfifo(songs / "pipe.wav")
    (songs / "loop.wav").symlink_to("loop.wav")
    (songs / "dangling.wav").symlink_to("nowhere.wav")
    (songs / "around").symlink_to(".")
    (songs / "pipe-link.wav").symlink_to("pipe.wav")
    outcome = separated(songs, tmp_path / "out")
    outcome.check([inside, good])
    assert outcome.report.exit_code == 0
    for name in ("pipe.wav", "loop.wav", "dangling.wav"):
        with pytest.raises(ValueError, match="names no audio file"):
            separated(songs / name, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", ["file", "dangling", "loop"])
def test_an_output_that_is_no_folder_is_refused_at_once(
    separated: Any, tmp_path: Path, kind: str
) -> None:
    song, output = tone(tmp_path / "x.wav"), tmp_path / "out"
    if kind == "file":
        output.write_text("mine")
    else:
        output.symlink_to("out" if kind == "loop" else "nowhere")
    with pytest.raises(ValueError, match="is no folder: choose another"):
        separated(song, output)
    assert {path.name for path in tmp_path.iterdir()} == {"x.wav", "out"}


@contextmanager
def unprivileged() -> Iterator[Path]:
    """A folder of somebody to whom permissions apply, which they do not to root."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder)
        was = os.geteuid()
        if was == 0:
            os.chown(path, NOBODY, -1)
            os.seteuid(NOBODY)
        try:
            yield path
        finally:
            for below in [path, *path.rglob("*")]:
                below.chmod(0o700)
            os.seteuid(was)


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_what_may_not_be_read_is_one_failure(separated: Any) -> None:
    with unprivileged() as folder:
        songs = folder / "songs"
        paths = [tone(songs / name) for name in ("a.wav", "b.m4a", "c.wav")]
        for path in paths[:2]:
            path.chmod(0)
        outcome = separated(songs, folder / "out")
        outcome.check(paths)
        files = outcome.report.files
        assert [file.status for file in files] == ["failed", "failed", "done"]
        assert [file.reason for file in files[:2]] == ["Permission denied"] * 2


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_what_may_not_be_written_is_told_for_every_song(separated: Any) -> None:
    with unprivileged() as folder:
        songs = [tone(folder / "songs" / name) for name in ("a.wav", "b.wav")]
        output = folder / "out"
        (output / "b").mkdir(parents=True)
        (output / "b").chmod(0o500)
        outcome = separated(folder / "songs", output)
        outcome_files = outcome.report.files
        assert [file.status for file in outcome_files] == ["done", "failed"]
        assert outcome_files[1].reason == f"{output / 'b' / 'vocals.wav'}: Permission denied"
        assert songs[1].is_file()


ALBUM_VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.floats(),
        st.text(max_size=9),
        st.sampled_from(
            ["a.wav", "b.wav", "nowhere.wav", "~x", "~/x", "\0", "\ud800", ".", "..", ""]
        ),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["convert", "copy", "output", "x"]), inner, max_size=3),
    ),
    max_leaves=6,
)
ALBUMS = st.one_of(
    st.fixed_dictionaries(
        {"convert": ALBUM_VALUES}, optional={"copy": ALBUM_VALUES, "output": ALBUM_VALUES}
    ).map(lambda album: json.dumps(album).encode()),
    ALBUM_VALUES.map(lambda album: json.dumps(album).encode()),
    st.binary(max_size=40),
    st.sampled_from([b"[" * 100_000, b"9" * 5_000, b'{"convert": ["a.wav"]', b"\xff\xfe[\0]\0"]),
)


@settings(PROFILE, max_examples=100)
@given(content=ALBUMS)
@example(content=b'{"convert": ["a.wav"], "copy": ["b.wav"], "output": "\\u0000"}')
@example(content=b'{"convert": ["a.wav", "a.wav"]}')
@example(content=b'{"convert": ["a.wav"], "copy": ["b.wav"]}')
def test_an_album_of_anything_is_done_or_refused_in_one_line(
    separated: Any, content: bytes
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        songs = [tone(Path(folder) / name) for name in ("a.wav", "b.wav")]
        album = Path(folder) / "album.json"
        album.write_bytes(content)
        refused, outcome = "", None
        try:
            outcome = separated(album, Path(folder) / "out")
        except (ValueError, OSError) as error:
            refused = one_line(error)
        if outcome is None:
            assert str(album) in refused
            assert {*Path(folder).iterdir()} == {*songs, album}
        else:
            assert outcome.report.exit_code == 0
            outcome.check([Path(file.input) for file in outcome.report.files])


@settings(PROFILE, max_examples=50)
@given(content=st.one_of(st.binary(max_size=300), st.binary(max_size=60).map(b"RIFF".__add__)))
@example(content=b"")
@example(content=b"\xff\xfb\x90" + bytes(1_000))
def test_what_comes_in_by_a_pipe_is_refused_in_one_line(separated: Any, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
        output = Path(folder) / "out"
        if not content:
            with pytest.raises(ValueError, match="nothing came in"):
                separated("-", output)
            assert not output.exists()
            return
        outcome = separated("-", output)
        outcome.check([Path(file.input) for file in outcome.report.files])
        assert [file.status for file in outcome.report.files] == ["failed"]


def test_a_closed_standard_input_is_refused(
    separated: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input is closed"):
        separated("-", tmp_path / "out")
