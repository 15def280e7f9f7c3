from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from frametx.data.drawn_mixtures import DrawnMixtures
from frametx.data.library import Library
from frametx.data.synthetic import write_synthetic_libraries, write_synthetic_tracks
from frametx.data.track_files import listing_tracks
from frametx.data.tracks import Tracks

RATE = 8_000
STEMS = ("vocals", "instrumental")
MUSDB = ("vocals", "drums", "bass", "other", "mixture")


def write(path: Path, value: float, *, length: int = 100, channels: int = 2, rate: int = RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full((length, channels), value), rate, subtype="FLOAT")


def test_stems_are_read_in_the_asked_order(tmp_path: Path) -> None:
    write_synthetic_tracks(tmp_path, seconds=0.5, num_tracks=2, sample_rate=RATE, seed=0)
    tracks = Tracks(tmp_path, stems=STEMS)
    assert [track.name for track in tracks] == ["track_000", "track_001"]
    assert tracks[0].stems.shape == (2, 2, RATE // 2)
    assert tracks[0].sample_rate == RATE
    truth, _ = soundfile.read(tmp_path / "track_000" / "vocals.wav", dtype="float32")
    np.testing.assert_array_equal(tracks[0].stems[0], truth.T)
    turned = Tracks(tmp_path, stems=("instrumental", "vocals"))
    assert torch.equal(turned[1].stems, tracks[1].stems.flip(0))


def test_a_missing_instrumental_is_the_sum_of_the_other_stems(tmp_path: Path) -> None:
    for value, stem in enumerate(MUSDB):
        write(tmp_path / "song" / f"{stem}.wav", 2.0**-value)
    (track,) = Tracks(tmp_path, stems=STEMS)
    assert (track.stems[0] == 1.0).all()
    assert (track.stems[1] == 0.5 + 0.25 + 0.125).all()
    (track,) = Tracks(tmp_path, stems=("vocals", "drums", "bass", "other"))
    assert track.stems[:, 0, 0].tolist() == [1.0, 0.5, 0.25, 0.125]


def test_training_tracks_are_scored_only_when_named(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for stem in MUSDB:
            write(tmp_path / part / f"A Song Of {part}" / f"{stem}.wav", 0.1)
    assert [t.name for t in Tracks(tmp_path, stems=STEMS)] == ["test/A Song Of test"]
    assert [t.name for t in Tracks(tmp_path / "train", stems=STEMS)] == ["A Song Of train"]


def test_one_track_may_be_given_by_itself(tmp_path: Path) -> None:
    for stem in STEMS:
        write(tmp_path / "Song" / f"{stem}.wav", 0.1)
    assert [track.name for track in Tracks(tmp_path / "Song", stems=STEMS)] == ["Song"]


def write_song(root: Path, name: str, **change: int) -> None:
    """A song whose instrumental differs from its vocals by `change`."""
    write(root / name / "vocals.wav", 0.1, length=4_000)
    write(root / name / "instrumental.wav", 0.2, **({"length": 4_000} | change))


@pytest.mark.parametrize("length", [3_999, 4_001, 3_200])
def test_stems_that_differ_by_less_than_the_tolerance_are_padded(
    tmp_path: Path, length: int
) -> None:
    write_song(tmp_path, "good")
    write_song(tmp_path, "odd", length=length)
    tracks = Tracks(tmp_path, stems=STEMS)
    good, odd = tracks
    assert good.stems.shape == (2, 2, 4_000)
    assert odd.stems.shape == (2, 2, max(length, 4_000))
    assert (odd.stems[1, :, :length] == 0.2).all()
    assert (odd.stems[1, :, length:] == 0).all()
    assert (odd.stems[0, :, :4_000] == 0.1).all()
    (note,) = tracks.notes
    assert note.startswith(f"1 track(s) made to fit: odd: stems differ by {abs(length - 4_000)} ")


def test_a_mono_stem_among_stereo_ones_is_copied(tmp_path: Path) -> None:
    write_song(tmp_path, "odd", channels=1)
    tracks = Tracks(tmp_path, stems=STEMS)
    assert tracks[0].stems.shape == (2, 2, 4_000)
    assert (tracks[0].stems[1] == 0.2).all()
    assert "instrumental.wav: mono, copied to 2 channels" in tracks.notes[0]


@pytest.mark.parametrize("rate", [16_000, 11_025, 44_100])
def test_a_stem_at_another_rate_is_resampled_and_stays_in_its_place(
    tmp_path: Path, rate: int
) -> None:
    for stem, own in (("vocals", RATE), ("drums", RATE), ("other", rate)):
        tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(own) / own)
        (tmp_path / "song").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "song" / f"{stem}.wav", tone, own, subtype="FLOAT")
    tracks = Tracks(tmp_path, stems=("vocals", "drums", "other"))
    (track,) = tracks
    assert track.sample_rate == RATE
    assert track.stems.shape == (3, 1, RATE)
    torch.testing.assert_close(
        track.stems[2, 0, 400:-400], track.stems[0, 0, 400:-400], atol=2e-3, rtol=0
    )
    assert f"other.wav has {rate} Hz: resampled to {RATE} Hz" in tracks.notes[0]


