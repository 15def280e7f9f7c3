"""The SepFormer: it takes samples, so the laws of the family's networks are said anew here."""

from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from frametx.config import conf_dir
from frametx.losses.permutation_invariant import PermutationInvariantSiSnr
from frametx.models.sepformer import SepFormer
from frametx.nn.block import recompute_blocks
from frametx.waveform_separator import WaveformSeparator

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


def build(**changes: Any) -> SepFormer:
    torch.manual_seed(0)
    return SepFormer(**(SMALL | changes)).eval()


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


def test_an_empty_mixture_is_refused() -> None:
    with pytest.raises(ValueError, match="an empty mixture"):
        build()(torch.zeros(1, 1, 0))
