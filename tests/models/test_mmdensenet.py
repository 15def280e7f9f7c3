from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf

from frametx.checkpoint import load_separator, save_separator
from frametx.config import conf_dir
from frametx.models.mmdensenet import MMDenseNet
from frametx.nn.dense_unet import DenseUNet


def unet(num_bins: int = 8, **changes: Any) -> DenseUNet:
    config: dict[str, Any] = {
        "in_channels": 1,
        "num_bins": num_bins,
        "channels": 4,
        "first_kernel_size": [3, 3],
        "growth_rates": [2, 3, 2],
        "num_layers": [2, 2, 2],
        "lstm_units": [0, 0, 0],
        "kernel_size": [3, 3],
    }
    return DenseUNet(**(config | changes))


def network(**changes: Any) -> MMDenseNet:
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "bands": [unet(8), unet(8)],
        "full": unet(16),
        "out_channels": 1,
        "final_growth_rate": 3,
        "final_num_layers": 2,
        "final_kernel_size": [3, 3],
        "head": "magnitude",
    }
    return MMDenseNet(**(config | changes)).eval()


@pytest.mark.parametrize(
    ("model", "audio", "parameters"),
    [
        ("mmdensenet", "44k1_stereo", 337_802),  # the paper: 0.33 million
        ("mmdenselstm", "44k1_stereo_4096", 1_365_987),  # the paper: 1.22 million
    ],
)
def test_the_shipped_configurations_have_these_parameters(
    model: str, audio: str, parameters: int
) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=[f"model={model}", f"audio={audio}"])
    with torch.device("meta"):
        built = instantiate(cfg.model)
    assert sum(p.numel() for p in built.parameters()) == parameters


@torch.no_grad()
def test_a_band_sees_only_its_own_bins_and_the_full_band_all() -> None:
    model, x = network(), torch.rand(1, 1, 16, 4)
    changed = x.clone()
    changed[:, :, 12:] += 1
    frames_last = x.mT, changed.mT
    low, full = model.bands[0], model.full
    assert torch.equal(*(low(part[..., :8]) for part in frames_last))
    assert not torch.equal(*(full(part)[..., :8] for part in frames_last))
    assert not torch.equal(model(x)[:, :, :8], model(changed)[:, :, :8])


@torch.no_grad()
def test_an_lstm_lets_a_frame_hear_what_lies_far_ahead() -> None:
    x = torch.rand(1, 1, 32, 8)
    changed = x.clone()
    changed[:, :, -1] += 1
    for lstm_units, hears in (([0, 0, 0], False), ([0, 4, 0], True)):
        torch.manual_seed(0)
        band = unet(growth_rates=[6, 6, 6], lstm_units=lstm_units).eval().double()
        first, other = band(x.double())[:, :, 0], band(changed.double())[:, :, 0]
        assert torch.equal(first, other) is not hears


def test_only_the_last_convolutions_maps_leave_a_block() -> None:
    band = unet(growth_rates=[2, 3, 5], num_layers=[1, 2, 3])
    assert band.out_channels == 5
    assert band(torch.rand(1, 1, 4, 8)).shape == (1, 5, 4, 8)
    assert unet(num_layers=[2, 0, 2], lstm_units=[0, 3, 1]).out_channels == 3


def test_magnitudes_of_a_stem_are_learnt_on_one_batch() -> None:
    model, x = network().train(), torch.rand(2, 1, 16, 8)
    stem = x * (torch.arange(16) < 8).float()[:, None]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (model(x) - stem).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert model(x).min() >= 0


def test_a_checkpoint_builds_the_nested_parts_again(tmp_path: Any) -> None:
    overrides = ["model=mmdenselstm_tiny", "audio=16k_mono"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    separator = instantiate(cfg.separator).eval()
    path = tmp_path / "tiny.ckpt"
    config: Any = OmegaConf.to_container(cfg.separator, resolve=True)
    save_separator(path, separator, config, model="mmdenselstm_tiny")
    mixture = torch.randn(1, 1, 3000)
    with torch.no_grad():
        assert torch.equal(load_separator(path)(mixture), separator(mixture))


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ValueError, match=r"bands of \[8\] bins have 8 in all, but .* is 16"):
        network(bands=[unet(8)])
    with pytest.raises(ValueError, match="3 growth_rates, 2 num_layers and 3 lstm_units"):
        unet(num_layers=[1, 1])
    with pytest.raises(ValueError, match=r"2 blocks: .* an odd number"):
        unet(growth_rates=[1, 1], num_layers=[1, 1], lstm_units=[0, 0])
