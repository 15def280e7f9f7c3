"""Any network for any stems: it gives as many outputs as the stems and the complement ask for."""

from collections.abc import Sequence
from typing import cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from frametx.config import conf_dir
from frametx.models.spleeter import Spleeter
from frametx.separator import Separator

FOUR = ("vocals", "drums", "bass", "other")
TINY = sorted(path.stem for path in (conf_dir() / "model").glob("*_tiny.yaml"))
ANY = [name for name in TINY if not name.startswith("v9_patch")]
NUM_SAMPLES = 5_000


def separator(model: str, *overrides: str, stems: Sequence[str] = FOUR) -> nn.Module:
    """What `model=... stems=[...]` builds, with weights by chance."""
    audio = ["audio=16k_mono", "audio.n_fft=512", "audio.hop_length=128"]
    wanted = [f"model={model}", *audio, f"stems=[{','.join(stems)}]", *overrides]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", wanted)
    torch.manual_seed(0)
    try:
        return instantiate(cfg.separator).eval()
    except Exception as error:
        if "pip install" in str(error):
            pytest.skip(f"{model} needs an extra that is not installed")
        raise


def mixture(num_channels: int = 1) -> Tensor:
    return torch.randn(2, num_channels, NUM_SAMPLES, generator=torch.manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize("model", ANY)
def test_the_complement_is_what_three_outputs_leave_of_the_mixture(model: str) -> None:
    estimates = separator(model, "complement=other")(mixture())
    assert estimates.shape == (2, 4, 1, NUM_SAMPLES)
    assert estimates.isfinite().all()
    torch.testing.assert_close(estimates.sum(dim=1), mixture(), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("model", ANY)
def test_without_a_complement_the_network_gives_every_stem(model: str) -> None:
    module = separator(model, "complement=null", "audio.num_channels=2")
    estimates = module(mixture(2))
    assert estimates.shape == (2, 4, 2, NUM_SAMPLES)
    assert estimates.isfinite().all()
    rest = mixture(2) - estimates.sum(dim=1)
    assert (rest.abs().max() < 1e-4) == module.sums_to_mixture


@torch.no_grad()
@pytest.mark.parametrize("model", ["asym_unet_mct_tiny", "spleeter_tiny", "sepformer_tiny"])
def test_any_stem_may_be_the_complement(model: str) -> None:
    for complement in FOUR:
        module = separator(model, f"complement={complement}")
        estimates = module(mixture())
        assert cast(Separator, module).stems == FOUR
        torch.testing.assert_close(estimates.sum(dim=1), mixture(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("complement", ["other", "null"])
def test_a_network_that_is_shown_its_own_estimate_gives_one(complement: str) -> None:
    with pytest.raises(Exception, match=r"gives one stem.*take two stems and a complement"):
        separator("v9_patch_tiny", f"complement={complement}")


@pytest.mark.parametrize(("num_stems", "model"), [(4, "spleeter_4stems"), (5, "spleeter_5stems")])
def test_spleeter_has_a_unet_for_each_stem(num_stems: int, model: str) -> None:
    stems = ("vocals", "piano", "drums", "bass", "other")[-num_stems:]
    small = ["model.widths=[4,4]", "model.num_bins=256", "complement=other"]
    network = cast(Spleeter, separator(model, *small, stems=stems).network)
    assert len(network.unets) == num_stems
    assert network.num_given_stems == num_stems - 1
