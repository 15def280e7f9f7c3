"""python -m frametx.evaluate: how well checkpoints take tracks with known stems apart.

tracks -> mixture -> pipeline.estimates -> estimates -> metrics -> table, CSV, JSON
                                                         |-> pictures and audio of the first few
"""

import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from jaxtyping import Float
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import track
from torch import Tensor

from frametx import __version__
from frametx.audio.io import write_wav
from frametx.audio.picture import save_picture
from frametx.checkpoint import heard_by
from frametx.config import hydra_main, plain
from frametx.data.tracks import EvaluationSet, Mixture, notes_of
from frametx.data.trained_on import REASONS, TrainedOn
from frametx.estimates import check_stems, estimates_of, facts_of, format_of, stems_of
from frametx.loading import CONFIG_KEYS, load_configured
from frametx.metrics.bootstrap import check_resamples
from frametx.metrics.differences import (
    Comparison,
    Earlier,
    check_same_stems,
    compare,
    read_earlier,
)
from frametx.metrics.groups import GroupSummary, Labels, summarise_groups
from frametx.metrics.permutation import in_best_order
from frametx.metrics.reference import Reference, is_reference
from frametx.metrics.report import (
    difference_table,
    group_tables,
    table,
    write_csv,
    write_json,
)
from frametx.metrics.scores import Score, score_track
from frametx.metrics.summary import Summary, summarise
from frametx.pipeline import Pipeline
from frametx.pretrained import is_name
from frametx.printable import printable
from frametx.separator import Separator

