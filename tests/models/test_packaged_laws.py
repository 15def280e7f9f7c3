"""What every network of somebody else's package keeps to inside our separators, in small forms."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from frametx.checkpoint import build as build_config
from frametx.checkpoint import load_separator, save_separator
from frametx.config import conf_dir
from frametx.execution import Execution
from frametx.separator import Separator
from frametx.streaming import separate_blocks, separate_waveform
from frametx.train import train

ROFORMER: dict[str, Any] = {
    "num_channels": 2,
    "n_fft": 64,
    "hop_length": 16,
    "num_features": 8,
    "num_layers": 2,
    "num_frame_layers": 1,
    "num_band_layers": 1,
    "num_heads": 2,
    "head_features": 4,
    "num_mask_layers": 2,
    "dropout": 0.0,
    "num_residual_streams": 1,
    "has_value_residual": False,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "bs_roformer": ROFORMER
    | {
        "_target_": "frametx.models.bs_roformer.BsRoformer",
        "bins_per_band": [8, 8, 17],
    },
    "bs_roformer, as in the package": ROFORMER
    | {
        "_target_": "frametx.models.bs_roformer.BsRoformer",
        "bins_per_band": [8, 8, 17],
        "num_residual_streams": 2,
        "has_value_residual": True,
    },
    "mel_band_roformer": ROFORMER
    | {
        "_target_": "frametx.models.mel_band_roformer.MelBandRoformer",
        "sample_rate": 16_000,
        "num_bands": 4,
        "num_joint_layers": 1,
    },
    "htdemucs": {
        "_target_": "frametx.models.htdemucs.Htdemucs",
        "sources": None,
        "num_channels": 2,
        "n_fft": 256,
        "num_maps": 8,
        "num_levels": 2,
        "bottom_features": 0,
        "num_layers": 2,
        "num_heads": 2,
        "expansion": 2.0,
        "dropout": 0.0,
        "residual_branches": "both",
        "min_seconds": 0.0,
        "sample_rate": 16_000,
    },
    "open_unmix": {
        "_target_": "frametx.models.open_unmix.OpenUnmix",
        "in_channels": 2,
        "n_fft": 64,
        "sample_rate": 16_000,
        "bandwidth_hz": 6_000.0,
        "num_features": 8,
        "num_layers": 2,
        "dropout": 0.0,
        "is_causal": False,
    },
}
PACKAGES = {"bs": "bs_roformer", "mel": "bs_roformer", "htdemucs": "demucs", "open": "openunmix"}


def config_of(
    name: str, *, stems: list[str], complement: str | None, **changes: Any
) -> dict[str, Any]:
    """Config of the small network's separator."""
    pytest.importorskip(PACKAGES[name.split("_")[0]])
    network = NETWORKS[name] | {"stems": stems, "complement": complement} | changes
    shared = {
        "network": network,
        "stems": stems,
        "complement": complement,
        "sample_rate": 16_000,
        "num_channels": 2,
    }
    if name == "open_unmix":
        return shared | {
            "_target_": "frametx.separator.SpectrogramSeparator",
            "stft": {"_target_": "frametx.audio.stft.Stft", "n_fft": 64, "hop_length": 32},
            "chunk_frames": 40,
            "scale": "none",
            "top_bin": "copy",
        }
    return shared | {
        "_target_": "frametx.waveform_separator.WaveformSeparator",
        "chunk_seconds": 0.08,
        "levels": "network",
    }


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, *, num_stems: int = 2, complement: str | None = "s0", **changes: Any) -> Any:
    """The small separator of this network."""
    stems = [f"s{number}" for number in range(num_stems)]
    config = config_of(name, stems=stems, complement=complement, **changes)
    torch.manual_seed(0)
    return build_config(config).eval()


def mixture(*, batch: int = 2, length: int = 900) -> Tensor:
    torch.manual_seed(1)
    return 0.3 * torch.randn(batch, 2, length)


def gradients(separator: nn.Module, x: Tensor) -> dict[str, Tensor]:
    separator.zero_grad()
    separator(x).abs().mean().backward()
    return {k: p.grad.clone() for k, p in separator.named_parameters() if p.grad is not None}


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 15, 33, 64, 401])
def test_any_length_comes_back_as_stems_of_that_length(name: str, length: int) -> None:
    estimates = build(name, num_stems=3)(mixture(length=length))
    assert estimates.shape == (2, 3, 2, length)
    assert estimates.isfinite().all()


@torch.no_grad()
def test_a_batch_is_its_members_one_by_one(name: str) -> None:
    separator, batch = build(name), mixture(batch=3)
    alone = torch.cat([separator(member[None]) for member in batch])
    torch.testing.assert_close(separator(batch), alone, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("num_stems", "complement"), [(2, "s0"), (4, "s3"), (3, "s1")])
