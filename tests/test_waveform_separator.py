"""A separator of samples: complement, levels, streams and checkpoints, with a small SepFormer."""

from collections.abc import Callable
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

Build = Callable[..., SepFormer]
Make = Callable[..., WaveformSeparator]
Noise = Callable[..., Tensor]
SEPARATOR: dict[str, Any] = {
    "stems": ["speaker_1", "speaker_2"],
    "complement": None,
    "sample_rate": 8_000,
    "num_channels": 1,
    "chunk_seconds": 0.05,
    "levels": "network",
}


@pytest.fixture
def separator(small_sepformer: Build) -> Callable[..., WaveformSeparator]:
    """Builds one, with some of its options changed."""

    def build(**changes: Any) -> WaveformSeparator:
        return WaveformSeparator(network=small_sepformer(), **(SEPARATOR | changes)).eval()

    return build


@torch.no_grad()
@pytest.mark.parametrize("ordered", [True, False])
def test_a_stream_is_separated_alike_however_it_is_cut(
    ordered: bool, noise_mixture: Noise, separator: Make
) -> None:
    built, x = separator(ordered_stems=ordered), noise_mixture(length=1_500)[0]
    whole = separate_waveform(built, x, sample_rate=8_000, overlap=0.5)
    assert whole.shape == (2, 1, 1_500)
    cut = separate_blocks(
        built,
        x.split(130, dim=1),
        sample_rate=8_000,
        overlap=0.5,
        execution=Execution(device="cpu", batch_size=2),
    )
    torch.testing.assert_close(torch.cat(list(cut), dim=2), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_stream_that_fits_into_one_chunk_is_what_the_network_gives_in_all_stems(
    noise_mixture: Noise, separator: Make
) -> None:
    built, x = separator(chunk_seconds=1.0), noise_mixture(length=8_000)
    stems = separate_waveform(built, x[0], sample_rate=8_000)
    torch.testing.assert_close(stems, built(x[:1])[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_one_stem_is_the_rest_only_where_it_is_asked_for_or_the_separator_makes_it_so(
    noise_mixture: Noise, separator: Make, small_sepformer: Build
) -> None:
    x = noise_mixture(length=1_500)[0]
    asked = separate_waveform(separator(), x, sample_rate=8_000, remainder="speaker_1")
    torch.testing.assert_close(asked.sum(dim=0), x, atol=1e-5, rtol=1e-5)
    free = separate_waveform(separator(), x, sample_rate=8_000)
    assert (free.sum(dim=0) - x).abs().max() > 0.1
    named = {"stems": ["vocals", "rest"], "complement": "vocals"}
    built = WaveformSeparator(network=small_sepformer(**named), **(SEPARATOR | named)).eval()
    assert built.sums_to_mixture
    stems = separate_waveform(built, x, sample_rate=8_000)
    torch.testing.assert_close(stems.sum(dim=0), x, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_complement_makes_the_estimates_sum_to_the_mixture(
    small_sepformer: Build, noise_mixture: Noise
) -> None:
    network = small_sepformer(stems=["vocals", "rest"], complement="vocals")
    assert network.num_stems == 1
    built = WaveformSeparator(
        network=network,
        **(SEPARATOR | {"stems": ["vocals", "rest"], "complement": "vocals"}),
    )
    x = noise_mixture()
    estimates = built(x)
    torch.testing.assert_close(estimates.sum(dim=1), x)
    torch.testing.assert_close(estimates[:, 1], network(x)[:, 0])


def test_levels_are_those_that_come_nearest_to_the_mixture(noise_mixture: Noise) -> None:
    stems = noise_mixture(batch=4, channels=2, length=300).unflatten(0, (2, 2))
    unlevelled = stems * torch.tensor([3.0, -0.2])[None, :, None, None]
    torch.testing.assert_close(
        with_levels_of(stems.sum(dim=1), unlevelled), stems, atol=1e-2, rtol=1e-2
    )
    noise = noise_mixture(batch=2, channels=2, length=300)
    fitted = with_levels_of(noise, unlevelled)
    left = noise - fitted.sum(dim=1)
    inner = torch.einsum("bscl,bcl->bs", fitted, left)
    assert inner.abs().max() < 1e-3 * noise.square().sum()  # nothing of them is left in the rest


def test_equal_estimates_share_the_mixture_and_silent_ones_stay_silent(
    noise_mixture: Noise,
) -> None:
    x = noise_mixture(length=50)
    shared = with_levels_of(x, x.unsqueeze(1).repeat(1, 2, 1, 1))
    torch.testing.assert_close(shared[:, 0], x / 2, atol=1e-3, rtol=1e-3)
    silent = torch.zeros(2, 2, 1, 50, requires_grad=True)
    levelled = with_levels_of(x, silent)
    assert not levelled.any()
    levelled.sum().backward()
    assert silent.grad is not None
    assert silent.grad.isfinite().all()


def test_the_order_and_the_ratio_of_an_estimate_do_not_depend_on_its_level(
    noise_mixture: Noise, separator: Make
) -> None:
    x = noise_mixture(length=200)
    built = separator(levels="mixture")
    loss = PermutationInvariantSiSnr(limit_db=None, weight=1.0)
    stems = noise_mixture(batch=4, length=200).unflatten(0, (2, 2))
    torch.testing.assert_close(loss(built(x), stems), loss(built.network(x), stems))


def test_a_checkpoint_builds_the_same_separator_again(
    tmp_path: Path, noise_mixture: Noise, separator: Make, sepformer_config: dict[str, Any]
) -> None:
    config = SEPARATOR | {
        "_target_": "frametx.waveform_separator.WaveformSeparator",
        "network": sepformer_config | {"_target_": "frametx.models.sepformer.SepFormer"},
    }
    built, x = separator(), noise_mixture()
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
        ({"stems": ["none", "b"]}, "a stem cannot be called none"),
    ],
)
def test_a_separator_that_does_not_fit_its_network_is_refused(
    changes: dict[str, Any], says: str, separator: Make
) -> None:
    with pytest.raises(ValueError, match=says):
        separator(**changes)
