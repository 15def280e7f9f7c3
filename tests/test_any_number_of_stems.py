"""Four stems instead of two: whatever is chosen, they sum to the song, and none is mistaken."""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import soundfile as sf
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor, nn

from frametx.audio.io import INTEGER_BITS
from frametx.audio.stft import Stft
from frametx.audio.tags import Tags, read_tags, write_tags
from frametx.checkpoint import build, save_separator
from frametx.config import conf_dir
from frametx.ensemble import Rule
from frametx.execution import Execution
from frametx.pipeline import Pipeline
from frametx.separate import separate
from frametx.separation_options import Absent, Augmentation, SeparationOptions
from frametx.separator import SpectrogramSeparator
from frametx.songs import Job
from frametx.to_files import FileOptions, FileReport, separate_song

RATE = 8_000
STEMS: tuple[str, ...] = ("vocals", "drums", "bass", "other")
RULES = (*get_args(Rule), *(f"min_{stem}" for stem in STEMS))
SHORT = {"min_seconds": 0.1, "fade_seconds": 0.05}
REFINEMENTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "sharper drums": {"aggressiveness": 1.5, "aggressiveness_stem": "drums"},
    "softer other": {"aggressiveness": 0.5, "aggressiveness_stem": "other"},
    "wiener": {"wiener": 1},
    "band": {"fill_band": True},
    "without bass": {"absent": Absent(stem="bass", threshold=0.02, **SHORT)},
    "without other": {"absent": Absent(stem="other", threshold=0.02, **SHORT)},
    "all": {
        "aggressiveness": 1.3,
        "aggressiveness_stem": "vocals",
        "wiener": 1,
        "fill_band": True,
        "absent": Absent(stem="drums", threshold=0.02, **SHORT),
    },
}
VIEWS: dict[str, dict[str, Any]] = {
    "best": {"quality": "best"},
    "all": {"tta": Augmentation(swap=True, polarity=True, shifts=2)},
    "contexts": {"tta": Augmentation(contexts=[[16, 4], [8, 8]])},
}


class Shares(nn.Module):
    """Each stem is a fixed share of the mixture, in whatever order they are wanted."""

    def __init__(self, *shares: float, order: Sequence[str] = STEMS, rate: int = RATE) -> None:
        super().__init__()
        self.shares = dict(zip(STEMS, shares, strict=True))
        self.stems = tuple(order)
        self.sample_rate = rate
        self.num_channels = 2
        self.chunk_samples = rate // 8

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([self.shares[stem] * mixture for stem in self.stems], dim=1)


class Masks(nn.Module):
    """A network whose masks follow the magnitude, each by its own gain."""

    def __init__(self, gains: Sequence[float]) -> None:
        super().__init__()
        self.gains = gains

    def forward(self, magnitude: Tensor) -> Tensor:
        return torch.cat([gain * magnitude - 2 for gain in self.gains], dim=1)


