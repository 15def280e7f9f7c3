"""Rules that make one estimate of several: of waveforms, or of the magnitudes of spectrograms.

The original programs took, of the instrumentals of several networks, the smaller magnitude in every
bin (specs/min_ensemble.md section 3): what one network recognises as a voice is removed, whatever
the others think. That is `min_instrumental`; any other stem can be the one that is kept so clean.
"""

from collections.abc import Sequence
from typing import Literal, cast, get_args

import torch
from jaxtyping import Complex, Float
from torch import Tensor

Rule = Literal["min", "max", "mean", "median", "weighted"]
Domain = Literal["magnitude", "waveform"]
RULES: tuple[Rule, ...] = get_args(Rule)
DOMAINS: tuple[Domain, ...] = get_args(Domain)
MINIMUM_OF = "min_"  # and a stem: the minimum of that one, the mean of the others


def minimised_stem(ensemble: str) -> str | None:
    """The stem that `min_<stem>` is about; None for what does the same with all stems."""
    return ensemble.removeprefix(MINIMUM_OF) if ensemble.startswith(MINIMUM_OF) else None


def rule_of(ensemble: str, stem: str) -> Rule:
    """What is done with the estimates of a stem."""
    if (minimised := minimised_stem(ensemble)) is not None:
        return "min" if stem == minimised else "mean"
    return cast(Rule, ensemble)


def combine_waveforms(
    estimates: Float[Tensor, "N *any"], rule: Rule, weights: Sequence[float] | None = None
) -> Float[Tensor, "*any"]:
    """One waveform of N; `min` takes of every sample the one nearest to 0, `max` the farthest.

    Args:
        estimates: of the N members.
        rule: which.
        weights: of the members, for `weighted`; their sum does not matter.
    """
    if rule in ("min", "max"):
        size = estimates.abs()
        chosen = size.argmax(dim=0) if rule == "max" else size.argmin(dim=0)
        return estimates.gather(0, chosen.unsqueeze(0))[0]
    return _average(estimates, rule, weights)


def combine_spectrograms(
    estimates: Complex[Tensor, "N *any"],
    rule: Rule,
    weights: Sequence[float] | None = None,
    *,
    phase_of: Complex[Tensor, "*any"] | None = None,
) -> Complex[Tensor, "*any"]:
    """One spectrogram of N: magnitudes by the rule, the phase of the members' sum.

    Args:
        estimates: of the N members.
        rule: which.
        weights: of the members, for `weighted`.
        phase_of: whose phase to take instead; `min_<stem>` gives its stem the mixture's.
    """
    size = estimates.abs()
    if rule == "min":
        magnitude = size.amin(dim=0)
    elif rule == "max":
        magnitude = size.amax(dim=0)
    else:
        magnitude = _average(size, rule, weights)
    source = estimates.sum(dim=0) if phase_of is None else phase_of
    return magnitude * _direction(source)


def check_rule(
    ensemble: str,
    domain: str,
    weights: Sequence[float] | None,
    *,
    num_members: int,
    stems: Sequence[str],
) -> None:
    """Refuse an ensemble that makes no sense.

    Args:
        ensemble: a rule, or `min_` and a stem.
        domain: of the rule.
        weights: of the members, for `weighted` alone.
        num_members: how many there are.
        stems: that they separate.

    Raises:
        ValueError: naming the value and the rule.
    """
    rules = [*RULES, *(MINIMUM_OF + stem for stem in stems)]
    if ensemble not in rules:
        raise ValueError(f"ensemble={ensemble} must be one of {', '.join(rules)}")
    if domain not in DOMAINS:
        raise ValueError(f"domain={domain} must be one of {', '.join(DOMAINS)}")
    if (ensemble == "weighted") != (weights is not None):
        raise ValueError(
            f"weights={None if weights is None else list(weights)} with ensemble={ensemble}: "
            "weights belong to ensemble=weighted, which needs one for each checkpoint"
        )
    if weights is None:
        return
    if len(weights) != num_members:
        raise ValueError(
            f"weights={list(weights)} must be as many as the checkpoints, {num_members}"
        )
    if min(weights) < 0 or sum(weights) <= 0:
        raise ValueError(f"weights={list(weights)} must be at least 0 and not all 0")


def _average(values: Tensor, rule: Rule, weights: Sequence[float] | None) -> Tensor:
    if rule == "mean":
        return values.mean(dim=0)
    if rule == "median":
        # torch.median takes the lower of the two middle ones, which would favour quiet members
        ordered = values.sort(dim=0).values
        middle = len(values) // 2
        return (ordered[middle] + ordered[(len(values) - 1) // 2]) / 2
    assert rule == "weighted"
    assert weights is not None
    shares = torch.tensor(weights, dtype=values.dtype, device=values.device)
    return torch.tensordot(shares / shares.sum(), values, dims=1)


def _direction(spectrogram: Tensor) -> Tensor:
    """The number of size one with the same phase; 1 where there is nothing."""
    size = spectrogram.abs()
    return torch.where(size > 0, spectrogram / size.clamp_min(torch.finfo(size.dtype).tiny), 1.0)
