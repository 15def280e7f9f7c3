"""What training and validation are fed with: samples by step, mixed on the device."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from frametx.audio.stft import Stft
from frametx.data.library import Library
from frametx.data.tracks import DrawnMixtures, Mixture
from frametx.data.voxaug import Voxaug, VoxaugDataset
from frametx.training.curriculum import ContextCurriculum
from frametx.training.separation import SeparationModule, StepBatch


class EvaluationSet(Protocol):
    """Tracks with known stems."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mixture: ...


class StepSampler(Sampler[list[tuple[int, int]]]):
    """For each optimiser step from a first one on: this device's (sample, crop length) pairs.

    Args:
        curriculum: decides how many samples of what length a step has.
        stft: turns frames into samples.
        first_step: where a new or resumed run starts.
        max_steps: where it ends.
        rank: of this device.
        world_size: number of devices.
    """

    def __init__(
        self,
        *,
        curriculum: ContextCurriculum,
        stft: Stft,
        first_step: int,
        max_steps: int,
        rank: int,
        world_size: int,
    ) -> None:
        self.curriculum = curriculum
        self.stft = stft
        self.first_step = first_step
        self.max_steps = max_steps
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Steps of the whole run, those before `first_step` included: Lightning counts so."""
        return self.max_steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Lists of (sample number, crop length in samples)."""
        for step in range(self.first_step, self.max_steps):
            share = self.curriculum.share(step, rank=self.rank, world_size=self.world_size)
            length = self.stft.num_samples(self.curriculum.stage(step).frames)
            yield [(share.first_sample + i, length) for i in range(share.num_samples)]


class StepLoader(DataLoader[Any]):
    """A loader whose position is the step: it has no state of its own, and says so to Lightning."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the sampler starts at the step that the trainer restored."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


class TrackShare(Dataset[Mixture]):
    """Every `world_size`-th track of a set from `rank` on: no track twice, none left out."""

    def __init__(self, tracks: EvaluationSet, *, rank: int, world_size: int) -> None:
        self.tracks = tracks
        self.indices = range(rank, len(tracks), world_size)

    def __len__(self) -> int:
        """Tracks of this rank."""
        return len(self.indices)

    def __getitem__(self, index: int) -> Mixture:
        """One whole track."""
        if index >= len(self.indices):
            raise IndexError(index)
        return self.tracks[self.indices[index]]


class StemsDataModule(L.LightningDataModule):
    """The part that is the same wherever stems come from: steps, devices, validation.

    Args:
        curriculum: what a step is made of.
        stft: turns its frames into samples.
        num_workers: processes that read audio; 0 reads in the training process.
    """

    def __init__(
        self,
        *,
        curriculum: ContextCurriculum,
        stft: Stft,
        num_workers: int,
    ) -> None:
        super().__init__()
        self.curriculum = curriculum
        self.stft = stft
        self.num_workers = num_workers
