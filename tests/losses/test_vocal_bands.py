import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from frametx.config import one_line
from frametx.losses.vocal_bands import VocalBandCrossEntropy, watch_separator
from frametx.losses.weighted_sum import WeightedSum
from frametx.models.asym_unet_mct import AsymUNetMCT
from frametx.nn.block import recompute_blocks
from frametx.separator import SpectrogramSeparator

Make = Callable[..., SpectrogramSeparator]


@pytest.fixture
def make(tmp_path: Path, compose_tiny: Callable[..., DictConfig]) -> Make:
    """The separator of a tiny run without dropout."""

    def build(*, has_vocal_bands: bool = True) -> SpectrogramSeparator:
        bands = f"model.has_vocal_bands={has_vocal_bands}"
        torch.manual_seed(0)
        return instantiate(compose_tiny(tmp_path, bands, "model.dropout=0.0").separator)

    return build


def make_loss() -> VocalBandCrossEntropy:
    return VocalBandCrossEntropy(stem="vocals", threshold=0.1, weight=1.0)


def two_stems() -> Tensor:
    """Vocals in the first half of the first sample only, and music everywhere."""
    stems = 0.1 * torch.randn(2, 2, 1, 256, generator=torch.Generator().manual_seed(0))
    stems[0, 0, :, 128:] = 0
    stems[1, 0] = 0
    return stems


def test_singing_is_where_the_vocals_are_and_in_silence_there_is_none(make: Make) -> None:
    separator, stems = make(), two_stems()
    singing = make_loss().singing(separator, stems, num_bands=4)
    assert singing.shape == (2, 1, 4, 9)
    assert singing[0, 0, :, :3].mean() > 0.9
    assert singing[0, 0, :, 6:].max() == 0
    assert singing[1].max() == 0
    assert make_loss().singing(separator, 0 * stems, num_bands=4).max() == 0


def test_a_tone_is_sung_in_its_own_band(make: Make) -> None:
    separator = make()
    stems = torch.zeros(1, 2, 1, 512)
    stems[0, 0, 0] = torch.sin(2 * torch.pi * 20 / 64 * torch.arange(512))  # bin 20 of 32
    singing = make_loss().singing(separator, stems, num_bands=4)
    assert singing[0, 0, :, 4:-4].mean(dim=-1).tolist() == [0, 0, 1, 0]


def test_the_loss_is_the_cross_entropy_of_the_side_output(make: Make) -> None:
    separator, loss, stems = make(), make_loss(), two_stems()
    watch_separator(WeightedSum(terms={"vocal_bands": loss}), separator)
    mixture = stems.sum(dim=1)
    found = loss(separator(mixture), stems)
    magnitude = separator.stft(mixture).abs()[:, :, : separator.num_bins]
    magnitude = magnitude / magnitude.amax(dim=(1, 2, 3), keepdim=True)
    network = separator.network
    assert isinstance(network, AsymUNetMCT)
    _, logits = network.forward_with_vocal_bands(magnitude)
    assert logits is not None
    singing = loss.singing(separator, stems, num_bands=logits.shape[2])
    assert 0 < singing.mean() < 1
    p = torch.sigmoid(logits)
    expected = -(singing * p.log() + (1 - singing) * (1 - p).log()).mean()
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, F.binary_cross_entropy_with_logits(logits, singing))


@pytest.mark.parametrize("recomputes", [False, True])
def test_the_gradient_reaches_the_side_output_and_what_is_below_it(
    make: Make, recomputes: bool
) -> None:
    separator, loss, stems = make(), make_loss(), two_stems()
    recompute_blocks(separator, recomputes=recomputes)
    loss.watch(separator)
    loss(separator(stems.sum(dim=1)), stems).backward()
    reached = {
        name.partition(".")[0]
        for name, p in separator.network.named_parameters()
        if p.grad is not None and p.grad.abs().max() > 0
    }
    assert {"vocal_bands", "encoders"} <= reached
    assert not reached & {"decoders", "out"}


def test_recomputed_blocks_give_the_same_gradient(make: Make) -> None:
    gradients = []
    for recomputes in (False, True):
        separator, loss, stems = make(), make_loss(), two_stems()
        recompute_blocks(separator, recomputes=recomputes)
        loss.watch(separator)
        estimates = separator(stems.sum(dim=1))
        (loss(estimates, stems) + (estimates - stems).abs().mean()).backward()
        gradients.append([p.grad for p in separator.parameters()])
    torch.testing.assert_close(*gradients, atol=0, rtol=0)


def test_descent_learns_where_somebody_sings(make: Make) -> None:
    separator, loss, stems = make(), make_loss(), two_stems()
    loss.watch(separator)
    optimizer = torch.optim.Adam(separator.parameters(), lr=1e-2)
    costs = []
    for _ in range(10):
        optimizer.zero_grad()
        cost = loss(separator(stems.sum(dim=1)), stems)
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    assert costs[-1] < 0.7 * costs[0]


def test_the_estimates_are_the_same_with_and_without_the_loss(make: Make) -> None:
    separator, mixture = make(), two_stems().sum(dim=1)
    before = separator(mixture)
    make_loss().watch(separator)
    torch.testing.assert_close(separator(mixture), before, atol=0, rtol=0)


def test_the_logits_are_kept_in_training_only_and_taken_once(make: Make) -> None:
    separator, mixture = make(), two_stems().sum(dim=1)
    separator(mixture)
    with pytest.raises(ValueError, match="no vocal bands"):  # nobody wanted them
        separator.take_vocal_bands()
    separator.keep_vocal_bands()
    separator(mixture)
    assert separator.take_vocal_bands().shape[0] == 2
    with pytest.raises(ValueError, match="no vocal bands"):
        separator.take_vocal_bands()
    separator.eval()(mixture)
    with pytest.raises(ValueError, match="no vocal bands"):
        separator.take_vocal_bands()


def test_a_copy_of_both_watches_the_copy(make: Make) -> None:
    """As the average of the weights makes one of the whole module."""
    separator, loss, stems = make(), make_loss(), two_stems()
    loss.watch(separator)
    copied, copied_loss = copy.deepcopy((separator, loss))
    mixture = stems.sum(dim=1)
    expected = loss(separator(mixture), stems)
    torch.testing.assert_close(copied_loss(copied(mixture), stems), expected)
    assert not loss.state_dict()


def test_a_batch_is_the_mean_of_its_samples(make: Make) -> None:
    separator, loss, stems = make(), make_loss(), two_stems()
    loss.watch(separator)
    whole = loss(separator(stems.sum(dim=1)), stems)
    alone = [loss(separator(part.sum(dim=1)), part) for part in stems.split(1)]
    torch.testing.assert_close(whole, torch.stack(alone).mean())


def test_a_separator_without_the_side_output_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="model=asym_unet_mct_generator"):
        make_loss().watch(make(has_vocal_bands=False))
    with pytest.raises(ValueError, match="Linear has no side output"):
        make_loss().watch(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="stem=choir"):
        VocalBandCrossEntropy(stem="choir", threshold=0.1, weight=1.0).watch(make())
    with pytest.raises(ValueError, match="watches no separator"):
        make_loss()(two_stems(), two_stems())


def test_a_run_whose_network_lacks_the_side_output_ends_before_it_starts(
    tmp_path: Path, compose_tiny: Callable[..., DictConfig]
) -> None:
    with pytest.raises(InstantiationException) as raised:
        instantiate(compose_tiny(tmp_path, "loss=vocal_presence").module)
    assert isinstance(raised.value.__cause__, ValueError)
    assert "AsymUNetMCT has no side output" in one_line(raised.value)
