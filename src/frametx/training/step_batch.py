"""What one optimiser step is given, and the chance it runs under."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass
class StepBatch:
    """This device's samples of one optimiser step, mixed and ready.

    samples: rank-free numbers, from which everything about them can be drawn again.
    micro_batch: how many of them go through the network at once.
    describe: names the files behind a sample.
    """

    stems: Float[Tensor, "B S C L"]
    samples: list[int]
    micro_batch: int
    describe: Callable[[int], str]


class CountsSteps(Protocol):
    """What the data asks of every module: where it stands."""

    @property
    def position(self) -> int:
        """Steps tried so far, skipped ones included: where the data and the schedule stand."""
        ...


def seed_step(*, seed: int, position: int, rank: int) -> None:
    """Let all chance of a step, as dropout, follow from these three: so resume is exact."""
    torch.manual_seed(hash((seed, position, rank)) % 2**63)
