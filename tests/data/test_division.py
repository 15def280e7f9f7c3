from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import pytest
import yaml

from frametx.data.division import Part, of_part
from frametx.data.musdb18 import (
    TRAINING_TRACKS,
    VALIDATION_TRACKS,
    as_key,
    is_in_training_part,
    is_validation_track,
)
from frametx.data.synthetic import write_synthetic_tracks
from frametx.data.tracks import Tracks

STEMS = ("vocals", "instrumental")
PARTS = get_args(Part)


def songs(root: Path, *names: str) -> Path:
    """Folders of two short stems each."""
    for number, name in enumerate(names):
        write_synthetic_tracks(
            root / name, seconds=0.05, num_tracks=1, sample_rate=8000, seed=number
        )
        for path in (root / name / "track_000").iterdir():
            path.rename(root / name / path.name)
        (root / name / "track_000").rmdir()
    return root


def parts(root: Path, *, held_out: float = 0.1) -> dict[Part, list[str]]:
    return {part: Tracks(root, stems=STEMS, part=part, held_out=held_out).names for part in PARTS}


def test_the_official_lists_are_those_of_the_musdb_package() -> None:
    found = find_spec("musdb")  # importing it needs ffmpeg
    if found is None or found.origin is None:
        pytest.skip("the musdb package, which museval brings, is not installed")
    config = yaml.safe_load((Path(found.origin).parent / "configs" / "mus.yaml").read_text())
    assert set(config["validation_tracks"]) == set(VALIDATION_TRACKS)
    assert len(set(map(as_key, [*TRAINING_TRACKS, *VALIDATION_TRACKS]))) == 100


def test_a_song_is_known_by_any_edition_of_its_name() -> None:
    assert is_in_training_part("Jokers Jacks & Kings - Sea Of Leaves")
    assert is_in_training_part("AvaLuna_Waterduct")
    assert is_validation_track("JAMES MAY - On the line")
    assert not is_in_training_part("Al James - Schoolboy Facination")  # of the test part
    assert not is_validation_track("AvaLuna - Waterduct")


def test_folders_say_which_part_is_which(tmp_path: Path) -> None:
    root = songs(tmp_path, "train/a", "train/b", "valid/c", "test/d")
    assert parts(root) == {
        "train": ["train/a", "train/b"],
        "valid": ["valid/c"],
        "test": ["test/d"],
    }
    (root / "valid").rename(root / "validation")
    assert parts(root)["valid"] == ["validation/c"]
    (root / "test").rename(root / "later")
    assert parts(root)["test"] == ["validation/c"]


def test_test_is_kept_for_the_end_where_nothing_says_what_to_validate_on(tmp_path: Path) -> None:
    names = [f"train/song {number}" for number in range(10)]
    root = songs(tmp_path, *names, "test/last")
    found = parts(root, held_out=0.3)
    assert found["test"] == ["test/last"]
    assert sorted(found["train"] + found["valid"]) == names
    assert 1 <= len(found["valid"]) <= 6
    songs(root, "train/song 10")
    more = parts(root, held_out=0.3)
    assert set(found["train"]) <= set(more["train"])
    assert set(found["valid"]) <= set(more["valid"])


def test_without_test_what_is_held_out_is_tested_with(tmp_path: Path) -> None:
    found = parts(songs(tmp_path, "train/a", "train/b", "train/c"))
    assert found["test"] == found["valid"]
    assert not {*found["test"]} & {*found["train"]}


def test_an_expected_share_is_held_out_and_never_all_or_none() -> None:
    root = Path("root")
    names = [str(number) for number in range(2000)]
    for share in (0.05, 0.4):
        held = of_part(names, root=root, start=root / "train", part="valid", held_out=share)
        assert len(held) == pytest.approx(2000 * share, rel=0.2)
    for share in (1e-9, 1 - 1e-9):
        held = of_part(["a", "b"], root=root, start=root / "train", part="valid", held_out=share)
        assert len(held) == 1


def test_of_musdb18_the_official_tracks_are_validated_on(tmp_path: Path) -> None:
    names = [
        *(f"train/{name}" for name in VALIDATION_TRACKS[:3]),
        "train/AvaLuna - Waterduct",
        "train/BigTroubles - Phantom",
        "test/Zeno - Signs",
    ]
    root = songs(tmp_path, *names)
    found = parts(root)
    assert found["valid"] == sorted(names[:3])
    assert found["train"] == names[3:5]
    told = {part: Tracks(root, stems=STEMS, part=part).notes for part in PARTS}
    assert told == {
        "train": ["MUSDB18: 2 of the 86 training tracks are there"],
        "valid": ["MUSDB18: 3 of the 14 validation tracks are there"],
        "test": ["MUSDB18: 1 of the 50 test tracks are there"],
    }


def test_other_songs_are_not_measured_by_musdb18(tmp_path: Path) -> None:
    root = songs(tmp_path, "train/a", "train/b", "test/c")
    for part in PARTS:
        assert Tracks(root, stems=STEMS, part=part).notes == []


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["a", "b"], {"part": "train"}, r"train does not exist; put the songs to train on into it"),
        (["train/a", "test/b"], {"part": "valid"}, r"holds a single track \(a\).*valid"),
        (["train/a", "train/b"], {"part": "valid", "held_out": 1.5}, r"held_out=1\.5 must lie"),
        (["a"], {"part": "dev"}, "part=dev must be one of train, valid, test"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    names: list[str], options: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        Tracks(songs(tmp_path, *names), stems=STEMS, **options)
