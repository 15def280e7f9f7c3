"""What a discriminator and a generator are asked for, and how steep a discriminator may be.

A contest says what either player minimises: `RealOrFake` is the usual one, about true stems and
estimates; in `VocalPresence` the discriminator looks for what is left of the voice. Both see
magnitudes (`Shown`) and never whose they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from frametx.losses.shown import Shown
from frametx.models.judgement import Judgement

Judge = Callable[[Tensor], Judgement]


class Contest(Protocol):
    """What both players are asked for."""

    def discriminator_loss(
        self, judge: Judge, shown: Shown, *, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """What the discriminator minimises, and how sure it is, by name.

        Args:
            judge: the discriminator.
            shown: with estimates that carry no gradient.
            step: of the generator, for what is done in some steps only.
        """
        ...

    def generator_loss(self, judge: Judge, shown: Shown) -> Float[Tensor, ""]:
        """What the generator minimises beside its reconstruction.

        Args:
            judge: the discriminator; its parameters learn nothing from this.
            shown: with estimates that carry the generator's gradient.
        """
        ...


class RealOrFake:
    """The discriminator tells true stems from estimates, patch by patch; the generator fools it.

    With logits r of true patches and f of estimated ones, t = 1 - `label_smoothing`:

        loss      discriminator                        generator
        bce       (BCE(r, t) + BCE(f, 0)) / 2          BCE(f, 1)
        lsgan     (r - t)^2 / 2 + f^2 / 2              (f - 1)^2 / 2
        hinge     relu(1 - r) + relu(1 + f)            -f
        wgan_gp   -r + f, and the gradient penalty     -f

    all averaged over the patches of a scale, and then over scales.

    Args:
        loss: its name.
        label_smoothing: how far the target of true patches stays below 1, for the discriminator.
        feature_matching_weight: of `feature_matching`, relative to the generator's loss; 0 is none.
        r1_weight: of half the squared slope at true stems; 0 is none.
        r2_weight: of half the squared slope at estimates; 0 is none.
        penalty_interval: steps between two with R1 and R2, which then weigh as much as all between.
        gradient_penalty_weight: of the penalty on slopes that are not 1 between true stems and
            estimates; None is 10 with wgan_gp and none with other losses.

    Raises:
        ValueError: for values that cannot work, or would do nothing.

    Source: bce with the half, Isola et al., "Image-to-Image Translation with Conditional
    Adversarial Networks", 2017; lsgan, Mao et al., "Least Squares Generative Adversarial Networks",
    2017; hinge, Lim and Ye, "Geometric GAN", 2017; wgan_gp, Gulrajani et al., "Improved Training of
    Wasserstein GANs", 2017; smoothing of one side, Salimans et al., "Improved Techniques for
    Training GANs", 2016; R1 and R2, Mescheder et al., "Which Training Methods for GANs do actually
    Converge?", 2018; their interval, Karras et al., "Analyzing and Improving the Image Quality of
    StyleGAN", 2020.
    """

    def __init__(
        self,
        *,
        loss: str,
        label_smoothing: float,
        feature_matching_weight: float,
        r1_weight: float,
        r2_weight: float,
        penalty_interval: int,
        gradient_penalty_weight: float | None,
    ) -> None:
        if loss not in _KINDS:
            raise ValueError(f"contest.loss={loss} must be one of {', '.join(_KINDS)}")
        if not 0 <= label_smoothing < 0.5:
            raise ValueError(
                f"contest.label_smoothing={label_smoothing} must be at least 0 and below 0.5"
            )
        if label_smoothing and loss not in ("bce", "lsgan"):
            raise ValueError(
                f"contest.label_smoothing={label_smoothing} does nothing with loss={loss}, which "
                "has no labels: set it to 0, or take bce or lsgan"
            )
        if penalty_interval < 1:
            raise ValueError(f"contest.penalty_interval={penalty_interval} must be at least 1")
        if gradient_penalty_weight is None:
            gradient_penalty_weight = 10.0 if loss == "wgan_gp" else 0.0
        weights = {
            "feature_matching_weight": feature_matching_weight,
            "r1_weight": r1_weight,
            "r2_weight": r2_weight,
            "gradient_penalty_weight": gradient_penalty_weight,
        }
        for name, weight in weights.items():
            if weight < 0:
                raise ValueError(f"contest.{name}={weight} must not be negative")
        if loss == "wgan_gp" and not gradient_penalty_weight:
            raise ValueError(
                "contest.gradient_penalty_weight=0 lets the critic of wgan_gp grow without bound: "
                "give 10, as its paper does, or null for the same"
            )
        self.kind = _KINDS[loss]
        self.target = 1 - label_smoothing
        self.feature_matching_weight = feature_matching_weight
        self.r1_weight = r1_weight
        self.r2_weight = r2_weight
        self.penalty_interval = penalty_interval
        self.gradient_penalty_weight = gradient_penalty_weight

    def discriminator_loss(
        self, judge: Judge, shown: Shown, *, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """The loss with its penalties; mean logits of both sides, share of patches told right."""
        real, fake = judge(shown.real).logits, judge(shown.fake).logits
        loss = _mean(real, lambda x: self.kind.real(x, self.target)) + _mean(fake, self.kind.fake)
        if self.gradient_penalty_weight:
            between = interpolated(shown.real, shown.fake, shown.chance)
            loss = loss + self.gradient_penalty_weight * gradient_penalty(judge, between)
        if step % self.penalty_interval == 0:
            for weight, at in ((self.r1_weight, shown.real), (self.r2_weight, shown.fake)):
                if weight:
                    loss = loss + self.penalty_interval * weight / 2 * squared_slope(judge, at)
        return loss, self._certainty(real, fake)

    def generator_loss(self, judge: Judge, shown: Shown) -> Float[Tensor, ""]:
        """The loss, with feature matching where it has a weight."""
        judgement = judge(shown.fake)
        loss = _mean(judgement.logits, self.kind.generator)
        if self.feature_matching_weight:
            with torch.no_grad():
                wanted = judge(shown.real).features
            matching = feature_matching(wanted, judgement.features)
            loss = loss + self.feature_matching_weight * matching
        return loss

    @torch.no_grad()
    def _certainty(self, real: Sequence[Tensor], fake: Sequence[Tensor]) -> dict[str, Tensor]:
        means = {"d_real": _mean(real), "d_fake": _mean(fake)}
        boundary = self.kind.boundary
        if boundary is None:  # a critic has no zero: only differences mean something
            boundary = (means["d_real"] + means["d_fake"]) / 2
        right = _mean(real, lambda x: x > boundary) + _mean(fake, lambda x: x < boundary)
        return {**means, "d_accuracy": right / 2}


class VocalPresence:
    """The discriminator finds the voice in an estimate, band by band; the generator leaves none.

    Its labels are read off the true voice: 1 where its mean magnitude in the part of the
    spectrogram behind a patch, relative to the mixture's peak, is above a threshold. No true stem
    is shown. The generator wants 0 everywhere.

    Args:
        stem: that shall not be heard in what is judged.
        threshold: of its mean magnitude, relative to the mixture's peak.

    Raises:
        ValueError: if the threshold is not positive.

    Source: specs/patchgan.md section 7.
    """

    def __init__(self, *, stem: str, threshold: float) -> None:
        if threshold <= 0:
            raise ValueError(f"contest.threshold={threshold} must be above 0")
        self.stem = stem
        self.threshold = threshold

    def discriminator_loss(
        self, judge: Judge, shown: Shown, *, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """Binary cross entropy; probabilities where there is a voice and elsewhere, accuracy."""
        logits = judge(shown.fake).logits
        labels = [self.labels(shown.stems, x) for x in logits]
        pairs = list(zip(logits, labels, strict=True))
        losses = [F.binary_cross_entropy_with_logits(x.float(), y) for x, y in pairs]
        with torch.no_grad():
            found = [
                (x.float().sigmoid() * y).sum() / y.sum().clamp_min(1)
                for x, y in ((x, z) for x, y in pairs for z in (y, 1 - y))
            ]
            right = torch.stack([((x > 0) == (y > 0.5)).float().mean() for x, y in pairs]).mean()
            certainty = {
                "d_voice": torch.stack(found[::2]).mean(),
                "d_no_voice": torch.stack(found[1::2]).mean(),
                "d_accuracy": right,
            }
        return torch.stack(losses).mean(), certainty

    def generator_loss(self, judge: Judge, shown: Shown) -> Float[Tensor, ""]:
        """Binary cross entropy towards no voice anywhere."""
        return _mean(judge(shown.fake).logits, F.softplus)

    def labels(
        self, stems: Mapping[str, Float[Tensor, "B C F T"]], logits: Float[Tensor, "B M Fp Tp"]
    ) -> Float[Tensor, "B M Fp Tp"]:
        """Whether there is a voice behind each patch.

        Raises:
            ValueError: if there is no such stem, or patches have neither one map nor one of every
                audio channel.
        """
        if self.stem not in stems:
            raise ValueError(f"contest.stem={self.stem} must be one of the stems {list(stems)}")
        voice = stems[self.stem].float()
        if logits.shape[1] == 1:
            voice = voice.mean(dim=1, keepdim=True)
        elif logits.shape[1] != voice.shape[1]:
            raise ValueError(
                f"a discriminator of {logits.shape[1]} maps of logits cannot say in which of "
                f"{voice.shape[1]} audio channels there is a voice: give it one map, or one of each"
            )
        mean = F.adaptive_avg_pool2d(voice, (logits.shape[2], logits.shape[3]))
        return (mean > self.threshold).float()


def feature_matching(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean absolute difference of what the discriminator makes of both, mean over its layers.

    Args:
        real: activations of true stems, towards which nothing is learned.
        fake: of estimates.

    Raises:
        ValueError: if the discriminator shows no activations.

    Source: Wang et al., "High-Resolution Image Synthesis and Semantic Manipulation with Conditional
    GANs", 2018, who sum over layers.
    """
    if not fake:
        raise ValueError(
            "this discriminator shows no features: set contest.feature_matching_weight=0"
        )
    pairs = zip(real, fake, strict=True)
    return torch.stack([F.l1_loss(y.float(), x.detach().float()) for x, y in pairs]).mean()


