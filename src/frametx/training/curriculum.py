"""Context that grows through training: how long the crops are at a step, and how many there are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """What an optimiser step is made of until a certain step.

    batch_size times accumulate is the number of samples of one optimiser step, whatever the number
    of devices; batch_size is the most that one device takes at once.
    """

    until_step: int | None  # first optimiser step that is no longer in this stage; None: never ends
    frames: int  # T of a crop
    batch_size: int
    accumulate: int

    @property
    def samples_per_step(self) -> int:
        """Samples of one optimiser step, summed over devices and accumulation."""
        return self.batch_size * self.accumulate


@dataclass(frozen=True)
class Share:
    """One device's part of an optimiser step."""

    first_sample: int  # rank-free number of its first sample
    num_samples: int
    micro_batch: int  # samples of one forward pass


class ContextCurriculum:
    """Stages by optimiser step. Everything is a function of the step, so a resumed run is in place.

    The last stage also holds for all later steps.

    Args:
        stages: each with the fields of `Stage`, in order.

    Raises:
        ValueError: if there is none, a number is below 1, or the steps do not rise.

    Source: specs/training.md section 6 (crops double, batches halve, accumulation makes up for it).
    """

    def __init__(self, *, stages: Sequence[Mapping[str, int | None]]) -> None:
        self.stages = tuple(Stage(**stage) for stage in stages)  # pyright: ignore[reportArgumentType]
        if not self.stages:
            raise ValueError("curriculum.stages is empty: give at least one stage")
        for i, stage in enumerate(self.stages):
            if min(stage.frames, stage.batch_size, stage.accumulate) < 1 or stage.frames < 2:
                raise ValueError(
                    f"curriculum.stages[{i}]={stage} must have frames >= 2, batch_size >= 1 "
                    "and accumulate >= 1"
                )
        ends = [stage.until_step for stage in self.stages[:-1]]
        if any(end is None for end in ends) or sorted({*ends}) != ends:  # pyright: ignore[reportArgumentType]
            raise ValueError(
                f"curriculum.stages end at {ends}: each but the last needs an until_step above "
                "the one before"
            )

    def index(self, step: int) -> int:
        """Which stage a step, counted from 0, is in."""
        for i, stage in enumerate(self.stages[:-1]):
            if stage.until_step is not None and step < stage.until_step:
                return i
        return len(self.stages) - 1

    def stage(self, step: int) -> Stage:
        """The stage of a step counted from 0."""
        return self.stages[self.index(step)]

    def first_sample(self, step: int) -> int:
        """How many samples all steps before this one took together."""
        taken, begin = 0, 0
        for stage in self.stages[: self.index(step)]:
            assert stage.until_step is not None
            taken += (stage.until_step - begin) * stage.samples_per_step
            begin = stage.until_step
        return taken + (step - begin) * self.stage(step).samples_per_step

    def share(self, step: int, *, rank: int, world_size: int) -> Share:
        """The samples that one of several devices takes in a step: the same ones for any number.

        Raises:
            ValueError: if the samples of a step do not divide over the devices.
        """
        stage = self.stage(step)
        if stage.samples_per_step % world_size:
            raise ValueError(
                f"trainer.devices: {world_size} devices cannot share the {stage.samples_per_step} "
                f"samples of a step evenly (batch_size {stage.batch_size} x accumulate "
                f"{stage.accumulate} at {stage.frames} frames): change either"
            )
        part = stage.samples_per_step // world_size
        micro = max(n for n in range(1, min(part, stage.batch_size) + 1) if part % n == 0)
        return Share(self.first_sample(step) + rank * part, part, micro)

    def check(self, world_size: int) -> None:
        """Raise for any stage whose samples do not divide over the devices."""
        begin = 0
        for stage in self.stages:
            self.share(begin, rank=0, world_size=world_size)
            begin = stage.until_step or begin