NAME_BYTES = 200  # of a track in the name of a file, of which file systems take 255
MOST_NAMED = 5  # tracks in a line of the report; tracks.csv marks all of them


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Args:
        scores: one for each stem of each track, tracks in the order of the set.
        summaries: one for each stem and metric; of the tracks that were not trained on, unless all
            were.
        audio_seconds: of all tracks together.
        wall_seconds: spent separating them.
        facts: what was done with what, for the report.
        trained_on: for each track that says nothing about new songs, why: one of `REASONS`.
        of_all: summaries of all tracks where some were trained on; else empty.
        unreadable: a line for each track that could not be read, and has no scores.
        labels: of each track, where the set has kinds; else empty.
        by_group: summaries by kind and level of the tracks that count; likewise.
        comparison: with an earlier evaluation, where one was given.
    """

    scores: list[Score]
    summaries: list[Summary]
    audio_seconds: float
    wall_seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)
    trained_on: Mapping[str, str] = field(default_factory=dict)
    of_all: list[Summary] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    labels: Labels = field(default_factory=dict)
    by_group: list[GroupSummary] = field(default_factory=list)
    comparison: Comparison | None = None

    @property
    def remarks(self) -> list[str]:
        """Which tracks have no scores, or none that count, and why; lines, or none."""
        total = self.facts["num_tracks"]
        lines = [f"left out, cannot be read: {reason}" for reason in self.unreadable[:MOST_NAMED]]
        if len(self.unreadable) > MOST_NAMED:
            lines.append(
                f"left out, cannot be read: {len(self.unreadable) - MOST_NAMED} more tracks"
            )
        num_unreadable = len(lines)
        for reason, words in REASONS.items():
            names = [name for name, why in self.trained_on.items() if why == reason]
            if names:
                more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
                shown = ", ".join(names[:MOST_NAMED]) + more
                lines.append(f"{len(names)} of {total} tracks {words}: {shown}")
        if self.of_all:
            lines.append("the means are those of the others; the last column has all of them")
        elif len(lines) > num_unreadable:
            lines.append("no track is left: these means say nothing about songs it has never heard")
        return lines + ([] if self.comparison is None else self.comparison.remarks)


def evaluate(
    pipeline: Pipeline | Reference,
    evaluation_set: EvaluationSet,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    trained_on: TrainedOn | None = None,
    against: Earlier | None = None,
    on_track: Callable[[int, Mixture, Float[Tensor, "S C L"]], None] | None = None,
) -> Evaluation:
    """Separate every track as `separate` would and score it against its stems.

    Args:
        pipeline: takes them apart; or a reference, which is given the true stems.
        evaluation_set: its stems are in the order of the pipeline's, or it is a list, which has
            vocals and instrumental.
        resamples: of the bootstrap.
        seed: of the bootstrap.
        trained_on: what the pipeline's weights have heard; tracks of it do not count in the means.
            None is not known.
        against: scores of the same tracks to compare with.
        on_track: called with number, track and estimates, e.g. to keep a picture.

    Raises:
        ValueError: if the set is empty or no track can be read, a track has other stems (or
            `against` has), or an estimate is not finite.
    """
    if len(evaluation_set) == 0:
        raise ValueError("there is no track to evaluate on: data.test is empty")
    check_resamples(resamples)  # now, not after hours of separating
    stem_names = stems_of(pipeline, evaluation_set)
    if against is not None:
        check_same_stems(set(stem_names), against)
    heard = TrainedOn(is_all=False) if trained_on is None else trained_on
    seen: dict[str, str] = {}
    labels: dict[str, Mapping[str, str]] = {}
    formats: set[str] = set()
    unreadable: list[ValueError | OSError] = []
    scores: list[Score] = []
    audio_seconds = wall_seconds = 0.0
    for index in track(
        range(len(evaluation_set)),
        description="evaluating",
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ):
        try:
            mixture = evaluation_set[index]
        except (ValueError, OSError) as error:  # a damaged file costs its own track alone
            unreadable.append(error)
            continue
        # From here on the name stands in tables, files and pictures, which do not take every name.
        mixture = replace(mixture, name=printable(mixture.name))
        check_stems(stem_names, mixture)
        labels[mixture.name] = mixture.labels
        formats.add(format_of(mixture))
        reason = heard.reason_against(mixture.name, mixture.files)
        if reason is not None:
            seen[mixture.name] = reason
        began = time.perf_counter()
        estimates = estimates_of(pipeline, mixture, stem_names)
        wall_seconds += time.perf_counter() - began
        if not mixture.has_order:
            estimates = in_best_order(estimates, mixture.stems)
        of_track = score_track(
            estimates,
            mixture.stems,
            track=mixture.name,
            stem_names=stem_names,
            sample_rate=mixture.sample_rate,
        )
        scores += [score for at, score in enumerate(of_track) if at not in mixture.missing]
        audio_seconds += mixture.stems.shape[-1] / mixture.sample_rate
        if on_track is not None:
            on_track(index, mixture, estimates)
    if len(unreadable) == len(evaluation_set):
        raise unreadable[0]
    unseen = [score for score in scores if score.track not in seen]
    of_all = summarise(scores, resamples=resamples, seed=seed)
    is_divided = bool(seen) and bool(unseen)
    counted = unseen if is_divided else scores
    return Evaluation(
        scores=scores,
        summaries=summarise(counted, resamples=resamples, seed=seed) if is_divided else of_all,
        trained_on=seen,
        of_all=of_all if is_divided else [],
        audio_seconds=audio_seconds,
        wall_seconds=wall_seconds,
        unreadable=[printable(" ".join(str(error).split())) for error in unreadable],
        labels=labels if any(labels.values()) else {},
        by_group=summarise_groups(counted, labels, resamples=resamples, seed=seed),
        comparison=None
        if against is None
        else compare(counted, against, labels, resamples=resamples, seed=seed, formats=formats),
        facts={
            "num_tracks": len(evaluation_set) - len(unreadable),
            "trained_on": seen,
            "stems": list(stem_names),
            "formats": sorted(formats),
            **facts_of(pipeline),
            "bootstrap": {"resamples": resamples, "seed": seed},
        },
    )


def report(evaluation: Evaluation, output: Path, *, facts: Mapping[str, Any] | None = None) -> None:
    """Print the table; write tracks.csv and summary.json into a folder.

    Args:
        evaluation: what `evaluate` returned.
        output: made where it is missing; older files of these names are replaced.
        facts: to stand in summary.json beside the evaluation's own, e.g. the checkpoint's path.
    """
    speed = evaluation.audio_seconds / max(evaluation.wall_seconds, 1e-9)
    title = (
        f"{evaluation.facts['num_tracks']} track(s), {evaluation.audio_seconds:.1f} s of audio "
        f"separated in {evaluation.wall_seconds:.1f} s ({speed:.1f} times real time)"
    )
    if facts is not None and "ckpt" in facts:
        title = f"{facts['ckpt']}\n{title}"
    output.mkdir(parents=True, exist_ok=True)
    remarks = evaluation.remarks
    write_csv(
        output / "tracks.csv",
        evaluation.scores,
        trained_on=evaluation.trained_on,
        labels=evaluation.labels,
    )
    write_json(
        output / "summary.json",
        evaluation.summaries,
        facts={
            **(facts or {}),
            **evaluation.facts,
            "audio_seconds": evaluation.audio_seconds,
            "wall_seconds": evaluation.wall_seconds,
        },
        remarks=remarks,
        of_all=evaluation.of_all,
        by_group=evaluation.by_group,
        comparison=evaluation.comparison,
    )
    # A table cut to the 80 columns of a pipe would lose numbers; a terminal keeps its own width.
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table(evaluation.summaries, title=title, of_all=evaluation.of_all))
    for one in group_tables(evaluation.by_group):
        console.print(one)
    if evaluation.comparison is not None and evaluation.comparison.differences:
        console.print(difference_table(evaluation.comparison))
    for remark in remarks:
        console.print(remark, highlight=False, soft_wrap=True, markup=False)
    console.print(f"written: {output}", highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Keep:
    """Keeps a picture and the audio of the first tracks of an evaluation.

    What cannot be kept is noted, and the evaluation goes on: hours of scores are worth more.

    Args:
        output: pictures/<track>.png and audio/<track>/<stem>.wav are put below it.
        stem_names: in the order of the estimates.
        pictures: of how many tracks.
        wavs: of how many tracks: the mixture, each estimate, each true stem.
        failures: a line for each track of which something could not be kept; filled here.
    """

    output: Path
    stem_names: tuple[str, ...]
    pictures: int
    wavs: int
    failures: list[str] = field(default_factory=list)

    def __call__(self, index: int, mixture: Mixture, estimates: Float[Tensor, "S C L"]) -> None:
        """Write what is wanted of track number `index`."""
        wanted = [("picture", self._draw)] if index < self.pictures else []
        wanted += [("audio", self._write)] if index < self.wavs else []
        for what, keep in wanted:
            try:
                keep(file_name(index, mixture.name), mixture, estimates)
            except Exception as error:  # whatever a drawing package raises
                reason = " ".join(str(error).split()) or type(error).__name__
                self.failures.append(f"no {what} of {printable(mixture.name)}: {printable(reason)}")

    def _draw(self, name: str, mixture: Mixture, estimates: Float[Tensor, "S C L"]) -> None:
        folder = self.output / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        save_picture(
            folder / f"{name}.png",
            estimates=estimates,
            stems=mixture.stems,
            stem_names=self.stem_names,
            sample_rate=mixture.sample_rate,
            title=mixture.name,
        )

    def _write(self, name: str, mixture: Mixture, estimates: Float[Tensor, "S C L"]) -> None:
        folder = self.output / "audio" / name
        folder.mkdir(parents=True, exist_ok=True)
        waveforms = {"mixture": mixture.stems.sum(dim=0)}
        for stem, estimate, truth in zip(self.stem_names, estimates, mixture.stems, strict=True):
            waveforms |= {stem: estimate, f"{stem}.truth": truth}
        for part, waveform in waveforms.items():
            write_wav(folder / f"{part}.wav", waveform, sample_rate=mixture.sample_rate)


def beside(ckpt: str) -> Path:
    """Where results go if nobody says: beside the checkpoint; of published weights, here."""
    return Path("evaluation") if is_name(ckpt) else Path(ckpt).parent / "evaluation"


def file_name(index: int, track: str) -> str:
    """A track's name as one that every file system takes; the number keeps two of them apart."""
    safe = re.sub(r"[^\w.-]+", "_", track)[:80].encode("utf-8", "replace")
    return f"{index + 1:03d}_{safe[:NAME_BYTES].decode('utf-8', 'ignore')}"


