"""Songs as they are, without stems: what pretraining is fed with."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Unpack, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset

from frametx.data.aligned import StemTransforms
from frametx.data.crops import CropReader, Crops, drawn_samples
from frametx.data.left_out import left_out_line
from frametx.data.library import Library, Root, Weighting
from frametx.data.library_rules import LibraryRules
from frametx.data.tracks import EvaluationSet, Mixture
from frametx.data.trained_on import TrainedOn
from frametx.training.datamodule import SampleSource, StepDataModule, StepSettings


class MixtureCrops(Dataset[dict[str, Tensor]]):
    """Sample number n: an excerpt of a song. It has no length: the sampler knows the numbers.

    Args:
        crops: of the songs.
    """

    def __init__(self, crops: Crops) -> None:
        self.crops = crops

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """`sample`, its number, and `stems` 1 C L, of (sample number, length in samples)."""
        sample, num_samples = index
        excerpt = torch.from_numpy(self.crops.read(sample, num_samples))
        return {"sample": torch.tensor(sample), "stems": excerpt[None]}

    def describe(self, sample: int, num_samples: int) -> str:
        """Which song, from where on."""
        return self.crops.describe(sample, num_samples)


class DrawnExcerpts:
    """Excerpts of songs, drawn once and for all, each as a track of one stem.

    Args:
        crops: of songs that are not trained on.
        count: number of excerpts.
        seconds: length of each.
    """

    def __init__(self, crops: Crops, *, count: int, seconds: float) -> None:
        self.crops = crops
        self.count = count
        rate = crops.reader.sample_rate
        self.num_samples = drawn_samples(count=count, seconds=seconds, sample_rate=rate)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Mixture:
        """Read one."""
        if not 0 <= index < self.count:
            raise IndexError(f"excerpt {index} of {self.count}")
        excerpt = torch.from_numpy(self.crops.read(index, self.num_samples))
        name = f"{index:03d}: {self.crops.describe(index, self.num_samples)}"
        return Mixture(name, excerpt[None], self.crops.reader.sample_rate)


class MixturesDataModule(StepDataModule):
    """Random excerpts of songs: B 1 C L, the only stem is the mixture.

    Args:
        mixtures: songs: a folder or an address, or several (see `Library.open`).
        weighting: what is equally likely: seconds, files, folder or library (see `DrawRules`).
        min_loudness_db: excerpts with a lower RMS (dB relative to full scale) are not drawn; null
            draws all.
        pool: segments and uses of a `SegmentPool`; null reads an excerpt for every sample.
        remote_cache_gb: how much is kept of what is fetched from addresses.
        exclude: shell patterns of files to leave out, or lists of them that `check` wrote (.txt).
        held_out: share of the songs that training never hears.
        held_out_excerpts: how many excerpts of them are validated on.
        held_out_seconds: length of each.
        transforms: what chance does to each excerpt.
        settings: as for `StepDataModule`.
    """

    def __init__(
        self,
        *,
        mixtures: Root | Sequence[Root],
        weighting: Weighting,
        min_loudness_db: float | None,
        pool: Mapping[str, int] | None,
        remote_cache_gb: float,
        exclude: Sequence[str] | str,
        held_out: float,
        held_out_excerpts: int,
        held_out_seconds: float,
        transforms: StemTransforms,
        **settings: Unpack[StepSettings],
    ) -> None:
        super().__init__(**settings)
        self.roots = mixtures
        self.rules = LibraryRules(
            cache_dir=self.cache_dir,
            weighting=weighting,
            min_loudness_db=min_loudness_db,
            remote_cache_gb=remote_cache_gb,
            exclude=exclude,
            pool=pool,
        )
        self.held_out = held_out
        self.held_out_excerpts = held_out_excerpts
        self.held_out_seconds = held_out_seconds
        self.transforms = transforms

    @property
    def fingerprint(self) -> str:
        """Of the songs trained on."""
        return self._parts[0].fingerprint

    @property
    def trained_on(self) -> TrainedOn:
        """All files but those that are held out."""
        return TrainedOn.of_libraries([self._parts[0]])

    @property
    def num_lost_files(self) -> int:
        """Of all songs, in all processes of this machine."""
        return cast(MixtureCrops, self.source).crops.reader.num_lost

    @property
    def notes(self) -> list[str]:
        """What the library leaves out."""
        used, rejected = len(self._whole.files), self._whole.rejected
        return left_out_line("data.mixtures", used, rejected) + super().notes

    @cached_property
    def _whole(self) -> Library:
        return self.rules.open("mixtures", self.roots)

    @cached_property
    def _parts(self) -> tuple[Library, Library]:
        """What is trained on, and what is held out."""
        return self._whole.split(self.held_out)

    def open_validation(self) -> EvaluationSet:
        """Excerpts of the songs that are held out."""
        crops = self._crops(self._parts[1], stream="evaluation/mixtures", cache_dir=None)
        return DrawnExcerpts(crops, count=self.held_out_excerpts, seconds=self.held_out_seconds)

    def open_source(self) -> SampleSource:
        """The excerpts trained on."""
        cache_dir = self.cache_dir / "decoded" if self.decode_once else None
        return MixtureCrops(self._crops(self._parts[0], stream="mixtures", cache_dir=cache_dir))

    def mix(self, crops: dict[str, Tensor]) -> Float[Tensor, "B 1 C L"]:
        """Transform each excerpt, on the device."""
        return self.transforms(crops)

    def _crops(self, library: Library, *, stream: str, cache_dir: Path | None) -> Crops:
        reader = CropReader(
            library,
            sample_rate=self.sample_rate,
            num_channels=self.num_channels,
            cache_dir=cache_dir,
        )
        return Crops(reader, seed=self.seed, stream=stream)
