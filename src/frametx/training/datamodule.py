"""What training and validation are fed with: samples by step, mixed on the device."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol, cast

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from frametx.audio.stft import Stft
from frametx.data.aligned import AlignedCrops, StemTransforms
from frametx.data.library import Library, Root, Weighting
from frametx.data.progress import progress_bar
from frametx.data.sampling import SegmentPool
from frametx.data.tracks import DrawnMixtures, EvaluationSet, Mixture, Tracks
from frametx.data.voxaug import Voxaug, VoxaugDataset
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

    @abstractmethod
    def open_validation(self) -> EvaluationSet:
        """Find what is held out."""

    @abstractmethod
    def open_source(self) -> SampleSource:
        """Find and check the audio."""

    @abstractmethod
    def mix(self, crops: Crops) -> Float[Tensor, "B S C L"]:
        """Make the stems of the samples, on the device where the crops are."""

    def prepare_data(self) -> None:
        """Open everything once, so that a user's mistake shows before training starts."""
        _ = self.source, len(self.validation_set)

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


class VoxaugDataModule(StepDataModule):
    """Random vocals over random instrumentals, a new mixture for every sample of every step.

    Args:
        vocals: isolated voices: a folder or an address, or several; {root: ..., weight: 2} makes
            one of several likelier (see `Library.open`).
        instrumental: music without voices, likewise.
        weighting: what is equally likely: seconds, files, folder or library (see `DrawRules`).
        min_loudness_db: excerpts with a lower RMS (dB relative to full scale) are not drawn; null
            draws all.
        pool: segments and uses of a `SegmentPool`; null reads an excerpt for every sample.
        remote_cache_gb: how much is kept of what is fetched from addresses.
        exclude: shell patterns of files to leave out, or lists of them that `check` wrote (.txt).
        validation: tracks to validate on; null holds out a share of the files and mixes those.
        test: evaluated when training has ended; by `train.py`, not here.
        held_out: share of the files of each library to hold out where `validation` is null.
        held_out_mixtures: how many mixtures are drawn of them.
        held_out_seconds: length of each.
        augment: how stems are made of crops.
        The rest as for `StepDataModule`.
    """

    def __init__(
        self,
        *,
        vocals: Root | Sequence[Root],
        instrumental: Root | Sequence[Root],
        weighting: Weighting,
        min_loudness_db: float | None,
        pool: Mapping[str, int] | None,
        remote_cache_gb: float,
        exclude: Sequence[str] | str,
        validation: EvaluationSet | None,
        test: EvaluationSet | None,
        held_out: float,
        held_out_mixtures: int,
        held_out_seconds: float,
        augment: Voxaug,
        sample_rate: int,
        num_channels: int,
        seed: int,
        cache_dir: str,
        decode_once: bool,
        curriculum: ContextCurriculum,
        stft: Stft,
        num_workers: int,
        repeat_first_step: bool,
    ) -> None:
        super().__init__(
            curriculum=curriculum,
            stft=stft,
            num_workers=num_workers,
            repeat_first_step=repeat_first_step,
            sample_rate=sample_rate,
            num_channels=num_channels,
            seed=seed,
            cache_dir=cache_dir,
            decode_once=decode_once,
        )
        self.roots = {"vocals": vocals, "instrumental": instrumental}
        self.weighting: Weighting = weighting
        self.min_loudness_db = min_loudness_db
        self.pool = None if pool is None else SegmentPool(**pool)
        self.remote_cache_gb = remote_cache_gb
        self.exclude = exclude if isinstance(exclude, str) else tuple(exclude)
        self.validation = validation
        self.held_out = held_out
        self.held_out_mixtures = held_out_mixtures
        self.held_out_seconds = held_out_seconds
        self.augment = augment

    @property
    def fingerprint(self) -> str:
        """Of both libraries."""
        return "-".join(library.fingerprint for library in self.libraries.values())

    @cached_property
    def libraries(self) -> dict[str, Library]:
        """What is trained on: all files, or those that are not held out."""
        return {role: parts[0] for role, parts in self._parts.items()}

    def open_validation(self) -> EvaluationSet:
        """The tracks given, else mixtures of the files held out."""
        if self.validation is not None:
            return self.validation
        held = {role: parts[1] for role, parts in self._parts.items()}
        return DrawnMixtures(
            vocals=held["vocals"],
            instrumental=held["instrumental"],
            count=self.held_out_mixtures,
            seconds=self.held_out_seconds,
            seed=self.seed,
            sample_rate=self.sample_rate,
            num_channels=self.num_channels,
        )

    @cached_property
    def _parts(self) -> dict[str, tuple[Library, Library]]:
        """By role, what is trained on and what is held out (all of it where tracks are given)."""
        parts: dict[str, tuple[Library, Library]] = {}
        for role, roots in self.roots.items():
            library = self.open_library(role, roots)
            hold = self.validation is None
            parts[role] = library.split(self.held_out) if hold else (library, library)
        return parts

    def open_library(self, role: str, roots: Root | Sequence[Root]) -> Library:
        """All files of one role, before any are held out; shows how far checking them is."""
        with progress_bar(f"checking {role}") as progress:
            return Library.open(
                roots,
                role=role,
                cache_dir=self.cache_dir,
                exclude=self.exclude,
                weighting=self.weighting,
                min_loudness_db=self.min_loudness_db,
                pool=self.pool,
                remote_cache_gb=self.remote_cache_gb,
                progress=progress,
            )

    @property
    def num_lost_files(self) -> int:
        """Of both libraries, in all processes of this machine."""
        source = cast(VoxaugDataset, self.source)
        return source.vocals.reader.num_lost + source.instrumental.reader.num_lost

    def open_source(self) -> SampleSource:
        """The crops of both libraries."""
        return VoxaugDataset(
            vocals=self.libraries["vocals"],
            instrumental=self.libraries["instrumental"],
            seed=self.seed,
            sample_rate=self.sample_rate,
            num_channels=self.num_channels,
            voxaug=self.augment,
            decode_cache_dir=self.cache_dir / "decoded" if self.decode_once else None,
        )

    def mix(self, crops: Crops) -> Float[Tensor, "B S C L"]:
        """Transform each stem by itself, on the device."""
        return self.augment(crops)


