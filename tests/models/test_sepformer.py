"""The SepFormer: it takes samples, so the laws of the family's networks are said anew here."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from frametx.checkpoint import load_separator, save_separator
from frametx.config import conf_dir
from frametx.execution import Execution
from frametx.losses.permutation_invariant import PermutationInvariantSiSnr
from frametx.models.sepformer import SepFormer
from frametx.nn.block import recompute_blocks
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


def gradients(network: SepFormer, x: Tensor) -> dict[str, Tensor]:
    network.zero_grad()
    network(x).square().mean().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 7, 8, 9, 64, 101, 400])
def test_any_length_comes_back_as_stems_of_that_length(length: int) -> None:
    estimates = build()(mixture(channels=2, length=length))
    assert estimates.shape == (2, 2, 2, length)
    assert estimates.isfinite().all()


@torch.no_grad()
def test_every_sample_lies_in_a_frame() -> None:
    network = build()
    with torch.no_grad():
        network.encoder.weight.fill_(1.0)
    for length in range(1, 20):
        impulse = torch.zeros(1, length)
        impulse[0, -1] = 1.0
        assert network.encode(impulse).max() == 1.0


@torch.no_grad()
def test_a_batch_is_its_members_and_channels_one_by_one() -> None:
    network, batch = build(), mixture(batch=3, channels=2)
    alone = torch.stack(
        [
            torch.cat([network(channel[None, None]) for channel in member], dim=2)[0]
            for member in batch
        ]
    )
    torch.testing.assert_close(network(batch), alone, atol=1e-5, rtol=1e-4)


def test_the_gradient_reaches_every_parameter() -> None:
    network = build()
    reached = {name for name, g in gradients(network, mixture()).items() if g.any()}
    assert reached == {name for name, _ in network.named_parameters()}


@torch.no_grad()
def test_a_louder_mixture_gives_louder_estimates_and_nothing_else() -> None:
    network, x = build(), mixture()
    torch.testing.assert_close(network(10 * x), 10 * network(x), atol=1e-4, rtol=1e-3)


def test_running_transformers_again_in_backward_changes_no_gradient() -> None:
    network, x = build(dropout=0.3).train(), mixture()
    torch.manual_seed(2)
    kept = gradients(network, x)
    recompute_blocks(network)
    torch.manual_seed(2)
    again = gradients(network, x)
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient)


@torch.no_grad()
def test_dropout_is_random_in_training_alone() -> None:
    network, x = build(dropout=0.3), mixture()
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_under_autocast_the_estimates_stay_close_in_full_precision() -> None:
    network, x = build(), mixture()
    exact = network(x).detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.05, rtol=0.05)
    rough.square().mean().backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize(
    ("model", "num_parameters"),
    [("sepformer", 25_679_361), ("sepformer_small", 1_691_393), ("sepformer_tiny", 24_705)],
)
def test_the_configs_build_what_they_say(model: str, num_parameters: int) -> None:
    """The first count is that of the authors' recipe in SpeechBrain for two speakers, by sum."""
    names = [f"model={model}", "audio=8k_mono", "stems=[one,two]", "complement=null"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", names)
    with torch.device("meta"):
        built = instantiate(cfg.separator)
    assert isinstance(built, WaveformSeparator)
    assert built.stems == ("one", "two")
    assert built.chunk_samples == 64_000
    assert sum(p.numel() for p in built.parameters()) == num_parameters


def test_the_count_of_the_recipe_is_the_sum_of_its_parts() -> None:
    features, hidden, speakers = 256, 1024, 2
    linear = features * features + features
    layer = 4 * linear + 2 * features * hidden + hidden + features + 2 * 2 * features
    transformer = 8 * layer + 2 * features
    block = 2 * transformer + 2 * 2 * features
    heads = speakers * linear + 2 * linear + 2 * features * features  # and the bottleneck
    ends = 2 * 16 * features + 2 * features + 1  # encoder, decoder, first norm, PReLU
    assert 2 * block + heads + ends == 25_679_361


def two_speakers(*, length: int = 256) -> Tensor:
    """Two harmonic voices with different rhythms, 1 S 1 L."""
    time_s = torch.arange(length) / 8_000
    low = torch.sin(2 * torch.pi * 250 * time_s) * (torch.sin(2 * torch.pi * 40 * time_s) > 0)
    high = torch.sin(2 * torch.pi * 1_900 * time_s) * (torch.sin(2 * torch.pi * 65 * time_s) > -0.3)
    return torch.stack([low, high])[None, :, None]


def test_sixty_steps_on_one_mixture_of_two_speakers_win_ten_db() -> None:
    network, stems = build().train(), two_speakers()
    loss = PermutationInvariantSiSnr(limit_db=None, weight=1.0)
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    losses = []
    for _ in range(60):
        found = loss(network(stems.sum(dim=1)), stems)
        optimizer.zero_grad()
        found.backward()
        optimizer.step()
        losses.append(found.item())
    untouched = loss(stems.sum(dim=1, keepdim=True).expand_as(stems), stems).item()
    assert min(losses[-5:]) < untouched - 10
    with torch.no_grad():  # what it learned holds for the swapped speakers as well
        swapped = loss(network(stems.sum(dim=1)), stems.flip(1))
    torch.testing.assert_close(swapped, loss(network(stems.sum(dim=1)), stems))


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
        ({"stride": 9}, "stride=9 must be between 1 and kernel_size=8"),
        ({"chunk_frames": 7}, "chunk_frames=7 must be even"),
        ({"num_heads": 5}, "num_features=12 cannot be split into 5 heads"),
        ({"stems": ["a"], "complement": "a"}, "leave nothing to separate"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        build(**changes)


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


def test_an_empty_mixture_is_refused() -> None:
    with pytest.raises(ValueError, match="an empty mixture"):
        build()(torch.zeros(1, 1, 0))
