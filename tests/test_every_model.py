"""Every network that `model=` names, in its tiny form, through the same training and separation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.utils.data import default_collate

from frametx.checkpoint import load_separator
from frametx.config import conf_dir
from frametx.streaming import separate_waveform
from frametx.train import train

Compose = Callable[..., DictConfig]
PRESETS = {path.stem for path in (conf_dir() / "model").glob("*.yaml")}
TINY = sorted(name for name in PRESETS if name.endswith("_tiny"))
# Trained and separated with in tests/models/test_packaged_laws.py, or as one that is like them.
COVERED = {
    *("htdemucs_tiny", "bs_roformer_tiny", "mel_band_roformer_tiny", "sepformer_tiny"),
    *("asym_unet_mct_generator_tiny", "mmdenselstm_tiny", "jansson_unet_tiny"),
}
SIZES = ("_tiny", "_small", "_2stems", "_4stems", "_5stems")
SHORT = [
    "audio.n_fft=512",
    "audio.hop_length=256",
    "curriculum.stages=[{until_step:null,frames:17,batch_size:2,accumulate:1}]",
]
LONGER = {  # two crops, the second of which is shown the first
    "v9_patch_tiny": ["curriculum.stages=[{until_step:null,frames:64,batch_size:2,accumulate:1}]"]
}


def family(name: str) -> str:
    """The network behind a preset, whatever its size."""
    for size in SIZES:
        name = name.removesuffix(size)
    return name


@pytest.fixture
def compose_model(tmp_path: Path, tiny_overrides: list[str]) -> Compose:
    """Compose a tiny run of a network, with the dropout it has."""
    shared = [text for text in tiny_overrides if not text.startswith("model")]

    def compose_run(run: str, model: str, *overrides: str) -> DictConfig:
        chosen = [*shared, *SHORT, *LONGER.get(model, ()), f"model={model}"]
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("train", [*chosen, f"paths.output_dir={tmp_path / run}", *overrides])

    return compose_run


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


def test_every_network_has_a_tiny_form() -> None:
    networks = {family(name) for name in PRESETS - {"neural_ensemble"}}
    assert networks == {family(name) for name in TINY}


@pytest.mark.parametrize(
    "model",
    [pytest.param(model, marks=pytest.mark.slow if model in COVERED else ()) for model in TINY],
)
def test_two_steps_are_one_step_and_another_and_their_checkpoint_separates(
    tmp_path: Path, compose_model: Compose, model: str
) -> None:
    train(compose_model("whole", model, "trainer.max_steps=2"))
    train(compose_model("parts", model, "trainer.max_steps=1"))
    (tmp_path / "parts").rename(tmp_path / "first")
    first = tmp_path / "first" / "checkpoints" / "last.ckpt"
    train(compose_model("parts", model, "trainer.max_steps=2", f"ckpt_path={first}"))
    whole, parts = last(tmp_path / "whole"), last(tmp_path / "parts")
    for key in ("state_dict", "current_model_state", "optimizer_states", "averaging_state"):
        torch.testing.assert_close(parts[key], whole[key], atol=0, rtol=0)
    started = torch.load(first, weights_only=True)["current_model_state"]
    moved = [
        name
        for name, weight in started.items()
        if not weight.equal(whole["current_model_state"][name])
    ]
    assert moved

    separator = load_separator(tmp_path / "whole" / "checkpoints" / "last.ckpt")
    torch.manual_seed(0)
    song = 0.1 * torch.randn(2, 20_000)
    stems = separate_waveform(separator, song, sample_rate=16_000)
    assert stems.shape == (len(separator.stems), 2, 20_000)
    assert stems.isfinite().all()
    torch.testing.assert_close(stems.sum(dim=0), song, atol=1e-6, rtol=0)
    assert all(stem.abs().max() > 1e-4 for stem in stems)


@pytest.mark.parametrize("model", TINY)
def test_one_batch_is_learnt_by_heart(compose_model: Compose, model: str) -> None:
    cfg = compose_model("run", model)
    L.seed_everything(0)
    module, data = instantiate(cfg.module).train(), instantiate(cfg.data)
    stems = data.mix(default_collate([data.source[(n, 16 * 256)] for n in range(2)]))
    mixture = stems.sum(dim=1)
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=1e-2)
    losses: list[float] = []
    for _ in range(150):
        loss = module.loss(module.separator(mixture), stems)
        losses.append(loss.item())
        if losses[-1] < 0.6 * losses[0]:
            return
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pytest.fail(
        f"the loss of one batch went from {losses[0]:.4f} to no less than {min(losses):.4f}"
    )
