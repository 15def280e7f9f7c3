"""Speakers who talk at once: what a network that tells voices apart is fed with."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Unpack, cast

from jaxtyping import Float
from torch import Tensor

from frametx.data.left_out import left_out_line
from frametx.data.library import Library, Root, Weighting
from frametx.data.library_rules import LibraryRules
from frametx.data.speakers import DrawnSpeakers, SpeakerCrops, SpeakerMix, split_speakers
from frametx.data.tracks import EvaluationSet
from frametx.data.trained_on import TrainedOn
from frametx.training.datamodule import SampleSource, StepDataModule, StepSettings


class SpeakersDataModule(StepDataModule):
    """Random speakers over one another, a new mixture for every sample of every step.

    Args:
        speakers: single voices: a folder or an address, or several (see `Library.open`). The first
            folder below a root is a speaker, and a file in the root is one of its own.
        num_speakers: of a mixture.
        weighting: what is equally likely: seconds, files, folder or library (see `DrawRules`).
        min_loudness_db: excerpts with a lower RMS (dB relative to full scale) are not drawn; null
            draws all.
        remote_cache_gb: how much is kept of what is fetched from addresses.
        exclude: shell patterns of files to leave out, or lists of them that `check` wrote (.txt).
        validation: tracks to validate on; null holds out a share of the speakers and mixes those.
        test: evaluated when training has ended; by `train.py`, not here.
        held_out: share of the speakers to hold out where `validation` is null.
        held_out_mixtures: how many mixtures are drawn of them.
        held_out_seconds: length of each.
        mix: how stems are made of excerpts.
        held_out_mix: the same for the mixtures that are validated on.
        settings: as for `StepDataModule`.
    """

    def __init__(
        self,
        *,
        speakers: Root | Sequence[Root],
        num_speakers: int,
        weighting: Weighting,
        min_loudness_db: float | None,
        remote_cache_gb: float,
        exclude: Sequence[str] | str,
        validation: EvaluationSet | None,
        test: EvaluationSet | None,
        held_out: float,
        held_out_mixtures: int,
        held_out_seconds: float,
        mix: SpeakerMix,
        held_out_mix: SpeakerMix,
        **settings: Unpack[StepSettings],
    ) -> None:
        super().__init__(**settings)
        self.roots = speakers
        self.num_speakers = num_speakers
        self.rules = LibraryRules(
            cache_dir=self.cache_dir,
            weighting=weighting,
            min_loudness_db=min_loudness_db,
            remote_cache_gb=remote_cache_gb,
            exclude=exclude,
        )
        self.validation = validation
        self.held_out = held_out
        self.held_out_mixtures = held_out_mixtures
        self.held_out_seconds = held_out_seconds
        self.speaker_mix = mix
        self.held_out_mix = held_out_mix

    @property
    def library(self) -> Library:
        """The voices trained on."""
        return self._parts[0]

    @property
    def fingerprint(self) -> str:
        """Of the voices trained on."""
        return self.library.fingerprint

    @property
    def trained_on(self) -> TrainedOn:
        """All files but those that are held out."""
        return TrainedOn.of_libraries([self._parts[0]])

    @property
    def num_lost_files(self) -> int:
        """In all processes of this machine."""
        return cast(SpeakerCrops, self.source).reader.num_lost

    @property
    def notes(self) -> list[str]:
        """What the library leaves out."""
        used, rejected = len(self._whole.files), self._whole.rejected
        return left_out_line("data.speakers", used, rejected) + super().notes

    @cached_property
    def _whole(self) -> Library:
        return self.rules.open("speakers", self.roots)

    @cached_property
    def _parts(self) -> tuple[Library, Library]:
        """What is trained on, and what is held out (all of it where tracks are given)."""
        library = self._whole
        if self.validation is not None:
            return library, library
        return split_speakers(library, self.held_out, num_speakers=self.num_speakers)

    def open_validation(self) -> EvaluationSet:
        """The tracks given, else mixtures of the speakers held out."""
        if self.validation is not None:
            return self.validation
        crops = self._crops(self._parts[1], stream="evaluation/speaker", cache_dir=None)
        return DrawnSpeakers(
            crops, self.held_out_mix, count=self.held_out_mixtures, seconds=self.held_out_seconds
        )

    def open_source(self) -> SampleSource:
        """The excerpts trained on."""
        cache_dir = self.cache_dir / "decoded" if self.decode_once else None
        return self._crops(self.library, stream="speaker", cache_dir=cache_dir)

    def mix(self, crops: dict[str, Tensor]) -> Float[Tensor, "B S C L"]:
        """Set the levels of each sample's speakers, on the device."""
        return self.speaker_mix(crops)

    def _crops(self, library: Library, *, stream: str, cache_dir: Path | None) -> SpeakerCrops:
        return SpeakerCrops(
            library=library,
            num_speakers=self.num_speakers,
            seed=self.seed,
            stream=stream,
            sample_rate=self.sample_rate,
            num_channels=self.num_channels,
            decode_cache_dir=cache_dir,
        )