def interpolated(
    real: Float[Tensor, "B C F T"], fake: Float[Tensor, "B C F T"], chance: Float[Tensor, " B"]
) -> Float[Tensor, "B C F T"]:
    """A point on the line between each pair; `chance` is the share of the first."""
    return torch.lerp(fake, real, chance.to(real.dtype)[:, None, None, None])


def gradient_penalty(judge: Judge, shown: Float[Tensor, "B C F T"]) -> Float[Tensor, ""]:
    """Mean squared distance of the slope from 1.

    Source: Gulrajani et al., 2017.
    """
    norms = slope(judge, shown).flatten(1).square().sum(1).clamp_min(1e-24).sqrt()
    return (norms - 1).square().mean()


def squared_slope(judge: Judge, shown: Float[Tensor, "B C F T"]) -> Float[Tensor, ""]:
    """Mean squared slope; half of it, at true stems, is R1.

    Source: Mescheder et al., 2018.
    """
    return slope(judge, shown).flatten(1).square().sum(1).mean()


def slope(judge: Judge, shown: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C F T"]:
    """How a sample's score changes with what is shown, differentiable once more.

    The score is the mean logit over patches and then scales, so that weights do not depend on how
    many there are. In 32 bits, because bfloat16 leaves of a derivative of a derivative too little.
    """
    at = shown.detach().float().requires_grad_()
    # fused attention has no second derivative
    with torch.autocast(shown.device.type, enabled=False), sdpa_kernel(SDPBackend.MATH):
        logits = judge(at).logits
        scores = torch.stack([x.flatten(1).mean(1) for x in logits]).mean(0)
        return torch.autograd.grad(scores.sum(), at, create_graph=True)[0]


class _Kind(NamedTuple):
    """Losses of logits, patch by patch; above `boundary` a patch looks real."""

    real: Callable[[Tensor, float], Tensor]
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    boundary: float | None


_KINDS = {
    "bce": _Kind(
        # softplus(-x) + (1 - t) x is the cross entropy of logit x and target t
        real=lambda x, target: (F.softplus(-x) + (1 - target) * x) / 2,
        fake=lambda x: F.softplus(x) / 2,
        generator=lambda x: F.softplus(-x),
        boundary=0.0,
    ),
    "lsgan": _Kind(
        real=lambda x, target: (x - target).square() / 2,
        fake=lambda x: x.square() / 2,
        generator=lambda x: (x - 1).square() / 2,
        boundary=0.5,
    ),
    "hinge": _Kind(
        real=lambda x, _: F.relu(1 - x),
        fake=lambda x: F.relu(1 + x),
        generator=torch.neg,
        boundary=0.0,
    ),
    "wgan_gp": _Kind(real=lambda x, _: -x, fake=lambda x: x, generator=torch.neg, boundary=None),
}


def _mean(
    logits: Sequence[Tensor], of: Callable[[Tensor], Tensor] = lambda x: x
) -> Float[Tensor, ""]:
    """Mean over patches and then scales, in 32 bits."""
    return torch.stack([of(x.float()).float().mean() for x in logits]).mean()
