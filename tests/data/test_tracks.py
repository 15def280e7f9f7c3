from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from frametx.data.drawn_mixtures import DrawnMixtures
from frametx.data.library import Library
from frametx.data.synthetic import write_synthetic_libraries, write_synthetic_tracks
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


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"length": 99}, "99 samples"),
        ({"channels": 1}, "1 channels"),
        ({"rate": 16_000}, "16000 Hz"),
    ],
)
def test_stems_that_are_not_aligned_are_refused(tmp_path: Path, change: dict, found: str) -> None:
    write(tmp_path / "good" / "vocals.wav", 0.1)
    write(tmp_path / "good" / "instrumental.wav", 0.1)
    write(tmp_path / "bad" / "vocals.wav", 0.1)
    write(tmp_path / "bad" / "instrumental.wav", 0.1, **change)
    with pytest.raises(ValueError, match=f"track bad: its stems are not aligned: .*{found}"):
        Tracks(tmp_path, stems=STEMS)


def test_an_incomplete_or_doubled_track_is_named(tmp_path: Path) -> None:
    write(tmp_path / "song" / "vocals.wav", 0.1)
    with pytest.raises(ValueError, match=r"track song has no instrumental file; .*: vocals\.wav"):
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