class TracksDataModule(StepDataModule):
    """Random excerpts of tracks with aligned stems: true songs, and the layout of MUSDB18-HQ.

    Args:
        root: folder whose train/ is trained on and whose test/, validation/ or valid/ is held out.
        stems: their names, in order.
        test: evaluated when training has ended; by `train.py`, not here.
        transforms: what chance does to each stem.
        The rest as for `StepDataModule`.
    """

    def __init__(
        self,
        *,
        root: str,
        stems: Sequence[str],
        test: EvaluationSet | None,
        transforms: StemTransforms,
        sample_rate: int,
        num_channels: int,
        seed: int,
        cache_dir: str,
        decode_once: bool,
        curriculum: ContextCurriculum,
        stft: Stft,
        num_workers: int,
        repeat_first_step: bool,
    ) -> None:
        super().__init__(
            curriculum=curriculum,
            stft=stft,
            num_workers=num_workers,
            repeat_first_step=repeat_first_step,
            sample_rate=sample_rate,
            num_channels=num_channels,
            seed=seed,
            cache_dir=cache_dir,
            decode_once=decode_once,
        )
        self.root = Path(root).expanduser()
        self.stems = tuple(stems)
        self.transforms = transforms

    @property
    def fingerprint(self) -> str:
        """Of the stems' files."""
        return cast(AlignedCrops, self.source).library.fingerprint

    @property
    def num_lost_files(self) -> int:
        """Of all stems, in all processes of this machine."""
        return cast(AlignedCrops, self.source).reader.num_lost

    def open_validation(self) -> EvaluationSet:
        """The held-out part."""
        return Tracks(self.root, stems=self.stems)

    def open_source(self) -> SampleSource:
        """The crops of the tracks."""
        return AlignedCrops(
            tracks=Tracks(self.root / "train", stems=self.stems),
            seed=self.seed,
            sample_rate=self.sample_rate,
            num_channels=self.num_channels,
            cache_dir=self.cache_dir,
            decode_once=self.decode_once,
        )

    def mix(self, crops: Crops) -> Float[Tensor, "B S C L"]:
        """Transform each stem by itself, on the device."""
        return self.transforms(crops)