def how_many(key: str, value: object) -> int:
    """A number of tracks, or `all`.

    Raises:
        ValueError: for anything else.
    """
    if value == "all":
        return sys.maxsize
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{key}={value} must be a number of tracks, 0 or more, or all")
    return value


def evaluation_set(cfg: DictConfig, separator: Separator | Pipeline | Reference) -> EvaluationSet:
    """The tracks of `data.test`, else `data.validation`, else what the data holds out.

    Raises:
        ValueError: if the stems asked for are not the checkpoint's, or the data is not usable.
    """
    stems = list(separator.stems)
    if cfg.stems is not None and list(cfg.stems) != stems:
        raise ValueError(
            f"stems={list(cfg.stems)} must be the checkpoint's {stems}, in this order: "
            "leave the option out to take them from there"
        )
    audio = {"sample_rate": separator.sample_rate, "num_channels": separator.num_channels}
    filled = OmegaConf.merge(cfg, {"stems": stems, "audio": audio})
    assert isinstance(filled, DictConfig)
    for part in ("test", "validation"):
        if filled.data.get(part) is not None:
            return instantiate(filled.data[part])
    return instantiate(filled.data).validation_set  # what training with this data holds out


def reference_of(cfg: DictConfig) -> Reference:
    """The reference that `ckpt=` names.

    Raises:
        ValueError: if there is none of this name, or an option of separation was chosen with it.
    """
    chosen = [text.lstrip("+").split("=")[0] for text in HydraConfig.get().overrides.task]
    idle = [key for key in chosen if key.split(".")[0] in CONFIG_KEYS and key != "ckpt"]
    if idle:
        raise ValueError(
            f"{idle[0]} does nothing with ckpt={cfg.ckpt}, which no network computes: leave it out"
        )
    return Reference(cfg.ckpt) if cfg.stems is None else Reference(cfg.ckpt, tuple(cfg.stems))


