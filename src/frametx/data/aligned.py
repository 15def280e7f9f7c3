"""Random excerpts of tracks: one place of a song for all stems, or one of its own for each."""

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
from frametx.data.sampling import CropSampler, uniform_pair
from frametx.data.tracks import Tracks
from frametx.printable import printable


class AlignedCrops(Dataset[dict[str, Tensor]]):
    """Sample number n: one excerpt of one track, all its stems; or a mixture of several tracks.

    Every second of every track is as likely as any other. It has no length: the sampler decides
    which sample numbers a run consists of.

    Args:
        tracks: folders of stems.
        seed: of the draws.
        sample_rate: of all samples; files at another are resampled.
        num_channels: 1 or 2, of all samples.
        cache_dir: for the index of the files and, with `decode_once`, the decoded audio.
        decode_once: keep decoded files.
        mix_songs: share of the samples whose stems are drawn each by itself, from any track and
            any place in it; 0 keeps songs together. Which samples they are is chance, and a
            function of the seed and the sample number like all other draws.

    Raises:
        ValueError: if a file of a stem cannot be used, or `mix_songs` is no share. A file that is
            silent throughout can be used.

    Source of mixing songs: Uhlich et al., "Improving music source separation based on deep neural
    networks through data augmentation and network blending", ICASSP 2017.
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
        mix_songs: float = 0.0,
    ) -> None:
        if not 0 <= mix_songs <= 1:
            raise ValueError(f"mix_songs={mix_songs} must be a share of the samples, from 0 to 1")
        self.library = Library.open(tracks.folders, role="tracks", cache_dir=cache_dir)
        self.reader = CropReader(
            self.library,
            sample_rate=sample_rate,
            num_channels=num_channels,
            cache_dir=cache_dir / "decoded" if decode_once else None,
        )
        number = {Path(file.path): i for i, file in enumerate(self.library.files)}
        wanted = {i.path.absolute() for track in tracks.sources for stem in track for i in stem}
        reasons = {Path(file.path): file.reason for file in self.library.rejected}
        unusable = {
            path: reason
            for path in sorted(wanted - number.keys())
            if not (reason := reasons.get(path, "it is not there any more")).startswith(SILENT)
        }
        if unusable:
            told = [f"{printable(path)} cannot be used: {why}" for path, why in unusable.items()]
            raise ValueError(
                f"tracks: {'; '.join(told)}; repair these files, or take their songs out"
            )
        self.names = [printable(folder) for folder in tracks.folders]
        self.stems = tracks.stems
        self.sources = [
            [
                [number[info.path.absolute()] for info in stem if info.path.absolute() in number]
                for stem in track
            ]
            for track in tracks.sources
        ]
        lengths = [
            max(
                round(info.num_samples * sample_rate / info.sample_rate)
                for stem in track
                for info in stem
            )
            for track in tracks.sources
        ]
        self.seed = seed
        self.mix_songs = mix_songs
        self.sampler = CropSampler.build(lengths, seed=seed, stream="tracks")
        self.stem_samplers = [
            CropSampler.build(lengths, seed=seed, stream=f"tracks/stem {i}")
            for i in range(len(tracks.stems))
        ]

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """`sample`, its number, and `stems` S C L, of (sample number, length in samples).

        A track of which a file has vanished or broken during the run is replaced by the next one,
        with a warning when the count of such files reaches 1, 2, 4, 8...

        Raises:
            ValueError: when no track is left.
        """
        sample, num_samples = index
        parts = [
            self._drawn(sampler, wanted, sample, num_samples)
            for sampler, wanted in self._draws(sample)
        ]
        return {"sample": torch.tensor(sample), "stems": torch.cat(parts)}

    def is_mixed(self, sample: int) -> bool:
        """Whether each stem of a sample is drawn by itself."""
        return uniform_pair(self.seed, sample, "tracks/mixed")[0] < self.mix_songs

    def describe(self, sample: int, num_samples: int) -> str:
        """Which track, from where on; of a mixed sample that of every stem."""
        places: list[str] = []
        for sampler, wanted in self._draws(sample):
            names = f"{self.stems[wanted[0]]} of " if self.is_mixed(sample) else ""
            places.append(f"{names}{self._place(sampler, wanted, sample, num_samples)}")
        return " + ".join(places)

    def _draws(self, sample: int) -> list[tuple[CropSampler, Sequence[int]]]:
        """What draws the excerpts of a sample, and which stems each is for."""
        everything = range(len(self.stems))
        if not self.is_mixed(sample):
            return [(self.sampler, everything)]
        return [(self.stem_samplers[stem], (stem,)) for stem in everything]

    def _place(
        self, sampler: CropSampler, wanted: Sequence[int], sample: int, num_samples: int
    ) -> str:
        for skip in range(len(self.names)):
            crop = sampler.draw(sample, num_samples, skip=skip)
            if not self._is_lost(crop.file, wanted):
                return f"{self.names[crop.file]} at {crop.start / self.reader.sample_rate:.3f} s"
        return "no readable track"

    def _drawn(
        self, sampler: CropSampler, wanted: Sequence[int], sample: int, num_samples: int
    ) -> Float[Tensor, "S_wanted C L"]:
        """Some stems of one place, of the first track of which they can be read."""
        for skip in range(len(self.names)):
            crop = sampler.draw(sample, num_samples, skip=skip)
            if not self._is_lost(crop.file, wanted):
                stems = self._stems(crop.file, wanted, crop.start, num_samples)
                if stems is not None:
                    return stems
        raise ValueError(f"tracks: none of the {len(self.names)} tracks can be read any more")

    def _is_lost(self, track: int, wanted: Sequence[int]) -> bool:
        sources = self.sources[track]
        return any(self.reader.is_lost(file) for stem in wanted for file in sources[stem])

    def _stems(
        self, track: int, wanted: Sequence[int], start: int, num_samples: int
    ) -> Float[Tensor, "S_wanted C L"] | None:
        """Some stems of one place, or nothing if a file of theirs has just been lost."""
        sources = [self.sources[track][stem] for stem in wanted]
        stems = torch.zeros(len(sources), self.reader.num_channels, num_samples)
        for stem, files in zip(stems, sources, strict=True):
            for file in files:
                try:
                    stem += torch.from_numpy(self.reader.read(file, start, num_samples))
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
