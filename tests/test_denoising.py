"""Speech out of music and noise: other stems than vocals, through training and separation."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig

from frametx.config import conf_dir
from frametx.data.drawn_mixtures import DrawnMixtures
from frametx.data.synthetic import write_synthetic_libraries
from frametx.data.voxaug import Voxaug
from frametx.loading import load
from frametx.training.voxaug import VoxaugDataModule

RATE = 16_000
ROOT = Path(__file__).parents[1]
DEMO = ROOT / "data" / "demo"
needs_demo = pytest.mark.skipif(not DEMO.is_dir(), reason="a source distribution carries no audio")


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("train", overrides=[*overrides, "paths.output_dir=nowhere"])


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make data` makes, of sines and hiss: vocals, instrumental and noise in both parts."""
    root = tmp_path_factory.mktemp("corpora")
    stems = ("vocals", "instrumental", "noise")
    for seed, part in enumerate(("train", "validation")):
        write_synthetic_libraries(
            root / part, seconds=3, num_files=2, sample_rate=RATE, seed=seed, stems=stems
        )
    return root


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of indices: looking at the demo's files once is enough."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("experiment", ["speech_denoising", "demo_denoising"])
def test_speech_lies_5_db_below_to_15_db_above_whatever_else_sounds(experiment: str) -> None:
    cfg = composed(f"experiment={experiment}", "augment.silent_stem_probability=0")
    voxaug = instantiate(cfg.augment)
    assert isinstance(voxaug, Voxaug)
    count, length = 400, 64
    names = [part.name for part in voxaug.parts]
    drawn = torch.randn(len(names), count, 1, length, generator=torch.manual_seed(0))
    stems = voxaug({"sample": torch.arange(count), **dict(zip(names, drawn, strict=True))})
    speech_rms, rest_rms = stems.square().mean(dim=(2, 3)).sqrt().unbind(dim=1)
    level_db = 20 * (speech_rms / rest_rms).log10()
    assert -5.01 < level_db.min() < -4
    assert 14 < level_db.max() < 15.01
    (more,) = [part for part in voxaug.parts if part.name == "extra_rest"]
    assert 0.2 < np.mean([voxaug.is_present(more, sample) for sample in range(count)]) < 0.4


@pytest.mark.parametrize("experiment", ["speech_denoising", "demo_denoising"])
def test_the_network_gives_the_speech_and_the_rest_is_what_it_leaves(experiment: str) -> None:
    cfg = composed(f"experiment={experiment}", "model=asym_unet_mct_tiny")
    separator = instantiate(cfg.separator).eval()
    noisy = torch.randn(1, 1, RATE, generator=torch.manual_seed(0))
    with torch.no_grad():
        estimates = separator(noisy)
    assert separator.stems == ("speech", "rest")
    torch.testing.assert_close(estimates.sum(dim=1), noisy, atol=1e-5, rtol=0)
    assert (estimates[:, 1] - noisy).abs().max() > 0.01


@needs_demo
def test_the_demo_is_denoised_of_music_and_of_noise_and_holds_speakers_and_sources_out(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    cfg = composed("experiment=demo_denoising", f"paths.cache_dir={cache}")
    module = instantiate(cfg.data)
    held_out = instantiate(cfg.data.validation)
    assert isinstance(module, VoxaugDataModule)
    assert isinstance(held_out, DrawnMixtures)
    trained = {stem: [file.path for file in lib.files] for stem, lib in module.libraries.items()}
    tested = {stem: [file.path for file in lib.files] for stem, lib in held_out.libraries.items()}
    assert {Path(path).name for path in tested["speech"]} == {"vocals.ogg"}
    assert {Path(path).name for path in tested["rest"]} == {
        "instrumental.ogg", "flare.ogg", "unknown_horizons.ogg"
    }  # fmt: skip
    assert {Path(path).parent.name for path in trained["rest"]} == {"instrumental", "noise"}
    assert all("/train/" in path for paths in trained.values() for path in map(str, paths))
    assert all("/validation" in path for paths in tested.values() for path in map(str, paths))
    names = [held_out[number].name for number in range(len(held_out))]
    num_music = sum("instrumental" in name for name in names)
    assert 0.3 * len(names) < num_music < 0.7 * len(names)
    stems = held_out[0].stems
    ratio = stems[0].square().mean() / stems[1].square().mean()
    assert 10 * torch.log10(ratio) == pytest.approx(5, abs=1e-3)


@pytest.mark.slow  # 20 s of a processor: a fresh process looks through all of the demo
@needs_demo
def test_two_steps_of_the_demo_make_a_checkpoint_that_takes_speech_out_of_a_file(
    tmp_path: Path, cache: Path
) -> None:
    places = [f"paths.runs_dir={tmp_path}", f"paths.cache_dir={cache}", "name=two", "test=false"]
    short = ["debug=two_steps", "data.validation.count=1", "data.validation.seconds=2"]
    command = [sys.executable, "-m", "frametx.train", "experiment=demo_denoising", *places, *short]
    trained = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert trained.returncode == 0, trained.stderr
    noisy, rate = soundfile.read(DEMO / "validation_noise" / "flare.ogg", stop=RATE)
    clean = load(tmp_path / "two" / "checkpoints" / "best.ckpt").separate(noisy, sample_rate=rate)
    assert list(clean) == ["speech", "rest"]
    np.testing.assert_allclose(clean["speech"] + clean["rest"], noisy, atol=1e-5)
    assert np.abs(clean["rest"]).max() > 1e-3


@pytest.mark.parametrize(
    ("overrides", "stems"),
    [
        (["experiment=speech_denoising"], ["speech", "rest"]),
        (
            ["data=divided", "stems=[vocals,instrumental,noise]", "complement=noise"],
            ["vocals", "instrumental", "noise"],
        ),
    ],
)
def test_the_corpora_train_speech_and_rest_or_a_stem_each(
    overrides: list[str], stems: list[str], corpora: Path, tmp_path: Path
) -> None:
    small = ["audio=16k_mono", "model=asym_unet_mct_tiny", "loss=multi_resolution"]
    places = [f"paths.corpora_dir={corpora}", f"paths.cache_dir={tmp_path}"]
    cfg = composed(*overrides, *small, *places, "data.validation.seconds=1")
    module = instantiate(cfg.data)
    samples = [module.source[number, 4_096] for number in range(4)]
    truth = module.mix({name: torch.stack([one[name] for one in samples]) for name in samples[0]})
    assert truth.shape == (4, len(stems), 1, 4_096)
    separator, loss = instantiate(cfg.separator), instantiate(cfg.loss)
    assert list(separator.stems) == stems
    loss(separator(truth.sum(dim=1)), truth).backward()
    gradients = [weight.grad for weight in separator.parameters() if weight.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    held_out = module.validation_set[0]
    assert held_out.stems.shape == (len(stems), 1, RATE)
    assert (held_out.stems.square().mean(dim=(1, 2)) > 1e-6).all()