@hydra_main("evaluate")
def main(cfg: DictConfig) -> int:
    """Evaluate a checkpoint and report; 1 if something but the scores is missing."""
    pictures, wavs = (how_many(key, cfg[key]) for key in ("pictures", "wavs"))
    against = None if cfg.against is None else read_earlier(cfg.against)
    values = plain(cfg, CONFIG_KEYS)
    ckpts = [cfg.ckpt] if isinstance(cfg.ckpt, str) else list(cfg.ckpt)
    pipeline = (
        reference_of(cfg)
        if is_reference(cfg.ckpt)
        else load_configured(values, note=lambda said: print(said, flush=True))
    )
    output = Path(cfg.output or beside(ckpts[0])).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    tracks = evaluation_set(cfg, pipeline)
    for line in notes_of(tracks):
        print(line, flush=True)
    keep = Keep(output=output, stem_names=stems_of(pipeline, tracks), pictures=pictures, wavs=wavs)
    evaluation = evaluate(
        pipeline,
        tracks,
        resamples=cfg.resamples,
        seed=cfg.seed,
        trained_on=(
            TrainedOn() if isinstance(pipeline, Reference) else reduce(or_, map(heard_by, ckpts))
        ),
        against=against,
        on_track=keep,
    )
    facts = {
        "ckpt": str(cfg.ckpt),
        "data": HydraConfig.get().runtime.choices["data"],
        "data_root": cfg.data.get("root"),
        "device": "cpu" if isinstance(pipeline, Reference) else str(pipeline.execution.device),
        "version": __version__,
    }
    report(evaluation, output, facts=facts)
    for failure in keep.failures[:MOST_NAMED]:
        print(f"note: {failure}", file=sys.stderr, flush=True)
    if len(keep.failures) > MOST_NAMED:
        print(f"note: and {len(keep.failures) - MOST_NAMED} more", file=sys.stderr, flush=True)
    is_whole = against is None or bool(evaluation.comparison and evaluation.comparison.differences)
    return 1 if keep.failures or evaluation.unreadable or not is_whole else 0


if __name__ == "__main__":
    main()
