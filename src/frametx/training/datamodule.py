"""What training and validation are fed with: samples by step, mixed on the device."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, TypedDict, cast

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from frametx.audio.stft import Stft
from frametx.data.tracks import EvaluationSet, Mixture, notes_of
from frametx.data.trained_on import TrainedOn
from frametx.training.curriculum import ContextCurriculum
from frametx.training.step_batch import CountsSteps, StepBatch

Crops = dict[str, Tensor]


class SampleSource(Protocol):
    """Gives sample number n, so many samples long, wherever and whenever it is asked."""

    def __getitem__(self, index: tuple[int, int]) -> Crops:
        """The crops of (sample number, length in samples)."""
        ...

    def describe(self, sample: int, num_samples: int) -> str:
        """The files behind a sample."""
        ...


class StepSampler(Sampler[list[tuple[int, int]]]):
    """For each optimiser step from a first one on: this device's (sample, crop length) pairs.

    Args:
        curriculum: decides how many samples of what length a step has.
        stft: turns frames into samples.
        first_step: where a new or resumed run starts.
        max_steps: where it ends.
        rank: of this device.
        world_size: number of devices.
        repeat_first_step: give every step the samples of step 0.
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
        repeat_first_step: bool,
    ) -> None:
        self.curriculum = curriculum
        self.stft = stft
        self.first_step = first_step
        self.max_steps = max_steps
        self.rank = rank
        self.world_size = world_size
        self.repeat_first_step = repeat_first_step

    def __len__(self) -> int:
        """Steps of the whole run, those before `first_step` included: Lightning counts so."""
        return self.max_steps

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Lists of (sample number, crop length in samples)."""
        for step in range(self.first_step, self.max_steps):
            drawn = 0 if self.repeat_first_step else step
            share = self.curriculum.share(drawn, rank=self.rank, world_size=self.world_size)
            length = self.stft.num_samples(self.curriculum.stage(drawn).frames)
            yield [(share.first_sample + i, length) for i in range(share.num_samples)]


class StepLoader(DataLoader[Any]):
    """A loader whose position is the step: it has no state of its own, and says so to Lightning."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the sampler starts at the step that the trainer restored."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


