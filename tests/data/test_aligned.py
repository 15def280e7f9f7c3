from pathlib import Path

import pytest
import torch

from frametx.data.aligned import AlignedCrops, StemTransforms
from frametx.data.augment import Gain, PolarityFlip
from frametx.data.synthetic import write_synthetic_tracks
from frametx.data.tracks import Tracks

STEMS = ("vocals", "drums", "other")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tracks")
    write_synthetic_tracks(folder, seconds=1.0, num_tracks=2, sample_rate=8000, seed=0, stems=STEMS)
    return folder


def crops(root: Path, cache: Path, *, stems: tuple[str, ...], seed: int = 0) -> AlignedCrops:
    return AlignedCrops(
        tracks=Tracks(root, stems=stems),
        seed=seed,
        sample_rate=8000,
        num_channels=1,
        cache_dir=cache,
        decode_once=False,
    )


def test_all_stems_of_a_sample_come_from_one_place(root: Path, tmp_path: Path) -> None:
    whole = [Tracks(root, stems=STEMS)[i].stems.mean(dim=1) for i in range(2)]
    drawn = crops(root, tmp_path, stems=STEMS)
    for sample in range(5):
        stems = drawn[sample, 500]["stems"][:, 0]
        found = [
            start
            for track in whole
            for start in range(track.shape[1] - 500 + 1)
            if torch.allclose(track[:, start : start + 500], stems, atol=1e-4)
        ]
        assert len(found) == 1
        assert f"at {found[0] / 8000:.3f} s" in drawn.describe(sample, 500)


def test_a_track_that_loses_a_file_is_replaced_until_none_is_left(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    write_synthetic_tracks(root, seconds=1.0, num_tracks=2, sample_rate=8000, seed=0, stems=STEMS)
    drawn = crops(root, tmp_path / "cache", stems=STEMS)
    (sample, other) = (
        next(n for n in range(99) if drawn.sampler.draw(n, 500).file == track) for track in (0, 1)
    )
    untouched = drawn[other, 500]["stems"]
    (Path(drawn.names[0]) / "drums.wav").unlink()
    with pytest.warns(UserWarning, match=r"1 of 6 files cannot be read .*drums\.wav: it is gone"):
        replaced = drawn[sample, 500]["stems"]
    assert replaced.abs().sum() > 0
    assert drawn.describe(sample, 500).startswith(drawn.names[1])
    assert torch.equal(drawn[other, 500]["stems"], untouched)
    (Path(drawn.names[1]) / "vocals.wav").unlink()
    with (
        pytest.warns(UserWarning, match="2 of 6"),
        pytest.raises(ValueError, match="none of the 2 tracks can be read any more"),
    ):
        drawn[sample, 500]
    assert drawn.reader.num_lost == 2


def test_the_instrumental_is_the_sum_of_what_is_not_sung(root: Path, tmp_path: Path) -> None:
    parts = crops(root, tmp_path, stems=STEMS)[3, 400]["stems"]
    two = crops(root, tmp_path, stems=("vocals", "instrumental"))[3, 400]["stems"]
    torch.testing.assert_close(two[1], parts[1] + parts[2], atol=1e-5, rtol=0)


def test_transforms_act_on_each_stem_by_itself_and_alike_in_any_batch(
    root: Path, tmp_path: Path
) -> None:
    drawn = crops(root, tmp_path, stems=STEMS)
    batch = {
        "sample": torch.arange(6),
        "stems": torch.stack([drawn[sample, 300]["stems"] for sample in range(6)]),
    }
    mix = StemTransforms(
        seed=1, transforms=[Gain(min_db=-6, max_db=6), PolarityFlip(probability=0.5)]
    )
    mixed = mix(batch)
    alone = mix({"sample": batch["sample"][4:5], "stems": batch["stems"][4:5]})
    torch.testing.assert_close(mixed[4:5], alone)
    gains = (mixed * batch["stems"]).sum((2, 3)) / batch["stems"].square().sum((2, 3))
    torch.testing.assert_close(mixed, gains[:, :, None, None] * batch["stems"], atol=1e-5, rtol=0)
    assert gains.abs().flatten().unique().numel() == gains.numel()
