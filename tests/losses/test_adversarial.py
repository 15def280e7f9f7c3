from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frametx.losses.adversarial import (
    RealOrFake,
    VocalPresence,
    feature_matching,
    gradient_penalty,
    interpolated,
    slope,
    squared_slope,
)
from frametx.losses.shown import Shown
from frametx.models.judgement import Judgement

Reference = Callable[[str], dict[str, Any]]
LOSSES = ["bce", "lsgan", "hinge", "wgan_gp"]


def real_or_fake(**changes: Any) -> RealOrFake:
    settings: dict[str, Any] = {
        "loss": "bce",
        "label_smoothing": 0.0,
        "feature_matching_weight": 0.0,
        "r1_weight": 0.0,
        "r2_weight": 0.0,
        "penalty_interval": 16,
        "gradient_penalty_weight": None,
    }
    return RealOrFake(**{**settings, **changes})


class Scales(nn.Module):
    """Two scales of one linear map, of different size; features are what it is shown."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 1, 1, bias=False)

    def forward(self, shown: Tensor) -> Judgement:
        near = self.conv(shown)
        return Judgement([near, F.avg_pool2d(near, 2)], [shown, near])


class Known(nn.Module):
    """Gives the logits that belong to what it is shown."""

    def __init__(self, *pairs: tuple[Tensor, list[Tensor]]) -> None:
        super().__init__()
        self.pairs = pairs

    def forward(self, shown: Tensor) -> Judgement:
        logits = next(logits for known, logits in self.pairs if known is shown)
        return Judgement(logits, [])


@pytest.fixture
def shown() -> Shown:
    torch.manual_seed(0)
    mixture, real, fake, voice = torch.rand(4, 3, 2, 8, 6)
    return Shown(
        real=torch.cat([mixture, real], 1),
        fake=torch.cat([mixture, fake], 1),
        stems={"vocals": voice, "instrumental": real},
        chance=torch.rand(3),
    )


def losses_of_logits(contest: RealOrFake, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
    shown = Shown(torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1), {}, torch.zeros(1))
    judge = Known((shown.real, [real]), (shown.fake, [fake]))
    return contest.discriminator_loss(judge, shown, step=1)[0], contest.generator_loss(judge, shown)


def test_the_losses_are_those_of_the_original(reference: Reference) -> None:
    known = reference("patchgan")
    contest = real_or_fake()
    discriminator, generator = losses_of_logits(contest, known["disc_real"], known["disc_fake"])
    assert float(discriminator) == pytest.approx(known["d_loss"], rel=1e-6)
    assert float(generator) == pytest.approx(known["g_gan"], rel=1e-6)
    one_side = losses_of_logits(contest, known["disc_real"], torch.full((1, 1, 1, 1), -1e4))[0]
    assert float(2 * one_side) == pytest.approx(known["d_real"], rel=1e-6)
    one_side = losses_of_logits(contest, torch.full((1, 1, 1, 1), 1e4), known["disc_fake"])[0]
    assert float(2 * one_side) == pytest.approx(known["d_fake"], rel=1e-6)
    reconstruction = F.l1_loss(known["Z"], known["Y"])
    assert float(reconstruction) == pytest.approx(known["g_l1"], rel=1e-6)
    total = generator + 100 * reconstruction
    assert float(total) == pytest.approx(known["g_loss"], rel=1e-6)


@pytest.mark.parametrize(
    ("loss", "discriminator", "generator"),
    [
        (
            "bce",
            lambda r, f: (
                (
                    F.binary_cross_entropy(r.sigmoid(), torch.ones_like(r))
                    + F.binary_cross_entropy(f.sigmoid(), torch.zeros_like(f))
                )
                / 2
            ),
            lambda f: F.binary_cross_entropy(f.sigmoid(), torch.ones_like(f)),
        ),
        (
            "lsgan",
            lambda r, f: F.mse_loss(r, torch.ones_like(r)) / 2 + (f * f).mean() / 2,
            lambda f: F.mse_loss(f, torch.ones_like(f)) / 2,
        ),
        (
            "hinge",
            lambda r, f: (1 - r).clamp_min(0).mean() + (1 + f).clamp_min(0).mean(),
            lambda f: -f.mean(),
        ),
    ],
)
def test_each_loss_is_its_papers_formula(
    loss: str,
    discriminator: Callable[[Tensor, Tensor], Tensor],
    generator: Callable[[Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    real, fake = 2 * torch.randn(2, 3, 1, 4, 5)
    found = losses_of_logits(real_or_fake(loss=loss), real, fake)
    torch.testing.assert_close(found, (discriminator(real, fake), generator(fake)))


def test_wasserstein_is_a_difference_of_means_with_the_penalty(shown: Shown) -> None:
    judge = Scales(4)
    contest = real_or_fake(loss="wgan_gp")
    loss, _ = contest.discriminator_loss(judge, shown, step=1)
    real, fake = (judge(x).logits for x in (shown.real, shown.fake))
    difference = torch.stack([f.mean() - r.mean() for r, f in zip(real, fake, strict=True)]).mean()
    between = interpolated(shown.real, shown.fake, shown.chance)
    torch.testing.assert_close(loss, difference + 10 * gradient_penalty(judge, between))
    wanted = -torch.stack([f.mean() for f in fake]).mean()
    torch.testing.assert_close(contest.generator_loss(judge, shown), wanted)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_better_side_has_the_lower_loss(loss: str) -> None:
    """The discriminator wants true patches above estimated ones, the generator the reverse."""
    low, high = torch.full((1, 1, 2, 2), -0.5), torch.full((1, 1, 2, 2), 0.5)
    contest = real_or_fake(loss=loss, gradient_penalty_weight=None if loss != "wgan_gp" else 1e-30)
    shown = Shown(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), {}, torch.zeros(1))

    class Judge(nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            self.slope = slope

        def forward(self, x: Tensor) -> Judgement:  # real is shown as 0, fake as 1
            return Judgement([low + (high - low) * (x if self.slope < 0 else 1 - x)], [])

    right = contest.discriminator_loss(Judge(1), shown, step=1)[0]
    wrong = contest.discriminator_loss(Judge(-1), shown, step=1)[0]
    assert right < wrong
    assert contest.generator_loss(Judge(-1), shown) < contest.generator_loss(Judge(1), shown)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_batch_is_the_mean_of_its_samples(loss: str, shown: Shown) -> None:
    """All of it, penalties too: so accumulated gradients are those of a large batch."""
    judge = Scales(4)
    contest = real_or_fake(
        loss=loss,
        feature_matching_weight=3.0,
        r1_weight=2.0,
        r2_weight=1.0,
        gradient_penalty_weight=5.0,
    )
    parts = [
        Shown(
            shown.real[i : i + 1],
            shown.fake[i : i + 1],
            {name: stem[i : i + 1] for name, stem in shown.stems.items()},
            shown.chance[i : i + 1],
        )
        for i in range(3)
    ]
    whole = contest.discriminator_loss(judge, shown, step=0)[0]
    single = [contest.discriminator_loss(judge, part, step=0)[0] for part in parts]
    torch.testing.assert_close(whole, torch.stack(single).mean())
    whole = contest.generator_loss(judge, shown)
    single = [contest.generator_loss(judge, part) for part in parts]
    torch.testing.assert_close(whole, torch.stack(single).mean())


def test_smoothing_moves_the_target_of_true_patches_only() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(2, 3, 1, 4, 5)
    smooth, generator = losses_of_logits(real_or_fake(label_smoothing=0.1), real, fake)
    true = F.binary_cross_entropy_with_logits(real, torch.full_like(real, 0.9))
    estimated = F.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    torch.testing.assert_close(smooth, (true + estimated) / 2)
    torch.testing.assert_close(generator, losses_of_logits(real_or_fake(), real, fake)[1])


def test_the_slope_of_a_linear_judge_is_its_weight(shown: Shown) -> None:
    judge = Scales(4)
    num_patches = shown.real[0, 0].numel()
    known = (judge.conv.weight[0] / num_patches).expand_as(shown.real[0])
    torch.testing.assert_close(slope(judge, shown.real), known.expand_as(shown.real))
    torch.testing.assert_close(squared_slope(judge, shown.real), known.square().sum())
    wanted = (known.norm() - 1) ** 2
    torch.testing.assert_close(gradient_penalty(judge, shown.real), wanted)


def test_penalties_teach_the_discriminator(shown: Shown) -> None:
    judge = Scales(4)
    squared_slope(judge, shown.real).backward()
    num_patches = shown.real[0, 0].numel()
    wanted = 2 * judge.conv.weight / num_patches
    assert judge.conv.weight.grad is not None
    torch.testing.assert_close(judge.conv.weight.grad, wanted)


def test_penalties_come_at_their_interval_with_its_weight(shown: Shown) -> None:
    judge = Scales(4)
    plain = real_or_fake().discriminator_loss(judge, shown, step=0)[0]
    contest = real_or_fake(r1_weight=2.0, r2_weight=4.0, penalty_interval=3)
    loss = [contest.discriminator_loss(judge, shown, step=step)[0] for step in range(4)]
    torch.testing.assert_close(loss[1:3], [plain, plain])
    at_real, at_fake = squared_slope(judge, shown.real), squared_slope(judge, shown.fake)
    torch.testing.assert_close(loss[0] - plain, 3 * (at_real + 2 * at_fake))
    torch.testing.assert_close(loss[3], loss[0])


def test_the_penalty_is_taken_in_32_bits_under_autocast(shown: Shown) -> None:
    judge = Scales(4)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = squared_slope(judge, shown.real)
    torch.testing.assert_close(rounded, squared_slope(judge, shown.real), atol=0, rtol=0)


def test_interpolation_ends_at_both_sides(shown: Shown) -> None:
    real, fake = shown.real, shown.fake
    ends = torch.tensor([0.0, 1.0, 0.25])
    between = interpolated(real, fake, ends)
    torch.testing.assert_close(between[0], fake[0])
    torch.testing.assert_close(between[1], real[1])
    torch.testing.assert_close(between[2], fake[2] + 0.25 * (real[2] - fake[2]))


def test_matched_features_cost_nothing_and_teach_the_estimate_only() -> None:
    real = [torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 1, 2, 2)]
    assert feature_matching(real, real) == 0
    fake = [real[0].detach() + 2, (real[1] - 1).requires_grad_()]
    loss = feature_matching(real, fake)
    torch.testing.assert_close(loss.detach(), torch.tensor(1.5))
    loss.backward()
    assert real[0].grad is None
    assert fake[1].grad is not None
    with pytest.raises(ValueError, match="feature_matching_weight=0"):
        feature_matching([], [])


def test_certainty_says_how_many_patches_are_told_right() -> None:
    real, fake = torch.tensor([3.0, -1.0, 2.0, 4.0]), torch.tensor([-1.0, -2.0, 1.0, 2.0])
    zeros, ones = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)
    judge = Known((zeros, [real[None, None, None]]), (ones, [fake[None, None, None]]))
    shown = Shown(zeros, ones, {}, torch.zeros(1))
    _, certainty = real_or_fake().discriminator_loss(judge, shown, step=1)
    known = {"d_real": 2.0, "d_fake": 0.0, "d_accuracy": (3 / 4 + 2 / 4) / 2}
    assert {name: float(value) for name, value in certainty.items()} == known


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"loss": "wgan"}, "one of bce, lsgan, hinge, wgan_gp"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "has no labels"),
        ({"label_smoothing": 0.5}, "below 0.5"),
        ({"penalty_interval": 0}, "at least 1"),
        ({"r1_weight": -1.0}, "r1_weight=-1.0 must not be negative"),
        ({"loss": "wgan_gp", "gradient_penalty_weight": 0.0}, "give 10"),
    ],
)
def test_impossible_contests_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        real_or_fake(**changes)


def test_the_voice_is_where_its_band_is_loud_enough() -> None:
    voice = torch.zeros(1, 2, 8, 6)
    voice[0, 1, 2:4, 3] = 0.01  # of four bands the second, in the fourth frame, on one channel
    contest = VocalPresence(stem="vocals", threshold=0.00125)
    labels = contest.labels({"vocals": voice}, torch.zeros(1, 2, 4, 6))
    assert labels.nonzero().tolist() == [[0, 1, 1, 3]]
    merged = contest.labels({"vocals": voice}, torch.zeros(1, 1, 4, 6))
    assert merged.nonzero().tolist() == [[0, 0, 1, 3]]
    with pytest.raises(ValueError, match="3 maps"):
        contest.labels({"vocals": voice}, torch.zeros(1, 3, 4, 6))
    with pytest.raises(ValueError, match="one of the stems"):
        contest.labels({"drums": voice}, torch.zeros(1, 1, 4, 6))


def test_the_finder_of_voices_is_asked_for_them_and_the_generator_for_none(shown: Shown) -> None:
    logits = torch.randn(3, 2, 4, 6)
    judge = Known((shown.fake, [logits]))
    contest = VocalPresence(stem="vocals", threshold=0.5)
    labels = contest.labels(shown.stems, logits)
    assert 0 < labels.mean() < 1
    loss, certainty = contest.discriminator_loss(judge, shown, step=0)
    torch.testing.assert_close(loss, F.binary_cross_entropy_with_logits(logits, labels))
    torch.testing.assert_close(certainty["d_voice"], logits.sigmoid()[labels > 0].mean())
    torch.testing.assert_close(certainty["d_no_voice"], logits.sigmoid()[labels == 0].mean())
    torch.testing.assert_close(
        certainty["d_accuracy"], ((logits > 0) == (labels > 0)).float().mean()
    )
    wanted = F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
    torch.testing.assert_close(contest.generator_loss(judge, shown), wanted)
    with pytest.raises(ValueError, match="threshold=0"):
        VocalPresence(stem="vocals", threshold=0.0)
