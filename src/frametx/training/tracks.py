"""Tracks of aligned stems as training data."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Unpack, cast

from jaxtyping import Float
from torch import Tensor

from frametx.data.aligned import AlignedCrops, StemTransforms
from frametx.data.division import Part
from frametx.data.track_files import FitRules, MissingStem
from frametx.data.tracks import EvaluationSet, Tracks, notes_of
from frametx.data.trained_on import TrainedOn
from frametx.data.voxaug import checked_stems
from frametx.training.datamodule import Crops, SampleSource, StepDataModule, StepSettings


class TracksDataModule(StepDataModule):
    """Random excerpts of tracks with aligned stems: true songs, and the layout of MUSDB18.

    Args:
        root: folder whose train/ is trained on, see `frametx.data.division`.
        stems: their names, in order, two at least.
        held_out: share of train/ that is validated on, where neither a folder valid/ nor MUSDB18's
            list says which tracks are.
        length_tolerance_seconds: stems of a song may differ by so much, and are padded.
        missing_stem: refuse, or silent: a stem without a file is silence without a score.
        mix_songs: share of the samples whose stems come each from a song of its own, from 0 to 1.
        test: evaluated when training has ended; by `train.py`, not here.
        transforms: what chance does to each stem.
        settings: as for `StepDataModule`.

    Raises:
        ValueError: if there are not two stems.
    """

    def __init__(
        self,
        *,
        root: str,
        stems: Sequence[str],
        held_out: float,
        mix_songs: float,
        test: EvaluationSet | None,
        transforms: StemTransforms,
        length_tolerance_seconds: float = 0.1,
        missing_stem: MissingStem = "refuse",
        **settings: Unpack[StepSettings],
    ) -> None:
        super().__init__(**settings)
        self.root = Path(root).expanduser()
        self.stems = checked_stems(stems)
        self.held_out = held_out
        self.mix_songs = mix_songs
        self.fit = FitRules(length_tolerance_seconds, missing_stem)
        self.test = test
        self.transforms = transforms

    @cached_property
    def training_tracks(self) -> Tracks:
        """What is trained on."""
        return self._part("train")

    @property
    def notes(self) -> list[str]:
        """How the tracks are divided, and what was done to make their stems fit together."""
        sets = (self.training_tracks, self.validation_set, self.test)
        parts = [tracks for tracks in sets if tracks is not None]
        roles = ("to train on", "to validate on", "to test with")
        counts = [f"{len(part)} {role}" for part, role in zip(parts, roles, strict=False)]
        notes = [note for part in parts for note in notes_of(part)]
        return [f"tracks: {', '.join(counts)}", *dict.fromkeys(notes)]

    @property
    def fingerprint(self) -> str:
        """Of the stems' files."""
        return cast(AlignedCrops, self.source).library.fingerprint

    @property
    def trained_on(self) -> TrainedOn:
        """The stems' files; a song is called as the folder of its track."""
        of_files = TrainedOn.of_libraries([cast(AlignedCrops, self.source).library])
        return TrainedOn(of_files.files, TrainedOn.of_names(self.training_tracks.names).songs)

    @property
    def num_lost_files(self) -> int:
        """Of all stems, in all processes of this machine."""
        return cast(AlignedCrops, self.source).reader.num_lost

    def open_validation(self) -> EvaluationSet:
        """The held-out part."""
        return self._part("valid")

    def open_source(self) -> SampleSource:
        """The crops of the tracks."""
        return AlignedCrops(
            tracks=self.training_tracks,
            mix_songs=self.mix_songs,
            seed=self.seed,
            sample_rate=self.sample_rate,
            num_channels=self.num_channels,
            cache_dir=self.cache_dir,
            decode_once=self.decode_once,
        )

    def _part(self, part: Part) -> Tracks:
        return Tracks(
            self.root,
            stems=self.stems,
            part=part,
            held_out=self.held_out,
            cache_dir=self.cache_dir,
            length_tolerance_seconds=self.fit.length_tolerance_seconds,
            missing_stem=self.fit.missing_stem,
        )

    def mix(self, crops: Crops) -> Float[Tensor, "B S C L"]:
        """Transform each stem by itself, on the device."""
        return self.transforms(crops)
