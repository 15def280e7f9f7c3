"""Laws of every loss, and that every file of conf/loss can be trained with."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.config import conf_dir
from frametx.losses.log_spectral import LogSpectralDistance
from frametx.losses.mel import MelL1
from frametx.losses.multi_resolution_stft import MultiResolutionStft
from frametx.losses.signal_ratio import BatchSignalRatio, SiSdr
from frametx.losses.spectral import ComplexL1, MagnitudeL1
from frametx.losses.trimmed import TrimmedSquaredError
from frametx.losses.waveform import WaveformL1
from frametx.losses.weighted_sum import WeightedSum
from frametx.train import train

MULTI_RESOLUTION = MultiResolutionStft(
    n_ffts=[32, 128], floor=1e-4, convergence_weight=1.0, log_magnitude_weight=1.0, weight=1.0
)
DISTANCES = {
    "magnitude": MagnitudeL1(n_ffts=[64], weight=1.0),
    "magnitudes": MagnitudeL1(n_ffts=[32, 128], weight=1.0),
    "complex": ComplexL1(n_ffts=[32, 128], weight=1.0),
    "mel": MelL1(sample_rate=16_000, n_fft=128, num_bands=12, weight=1.0),
    "waveform": WaveformL1(weight=1.0),
    "multi_resolution_stft": MULTI_RESOLUTION,
    "log_spectral": LogSpectralDistance(n_fft=64, floor=1e-4, takes_root=True, weight=1.0),
    "log_spectral_squared": LogSpectralDistance(n_fft=64, floor=1e-4, takes_root=False, weight=1.0),
    "trimmed": TrimmedSquaredError(quantile=0.9, piece_samples=50, weight=1.0),
    "sum": WeightedSum(
        terms={"a": WaveformL1(weight=0.5), "b": MagnitudeL1(n_ffts=[64], weight=2.0)}
    ),
}
RATIOS = {
    "si_sdr": SiSdr(weight=1.0),
    "snr": BatchSignalRatio(
        form="snr", epsilon=1e-10, epsilon_place="inside", stft=None, weight=1.0
    ),
    "sdr": BatchSignalRatio(
        form="sdr", epsilon=1e-10, epsilon_place="inside", stft=None, weight=1.0
    ),
    "snr_of_magnitudes": BatchSignalRatio(
        form="snr",
        epsilon=1e-10,
        epsilon_place="inside",
        stft=Stft(n_fft=64, hop_length=16),
        weight=1.0,
    ),
}
LOSSES = DISTANCES | RATIOS
MEANS = [  # over samples of a batch; the others look at the batch as a whole
    name for name in LOSSES if name not in ("trimmed", "snr", "sdr", "snr_of_magnitudes")
]
SIGHTED = [name for name in LOSSES if name not in ("si_sdr", "sdr")]  # that see a wrong level
CONFIGS = sorted(path.stem for path in (conf_dir() / "loss").glob("*.yaml"))
NEEDED = {"vocal_bands": ["model.has_vocal_bands=true"]}
NEEDED["pit_si_snr"] = ["ordered_stems=false"]
NEEDED["vocal_presence"] = NEEDED["vocal_bands"]


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gradient(loss: nn.Module, estimates: Tensor, stems: Tensor) -> Tensor:
    estimates = estimates.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(estimates, stems), estimates)
    return found


@pytest.mark.parametrize("name", DISTANCES)
def test_the_truth_costs_nothing_and_noise_costs_more_the_louder_it_is(name: str) -> None:
    stems, wrong = noise(2, 2, 2, 500, seed=1), noise(2, 2, 2, 500, seed=2)
    costs = [float(DISTANCES[name](stems + level * wrong, stems)) for level in (0.0, 0.1, 1.0)]
    assert costs[0] == pytest.approx(0, abs=1e-6)
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("name", RATIOS)
def test_a_ratio_is_the_better_the_weaker_the_noise(name: str) -> None:
    stems, wrong = noise(2, 2, 2, 500, seed=1), noise(2, 2, 2, 500, seed=2)
    costs = [float(RATIOS[name](stems + level * wrong, stems)) for level in (0.0, 0.01, 0.1, 1.0)]
    assert costs[0] < costs[1] < costs[2] < costs[3]
    assert -45 < costs[1] < -35  # a hundredth is 40 dB below


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(
    ("estimated", "truth"),
    [(0.0, 0.0), (1e-30, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (1e-6, 1e-6)],
)
@pytest.mark.parametrize("length", [2, 300])
def test_value_and_gradient_are_finite_in_silence_and_where_nothing_is_wrong(
    name: str, estimated: float, truth: float, length: int
) -> None:
    signal = noise(2, 2, 1, length, seed=3)
    found = gradient(LOSSES[name], estimated * signal, truth * signal)
    assert torch.isfinite(LOSSES[name](estimated * signal, truth * signal))
    assert torch.isfinite(found).all()


@pytest.mark.parametrize("name", LOSSES)
def test_one_sample_of_audio_has_a_finite_loss(name: str) -> None:
    stems, estimates = torch.tensor([[[[0.3]]], [[[-0.2]]]]), torch.tensor([[[[0.1]]], [[[0.2]]]])
    assert torch.isfinite(LOSSES[name](estimates, stems))
    assert torch.isfinite(gradient(LOSSES[name], estimates, stems)).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_against_the_gradient_lowers_the_loss(name: str) -> None:
    stems = noise(2, 2, 1, 300, seed=4)
    estimates = 0.5 * stems + 0.1 * noise(2, 2, 1, 300, seed=5)
    slope = gradient(LOSSES[name], estimates, stems)
    assert slope.abs().max() > 0
    step = 1e-3 * estimates.norm() / slope.norm()
    better = LOSSES[name](estimates - step * slope, stems)
    assert better < LOSSES[name](estimates, stems)
    assert (slope * (stems - estimates)).sum() < 0


@pytest.mark.parametrize("name", SIGHTED)
def test_descent_finds_the_gain_of_an_estimate(name: str) -> None:
    stems = noise(1, 2, 1, 300, seed=6)
    gain = torch.tensor(0.4, requires_grad=True)
    optimizer = torch.optim.Adam([gain], lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        LOSSES[name](gain * stems, stems).backward()
        optimizer.step()
    assert gain.item() == pytest.approx(1.0, abs=0.06)


@pytest.mark.parametrize("name", MEANS)
def test_the_loss_of_a_batch_is_the_mean_of_the_losses_of_its_samples(name: str) -> None:
    stems, estimates = noise(3, 2, 2, 400, seed=7), noise(3, 2, 2, 400, seed=8)
    stems[0, 1] = 0  # one silent stem
    alone = [LOSSES[name](estimates[i : i + 1], stems[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(
        LOSSES[name](estimates, stems), torch.stack(alone).mean(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("name", LOSSES)
def test_autocast_does_not_change_the_loss(name: str) -> None:
    stems, estimates = noise(2, 1, 1, 400, seed=9), noise(2, 1, 1, 400, seed=10)
    expected = LOSSES[name](estimates, stems)
    with torch.autocast("cpu", torch.bfloat16):
        found = LOSSES[name](estimates, stems)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_estimates_in_half_precision_are_compared_in_full_precision(name: str) -> None:
    stems = noise(2, 1, 1, 400, seed=9)
    estimates = (0.5 * stems).bfloat16()
    found = LOSSES[name](estimates, stems)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, LOSSES[name](estimates.float(), stems), atol=0, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_has_nothing_to_store_in_a_checkpoint(name: str) -> None:
    assert not LOSSES[name].state_dict()
    assert not list(LOSSES[name].parameters())


def test_a_sum_is_the_sum_of_its_terms() -> None:
    stems, estimates = torch.randn(2, 1, 2, 1, 400)
    terms = {"a": WaveformL1(weight=0.5), "b": MagnitudeL1(n_ffts=[64], weight=2.0)}
    expected = sum(float(term(estimates, stems)) for term in terms.values())
    assert float(WeightedSum(terms=terms)(estimates, stems)) == pytest.approx(expected)


def test_a_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"loss\.terms is empty"):
        WeightedSum(terms={})


@pytest.mark.parametrize("kind", [MagnitudeL1, ComplexL1])
def test_white_noise_costs_about_the_same_at_every_resolution(
    kind: Callable[..., nn.Module],
) -> None:
    stems = noise(1, 1, 1, 16000, seed=0)
    costs = [
        float(kind(n_ffts=[n], weight=1.0)(torch.zeros_like(stems), stems))
        for n in (128, 512, 2048)
    ]
    assert max(costs) < 1.2 * min(costs)


def test_only_the_complex_distance_hears_the_phase() -> None:
    stems = noise(1, 1, 1, 2000, seed=11)
    assert MagnitudeL1(n_ffts=[64], weight=1.0)(-stems, stems) == 0
    assert ComplexL1(n_ffts=[64], weight=1.0)(-stems, stems) > 0.5


@pytest.mark.parametrize("name", CONFIGS)
def test_every_loss_of_conf_trains(
    name: str, tmp_path: Path, compose_tiny: Callable[..., DictConfig]
) -> None:
    settings = [f"loss={name}", "trainer.max_steps=2", *NEEDED.get(name, [])]
    train(compose_tiny(tmp_path, *settings))
    saved = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 2  # none was skipped for a gradient that is not finite
    (optimizer,) = saved["optimizer_states"]
    momenta = torch.cat([state["exp_avg"].flatten() for state in optimizer["state"].values()])
    assert torch.isfinite(momenta).all()
    assert momenta.abs().max() > 0


def test_terms_are_added_weighed_and_taken_away_on_the_command_line(
    tmp_path: Path, compose_tiny: Callable[..., DictConfig]
) -> None:
    added = ["+loss@loss.terms.mel=mel_l1", "+loss@loss.terms.level=si_sdr"]
    for weights in itertools.product((0.5, 2.0), repeat=2):
        weighed = [
            f"loss.terms.{k}.weight={w}" for k, w in zip(("mel", "level"), weights, strict=True)
        ]
        terms = compose_tiny(tmp_path, "loss=weighted", *added, *weighed).loss.terms
        assert (terms.mel.weight, terms.level.weight) == weights
        assert terms.level._target_ == "frametx.losses.signal_ratio.SiSdr"
    alone = compose_tiny(tmp_path, "loss=weighted", *added, "~loss.terms.magnitude").loss.terms
    assert set(alone) == {"mel", "level"}
