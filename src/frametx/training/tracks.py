"""Tracks of aligned stems as training data."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from jaxtyping import Float
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.data.aligned import AlignedCrops, StemTransforms
from frametx.data.tracks import EvaluationSet, Tracks
from frametx.training.curriculum import ContextCurriculum
from frametx.training.datamodule import Crops, SampleSource, StepDataModule


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
