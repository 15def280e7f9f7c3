"""Voxaug as training data: libraries of single stems, mixed anew for every sample."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import cast

from jaxtyping import Float
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.data.drawn_mixtures import DrawnMixtures
from frametx.data.library import Library, Root, Weighting
from frametx.data.library_rules import LibraryRules
from frametx.data.tracks import EvaluationSet
from frametx.data.voxaug import Voxaug, VoxaugDataset
from frametx.training.curriculum import ContextCurriculum
from frametx.training.datamodule import Crops, SampleSource, StepDataModule


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
        self.rules = LibraryRules(
            cache_dir=self.cache_dir,
            weighting=weighting,
            min_loudness_db=min_loudness_db,
            remote_cache_gb=remote_cache_gb,
            exclude=exclude,
            pool=pool,
        )
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
            library = self.rules.open(role, roots)
            hold = self.validation is None
            parts[role] = library.split(self.held_out) if hold else (library, library)
        return parts

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
