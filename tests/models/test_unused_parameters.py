"""Every parameter that learns gets a gradient: on several devices each one is waited for."""

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from frametx.config import conf_dir

NETWORKS = sorted(path.stem for path in (conf_dir() / "model").glob("*_tiny.yaml"))
SHORT = ("audio=16k_mono", "audio.n_fft=512", "audio.hop_length=256", "audio.chunk_frames=17")
BANDS = "model.has_vocal_bands=true"
OPTIONS = [
    ("asym_unet_mct_tiny", "model.gate=query"),
    ("asym_unet_mct_tiny", "model.normalizes_output=true"),
    ("asym_unet_mct_tiny", BANDS),
    ("asym_unet_mct_tiny", BANDS, "model.normalizes_vocal_bands=false"),
    ("asym_unet_mct_generator_tiny", "model.normalizes_vocal_bands=false"),
    ("asym_unet_mct_tiny", "model.num_bridge_layers=1", "model.restarts_bridge_residual=true"),
]


@pytest.mark.parametrize("chosen", [*((name,) for name in NETWORKS), *OPTIONS], ids="-".join)
def test_every_parameter_that_learns_gets_a_gradient(chosen: tuple[str, ...]) -> None:
    name, *options = chosen
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", [f"model={name}", *SHORT, *options, "paths.output_dir=unused"])
    module = instantiate(cfg.module).train()
    torch.manual_seed(0)
    # two excerpts: what is shown earlier ones learns from the second on
    stems = 0.1 * torch.randn(2, len(cfg.stems), cfg.audio.num_channels, 64 * 256)
    module.loss(module.separator(stems.sum(dim=1)), stems).backward()
    unused = [n for n, p in module.named_parameters() if p.requires_grad and p.grad is None]
    assert unused == []
