import io
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from frametx.songs import (
    FIELDS,
    STEM,
    Job,
    Song,
    find_songs,
    plan,
    read_album,
    refuse_what_is_no_song,
    spool,
)


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


def test_the_sound_of_videos_is_found_in_folders(tmp_path: Path) -> None:
    songs = tree(tmp_path / "songs", "a.mp4", "b.MKV", "c.webm", "d.mov", "e.avi", "f.wma", "g.txt")
    names = ["a.mp4", "b.MKV", "c.webm", "d.mov", "e.avi", "f.wma"]
    assert found(songs, tmp_path / "out") == names


def test_programs_and_device_trees_are_no_songs(tmp_path: Path) -> None:
    tree(tmp_path, "program.ts", "board.dts")
    packet = b"G" + bytes(187)
    (tmp_path / "broadcast.ts").write_bytes(3 * packet)
    (tmp_path / "surround.dts").write_bytes(b"\x7f\xfe\x80\x01" + bytes(99))
    assert found(tmp_path, tmp_path / "out") == ["broadcast.ts", "surround.dts"]


def test_links_that_lead_in_a_circle_do_no_harm(tmp_path: Path) -> None:
    songs = tree(tmp_path / "songs", "a/x.wav")
    (songs / "a" / "up").symlink_to(songs)
    (songs / "self.wav").symlink_to(songs / "self.wav")
    (songs / "gone.wav").symlink_to(songs / "nowhere.wav")
    (songs / "there.wav").symlink_to(songs / "a" / "x.wav")
    for wanted in (songs, tmp_path / "son*", f"{songs}/**/*.wav"):
        assert [Path(name).name for name in found(wanted, tmp_path / "out")] in (
            ["x.wav", "there.wav"],
            ["there.wav", "x.wav"],
        )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    songs = tree(tmp_path / "songs", "a.wav", "locked/b.wav", "half/c.wav")
    (songs / "locked").chmod(0o000)
    (songs / "half").chmod(0o400)
    try:
        assert found(songs, tmp_path / "out") == ["a.wav"]
    finally:
        (songs / "locked").chmod(0o700)
        (songs / "half").chmod(0o700)


TAGS = {
    "artist": "AC/DC",
    "title": "What? \\ Why: <this>",
    "album": "..",
    "tracknumber": "3/12",
}


def job(name: str, tags: Mapping[str, str] = TAGS, below: str = "live/01. Intro.flac") -> Job:
    song = Song(Path("in") / below, Path(below))
    (made,) = plan([song], Path("out"), name=name, model="voxaug", tags_of=lambda _: tags)
    return made


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("{folder}/{song}/{stem}", "out/live/01. Intro/vocals"),
        ("{stem}/{folder}/{song}", "out/vocals/live/01. Intro"),
        ("{song} ({stem}, {model})", "out/01. Intro (vocals, voxaug)"),
        ("{artist}/{album}/{track} {title}_{stem}", "out/AC_DC/_/03 What_ _ Why_ _this__vocals"),
        ("{song}/{song}/x/{stem}", "out/01. Intro/01. Intro/x/vocals"),
    ],
)
def test_a_name_is_filled_in_from_song_model_and_tags(name: str, expected: str) -> None:
    made = job(name)
    assert str(made.path("vocals")) == expected
    assert made.folder in made.path("vocals").parents
    assert made.folder in made.path("drums").parents


def test_what_tags_do_not_say_is_unknown() -> None:
    made = job("{artist}/{album}/{track} {title}/{stem}", {})
    expected = "out/unknown artist/unknown album/00 01. Intro/vocals"
    assert str(made.path("vocals")) == expected


def test_tags_are_read_only_where_they_are_asked_for() -> None:
    def refuse(path: Path) -> Mapping[str, str]:
        raise AssertionError(path)

    (made,) = plan([Song(Path("a.wav"), Path("a.wav"))], Path("out"), tags_of=refuse)
    assert made == Job(Path("a.wav"), Path("out/a"))
    assert made.path("vocals") == Path("out/a/vocals")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("{song}/{stam}", "unknown field: its fields are {folder}, {song}, {stem}"),
        ("{song}/{stem:>9}", "unknown field"),
        ("{song}/{stem!r}", "unknown field"),
        ("{}/{stem}", "unknown field"),
        ("{song}/{stem", "expected '}'"),
        ("{song}", "must hold {stem}"),
        ("", "must hold {stem}"),
        ("../{song}/{stem}", "leads out of the output"),
        ("{song}/../../{stem}", "leads out of the output"),
        ("/tmp/{song}/{stem}", "leads out of the output"),
        ("~/{song}/{stem}", "leads out of the output"),
        ("{song}: {stem}", "holds ':', which no file name should"),
        ("{song}\n{stem}", r"holds '\\n', which"),
    ],
)
def test_a_name_that_can_never_do_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        job(name)