def test_all_songs_that_cannot_be_used_are_named_at_once_with_the_options_that_take_them(
    tmp_path: Path,
) -> None:
    write_song(tmp_path, "good")
    write_song(tmp_path, "long", length=12_345)
    write_song(tmp_path, "longer", length=16_000)
    write(tmp_path / "lone" / "vocals.wav", 0.1)
    (tmp_path / "junk").mkdir()
    (tmp_path / "junk" / "vocals.wav").write_text("no audio")
    with pytest.raises(ValueError, match="4 of 5 track") as refused:
        Tracks(tmp_path, stems=STEMS)
    told = str(refused.value)
    for text in (
        *("track long:", "12345 samples", "track longer:", "track lone: has no instrumental"),
        *("track junk: vocals.wav: is not audio", "data.missing_stem=silent"),
    ):
        assert text in told
    assert "track good" not in told
    assert "data.length_tolerance_seconds=1.5 " in told  # the one that takes all
    assert "\n" not in told
    with listing_tracks() as listed:
        assert Tracks(tmp_path, stems=STEMS).names == ["good"]
    assert {(one.name, one.kind) for one in listed} == {
        *(("long", "not_aligned"), ("longer", "not_aligned")),
        *(("lone", "missing_stem"), ("junk", "unreadable")),
    }
    (tmp_path / "junk" / "vocals.wav").unlink()
    tracks = Tracks(tmp_path, stems=STEMS, length_tolerance_seconds=1.5, missing_stem="silent")
    assert len(tracks) == 4


def test_many_bad_songs_are_counted(tmp_path: Path) -> None:
    for number in range(30):
        write(tmp_path / f"{number:02d}" / "vocals.wav", 0.1)
    with pytest.raises(ValueError, match=r"30 of 30 track.*track 19.*; 10 more \(.*check"):
        Tracks(tmp_path, stems=STEMS)


def test_a_missing_stem_that_is_accepted_is_silence_and_marked(tmp_path: Path) -> None:
    for stem in ("vocals", "drums"):
        write(tmp_path / "song" / f"{stem}.wav", 0.1)
    tracks = Tracks(tmp_path, stems=("bass", "vocals", "drums"), missing_stem="silent")
    (track,) = tracks
    assert track.missing == {0}
    assert (track.stems[0] == 0).all()
    assert track.stems.shape == (3, 2, 100)
    assert "has no bass: silence without a score" in tracks.notes[0]


def test_a_stem_in_a_format_that_is_not_read_is_not_taken_for_a_missing_one(
    tmp_path: Path,
) -> None:
    write(tmp_path / "song" / "vocals.wav", 0.1)
    (tmp_path / "song" / "bass.m4a").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"track song: bass\.m4a is in a format"):
        Tracks(tmp_path, stems=("vocals", "bass"), missing_stem="silent")
    (tmp_path / "song" / "drums.wav").write_bytes((tmp_path / "song" / "vocals.wav").read_bytes())
    assert "bass.m4a in formats that are not read" in Tracks(tmp_path, stems=STEMS).notes[0]
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "vocals.m4a").write_bytes(b"x")
    notes = Tracks(tmp_path, stems=STEMS).notes
    assert "1 folder(s) passed over" in notes[0]
    assert "packed" in notes[0]


