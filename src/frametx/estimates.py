"""The estimates that an evaluation scores: of a pipeline or a reference, by the data's stems."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.data.listed_mixtures import ListedMixtures
from frametx.data.tracks import EvaluationSet, Mixture
from frametx.metrics.reference import Reference
from frametx.pipeline import Pipeline


def stems_of(pipeline: Pipeline | Reference, evaluation_set: EvaluationSet) -> tuple[str, ...]:
    """The stems that are scored: those of a list, else those that the pipeline gives.

    Raises:
        ValueError: if the pipeline gives one stem alone, or not those of the list.
    """
    if len(pipeline.stems) == 1:
        raise ValueError(
            f"the checkpoint separates {pipeline.stems[0]} alone: a mixture is the sum of the "
            "stems, and of one stem it is the stem itself; evaluate a checkpoint of two or more"
        )
    if not isinstance(evaluation_set, ListedMixtures):
        return tuple(pipeline.stems)
    stems = evaluation_set.stems
    if "vocals" not in pipeline.stems or (
        len(pipeline.stems) == len(stems) and set(pipeline.stems) != set(stems)
    ):
        raise ValueError(
            f"the checkpoint separates {list(pipeline.stems)}, and {evaluation_set.name} has "
            f"{list(stems)}: evaluate a checkpoint with vocals and an instrumental, or its parts"
        )
    return stems


def estimates_of(
    pipeline: Pipeline | Reference, mixture: Mixture, stem_names: Sequence[str]
) -> Float[Tensor, "S C L"]:
    """The estimates of these stems; an instrumental that is not separated is the sum of its parts.

    Its parts are all stems that the pipeline gives but the others that are wanted.
    """
    if isinstance(pipeline, Reference):
        return pipeline.estimates(mixture.stems)
    whole = mixture.stems.sum(dim=0)
    estimates = pipeline.estimates(lambda: [whole], mixture.sample_rate)
    given = list(pipeline.stems)
    if given == list(stem_names):
        return estimates
    parts = [number for number, stem in enumerate(given) if stem not in stem_names]
    return torch.stack(
        [
            estimates[given.index(stem)] if stem in given else estimates[parts].sum(dim=0)
            for stem in stem_names
        ]
    )


def format_of(mixture: Mixture) -> str:
    """Rate and channels at which a track is scored, e.g. `44100 Hz, 2 channel(s)`."""
    return f"{mixture.sample_rate} Hz, {mixture.stems.shape[1]} channel(s)"


def facts_of(pipeline: Pipeline | Reference) -> dict[str, Any]:
    """How the estimates are made, for the report."""
    if isinstance(pipeline, Reference):
        return {"reference": pipeline.facts}
    return {
        "separator_sample_rate": pipeline.sample_rate,
        "separation": asdict(pipeline.options),
        "remainder": pipeline.remainder,
    }


def check_stems(stem_names: Sequence[str], mixture: Mixture) -> None:
    """Refuse a track whose stems cannot be those that the separator gives.

    Raises:
        ValueError: naming both.
    """
    if mixture.stems.shape[0] != len(stem_names):
        raise ValueError(
            f"track {mixture.name} has {mixture.stems.shape[0]} stems, but the checkpoint "
            f"separates {list(stem_names)}: evaluate on data with these stems"
        )
