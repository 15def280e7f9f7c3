from pathlib import Path

import numpy as np
import pytest
import soundfile
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


def crops(
    root: Path, cache: Path, *, stems: tuple[str, ...], seed: int = 0, mix_songs: float = 0.0
) -> AlignedCrops:
    return AlignedCrops(
        mix_songs=mix_songs,
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
        found = set.intersection(
            *(
                set(places_of(stem, [track[number] for track in whole]))
                for number, stem in enumerate(stems)
            )
        )
        ((_, start),) = found
        assert f"at {start / 8000:.3f} s" in drawn.describe(sample, 500)


def places_of(stem: torch.Tensor, whole: list[torch.Tensor]) -> list[tuple[int, int]]:
    """Every (track, first sample) where an excerpt is found."""
    found: list[tuple[int, int]] = []
    for number, track in enumerate(whole):
        excerpts = track.unfold(0, len(stem), 1)
        begins_so = (excerpts[:, 0] - stem[0]).abs().lt(1e-4).nonzero()[:, 0]
        is_all_so = (excerpts[begins_so] - stem).abs().amax(1) < 1e-4
        found += [(number, start) for start in begins_so[is_all_so].tolist()]
    return found


def test_stems_of_mixed_songs_come_each_from_a_place_of_their_own(
    root: Path, tmp_path: Path
) -> None:
    tracks = Tracks(root, stems=STEMS)
    whole = [[tracks[i].stems.mean(dim=1)[stem] for i in range(2)] for stem in range(3)]
    drawn = crops(root, tmp_path, stems=STEMS, mix_songs=1.0)
    songs: set[tuple[int, ...]] = set()
    for sample in range(40):
        stems = drawn[sample, 500]["stems"][:, 0]
        found = [places_of(stem, of_stem) for stem, of_stem in zip(stems, whole, strict=True)]
        assert [len(places) for places in found] == [1, 1, 1]
        assert len({start for ((_, start),) in found}) == 3
        songs.add(tuple(track for ((track, _),) in found))
        told = drawn.describe(sample, 500)
        for stem, ((track, start),) in zip(STEMS, found, strict=True):
            assert f"{stem} of {drawn.names[track]} at {start / 8000:.3f} s" in told
    assert len(songs) == 8  # every way to choose one of two songs for three stems


def test_the_share_of_mixed_songs_is_kept_and_the_others_do_not_change(
    root: Path, tmp_path: Path
) -> None:
    never, some, always = (
        crops(root, tmp_path, stems=STEMS, mix_songs=share) for share in (0.0, 0.3, 1.0)
    )
    num_mixed = sum(some.is_mixed(sample) for sample in range(5000))
    assert num_mixed == pytest.approx(1500, abs=150)
    for sample in range(40):
        expected = (always if some.is_mixed(sample) else never)[sample, 100]["stems"]
        assert torch.equal(some[sample, 100]["stems"], expected)
        assert not never.is_mixed(sample)


def test_a_mixed_sample_depends_on_its_number_and_the_seed_alone(
    root: Path, tmp_path: Path
) -> None:
    one = crops(root, tmp_path, stems=STEMS, mix_songs=0.5)
    forwards = [one[sample, 300]["stems"] for sample in range(10)]
    other_rank = crops(root, tmp_path / "other", stems=STEMS, mix_songs=0.5)
    for sample in (9, 3, 5, 0):  # in another process, in another order
        assert torch.equal(other_rank[sample, 300]["stems"], forwards[sample])
    seeded = crops(root, tmp_path, stems=STEMS, mix_songs=0.5, seed=1)
    assert not any(torch.equal(seeded[n, 300]["stems"], forwards[n]) for n in range(10))


def test_a_mixed_stem_whose_file_is_lost_is_taken_from_another_song(tmp_path: Path) -> None:
    root = tmp_path / "songs"
    write_synthetic_tracks(root, seconds=1.0, num_tracks=2, sample_rate=8000, seed=0, stems=STEMS)
    drawn = crops(root, tmp_path / "cache", stems=STEMS, mix_songs=1.0)
    before = [drawn[sample, 300]["stems"] for sample in range(8)]
    (Path(drawn.names[0]) / "drums.wav").unlink()
    with pytest.warns(UserWarning, match=r"1 of 6 files cannot be read"):
        after = [drawn[sample, 300]["stems"] for sample in range(8)]
    changed = [(a != b).any(dim=(1, 2)) for a, b in zip(after, before, strict=True)]
    assert not any(stems[0] or stems[2] for stems in changed)
    assert any(stems[1] for stems in changed)
    assert all(stem.abs().sum() > 0 for stem in after)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_of_mixed_songs_lies_between_none_and_all(
    share: float, root: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"mix_songs={share} must be a share"):
        crops(root, tmp_path, stems=STEMS, mix_songs=share)


def test_a_root_may_be_given_from_where_the_user_stands(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = crops(root, tmp_path, stems=STEMS)[0, 300]["stems"]
    monkeypatch.chdir(root.parent)
    here = crops(Path(root.name), tmp_path, stems=STEMS)[0, 300]["stems"]
    assert torch.equal(here, there)
    assert there.abs().sum() > 0


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


def test_files_that_a_stem_is_made_of_must_be_whole_and_others_need_not_be(tmp_path: Path) -> None:
    write_synthetic_tracks(
        tmp_path / "songs", seconds=0.3, num_tracks=2, sample_rate=8000, seed=0, stems=STEMS
    )
    song = tmp_path / "songs" / "track_000"
    (song / "mixture.wav").write_bytes(b"nothing")
    drawn = crops(tmp_path / "songs", tmp_path / "cache", stems=STEMS)
    assert drawn[0, 500]["stems"].shape == (3, 1, 500)
    tracks = Tracks(tmp_path / "songs", stems=STEMS)
    (song / "drums.wav").unlink()
    with pytest.raises(ValueError, match=r"drums\.wav cannot be used: it is not there any more"):
        AlignedCrops(
            tracks=tracks,
            seed=0,
            sample_rate=8000,
            num_channels=1,
            cache_dir=tmp_path / "cache",
            decode_once=False,
        )


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


def test_songs_that_were_made_to_fit_are_trained_on_as_they_are_scored(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name, length, channels in (("vocals", 4_000, 2), ("drums", 3_990, 1)):
        path = tmp_path / "songs" / "song" / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal((length, channels)), 8_000, subtype="FLOAT")
    tracks = Tracks(tmp_path / "songs", stems=STEMS, missing_stem="silent")
    drawn = AlignedCrops(
        tracks=tracks,
        seed=0,
        sample_rate=8_000,
        num_channels=2,
        cache_dir=tmp_path / "cache",
        decode_once=True,
    )
    stems = drawn[0, 4_000]["stems"]
    torch.testing.assert_close(stems, tracks[0].stems, atol=2e-5, rtol=0)
    assert tracks[0].missing == {2}
    assert (stems[2] == 0).all()


def test_all_files_that_cannot_be_trained_on_are_named(tmp_path: Path) -> None:
    for song in ("one", "two"):
        for stem in STEMS:
            path = tmp_path / "songs" / song / f"{stem}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            level = 1e20 if stem == "drums" else 0.5
            soundfile.write(path, level * np.sin(np.arange(4_000)), 8_000, subtype="FLOAT")
    with pytest.raises(ValueError, match=r"one/drums\.wav cannot be used.*two/drums\.wav cannot"):
        crops(tmp_path / "songs", tmp_path / "cache", stems=STEMS)
