"""A separator of samples: complement, levels, streams and checkpoints, with a small SepFormer."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from frametx.checkpoint import load_separator, save_separator
from frametx.execution import Execution
from frametx.losses.permutation_invariant import PermutationInvariantSiSnr
from frametx.models.sepformer import SepFormer
from frametx.streaming import separate_blocks, separate_waveform
from frametx.waveform_separator import WaveformSeparator, with_levels_of

SMALL: dict[str, Any] = {
    "stems": ["speaker_1", "speaker_2"],
    "complement": None,
    "num_features": 12,
    "kernel_size": 8,
    "stride": 4,
    "chunk_frames": 6,
    "num_blocks": 2,
    "num_intra_layers": 1,
    "num_inter_layers": 1,
    "num_heads": 2,
    "hidden_features": 16,
    "dropout": 0.0,
}
SEPARATOR: dict[str, Any] = {
    "stems": ["speaker_1", "speaker_2"],
    "complement": None,
    "sample_rate": 8_000,
    "num_channels": 1,
    "chunk_seconds": 0.05,
    "levels": "network",
}


def build(**changes: Any) -> SepFormer:
    torch.manual_seed(0)
    return SepFormer(**(SMALL | changes)).eval()


def separator(**changes: Any) -> WaveformSeparator:
    return WaveformSeparator(network=build(), **(SEPARATOR | changes)).eval()


def mixture(*, batch: int = 2, channels: int = 1, length: int = 101) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(batch, channels, length)


@torch.no_grad()
def test_a_stream_is_separated_alike_however_it_is_cut_and_sums_to_the_mixture() -> None:
    built, x = separator(), mixture(length=1_500)[0]
    whole = separate_waveform(built, x, sample_rate=8_000, overlap=0.5)
    assert whole.shape == (2, 1, 1_500)
    torch.testing.assert_close(whole.sum(dim=0), x, atol=1e-5, rtol=1e-5)
    cut = separate_blocks(
        built,
        x.split(130, dim=1),
        sample_rate=8_000,
        overlap=0.5,
        execution=Execution(device="cpu", batch_size=2),
    )
    torch.testing.assert_close(torch.cat(list(cut), dim=2), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_stream_that_fits_into_one_chunk_is_what_the_network_gives() -> None:
    built, x = separator(chunk_seconds=1.0), mixture(length=8_000)
    stems = separate_waveform(built, x[0], sample_rate=8_000)
    torch.testing.assert_close(stems[0], built(x[:1])[0, 0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_complement_makes_the_estimates_sum_to_the_mixture() -> None:
    network = build(stems=["vocals", "rest"], complement="vocals")
    assert network.num_stems == 1
    built = WaveformSeparator(
        network=network,
        **(SEPARATOR | {"stems": ["vocals", "rest"], "complement": "vocals"}),
    )
    x = mixture()
    estimates = built(x)
    torch.testing.assert_close(estimates.sum(dim=1), x)
    torch.testing.assert_close(estimates[:, 1], network(x)[:, 0])


def test_levels_are_those_that_come_nearest_to_the_mixture() -> None:
    stems = mixture(batch=4, channels=2, length=300).unflatten(0, (2, 2))
    unlevelled = stems * torch.tensor([3.0, -0.2])[None, :, None, None]
    torch.testing.assert_close(
        with_levels_of(stems.sum(dim=1), unlevelled), stems, atol=1e-2, rtol=1e-2
    )
    noise = mixture(batch=2, channels=2, length=300)
    fitted = with_levels_of(noise, unlevelled)
    left = noise - fitted.sum(dim=1)
    inner = torch.einsum("bscl,bcl->bs", fitted, left)
    assert inner.abs().max() < 1e-3 * noise.square().sum()  # nothing of them is left in the rest


def test_equal_estimates_share_the_mixture_and_silent_ones_stay_silent() -> None:
    x = mixture(length=50)
    shared = with_levels_of(x, x.unsqueeze(1).repeat(1, 2, 1, 1))
    torch.testing.assert_close(shared[:, 0], x / 2, atol=1e-3, rtol=1e-3)
    silent = torch.zeros(2, 2, 1, 50, requires_grad=True)
    levelled = with_levels_of(x, silent)
    assert not levelled.any()
    levelled.sum().backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all()


def test_the_order_and_the_ratio_of_an_estimate_do_not_depend_on_its_level() -> None:
    x = mixture(length=200)
    built = separator(levels="mixture")
    loss = PermutationInvariantSiSnr(limit_db=None, weight=1.0)
    stems = mixture(batch=4, length=200).unflatten(0, (2, 2))
    torch.testing.assert_close(loss(built(x), stems), loss(built.network(x), stems))


def test_a_checkpoint_builds_the_same_separator_again(tmp_path: Path) -> None:
    config = SEPARATOR | {
        "_target_": "frametx.waveform_separator.WaveformSeparator",
        "network": SMALL | {"_target_": "frametx.models.sepformer.SepFormer"},
    }
    built, x = separator(), mixture()
    for name in ("a.ckpt", "a.safetensors"):
        save_separator(tmp_path / name, built, config, model="sepformer")
        again = load_separator(tmp_path / name)
        assert isinstance(again, WaveformSeparator)
        assert torch.equal(cast(Tensor, again(x)), built(x))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"complement": "drums"}, "complement=drums must be one of the stems"),
        ({"complement": "speaker_1"}, r"the network gives 2 stem\(s\)"),
        ({"stems": ["a", "b", "c"]}, r"the network gives 2 stem\(s\)"),
        ({"levels": "loud"}, "levels=loud must be network or mixture"),
        ({"chunk_seconds": 0}, "chunk_seconds=0 must be more than 0"),
    ],
)
def test_a_separator_that_does_not_fit_its_network_is_refused(
    changes: dict[str, Any], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        separator(**changes)