@pytest.mark.parametrize(
    "options",
    [
        *({"length_tolerance_seconds": value} for value in (-1, "much", None, True, float("nan"))),
        *({"missing_stem": value} for value in ("ignore", None, True)),
    ],
)
def test_rules_out_of_range_are_refused(tmp_path: Path, options: dict) -> None:
    write_song(tmp_path, "good")
    with pytest.raises(ValueError, match=f"data.{next(iter(options))}="):
        Tracks(tmp_path, stems=STEMS, **options)


def test_an_incomplete_or_doubled_track_is_named(tmp_path: Path) -> None:
    write(tmp_path / "song" / "vocals.wav", 0.1)
    with pytest.raises(
        ValueError, match=r"track song: has no instrumental file \(there is vocals\.wav\)"
    ):
        Tracks(tmp_path, stems=STEMS)
    soundfile.write(tmp_path / "song" / "vocals.flac", np.zeros((100, 2)), RATE)
    with pytest.raises(ValueError, match=r"vocals\.flac, vocals\.wav are the same stem"):
        Tracks(tmp_path, stems=STEMS)


def test_a_folder_without_tracks_says_what_was_found_and_expected(tmp_path: Path) -> None:
    write(tmp_path / "songs" / "mixed.wav", 0.1)
    with pytest.raises(ValueError, match=r"0 tracks .*expected <track>/vocals\.wav.*mixed\.wav"):
        Tracks(tmp_path, stems=STEMS)
    with pytest.raises(ValueError, match=r"nowhere does not exist; expected <track>/vocals\.wav"):
        Tracks(tmp_path / "nowhere", stems=STEMS)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> tuple[Library, Library]:
    root = tmp_path_factory.mktemp("libraries")
    folders = write_synthetic_libraries(root, seconds=3, num_files=2, sample_rate=RATE, seed=0)
    vocals, instrumental = (
        Library.open(folder, role=folder.name, cache_dir=root / "cache") for folder in folders
    )
    return vocals, instrumental


def draw(libraries: tuple[Library, ...], **options) -> DrawnMixtures:
    settings = {"count": 5, "seconds": 1.0, "seed": 0, "sample_rate": 16_000, "num_channels": 2}
    named: dict[str, Library] = dict(zip(STEMS, libraries, strict=True))
    return DrawnMixtures(libraries=named, **(settings | options))


def test_drawn_mixtures_are_always_the_same(libraries: tuple[Library, Library]) -> None:
    first, again, other = draw(libraries), draw(libraries), draw(libraries, seed=1)
    assert len(first) == len([mixture for mixture in first]) == 5  # noqa: C416
    for index in range(5):
        assert first[index].name == again[index].name != other[index].name
        assert torch.equal(first[index].stems, again[index].stems)
        assert first[index].stems.shape == (2, 2, 16_000)
    assert len({mixture.name for mixture in first}) == 5
    assert "voice_00" in first[0].name
    assert "music_00" in first[0].name


def test_drawn_vocals_stand_at_the_asked_level(libraries: tuple[Library, Library]) -> None:
    for level_db in (0.0, 5.0):
        for mixture in draw(libraries, level_db={"vocals": level_db}):
            vocals, music = mixture.stems.square().mean(dim=(1, 2))
            assert 10 * (vocals / music).log10() == pytest.approx(level_db, abs=1e-3)


def test_silent_excerpts_are_passed_over(
    tmp_path: Path, libraries: tuple[Library, Library]
) -> None:
    blip = np.zeros(20 * RATE)
    blip[: 8 * RATE] = 0.5 * np.sin(np.arange(8 * RATE))
    (tmp_path / "v").mkdir()
    soundfile.write(tmp_path / "v" / "blip.wav", blip, RATE)
    vocals = Library.open(tmp_path / "v", role="vocals", cache_dir=tmp_path)
    for mixture in draw((vocals, libraries[1]), count=12):
        assert mixture.stems[0].abs().max() > 0.01
    click = np.zeros(2_000 * RATE // 10)
    click[0] = 0.5
    soundfile.write(tmp_path / "v" / "blip.wav", click, RATE)
    vocals = Library.open(tmp_path / "v", role="vocals", cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"vocals: 100 excerpts of 0\.1 s were all silent"):
        draw((vocals, libraries[1]), seconds=0.1)[0]
