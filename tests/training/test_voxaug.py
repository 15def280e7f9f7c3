"""Voxaug as training data: any stems, each from a library of its own."""

import json
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from torch.utils.data import default_collate

import frametx
from frametx.config import conf_dir, one_line
from frametx.data.drawn_mixtures import DrawnMixtures
from frametx.data.synthetic import write_synthetic_libraries
from frametx.training.voxaug import VoxaugDataModule

RATE = 8_000
LENGTH = 1_500
STEMS = ("vocals", "drums", "bass", "other")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of four stems, with four files of 2 s each."""
    root = tmp_path_factory.mktemp("four")
    write_synthetic_libraries(root, seconds=2, num_files=4, sample_rate=RATE, seed=0, stems=STEMS)
    return root


def data_of(library: Path, *overrides: str, stems: tuple[str, ...] = STEMS) -> VoxaugDataModule:
    given = [
        "audio=8k_mono",
        f"audio.sample_rate={RATE}",
        f"stems=[{','.join(stems)}]",
        f"complement={stems[-1]}",
        "paths.output_dir=none",
        f"paths.cache_dir={library.parent / 'cache'}",
    ]
    if not any(override.startswith("data=") for override in overrides):
        given += ["data=stems", f"data.root={library}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=[*given, *overrides])
    data = instantiate(cfg.data)
    assert isinstance(data, VoxaugDataModule)
    return data


def made(data: VoxaugDataModule, numbers: list[int]) -> torch.Tensor:
    return data.mix(default_collate([data.source[n, LENGTH] for n in numbers]))


def test_a_sample_depends_on_its_number_alone(library: Path) -> None:
    data, again = data_of(library), data_of(library)
    together = made(data, list(range(8)))
    assert together.shape == (8, 4, 1, LENGTH)
    for numbers in ([5], [7, 2], [0, 6, 1, 3]):  # other batches, orders, shares of two devices
        torch.testing.assert_close(made(again, numbers), together[numbers], rtol=1e-6, atol=1e-7)


def test_the_order_of_the_stems_changes_nothing_but_their_order(library: Path) -> None:
    expected = made(data_of(library), [0, 1, 2, 3])
    for stems in list(permutations(STEMS))[1::8]:
        turned = made(data_of(library, stems=stems), [0, 1, 2, 3])
        for place, stem in enumerate(stems):
            torch.testing.assert_close(turned[:, place], expected[:, STEMS.index(stem)])


def test_every_stem_is_drawn_from_its_own_library(library: Path) -> None:
    data = data_of(library, "augment=none")
    files = {stem: {file.name for file in data.libraries[stem].files} for stem in STEMS}
    assert all(name.startswith(stem) for stem in STEMS[1:] for name in files[stem])
    described = data.source.describe(3, LENGTH)
    assert [part.split(" ")[0] for part in described.split(": ")[1].split(", ")] == list(STEMS)
    stems = made(data, [3])[0]
    for stem, waveform in zip(STEMS, stems, strict=True):
        crop = data.source.crops[stem].read(3, LENGTH)  # type: ignore[attr-defined]
        assert torch.equal(waveform, torch.from_numpy(crop))


def test_held_out_mixtures_hold_no_file_that_is_trained_on(library: Path) -> None:
    data = data_of(library, "data.held_out=0.3", "data.held_out_seconds=0.5")
    held = data.validation_set
    assert isinstance(held, DrawnMixtures)
    assert held.stems == STEMS
    for stem in STEMS:
        trained = {file.path for file in data.libraries[stem].files}
        assert trained
        assert trained.isdisjoint(file.path for file in held.libraries[stem].files)
    for mixture in (held[0], held[1]):
        first = mixture.stems[0].square().mean()
        others = mixture.stems[1:].sum(dim=0).square().mean()
        assert 10 * float((first / others).log10()) == pytest.approx(0, abs=1e-3)


def test_a_stem_may_have_other_folders_than_that_of_its_name(library: Path) -> None:
    places = f"[{library / 'bass'},{{root: {library / 'other'}, weight: 3}}]"
    data = data_of(library, f"+data.drums={places}", stems=("vocals", "drums"))
    names = {
        file.name.split("_")[0] for file in data.rules.open("drums", data.roots["drums"]).files
    }
    assert names == {"bass", "other"}
    assert data.libraries["drums"].rules.root_weights == (1.0, 3.0)
    assert [file.name[:5] for file in data.libraries["vocals"].files] == ["voice"] * len(
        data.libraries["vocals"].files
    )


def test_a_library_for_each_stem_may_be_named_by_itself(library: Path) -> None:
    given = [f"+data.{stem}={library / stem}" for stem in ("drums", "bass")]
    data = data_of(library, "data=folders", *given, stems=("bass", "drums"))
    assert list(data.roots) == ["bass", "drums"]
    assert made(data, [0]).shape == (1, 2, 1, LENGTH)


def test_a_corpus_is_validated_on_mixtures_of_its_own_files(library: Path, tmp_path: Path) -> None:
    for part in ("train", "validation"):
        (tmp_path / part).symlink_to(library)
    corpus = ["data=divided", f"paths.corpora_dir={tmp_path}", "data.validation.seconds=0.5"]
    data = data_of(library, *corpus, stems=("drums", "bass"))
    assert list(data.roots.values()) == [f"{tmp_path}/train/{stem}" for stem in ("drums", "bass")]
    mixtures = data.validation_set
    assert isinstance(mixtures, DrawnMixtures)
    assert mixtures.stems == ("drums", "bass")
    assert len(mixtures) == 24
    assert mixtures[0].stems.shape == (2, 1, RATE // 2)


def test_shards_lie_below_any_address_by_stem(library: Path) -> None:
    data = data_of(library, "data=litdata", "paths.shards_dir=s3://bucket/shards/")
    assert data.roots == {stem: f"s3://bucket/shards/{stem}" for stem in STEMS}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["data=stems", "data.root={}/bass"], "bass has no folder vocals, drums, bass, other"),
        (["data=stems", "data.root={}/nowhere"], "nowhere does not exist; give a folder that"),
        (["data=stems", "data.root={}", "+data.drum={}"], "data.drum must be one of the stems"),
        (["data=stems", "data.root={}", "augment.stems=[vocals,drums]"], "must be the data's"),
        (["data=folders"], "data.vocals, data.drums, data.bass, data.other must be given: add "),
        (
            ["data=demo", "data.validation=null"],
            "data.drums, data.bass, data.other must be given: add +data.drums=/my/",
        ),
    ],
)
def test_libraries_that_are_not_those_of_the_stems_are_refused(
    library: Path, overrides: list[str], says: str
) -> None:
    given = [override.format(library) for override in overrides]
    with pytest.raises(InstantiationException) as raised:
        data_of(library, *given)
    assert says in one_line(raised.value)


@pytest.mark.slow
def test_four_stems_train_evaluate_and_separate_by_the_real_command(
    library: Path, tmp_path: Path
) -> None:
    run = [sys.executable, "-m", "frametx.train", f"data={library}"]
    run += ["stems=[vocals,drums,bass,other]", "complement=other"]
    run += ["audio=8k_mono", f"audio.sample_rate={RATE}", "audio.n_fft=64", "audio.hop_length=32"]
    run += ["audio.chunk_frames=64", "model=asym_unet_mct_tiny", "data.num_workers=0"]
    run += ["curriculum.stages=[{until_step:null,frames:9,batch_size:2,accumulate:2}]"]
    run += ["data.held_out=0.3", "data.held_out_mixtures=2", "data.held_out_seconds=1.1"]
    run += ["trainer.accelerator=cpu", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    run += ["name=four", "paths.runs_dir=runs", "paths.cache_dir=cache"]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "runs/four/evaluation/summary.json").read_text())
    assert summary["stems"] == list(STEMS)
    scored = {(one["stem"], one["metric"]) for one in summary["summary"]}
    assert scored == {(s, m) for s in STEMS for m in ("usdr", "csdr", "si_sdr")}
    pipeline = frametx.load(tmp_path / "runs/four/checkpoints/best.ckpt")
    song = tmp_path / "song.wav"
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE, 1))
    soundfile.write(song, noise, RATE, subtype="FLOAT")
    stems = pipeline.separate(song)
    assert list(stems) == list(STEMS)
    whole, _ = soundfile.read(song, dtype="float32")
    np.testing.assert_allclose(np.sum(list(stems.values()), axis=0)[0], whole, atol=1e-6)
    assert all(np.abs(stem).max() > 1e-4 for stem in stems.values())
