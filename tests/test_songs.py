from pathlib import Path

import pytest

from frametx.songs import Song, find_songs, plan


def tree(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(wanted: Path | str, output: Path) -> list[str]:
    return [str(song.below) for song in find_songs(str(wanted), output)]


def test_a_folder_is_searched_to_the_bottom_for_audio_only(tmp_path: Path) -> None:
    songs = tree(
        tmp_path / "songs", "b.flac", "a/x.WAV", "a/cover.jpg", ".hidden/y.wav", "._b.flac"
    )
    assert found(songs, tmp_path / "out") == ["a/x.WAV", "b.flac"]


def test_a_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    tree(tmp_path, "take [7].raw")
    assert found(tmp_path / "take [7].raw", tmp_path / "out") == ["take [7].raw"]


def test_a_glob_keeps_the_tree_below_its_fixed_part(tmp_path: Path) -> None:
    tree(tmp_path, "a/01.mp3", "a/02.mp3", "b/01.mp3", "b/01.flac", "c/d/01.mp3", "notes/01.txt")
    assert found(tmp_path / "*/01.mp3", tmp_path / "out") == ["a/01.mp3", "b/01.mp3"]
    assert found(tmp_path / "a/0[2-9]*", tmp_path / "out") == ["02.mp3"]
    assert found(tmp_path / "**/01.mp3", tmp_path / "out") == ["a/01.mp3", "b/01.mp3", "c/d/01.mp3"]


def test_a_glob_that_names_folders_takes_what_is_in_them(tmp_path: Path) -> None:
    tree(tmp_path, "live 1/a.wav", "live 2/b.wav", "studio/c.wav")
    assert found(tmp_path / "live*", tmp_path / "out") == ["live 1/a.wav", "live 2/b.wav"]


def test_a_relative_glob_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, "a.wav", "b.wav")
    monkeypatch.chdir(tmp_path)
    assert found("*.wav", Path("out")) == ["a.wav", "b.wav"]


def test_stems_of_an_earlier_run_inside_the_input_are_no_songs(tmp_path: Path) -> None:
    tree(tmp_path, "a.wav", "separated/a/vocals.wav")
    assert found(tmp_path, tmp_path / "separated") == ["a.wav"]
    assert found(tmp_path / "**/*.wav", tmp_path / "separated") == ["a.wav"]


def test_an_input_below_the_output_is_separated(tmp_path: Path) -> None:
    tree(tmp_path, "songs/a.wav")
    assert found(tmp_path / "songs", tmp_path) == ["a.wav"]


def test_the_input_cannot_be_the_output(tmp_path: Path) -> None:
    tree(tmp_path, "a.wav")
    with pytest.raises(ValueError, match="choose another"):
        find_songs(str(tmp_path), tmp_path / "x" / "..")


@pytest.mark.parametrize("wanted", ["nowhere.wav", "nowhere/*.wav", "", "empty"])
def test_an_input_without_songs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: str
) -> None:
    tree(tmp_path, "empty/cover.jpg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="names no audio file"):
        find_songs(wanted, Path("out"))


def test_every_song_has_a_folder_of_its_own() -> None:
    names = ["a/b.wav", "a/c.flac", "a/c.wav", "C.mp3", "c.mp3.wav"]
    jobs = plan([Song(Path("in") / name, Path(name)) for name in names], Path("out"))
    folders = [str(job.folder) for job in jobs]
    assert folders == ["out/a/b", "out/a/c.flac", "out/a/c.wav", "out/C", "out/c.mp3"]


def test_a_dot_in_a_name_is_no_suffix() -> None:
    (job,) = plan([Song(Path("01. Intro.flac"), Path("01. Intro.flac"))], Path("out"))
    assert job.folder == Path("out/01. Intro")


def test_songs_that_cannot_be_told_apart_are_refused() -> None:
    songs = [Song(Path(folder) / "x.wav", Path("x.wav")) for folder in ("a", "b")]
    with pytest.raises(ValueError, match=r"a/x\.wav and b/x\.wav would both go to out/x\.wav"):
        plan(songs, Path("out"))