def test_names_that_make_two_songs_one_are_refused() -> None:
    songs = [Song(Path(f"in/{n}.wav"), Path(f"{n}.wav")) for n in "ab"]
    with pytest.raises(ValueError, match=r"in/a\.wav and in/b\.wav would both go to out/X \{stem"):
        plan(songs, Path("out"), name="{title} {stem}", tags_of=lambda _: {"title": "X"})
    both = plan(songs, Path("out"), name="{song} {stem}", tags_of=lambda _: {"title": "X"})
    assert [str(each.path("bass")) for each in both] == ["out/a bass", "out/b bass"]


@pytest.mark.parametrize(
    "titles",
    [(".", ".."), ("", " . ", "..."), ("a/b", "a:b"), ("x", "x\u200b", "\u202ex"), ("?", "*")],
)
def test_songs_whose_tags_differ_in_what_no_name_may_hold_stay_apart(titles: list[str]) -> None:
    songs = [Song(Path(f"in/{n}.wav"), Path(f"{n}.wav")) for n in range(len(titles))]
    for name in ("{title}/{stem}", "{artist} {title} ({stem})", "{song} {title}/{stem}"):
        jobs = plan(
            songs,
            Path("out"),
            name=name,
            tags_of=lambda path: {"title": titles[int(path.stem)], "artist": "A"},
        )
        paths = {str(each.path("vocals")) for each in jobs}
        assert len(paths) == len(titles)
        assert all(path.startswith("out/") and ".." not in path.split("/") for path in paths)


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("evil\u202efdp.exe", "evilfdp.exe"),
        ("a\u200bb\u2060c\ufeffd\u00ade", "abcde"),
        ("\u2066left\u2069 \u200fright\u200e", "left right"),
        ("two\u2028lines\x85x", "two lines x"),
        ("a\x1b[2Jb", "a_[2Jb"),
        ("half \ud800 a pair \udcff", "half _ a pair _"),
        ("x\u200dy", "xy"),
        ("\u3164", "_"),
        ("👩\u200d🎤", "👩\u200d🎤"),
        ("\u0645\u06cc\u200c\u062e", "\u0645\u06cc\u200c\u062e"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("com1 .x", "_com1 .x"),
        ("lpt²", "_lpt²"),
        ("CONOUT$", "_CONOUT$"),
        ("Concert", "Concert"),
        ("dots...", "dots"),
        ("..\\..\\x", "_.._x"),
    ],
)
def test_a_name_out_of_tags_can_be_seen_and_is_one_on_every_system(
    title: str, expected: str
) -> None:
    made = job("{title}/{stem}", {"title": title})
    assert made.path("vocals") == Path("out") / expected / "vocals"