def spectral(
    *, order: Sequence[str] = STEMS, complement: str = "other", n_fft: int = 64, rate: int = RATE
) -> SpectrogramSeparator:
    gains = dict(zip(STEMS, (1.0, 2.0, -1.0, 0.5), strict=True))
    return SpectrogramSeparator(
        stft=Stft(n_fft=n_fft, hop_length=n_fft // 4),
        network=Masks([gains[stem] for stem in order if stem != complement]),
        stems=order,
        complement=complement,
        sample_rate=rate,
        num_channels=2,
        chunk_frames=20,
        scale="chunk_peak",
        top_bin="zero",
    ).eval()


def ensemble() -> list[Any]:
    """Members that share nothing but the names of their stems."""
    return [
        spectral(),
        spectral(order=("bass", "other", "vocals", "drums"), n_fft=128, rate=5_000),
        Shares(0.4, 0.3, 0.2, 0.1, order=STEMS[::-1]),
    ]


def pipeline(*members: Any, **chosen: Any) -> Pipeline:
    execution = Execution(device="cpu", batch_size=2)
    return Pipeline(members, SeparationOptions(**chosen), execution=execution)


def noise(channels: int, length: int) -> Tensor:
    return 0.2 * torch.randn(channels, length, generator=torch.Generator().manual_seed(length))


def separated(found: Pipeline, mixture: Tensor, block: int = 1_000) -> dict[str, Tensor]:
    blocks = found.stream(lambda: mixture.split(block, dim=1), sample_rate=RATE)
    return dict(zip(found.stems, torch.cat(list(blocks), dim=2), strict=True))


def assert_sum(stems: dict[str, Tensor], mixture: Tensor) -> None:
    torch.testing.assert_close(
        torch.stack([*stems.values()]).sum(dim=0), mixture, atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("domain", ["magnitude", "waveform"])
@pytest.mark.parametrize("rule", RULES)
def test_the_stems_sum_to_the_song_under_every_rule(rule: str, domain: str) -> None:
    weights = [1.0, 2.0, 0.5] if rule == "weighted" else None
    remainder = "drums" if rule == "min_other" else None
    chosen = {"ensemble": rule, "domain": domain, "weights": weights, "remainder": remainder}
    found = pipeline(*ensemble(), **chosen)
    assert found.remainder == (remainder or "other")
    for channels, length in ((2, 1), (1, 100), (2, 4_000), (5, 1_001)):
        mixture = noise(channels, length)
        stems = separated(found, mixture)
        assert list(stems) == list(STEMS)
        assert_sum(stems, mixture)


@pytest.mark.parametrize("name", REFINEMENTS)
@pytest.mark.parametrize("remainder", ["other", "vocals"])
def test_the_stems_sum_to_the_song_after_every_refinement(name: str, remainder: str) -> None:
    mixture, members = noise(2, 6_000), ensemble()[1:]
    mixture[:, 2_000:5_000] *= 1e-3
    found = pipeline(*members, remainder=remainder, **REFINEMENTS[name])
    stems = separated(found, mixture)
    assert_sum(stems, mixture)
    for stem, again in separated(found, mixture, block=777).items():
        torch.testing.assert_close(again, stems[stem], atol=1e-5, rtol=1e-4)
    plain = separated(pipeline(*members, remainder=remainder), mixture)
    changed = max(float((stems[stem] - plain[stem]).abs().max()) for stem in STEMS)
    assert (changed > 1e-3) == (name != "nothing")


@pytest.mark.parametrize("name", VIEWS)
def test_the_stems_sum_to_the_song_over_all_views(name: str) -> None:
    mixture = noise(2, 5_000)
    members = ensemble()[:2] if name == "contexts" else ensemble()
    found = pipeline(*members, **VIEWS[name])
    assert found.num_passes > len(members)
    assert_sum(separated(found, mixture), mixture)


@pytest.mark.parametrize("name", REFINEMENTS)
def test_stems_are_known_by_their_names_and_not_by_their_places(name: str) -> None:
    mixture = noise(2, 4_000)
    orders = [STEMS, ("bass", "other", "vocals", "drums"), STEMS[::-1]]
    found = [
        separated(pipeline(spectral(order=order), remainder="other", **REFINEMENTS[name]), mixture)
        for order in orders
    ]
    for order, stems in zip(orders, found, strict=True):
        assert tuple(stems) == order
        for stem in STEMS:
            torch.testing.assert_close(stems[stem], found[0][stem], atol=1e-5, rtol=0)


@pytest.mark.parametrize("domain", ["magnitude", "waveform"])
def test_a_rule_is_applied_to_each_stem_by_itself(domain: str) -> None:
    mixture = noise(2, 4_000)
    members = [
        Shares(0.1, 0.2, 0.3, 0.4),
        Shares(0.4, 0.1, 0.1, 0.4, order=STEMS[::-1]),
        Shares(0.1, 0.6, 0.2, 0.1),
    ]
    expected = {
        "min": (0.1, 0.1, 0.1),
        "max": (0.4, 0.6, 0.3),
        "mean": (0.2, 0.3, 0.2),
        "median": (0.1, 0.2, 0.2),
        "min_drums": (0.2, 0.1, 0.2),
    }
    for rule, shares in expected.items():
        stems = separated(pipeline(*members, ensemble=rule, domain=domain), mixture)
        for stem, share in zip(STEMS, (*shares, 1 - sum(shares)), strict=True):
            torch.testing.assert_close(stems[stem], share * mixture, atol=2e-5, rtol=0)
    chosen = {"ensemble": "min_other", "remainder": "bass", "domain": domain}
    stems = separated(pipeline(*members, **chosen), mixture)
    for stem, share in zip(STEMS, (0.2, 0.3, 0.4, 0.1), strict=True):
        torch.testing.assert_close(stems[stem], share * mixture, atol=2e-5, rtol=0)


def test_a_stem_is_given_back_where_it_is_absent() -> None:
    mixture = noise(2, 8_000)
    found = pipeline(
        Shares(0.05, 0.2, 0.25, 0.5), absent=Absent(stem="vocals", threshold=0.9, **SHORT)
    )
    stems = separated(found, mixture)
    inside = slice(1_500, 6_500)
    assert float(stems["vocals"][:, inside].abs().max()) < 1e-6
    for stem, share in (("drums", 0.2), ("bass", 0.25), ("other", 0.5)):
        expected = share / 0.95 * mixture[:, inside]
        torch.testing.assert_close(stems[stem][:, inside], expected, atol=1e-5, rtol=0)


def test_of_four_stems_none_is_guessed() -> None:
    with pytest.raises(ValueError, match="does not say of which stem: name one of"):
        pipeline(Shares(0.4, 0.3, 0.2, 0.1), aggressiveness=1.2)
    with pytest.raises(ValueError, match="choose remainder=vocals or drums or bass"):
        pipeline(*ensemble(), ensemble="min_other")
    speech = Shares(0.4, 0.3, 0.2, 0.1, order=("vocals", "other"))
    mixture = noise(2, 3_000)
    sharper = separated(pipeline(speech, aggressiveness=2.0), mixture)
    torch.testing.assert_close(sharper["vocals"], 0.16 * mixture, atol=1e-5, rtol=0)


def song(path: Path, *, subtype: str, channels: int = 2, level: float = 0.1) -> Path:
    samples = np.random.default_rng(0).standard_normal((6_000, channels)) * level
    sf.write(path, samples.clip(-1, 1), RATE, subtype=subtype)
    return path


def to_files(job: Job, **chosen: Any) -> FileReport:
    all_of_it: dict[str, Any] = {"stems": STEMS}
    options = FileOptions(**(all_of_it | chosen))
    return separate_song(pipeline(Shares(0.7, -0.4, 0.15, 0.55)), job, options)


@pytest.mark.parametrize(
    ("name", "subtype"),
    [
        ("x.wav", "PCM_U8"),
        ("x.wav", "PCM_16"),
        ("x.wav", "PCM_24"),
        ("x.aiff", "PCM_S8"),
        ("x.aiff", "PCM_16"),
        ("x.aiff", "PCM_24"),
        ("x.flac", "PCM_S8"),
        ("x.flac", "PCM_16"),
        ("x.flac", "PCM_24"),
    ],
)
@pytest.mark.parametrize("format", ["same", "wav", "flac"])
def test_four_stems_add_up_to_the_very_sample_in_integers(
    tmp_path: Path, name: str, subtype: str, format: str
) -> None:
    source = song(tmp_path / name, subtype=subtype)
    file = to_files(Job(source, tmp_path / "out"), format=format)
    assert list(file.outputs) == list(STEMS)
    written = {INTEGER_BITS[sf.info(path).subtype] for path in file.outputs.values()}
    assert written == {INTEGER_BITS[subtype]}
    mixture, *stems = (sf.read(path, dtype="int32")[0] for path in (source, *file.outputs.values()))
    assert np.array_equal(np.sum(stems, axis=0, dtype=np.int64), mixture)


def test_32_bit_integers_keep_the_24_bits_of_a_float(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav", subtype="PCM_32")
    file = to_files(Job(source, tmp_path / "out"))
    mixture, *stems = (sf.read(path)[0] for path in (source, *file.outputs.values()))
    assert {sf.info(path).subtype for path in file.outputs.values()} == {"PCM_32"}
    assert np.abs(np.sum(stems, axis=0) - mixture).max() <= 2.0**-24


@pytest.mark.parametrize("clipping", ["float", "scale", "clip"])
def test_four_stems_beyond_full_scale_still_add_up(tmp_path: Path, clipping: str) -> None:
    source = song(tmp_path / "x.flac", subtype="PCM_16", level=0.4)
    job = Job(source, tmp_path / "out")
    options = FileOptions(stems=STEMS, clipping=clipping)
    file = separate_song(pipeline(Shares(1.9, -0.4, -1.2, 0.7)), job, options)
    mixture, *stems = (sf.read(path)[0] for path in (source, *file.outputs.values()))
    difference = np.abs(np.sum(stems, axis=0) - mixture * 10 ** (file.gain_db / 20))
    if clipping == "clip":
        # The remainder takes over what the others lose, until it clips itself.
        assert set(file.clipped_samples) >= {"vocals", "bass"}
        assert (difference > 0).sum() <= file.clipped_samples.get("other", 0)
    else:
        assert difference.max() <= (len(STEMS) * 2.0**-15 if clipping == "scale" else 0)
    subtypes = [sf.info(path).subtype for path in file.outputs.values()]
    floats = ["FLOAT", "PCM_16", "FLOAT", "PCM_16"]
    assert subtypes == (floats if clipping == "float" else ["PCM_16"] * 4)


@pytest.mark.parametrize("stem", STEMS)
def test_one_of_four_stems_is_one_file_and_the_same_as_among_all(tmp_path: Path, stem: str) -> None:
    source = song(tmp_path / "x.flac", subtype="PCM_16")
    write_tags(source, Tags(text={"title": "Loreley"}))
    whole = to_files(Job(source, tmp_path / "all"))
    alone = to_files(Job(source, tmp_path / "one"), stems=(stem,))
    assert [path.name for path in (tmp_path / "one").iterdir()] == [f"{stem}.flac"]
    assert list(alone.outputs) == [stem]
    among, by_itself = (sf.read(file.outputs[stem], dtype="int16")[0] for file in (whole, alone))
    assert np.array_equal(among, by_itself)
    assert read_tags(alone.outputs[stem]).text["title"] == f"Loreley ({stem.title()})"


def test_a_song_that_is_one_of_four_stems_is_copied_as_that_one(tmp_path: Path) -> None:
    source = song(tmp_path / "x.wav", subtype="PCM_16")
    job = Job(source, tmp_path / "out", is_stem=True)
    file = to_files(job)
    assert (file.status, list(file.outputs)) == ("copied", ["other"])  # the remainder
    assert list(to_files(replace(job, stem="drums")).outputs) == ["drums"]
    assert (tmp_path / "out" / "drums.wav").read_bytes() == source.read_bytes()
    skipped = to_files(replace(job, stem="bass"), stems=("drums",))
    assert (skipped.status, skipped.reason) == ("skipped", "is bass already")
    without = pipeline(Shares(0.7, -0.4, 0.15, 0.55), remainder="none")
    unknown = separate_song(without, job, FileOptions(stems=STEMS))
    assert unknown.status == "skipped"
    assert unknown.reason is not None
    assert unknown.reason.endswith('say which it is, as in "copy": {"vocals": [...]}')


@pytest.fixture(scope="module")
def ckpts(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two checkpoints of the four stems, in different orders."""
    folder = tmp_path_factory.mktemp("ckpt")
    paths = [folder / "one.ckpt", folder / "two.ckpt"]
    for path, order in zip(paths, (STEMS, ("other", "bass", "drums", "vocals")), strict=True):
        config = {
            "_target_": "frametx.separator.SpectrogramSeparator",
            "stft": {"_target_": "frametx.audio.stft.Stft", "n_fft": 64, "hop_length": 16},
            "network": {
                "_target_": "torch.nn.Conv2d",
                "in_channels": 2,
                "out_channels": 6,
                "kernel_size": 1,
            },
            "stems": list(order),
            "complement": "other",
            "sample_rate": RATE,
            "num_channels": 2,
            "chunk_frames": 40,
            "scale": "chunk_peak",
            "top_bin": "copy",
        }
        torch.manual_seed(len(path.name))
        save_separator(path, build(config), config, model="convolution")
    return paths


def test_the_command_takes_songs_apart_into_four_stems(tmp_path: Path, ckpts: list[Path]) -> None:
    (tmp_path / "songs").mkdir()
    source = song(tmp_path / "songs" / "a.flac", subtype="PCM_16")
    content = {"convert": ["songs/a.flac"], "copy": {"drums": ["songs/b.flac"]}}
    song(tmp_path / "songs" / "b.flac", subtype="PCM_16")
    (tmp_path / "album.json").write_text(json.dumps(content))
    options = [
        *(f"ckpt=[{ckpts[0]},{ckpts[1]}]", "input=album.json", "output=out", "device=cpu"),
        *("name={stem}/{song} - {stem}", "ensemble=min_bass", "absent.stem=vocals"),
        *("aggressiveness=1.2", "aggressiveness_stem=drums", "fill_band=true"),
    ]
    done = subprocess.run(
        [sys.executable, "-m", "frametx.separate", *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["stems"] == list(STEMS)
    separate_one, copied = report["files"]
    assert separate_one["outputs"] == {stem: f"out/{stem}/a - {stem}.flac" for stem in STEMS}
    assert copied["outputs"] == {"drums": "out/drums/b - drums.flac"}
    assert (copied["status"], copied["reason"]) == ("copied", "is drums already")
    mixture, *stems = (
        sf.read(path, dtype="int32")[0]
        for path in (source, *(tmp_path / path for path in separate_one["outputs"].values()))
    )
    assert np.array_equal(np.sum(stems, axis=0, dtype=np.int64), mixture)
    assert all(stem.any() for stem in stems)
    assert not any((a == b).all() for a, b in itertools.combinations(stems, 2))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["aggressiveness=1.2"], "does not say of which stem: name one of "),
        (["absent.stem=piano"], "absent.stem=piano must be one of the stems "),
        (["stems=[piano]"], "this model separates "),
        (["output=-"], "writes one stem of one song, not 4 of 1: choose with stems="),
    ],
)
def test_what_four_stems_need_is_told_before_anything_is_written(
    tmp_path: Path, ckpts: list[Path], chosen: list[str], message: str
) -> None:
    source, out = song(tmp_path / "a.flac", subtype="PCM_16"), tmp_path / "out"
    given = [f"ckpt={ckpts[0]}", f"input={source}", f"output={out}", "device=cpu"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("separate", [*given, *chosen])
    with pytest.raises(ValueError, match=message) as caught:
        separate(cfg)
    assert "\n" not in str(caught.value)
    assert not out.exists()