def test_stems_with_a_complement_sum_to_the_mixture(
    name: str, num_stems: int, complement: str
) -> None:
    separator, x = build(name, num_stems=num_stems, complement=complement), mixture()
    estimates = separator(x)
    assert estimates.shape[1] == num_stems
    torch.testing.assert_close(estimates.sum(1), x, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_a_complement_every_stem_is_the_networks_own(name: str) -> None:
    estimates = build(name, num_stems=3, complement=None)(mixture())
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(estimates[:, one], estimates[:, other], atol=1e-4)


def test_the_gradient_reaches_every_parameter(name: str) -> None:
    separator = build(name, num_stems=3)
    with torch.no_grad():  # residual streams that are all alike hide some of each other
        for parameter in separator.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    found = gradients(separator.train(), mixture())
    without = {k for k, p in separator.named_parameters() if k not in found or not found[k].any()}
    assert without == set()


def test_training_in_half_precision_gives_finite_gradients_near_the_exact_ones(name: str) -> None:
    separator, x = build(name), mixture()
    exact = separator(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = separator(x)
        assert rough.dtype == torch.float32
    assert (rough - exact).abs().mean() < 0.05 * exact.abs().mean()
    for name_of, gradient in gradients(separator, x).items():
        assert gradient.isfinite().all(), name_of


@torch.no_grad()
def test_a_stream_is_separated_alike_however_it_is_cut_and_sums_to_the_mixture(name: str) -> None:
    separator, x = build(name), mixture(length=3_000)[0]
    whole = separate_waveform(separator, x, sample_rate=16_000, overlap=0.5)
    torch.testing.assert_close(whole.sum(0), x, atol=1e-5, rtol=1e-5)
    cut = separate_blocks(
        separator,
        x.split(170, dim=1),
        sample_rate=16_000,
        overlap=0.5,
        execution=Execution(device="cpu", batch_size=2),
    )
    torch.testing.assert_close(torch.cat(list(cut), dim=2), whole, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_a_checkpoint_builds_the_same_separator_again(
    name: str, suffix: str, tmp_path: Path
) -> None:
    config = config_of(name, stems=["s0", "s1"], complement="s0")
    separator, x, path = build(name), mixture(), tmp_path / f"a.{suffix}"
    save_separator(path, separator, config, model=name)
    again = cast(Any, load_separator(path))
    assert isinstance(again, Separator)
    with torch.no_grad():
        assert torch.equal(again(x), separator(x))


def test_a_network_without_a_stem_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"(leave|left|but the complement)"):
        build(name, num_stems=1, complement="s0")


SMALLER = {
    "bs_roformer_tiny": ["model.n_fft=64", "model.hop_length=32", "model.bins_per_band=[16,17]"],
    "mel_band_roformer_tiny": ["model.n_fft=64", "model.hop_length=32", "model.num_bands=4"],
    "htdemucs_tiny": ["model.n_fft=256", "model.num_levels=2", "model.num_maps=8"],
    "open_unmix_tiny": ["model.num_features=16"],
}


@pytest.mark.parametrize("model", SMALLER)
def test_two_steps_of_training_give_a_checkpoint_that_separates(
    model: str, compose_tiny: Callable[..., DictConfig], tmp_path: Path
) -> None:
    pytest.importorskip(PACKAGES[model.split("_")[0]])
    steps = ["trainer.max_steps=2", "trainer.val_check_interval=2"]
    cfg = compose_tiny(tmp_path, f"model={model}", *SMALLER[model], *steps)
    best = train(cfg)
    assert best is not None
    separator = cast(Any, load_separator(best))
    learned = dict(separator.named_parameters())
    x = mixture(batch=1, length=700)[:, :1]
    with torch.no_grad():
        estimates = separator(x)
    assert separator.stems == ("vocals", "instrumental")
    torch.testing.assert_close(estimates.sum(1), x, atol=1e-5, rtol=1e-5)
    # what starts at 0 or 1 is elsewhere only if steps were taken
    moved = [k for k, p in learned.items() if k.endswith("gamma") and (p != 1).any()]
    moved += [k for k, p in learned.items() if k.endswith("output_scale") and (p != 1).any()]
    moved += [k for k, p in learned.items() if "norm" in k and "bias" in k and p.any()]
    assert moved


SIZES = {
    "bs_roformer": 93_476_172,
    "mel_band_roformer": 105_501_060,
    "htdemucs": 41_977_526,
    "open_unmix": 8_893_348,
    "bs_roformer_tiny": 764_374,
    "mel_band_roformer_tiny": 1_005_430,
    "htdemucs_tiny": 555_179,
    "open_unmix_tiny": 1_055_750,
}


@pytest.mark.parametrize("model", [model for model in SIZES if model.endswith("_tiny")])
def test_the_tiny_presets_have_the_size_that_they_say(model: str) -> None:
    pytest.importorskip(PACKAGES[model.split("_")[0]])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["experiment=demo", f"model={model}"])
    assert num_parameters(instantiate(cfg.separator)) == SIZES[model]


@pytest.mark.slow
@pytest.mark.parametrize("model", [model for model in SIZES if not model.endswith("_tiny")])
def test_the_published_presets_have_the_published_size(model: str) -> None:
    """93.4, 105 and 42 million in the papers and the package, 8.9 in umxhq's files."""
    pytest.importorskip(PACKAGES[model.split("_")[0]])
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", ["audio=44k1_stereo_4096", f"model={model}"])
    assert num_parameters(instantiate(cfg.separator)) == SIZES[model]


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