@pytest.mark.parametrize("is_dangling", [False, True])
def test_no_stem_goes_where_a_link_in_the_output_leads_out(
    tmp_path: Path, is_dangling: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    if not is_dangling:
        elsewhere.mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/live").symlink_to(elsewhere)
    song = Song(Path("live/x.wav"), Path("live/x.wav"))
    (made,) = plan([song], tmp_path / "out")
    with pytest.raises(ValueError, match=r"outside of output=.*out, where a link leads"):
        made.path("vocals")
    (tmp_path / "link").symlink_to(tmp_path / "out")  # the output itself may be one
    (made,) = plan([Song(Path("x.wav"), Path("x.wav"))], tmp_path / "link")
    assert made.path("vocals") == tmp_path / "link/x/vocals"


def test_a_name_too_long_for_a_disk_is_shortened_and_stays_apart(tmp_path: Path) -> None:
    long = "ü" * 300
    song = Song(Path("a.wav"), Path("a.wav"))
    paths: list[Path] = []
    for title in (long, f"{long}!"):
        (made,) = plan(
            [song],
            tmp_path,
            name="{artist}/{title} {stem}",
            tags_of=lambda _, t=title: {"title": t, "artist": t},
        )
        for stem in ("vocals", "drums"):
            path = made.path(stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(f"{path.name}.flac").touch()
            assert len(os.fsencode(path.name)) <= 245
            assert "\ufffd" not in path.name
            paths.append(path)
    assert len({str(path) for path in paths}) == 4


def test_a_short_name_is_left_as_it_is() -> None:
    exact = "x" * 245
    assert Job(Path("a"), Path("out")).path(exact).name == exact
    assert Job(Path("a"), Path("out")).path(f"{exact}y").name != f"{exact}y"


@hypothesis_settings(max_examples=150, deadline=None)
@given(
    values=st.fixed_dictionaries(
        {name: st.text(max_size=300) for name in ("artist", "title", "album", "tracknumber")}
    ),
    stem=st.text(min_size=1, max_size=20),
)
def test_whatever_tags_say_the_stems_stay_below_the_output(
    values: dict[str, str], stem: str
) -> None:
    made = job("{artist}/{album}/{track} - {title}/{stem}", values)
    path = made.path(stem)
    parts = path.relative_to("out").parts
    assert len(parts) == 4
    assert not {".", ".."} & set(parts)
    assert not any(char in part for part in parts for char in '\0<>:"\\|?*\n')
    assert all(len(part.encode("utf-8", "surrogateescape")) <= 255 for part in parts)


def album(tmp_path: Path, content: object) -> Path:
    tree(tmp_path, "a.flac", "cd 2/b.flac", "c.mp3")
    path = tmp_path / "album.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_album_lists_what_to_separate_and_what_to_copy(tmp_path: Path) -> None:
    content = {"output": "done", "convert": ["a.flac", "cd 2/b.flac"], "copy": ["c.mp3"]}
    read = read_album(album(tmp_path, content))
    assert read.output == tmp_path / "done"
    assert [str(song.below) for song in read.songs] == ["a.flac", "cd 2/b.flac", "c.mp3"]
    jobs = plan(read.songs, Path("out"))
    assert [(each.is_stem, each.stem) for each in jobs] == [*[(False, None)] * 2, (True, None)]
    assert [str(each.folder) for each in jobs] == ["out/a", "out/cd 2/b", "out/c"]
    assert all(each.source.is_file() for each in jobs)


def test_an_album_says_of_which_stem_a_song_is(tmp_path: Path) -> None:
    content = {"convert": ["a.flac"], "copy": {"drums": ["c.mp3"], "bass": ["cd 2/b.flac"]}}
    read = read_album(album(tmp_path, content))
    jobs = plan(read.songs, Path("out"))
    assert [(each.is_stem, each.stem) for each in jobs] == [
        *((False, None), (True, "drums"), (True, "bass"))
    ]
    with pytest.raises(ValueError, match=r"names c\.mp3 twice"):
        read_album(album(tmp_path, {"copy": {"drums": ["c.mp3"], "bass": ["c.mp3"]}}))
    for wrong in ({"drums": "c.mp3"}, "c.mp3", {"drums": [3]}):
        with pytest.raises(ValueError, match="copy must be a list of file names or of such lists"):
            read_album(album(tmp_path, {"copy": wrong}))


def test_an_album_names_files_of_its_folder_in_any_way(tmp_path: Path) -> None:
    path = album(tmp_path / "lists", {"convert": [str(tmp_path / "lists/a.flac")]})
    assert [str(song.below) for song in read_album(path).songs] == ["a.flac"]
    (tmp_path / "link").symlink_to(tmp_path / "lists")
    path.write_text(json.dumps({"convert": ["../lists/a.flac", "cd 2/../c.mp3"]}))
    for way in (path, tmp_path / "link" / "album.json"):
        read = read_album(way)
        assert [str(song.below) for song in read.songs] == ["a.flac", "c.mp3"]
        assert read.output is None


@pytest.mark.parametrize("key", ["convert", "copy"])
@pytest.mark.parametrize(
    "name", ["{outside}", "../x.wav", "cd 2/../../x.wav", "link.wav", "linked/x.wav", "/etc/passwd"]
)
def test_an_album_takes_no_file_from_outside_its_folder(
    tmp_path: Path, key: str, name: str
) -> None:
    outside = tree(tmp_path, "x.wav") / "x.wav"
    path = album(tmp_path / "lists", {key: [name.format(outside=outside)]})
    (tmp_path / "lists/link.wav").symlink_to(outside)
    (tmp_path / "lists/linked").symlink_to(tmp_path)
    with pytest.raises(
        ValueError, match=rf"album\.json: {key} names .*not in the folder"
    ) as caught:
        read_album(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "output", ["/abs", "../up", "a/../../up", "~", "~/x", "C:\\x", "C:x", "\\x", "..\\x", "link/x"]
)
def test_an_album_writes_nowhere_but_below_its_folder(tmp_path: Path, output: str) -> None:
    path = album(tmp_path / "lists", {"convert": ["a.flac"], "output": output})
    (tmp_path / "lists/link").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="must be a folder below that of the list; for another"):
        read_album(path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.m3u", b"a.flac\n", "is a playlist: give the files that it lists"),
        ("x.m3u8", "\ufeff#EXTM3U\nä.flac\n".encode(), "is a playlist"),
        ("list", b"#EXTM3U\na.flac\n", "is a playlist"),
        ("x.pls", b"[playlist]\nFile1=a.mp3\n", "is a playlist"),
        ("x.xspf", b"<?xml version='1.0'?><playlist/>", "is a playlist"),
        ("x.cue", b'FILE "a.flac" WAVE\n', "is a cue sheet: give the audio file that it names"),
        ("x.CUE", '\ufeffFILE "a.flac" WAVE'.encode("utf-16-le"), "is a cue sheet"),
        ("x.zip", b"PK\x03\x04" + bytes(99), "is an archive: unpack it"),
        ("song.wav", b"PK\x03\x04" + bytes(99), "is an archive"),
        ("x.rar", b"Rar!\x1a\x07\x01" + bytes(99), "is an archive"),
        ("x.7z", b"7z\xbc\xaf\x27\x1c" + bytes(99), "is an archive"),
        ("x.tar.gz", b"\x1f\x8b\x08" + bytes(99), "is an archive"),
        ("x.tar", bytes(257) + b"ustar" + bytes(99), "is an archive"),
        ("x.pdf", b"%PDF-1.7", "is a PDF, no sound"),
        ("cover.jpg", b"\xff\xd8\xff\xe0" + bytes(99), "is a picture, no sound"),
        ("notes.txt", b"la la la", "is a text, no sound"),
    ],
)
def test_what_is_known_to_be_no_song_names_the_way_out(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=said) as caught:
        find_songs(str(tmp_path / name), tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / name}: is ")
    assert "\n" not in str(caught.value)


