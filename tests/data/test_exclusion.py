from pathlib import Path

import numpy as np
import pytest
import soundfile

from frametx.data.exclusion import exclusions, list_line, read_list, write_list
from frametx.data.library import Library

ODD = [
    "/a/b c.wav",
    "/tab\there.wav",
    "/line\nbreak.wav",
    '"quoted".wav',
    "# no comment.wav",
    "/ä.wav",
]


def test_any_path_comes_back_from_a_list(tmp_path: Path) -> None:
    lines = ["# a comment", *(list_line(path, "a\nreason\tand more") for path in ODD), ""]
    write_list(tmp_path / "list.txt", lines)
    assert read_list(tmp_path / "list.txt") == ODD
    assert [path.name for path in tmp_path.iterdir()] == ["list.txt"]


def test_lists_and_patterns_may_stand_together(tmp_path: Path) -> None:
    write_list(tmp_path / "a.txt", [list_line("/x.wav", "why")])
    write_list(tmp_path / "b.txt", [list_line("/y.wav", "why")])
    patterns, paths = exclusions(["*live*", str(tmp_path / "a.txt"), str(tmp_path / "b.txt")])
    assert (patterns, paths) == (["*live*"], {"/x.wav", "/y.wav"})
    assert exclusions(str(tmp_path / "a.txt")) == ([], {"/x.wav"})
    assert exclusions("*live*") == (["*live*"], frozenset())
    assert exclusions([]) == ([], frozenset())


def test_a_missing_list_is_an_error_and_no_pattern(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"exclude=.*none\.txt cannot be read.*No such file"):
        exclusions([str(tmp_path / "none.txt")])
    (tmp_path / "bytes.txt").mkdir()
    with pytest.raises(ValueError, match=r"bytes\.txt cannot be read"):
        exclusions(str(tmp_path / "bytes.txt"))


def test_a_library_leaves_out_what_is_listed_and_only_that(tmp_path: Path) -> None:
    for name in ("a/x[1].wav", "b/x[1].wav", "b/x1.wav"):
        (tmp_path / "songs" / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "songs" / name, 0.1 * np.ones(800), 8_000)
    write_list(tmp_path / "e.txt", [list_line(tmp_path / "songs/b/x[1].wav", "clipped")])
    library = Library.open(
        tmp_path / "songs", role="v", cache_dir=tmp_path / "cache", exclude=str(tmp_path / "e.txt")
    )
    assert [file.name for file in library.files] == ["a/x[1].wav", "b/x1.wav"]
