import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.separator import SpectrogramSeparator
from frametx.training.pretraining import Denoising, MaskedFrames, PretrainingModule, Task
from frametx.training.pretraining import scaled_magnitude as scaled


def _small_networks() -> dict[str, Any]:
    """The small networks that the models' own laws are checked with."""
    path = Path(__file__).parents[1] / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("small_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NETWORKS


NETWORKS = _small_networks()


def around(
    network: nn.Module, *, n_fft: int = 32, stems: int = 2, complement: bool = True
) -> SpectrogramSeparator:
    names = [f"stem {i}" for i in range(stems)]
    return SpectrogramSeparator(
        stft=Stft(n_fft=n_fft, hop_length=n_fft // 2),
        network=network,
        stems=names,
        complement=names[0] if complement else None,
        sample_rate=8_000,
        num_channels=2,
        chunk_frames=64,
        scale="chunk_peak",
        top_bin="copy",
    )


def masked(**changes: Any) -> MaskedFrames:
    return MaskedFrames(
        **(
            {"token_frames": [4, 8], "share": 0.3, "ones": 0.8, "noise": 0.1, "exponent": 1.0}
            | changes
        )
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Oracle(nn.Module):
    """Knows the magnitude, and so can tell what was added to it; wants a range of its own."""

    def __init__(self, magnitude: Tensor, gamma: float, input_range: tuple[float, float]) -> None:
        super().__init__()
        self.magnitude, self.gamma, self.input_range = magnitude, gamma, input_range

    def forward(self, given: Tensor) -> Tensor:
        low, high = self.input_range
        shown = 2 * (given - low) / (high - low) - 1
        clean = 2 * self.magnitude - 1
        return (shown - self.gamma**0.5 * clean) / (1 - self.gamma) ** 0.5


class Learned(nn.Module):
    """The same logits whatever is shown."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.randn(*shape, generator=seeded(1)))

    def forward(self, given: Tensor) -> Tensor:
        return self.logits


@pytest.mark.parametrize("input_range", [(0.0, 1.0), (-1.0, 1.0)])
def test_what_the_network_is_to_say_is_the_noise_that_was_added(
    input_range: tuple[float, float],
) -> None:
    magnitude = torch.rand(3, 2, 17, 9, generator=seeded(0))
    task = Denoising(gamma=0.95)
    right = around(Oracle(magnitude, 0.95, input_range))
    assert task.loss(right, magnitude, seeded(2)) < 1e-5
    wrong = around(Oracle(magnitude.flip(-1), 0.95, input_range))
    assert task.loss(wrong, magnitude, seeded(2)) > 0.1


def test_the_noise_is_normal_and_takes_the_share_that_gamma_leaves() -> None:
    magnitude = torch.rand(4, 2, 33, 64, generator=seeded(0))
    noise = torch.randn(magnitude.shape, generator=seeded(1))
    added = 2 * Denoising(gamma=0.9).shown(magnitude, noise) - 1 - 0.9**0.5 * (2 * magnitude - 1)
    assert float(added.std()) == pytest.approx(0.1**0.5, rel=0.02)
    silent = Learned(4, 2, 33, 64)
    with torch.no_grad():
        silent.logits.zero_()
    # nothing said is as far as normal numbers are from 0 on average
    loss = Denoising(gamma=0.9).loss(around(silent, n_fft=64), magnitude, seeded(3))
    assert float(loss.detach()) == pytest.approx((2 / math.pi) ** 0.5, rel=0.02)


def test_only_masked_frames_count() -> None:
    magnitude = torch.rand(3, 2, 17, 40, generator=seeded(0))
    network, task = Learned(3, 2, 17, 40), masked()
    chosen, _ = task.choose(3, 40, seeded(5))
    task.loss(around(network), magnitude, seeded(5)).backward()
    grad = network.logits.grad
    assert grad is not None
    assert not grad.movedim(2, 3)[~chosen[:, None].expand(-1, 2, -1)].any()
    assert grad.movedim(2, 3)[chosen[:, None].expand(-1, 2, -1)].any(-1).all()


def test_ones_can_be_repaired_by_a_mask_exactly() -> None:
    magnitude = torch.rand(2, 2, 17, 40, generator=seeded(0)).clamp(0.01, 0.99)
    network, task = Learned(2, 2, 17, 40), masked(ones=1.0, noise=0.0)
    with torch.no_grad():
        network.logits.copy_(magnitude.logit())
    assert task.loss(around(network), magnitude, seeded(5)) < 1e-6


def test_with_a_smaller_exponent_quiet_bins_count_and_the_truth_is_still_best() -> None:
    magnitude = torch.full((1, 2, 17, 40), 0.01)
    chosen = torch.ones(1, 40, dtype=torch.bool)
    for exponent in (1.0, 0.5):
        task = masked(exponent=exponent)
        assert task.distance(magnitude, magnitude, chosen) == 0
    silence = torch.zeros_like(magnitude).requires_grad_()
    plain = masked(exponent=1.0).distance(silence, magnitude, chosen)
    root = masked(exponent=0.5).distance(silence, magnitude, chosen)
    assert plain.item() == pytest.approx(0.01)
    assert root.item() == pytest.approx(0.0101**0.5 - 0.01)
    (slope,) = torch.autograd.grad(root, silence)
    assert slope.isfinite().all()
    assert (slope < 0).all()


def test_frames_are_shown_in_the_three_ways_and_others_as_they_are() -> None:
    magnitude = torch.rand(200, 1, 5, 64, generator=seeded(0)) * 0.9
    noise, task = torch.rand(magnitude.shape, generator=seeded(1)), masked()
    chosen, how = task.choose(200, 64, seeded(2))
    shown = task.shown(magnitude, noise, chosen, how)
    same = (shown == magnitude).all(2)[:, 0]
    ones = (shown == 1).all(2)[:, 0]
    assert same[~chosen].all()
    assert float(chosen.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert float(ones[chosen].float().mean()) == pytest.approx(0.8, abs=0.05)
    assert float(same[chosen].float().mean()) == pytest.approx(0.1, abs=0.04)
    noisy = (chosen & ~ones & ~same)[:, None, None].expand_as(shown)
    assert (shown[noisy] >= magnitude[noisy]).all()
    assert shown.max() == 1


def test_tokens_are_of_one_length_in_its_range_and_one_is_always_chosen() -> None:
    lengths = set()
    for seed in range(60):
        task = masked(share=0.01)
        chosen, _ = task.choose(50, 40, seeded(seed))
        assert chosen.any(1).all()
        # with so small a share it is most often the one: whole, unless it ends the excerpt
        ends = chosen[:, -1]
        runs = chosen[~ends].sum(1)
        length = int(runs.min())
        lengths.add(length)
        assert (runs % length == 0).all()
        starts = chosen[~ends].float().argmax(1)
        assert (starts % length == 0).all()
    assert lengths == {4, 5, 6, 7, 8}


@pytest.mark.parametrize("name", [name for name in NETWORKS if "," not in name])
@pytest.mark.parametrize("task", [Denoising(gamma=0.95), masked(token_frames=[2, 3])])
def test_every_network_learns_from_both_tasks(name: str, task: Task) -> None:
    case = NETWORKS[name]
    network = case.build(out_channels=2)
    separator = around(network, n_fft=case.config["n_fft"])
    frames = case.frames[0]
    mixture = torch.randn(2, 2, separator.stft.num_samples(frames), generator=seeded(0))
    magnitude = scaled(separator, mixture)
    assert magnitude.amax((1, 2, 3)).tolist() == [1, 1]
    loss = task.loss(separator, magnitude, seeded(1))
    loss.backward()
    assert loss.isfinite()
    reached = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    past = {n for n, p in network.named_parameters() if p.requires_grad} - reached - {*case.unused}
    assert not past


@pytest.mark.parametrize("task", [Denoising(gamma=0.95), masked()])
def test_each_of_several_stems_is_asked_the_same(task: Task) -> None:
    magnitude = torch.rand(2, 2, 17, 40, generator=seeded(0))
    one = Learned(2, 2, 17, 40)
    three = Learned(2, 6, 17, 40)
    with torch.no_grad():
        three.logits.copy_(one.logits.repeat(1, 3, 1, 1))
    several = around(three, stems=3, complement=False)
    torch.testing.assert_close(
        task.loss(several, magnitude, seeded(1)), task.loss(around(one), magnitude, seeded(1))
    )


def test_a_batch_is_its_samples_one_by_one_in_the_mean() -> None:
    """However many frames of each were masked: so accumulation changes nothing."""
    task, magnitude = masked(), torch.rand(4, 2, 17, 40, generator=seeded(0))
    repaired = torch.rand(magnitude.shape, generator=seeded(1))
    chosen, _ = task.choose(4, 40, seeded(2))
    assert len({*chosen.sum(1).tolist()}) > 1
    alone = [
        task.distance(repaired[i : i + 1], magnitude[i : i + 1], chosen[i : i + 1])
        for i in range(4)
    ]
    torch.testing.assert_close(
        task.distance(repaired, magnitude, chosen), torch.stack(alone).mean()
    )


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Denoising(gamma=1.0), "gamma=1.0 must lie between 0 and 1"),
        (lambda: masked(token_frames=[8, 4]), r"\[shortest, longest\]"),
        (lambda: masked(share=0.0), "share=0.0"),
        (lambda: masked(exponent=1.5), "exponent=1.5 must be above 0"),
        (lambda: masked(ones=0.8, noise=0.3), "nor exceed 1 together"),
        (lambda: masked().choose(1, 7, None), "7 frames hold no two tokens of 4"),
        (
            lambda: PretrainingModule(
                separator=nn.Linear(2, 2),
                task=masked(),
                optimizer=torch.optim.AdamW,
                scheduler=lambda _: 1.0,
                clip_norm=1.0,
                weight_decay=0.0,
                max_nonfinite=1,
                seed=0,
                attention="auto",
                recompute=False,
                layer_decay=None,
            ),
            "Linear has none",
        ),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