class TrackShare(Dataset[Mixture]):
    """Every `world_size`-th track of a set from `rank` on: no track twice, none left out.

    All ranks get equally many, because they validate together: where the tracks do not go round,
    the last ranks get a sample of silence, which has no score.
    """

    def __init__(self, tracks: EvaluationSet, *, rank: int, world_size: int) -> None:
        self.tracks = tracks
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Tracks of this rank."""
        return -(-len(self.tracks) // self.world_size)

    def __getitem__(self, index: int) -> Mixture:
        """One whole track."""
        number = index * self.world_size + self.rank
        if number < len(self.tracks):
            return self.tracks[number]
        first = self.tracks[0]
        return replace(first, stems=torch.zeros_like(first.stems[..., :1]))


class StepSettings(TypedDict):
    """What every `StepDataModule` is told, wherever its stems come from."""

    curriculum: ContextCurriculum
    stft: Stft
    num_workers: int
    repeat_first_step: bool
    sample_rate: int
    num_channels: int
    seed: int
    cache_dir: str
    decode_once: bool


class StepDataModule(L.LightningDataModule, ABC):
    """What is the same wherever stems come from: steps, devices, validation. Abstract.

    Args:
        curriculum: what a step is made of.
        stft: turns its frames into samples.
        num_workers: processes that read audio; 0 reads in the training process.
        sample_rate: Hz.
        num_channels: C.
        seed: of the samples.
        cache_dir: for indices and, with `decode_once`, audio.
        decode_once: keep every file decoded (16 bit, at `sample_rate`) in `cache_dir`.
        repeat_first_step: train on the samples of step 0 again and again (debug=overfit_one_batch).
    """

    def __init__(
        self,
        *,
        curriculum: ContextCurriculum,
        stft: Stft,
        num_workers: int,
        repeat_first_step: bool,
        sample_rate: int,
        num_channels: int,
        seed: int,
        cache_dir: str,
        decode_once: bool,
    ) -> None:
        super().__init__()
        self.curriculum = curriculum
        self.stft = stft
        self.num_workers = num_workers
        self.repeat_first_step = repeat_first_step
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.seed = seed
        self.cache_dir = Path(cache_dir).expanduser()
        self.decode_once = decode_once
        self._samples: list[int] = []
        self._has_told = int(os.environ.get("LOCAL_RANK", 0)) > 0

    @cached_property
    def source(self) -> SampleSource:
        """Where samples come from; opened once in each process."""
        return self.open_source()

    @cached_property
    def validation_set(self) -> EvaluationSet:
        """Tracks that training never hears; opened once in each process."""
        return self.open_validation()

    @property
    def num_lost_files(self) -> int:
        """Files that could not be read any more since training began, and were replaced."""
        return 0

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of the data trained on."""

    @property
    @abstractmethod
    def trained_on(self) -> TrainedOn:
        """The files and songs that training hears, for the checkpoint to remember."""

    @abstractmethod
    def open_validation(self) -> EvaluationSet:
        """Find what is held out."""

    @abstractmethod
    def open_source(self) -> SampleSource:
        """Find and check the audio."""

    @abstractmethod
    def mix(self, crops: Crops) -> Float[Tensor, "B S C L"]:
        """Make the stems of the samples, on the device where the crops are."""

    @property
    def notes(self) -> list[str]:
        """What a user should know of the data before training starts, in lines."""
        return notes_of(self.validation_set)

    def prepare_data(self) -> None:
        """Open everything, so that a user's mistake shows before training; print the notes once."""
        _ = self.source, len(self.validation_set)
        if not self._has_told:
            self._has_told = True
            print("".join(f"{note}\n" for note in self.notes), end="", flush=True)

    def train_dataloader(self) -> StepLoader:
        """One batch a step, from the step where the module stands."""
        trainer = cast(L.Trainer, self.trainer)
        sampler = StepSampler(
            curriculum=self.curriculum,
            stft=self.stft,
            first_step=cast(CountsSteps, trainer.lightning_module).position,
            max_steps=trainer.max_steps,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            repeat_first_step=self.repeat_first_step,
        )
        return StepLoader(
            cast(Dataset[Any], self.source),
            batch_sampler=sampler,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
            prefetch_factor=4 if self.num_workers else None,
        )

    def val_dataloader(self) -> DataLoader[Mixture]:
        """Whole tracks, one at a time, shared out over the devices."""
        trainer = cast(L.Trainer, self.trainer)
        share = TrackShare(
            self.validation_set, rank=trainer.global_rank, world_size=trainer.world_size
        )
        return DataLoader(share, batch_size=None)

    def transfer_batch_to_device(
        self, batch: Crops | Mixture, device: torch.device, dataloader_idx: int
    ) -> Crops | Mixture:
        """Training crops go to the device; a whole track stays and is sent chunk by chunk."""
        if isinstance(batch, Mixture):
            return batch
        self._samples = batch["sample"].tolist()  # before they leave: reading them back would wait
        # The numbers stay: all draws are made of them here, and no device is asked for them.
        return {
            name: crop if name == "sample" else crop.to(device, non_blocking=True)
            for name, crop in batch.items()
        }

    def on_after_batch_transfer(
        self, batch: Crops | Mixture, dataloader_idx: int
    ) -> StepBatch | Mixture:
        """Mix on the device."""
        if isinstance(batch, Mixture):
            return batch
        trainer = cast(L.Trainer, self.trainer)
        samples = self._samples
        stems = self.mix(batch)
        step = cast(CountsSteps, trainer.lightning_module).position
        share = self.curriculum.share(
            0 if self.repeat_first_step else step,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )
        assert share.first_sample == samples[0], "the loader and the module disagree about the step"
        describe = partial(self.source.describe, num_samples=stems.shape[-1])
        return StepBatch(stems, samples, share.micro_batch, describe)