def test_an_archive_by_its_name_alone_is_one_only_if_nothing_can_read_it(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(bytes(99))
    assert found(tmp_path / "x.zip", tmp_path / "out") == ["x.zip"]
    with pytest.raises(ValueError, match="is an archive"):
        refuse_what_is_no_song(tmp_path / "x.zip", is_unreadable=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON: Expecting property name"),
        ("[]", "must hold"),
        ({"convert": ["a.flac"], "covert": []}, "convert and copy, but not covert"),
        ({"convert": "a.flac"}, "convert must be a list of file names"),
        ({"copy": [3]}, "copy must be a list of file names"),
        ({"convert": ["z.flac"]}, r"convert names z\.flac, and there is no file"),
        ({"convert": ["cd 2"]}, "convert names cd 2, and there is no file"),
        ({"convert": ["a.flac"], "copy": ["cd 2/../a.flac"]}, "names cd 2/../a.flac twice"),
        ({"output": 3, "convert": ["a.flac"]}, r"output \(3\) must be the name of a folder"),
        ({"output": "x"}, "names no song"),
        ('{"convert": ["\xff"]}', "is not JSON|there is no file"),
    ],
)
def test_a_bad_album_is_refused_in_one_line(tmp_path: Path, content: object, message: str) -> None:
    path = album(tmp_path, content)
    with pytest.raises(ValueError, match=message) as caught:
        read_album(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_what_comes_in_by_a_pipe_is_a_file_for_a_while() -> None:
    content = b"fLaC" + bytes(3_000_000)
    with spool(io.BytesIO(content)) as path:
        assert path.name == "stdin"
        assert path.read_bytes() == content
        (song,) = find_songs(str(path), Path("out"))
        (made,) = plan([song], Path("out"))
        assert made.path("vocals") == Path("out/stdin/vocals")
    assert not path.parent.exists()


def test_an_empty_pipe_is_refused() -> None:
    with pytest.raises(ValueError, match="input=-: nothing came in"), spool(io.BytesIO()):
        pass


def test_a_failure_takes_the_spooled_file_away() -> None:
    folders: list[Path] = []

    def fail_inside() -> None:
        with spool(io.BytesIO(b"fLaC")) as path:
            folders.append(path.parent)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_inside()
    assert not folders[0].exists()


def test_every_field_is_one_that_a_name_may_have() -> None:
    made = job("/".join(f"{{{field}}}" for field in FIELDS if field != "stem") + "/{stem}")
    assert STEM not in str(made.path("vocals"))
    assert made.path("vocals").name == "vocals"
