"""What the convolutional networks that ours are measured against keep to, each in a small form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.models.jansson_unet import JanssonUNet
from frametx.models.mmdensenet import MMDenseNet
from frametx.models.spleeter import Spleeter
from frametx.nn.dense_unet import DenseUNet
from frametx.separator import SpectrogramSeparator

SPLEETER: dict[str, Any] = {
    "in_channels": 2,
    "num_stems": 2,
    "gives_last_stem": False,
    "num_bins": 16,
    "widths": [4, 6, 8],
    "kernel_size": 5,
    "num_dropout_levels": 1,
    "dropout": 0.0,
    "down_activation": "leaky_relu",
    "up_activation": "relu",
    "own_masks": "sigmoid",
    "exponent": 2.0,
    "trains_shares": True,
}
JANSSON_UNET: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 2,
    "num_bins": 16,
    "widths": [4, 6, 8],
    "kernel_size": 5,
    "num_dropout_levels": 1,
    "dropout": 0.0,
}
SOFTMAX: dict[str, Any] = SPLEETER | {
    "num_stems": 3,
    "own_masks": "softmax",
    "up_activation": "elu",
}
OWN_MASKS: dict[str, Any] = SPLEETER | {"gives_last_stem": True, "trains_shares": False}


def dense_unet(num_bins: int, lstm_units: list[int]) -> DenseUNet:
    num_blocks = len(lstm_units)
    return DenseUNet(
        in_channels=2,
        num_bins=num_bins,
        channels=4,
        first_kernel_size=[3, 3],
        growth_rates=list(range(4, 4 + num_blocks)),
        num_layers=[2] * (num_blocks - 1) + [1],
        lstm_units=lstm_units,
        kernel_size=[3, 4],
    )


def mmdense(low: list[int], full: list[int]) -> MMDenseNet:
    """Bands of 7 and 13 bins, neither of which can be halved."""
    return MMDenseNet(
        bands=[dense_unet(7, low), dense_unet(13, [0])],
        full=dense_unet(20, full),
        out_channels=2,
        final_growth_rate=4,
        final_num_layers=2,
        final_kernel_size=[1, 2],
        head="mask",
    )


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "spleeter": lambda **changes: Spleeter(**(SPLEETER | changes)),
    "spleeter, softmax of 3 stems": lambda **changes: Spleeter(**(SOFTMAX | changes)),
    "spleeter, own masks": lambda **changes: Spleeter(**(OWN_MASKS | changes)),
    "jansson_unet": lambda **changes: JanssonUNet(**(JANSSON_UNET | changes)),
    "mmdensenet": lambda: mmdense(low=[0, 0, 0], full=[0, 0, 0, 0, 0]),
    "mmdenselstm": lambda: mmdense(low=[0, 3, 0], full=[0, 0, 4, 0, 5]),
}
WITH_DROPOUT = [name for name in NETWORKS if not name.startswith("mmdense")]


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def build(name: str, **changes: Any) -> Any:
    torch.manual_seed(0)
    return NETWORKS[name](**changes).eval()


def magnitude(network: Any, *, batch: int = 2) -> Tensor:
    torch.manual_seed(1)
    return torch.rand(batch, 2, network.num_bins, 2 * network.frame_multiple)


@torch.no_grad()
def test_a_batch_is_its_members_one_by_one(name: str) -> None:
    network = build(name)
    batch = magnitude(network, batch=3)
    alone = torch.cat([network(member[None]) for member in batch])
    torch.testing.assert_close(network(batch), alone, atol=1e-5, rtol=1e-4)


def test_the_gradient_reaches_every_parameter(name: str) -> None:
    network = build(name)
    network(magnitude(network)).square().mean().backward()
    lost = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert lost == []


@torch.no_grad()
@pytest.mark.parametrize("name", WITH_DROPOUT)
def test_evaluation_is_deterministic_and_dropout_makes_training_random(name: str) -> None:
    network = build(name, dropout=0.3)
    x = magnitude(network)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


def test_sixty_steps_on_one_batch_halve_the_loss(name: str) -> None:
    network = build(name).train()
    x = magnitude(network)
    shape = network(x).shape
    wanted = (torch.arange(shape[2]) % 3 == 0).float()[:, None].expand(shape)
    if shape[1] == 4:  # of both stems: one has what the other has not
        wanted = torch.cat([wanted[:, :2], 1 - wanted[:, :2]], 1)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = nn.functional.binary_cross_entropy_with_logits(network(x), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_the_gradient_flows_under_autocast_and_the_masks_stay_close(name: str) -> None:
    network = build(name)
    x = magnitude(network)
    exact = network(x).detach().sigmoid()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = network(x)
    torch.testing.assert_close(rough.float().sigmoid(), exact, atol=0.05, rtol=0.05)
    rough.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@torch.no_grad()
def test_a_separator_takes_any_number_of_frames_and_silence(name: str) -> None:
    network = build(name)
    num_stems = 1 + network(magnitude(network)).shape[1] // 2
    stems = ["vocals", "drums", "bass", "other"][:num_stems]
    separator = SpectrogramSeparator(
        stft=Stft(n_fft=64, hop_length=16),
        network=network,
        stems=stems,
        complement=stems[-1],
        sample_rate=8000,
        num_channels=2,
        chunk_frames=32,
        scale="chunk_peak",
        top_bin="average",
    ).eval()
    for length in (1, 100, 401):
        mixture = torch.randn(2, 2, length)
        mixture[1] = 0
        estimates = separator(mixture)
        assert estimates.shape == (2, num_stems, 2, length)
        assert estimates.isfinite().all()
        torch.testing.assert_close(estimates.sum(1), mixture, atol=1e-5, rtol=0)
        assert not estimates[1].any()


def test_bins_and_frames_it_was_not_made_for_are_refused(name: str) -> None:
    network = build(name)
    x = magnitude(network)
    with pytest.raises(ValueError, match=rf"{x.shape[2] + 1} bins, the network takes {x.shape[2]}"):
        network(torch.cat([x, x[:, :, -1:]], 2))
    with pytest.raises(ValueError, match=rf"must be a multiple of {network.frame_multiple}"):
        network(x[..., 1:])


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:The tensor attributes .*lstm:UserWarning"
)  # of torch's own LSTM
def test_exported_for_a_number_of_frames_it_returns_the_same_logits(name: str) -> None:
    network = build(name)
    x = magnitude(network, batch=1)
    exported = torch.export.export(network, (torch.zeros_like(x),))
    torch.testing.assert_close(exported.module()(x), network(x), atol=1e-5, rtol=1e-4)
