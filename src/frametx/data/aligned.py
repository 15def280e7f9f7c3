"""Random excerpts of tracks whose stems belong together: the same place in every stem."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.data import Dataset

from frametx.data.augment import Drawn, Transform, transformed
from frametx.data.crops import CropReader
from frametx.data.decoded import UnreadableFileError
from frametx.data.inspection import SILENT
from frametx.data.library import Library
from frametx.data.sampling import Crop, CropSampler
from frametx.data.tracks import Tracks


class AlignedCrops(Dataset[dict[str, Tensor]]):
    """Sample number n: one excerpt of one track, all its stems.

    Every second of every track is as likely as any other. It has no length: the sampler decides
    which sample numbers a run consists of.

    Args:
        tracks: folders of stems.
        seed: of the draws.
        sample_rate: of all samples; files at another are resampled.
        num_channels: 1 or 2, of all samples.
        cache_dir: for the index of the files and, with `decode_once`, the decoded audio.
        decode_once: keep decoded files.

    Raises:
        ValueError: if a file of a stem cannot be used. One that is silent throughout can.
    """

    def __init__(
        self,
        *,
        tracks: Tracks,
        seed: int,
        sample_rate: int,
        num_channels: int,
        cache_dir: Path,
        decode_once: bool,
    ) -> None:
        self.library = Library.open(tracks.folders, role="tracks", cache_dir=cache_dir)
        self.reader = CropReader(
            self.library,
            sample_rate=sample_rate,
            num_channels=num_channels,
            cache_dir=cache_dir / "decoded" if decode_once else None,
        )
        number = {Path(file.path): i for i, file in enumerate(self.library.files)}
        for file in self.library.rejected:
            if not file.reason.startswith(SILENT):
                raise ValueError(f"tracks: {file.path} cannot be used: {file.reason}")
        self.names = [str(folder) for folder in tracks.folders]
        self.sources = [
            [
                [number[Path(info.path)] for info in stem if Path(info.path) in number]
                for stem in track
            ]
            for track in tracks.sources
        ]
        lengths = [
            round(track[0][0].num_samples * sample_rate / track[0][0].sample_rate)
            for track in tracks.sources
        ]
        self.sampler = CropSampler.build(lengths, seed=seed, stream="tracks")

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """`sample`, its number, and `stems` S C L, of (sample number, length in samples).

        A track of which a file has vanished or broken during the run is replaced by the next one,
        with a warning when the count of such files reaches 1, 2, 4, 8...

        Raises:
            ValueError: when no track is left.
        """
        sample, num_samples = index
        for skip in range(len(self.names)):
            crop = self.sampler.draw(sample, num_samples, skip=skip)
            if not self._is_lost(crop.file):
                stems = self._stems(crop, num_samples)
                if stems is not None:
                    return {"sample": torch.tensor(sample), "stems": stems}
        raise ValueError(f"tracks: none of the {len(self.names)} tracks can be read any more")

    def describe(self, sample: int, num_samples: int) -> str:
        """Which track, from where on."""
        for skip in range(len(self.names)):
            crop = self.sampler.draw(sample, num_samples, skip=skip)
            if not self._is_lost(crop.file):
                return f"{self.names[crop.file]} at {crop.start / self.reader.sample_rate:.3f} s"
        return "no readable track"

    def _is_lost(self, track: int) -> bool:
        return any(self.reader.is_lost(file) for stem in self.sources[track] for file in stem)

    def _stems(self, crop: Crop, num_samples: int) -> Float[Tensor, "S C L"] | None:
        """The stems of one place, or nothing if a file of theirs has just been lost."""
        sources = self.sources[crop.file]
        stems = torch.zeros(len(sources), self.reader.num_channels, num_samples)
        for stem, files in zip(stems, sources, strict=True):
            for file in files:
                try:
                    stem += torch.from_numpy(self.reader.read(file, crop.start, num_samples))
                except UnreadableFileError as error:
                    self.reader.lose(file, str(error))
                    return None
        return stems


class StemTransforms(nn.Module):
    """What chance does to each stem of aligned tracks, by itself; the mixture is their sum.

    Args:
        seed: of all draws.
        transforms: for every stem, each with draws of its own, in this order.
    """

    def __init__(self, *, seed: int, transforms: Sequence[Transform]) -> None:
        super().__init__()
        self.seed = seed
        self.transforms = tuple(transforms)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B S C L"]:
        """The stems of a batch of `AlignedCrops`."""
        stems = [
            transformed(self.transforms, stem, batch["sample"], seed=self.seed, stream=f"stem {i}")
            for i, stem in enumerate(batch["stems"].unbind(dim=1))
        ]
        return torch.stack(stems, dim=1)

    def describe(self, sample: int, stem_names: Sequence[str]) -> dict[str, object]:
        """What is drawn for each stem of a sample, for reports."""
        samples = torch.tensor([sample])
        return {
            name: Drawn(self.transforms, samples, seed=self.seed, stream=f"stem {i}").describe(0)
            for i, name in enumerate(stem_names)
        }
