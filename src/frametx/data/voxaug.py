"""Voxaug: unpaired vocals and instrumentals become training examples.

`VoxaugDataset` runs in the workers and only reads excerpts. `Voxaug` runs on the device, on whole
batches: it transforms each stem by itself and hands over the stems; the mixture is their sum, and
so exact by construction. All chance is a function of the seed and the sample number: neither rank,
worker, batch nor order changes a sample.

    vocals -------- transforms --+
    extra vocals -- transforms --+-- level -- silence -- stems[:, 0]
    instrumental -- transforms ----------- silence ----- stems[:, 1]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from frametx.data.augment import Transform, checked_probability
from frametx.data.crops import CropReader, Crops
from frametx.data.library import Library
from frametx.data.sampling import uniform_pair, uniforms

STEMS = ("vocals", "instrumental")
SILENCE_RMS = 1e-4
"""Excerpts below this (-80 dBFS) are silent: they are not brought to any level."""
MAX_LEVELLING_DB = 20.0
"""Nearly silent vocals are not lifted further, or their noise would become the voice."""


class VoxaugDataset(Dataset[dict[str, Tensor]]):
    """Sample number n, read from two libraries: an instrumental, vocals, at times a second voice.

    It has no length: the sampler decides which sample numbers a run consists of, and how long
    they are.
    """

    def __init__(
        self,
        *,
        vocals: Library,
        instrumental: Library,
        seed: int,
        sample_rate: int,
        num_channels: int,
        extra_vocals_probability: float,
        decode_cache_dir: Path | str | None,
    ) -> None:
        """Opens no file.

        Args:
            vocals: voices alone.
            instrumental: music without voices.
            seed: of all draws.
            sample_rate: rate of all samples; files at another are resampled.
            num_channels: 1 or 2, of all samples.
            extra_vocals_probability: share of the samples in which a second voice sings.
            decode_cache_dir: where decoded files are kept (see `CropReader`), or None.
        """
        vocals_reader, instrumental_reader = (
            CropReader(
                library,
                sample_rate=sample_rate,
                num_channels=num_channels,
                cache_dir=decode_cache_dir,
            )
            for library in (vocals, instrumental)
        )
        self.vocals = Crops(vocals_reader, seed=seed, stream="vocals")
        self.extra_vocals = Crops(vocals_reader, seed=seed, stream="extra_vocals")
        self.instrumental = Crops(instrumental_reader, seed=seed, stream="instrumental")
        self.seed = seed
        self.num_channels = num_channels
        self.extra_vocals_probability = checked_probability(extra_vocals_probability)

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """Read one sample.

        Args:
            index: number of the sample, and its length in samples.

        Returns:
            `sample` (its number), and `vocals`, `extra_vocals`, `instrumental`, each C L.
        """
        sample, num_samples = index
        if self._has_extra_vocals(sample):
            extra_vocals = torch.from_numpy(self.extra_vocals.read(sample, num_samples))
        else:
            extra_vocals = torch.zeros(self.num_channels, num_samples)
        return {
            "sample": torch.tensor(sample),
            "vocals": torch.from_numpy(self.vocals.read(sample, num_samples)),
            "extra_vocals": extra_vocals,
            "instrumental": torch.from_numpy(self.instrumental.read(sample, num_samples)),
        }

    def describe(self, sample: int, num_samples: int) -> str:
        """Which files, from where on, sample number `sample` consists of."""
        parts = {"vocals": self.vocals, "instrumental": self.instrumental}
        if self._has_extra_vocals(sample):
            parts["extra vocals"] = self.extra_vocals
        places = (f"{name} {crops.describe(sample, num_samples)}" for name, crops in parts.items())
        return f"sample {sample}: {', '.join(places)}"

    def _has_extra_vocals(self, sample: int) -> bool:
        return (
            uniform_pair(self.seed, sample, "has_extra_vocals")[0] < self.extra_vocals_probability
        )


class Voxaug(nn.Module):
    """Batches of `VoxaugDataset` become stems, (vocals, instrumental)."""

    stems = STEMS

    def __init__(
        self,
        *,
        seed: int,
        vocals: Sequence[Transform],
        instrumental: Sequence[Transform],
        vocals_to_instrumental_db: tuple[float, float] | None,
        silent_stem_probability: float,
    ) -> None:
        """Draws nothing yet.

        Args:
            seed: of all draws.
            vocals: transforms of the vocals, in this order; extra vocals undergo the same ones
                with draws of their own.
            instrumental: transforms of the instrumental.
            vocals_to_instrumental_db: range from which the level (RMS) of the vocals above the
                instrumental is drawn, whatever the transforms made of it; None leaves it.
            silent_stem_probability: share of the samples in which one stem, either, is silent.
        """
        super().__init__()
        if vocals_to_instrumental_db is not None:
            low, high = vocals_to_instrumental_db
            if low > high:
                raise ValueError(
                    f"vocals_to_instrumental_db ({low}, {high}) must be [lowest, highest]"
                )
        self.seed = seed
        self.vocals = tuple(vocals)
        self.instrumental = tuple(instrumental)
        self.vocals_to_instrumental_db = vocals_to_instrumental_db
        self.silent_stem_probability = checked_probability(silent_stem_probability)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B S C L"]:
        """The stems of a batch; the mixture is their sum."""
        samples = batch["sample"]
        vocals, extra_vocals, instrumental = (
            transformed(transforms, batch[role], samples, seed=self.seed, stream=role)
            for role, transforms in (
                ("vocals", self.vocals),
                ("extra_vocals", self.vocals),
                ("instrumental", self.instrumental),
            )
        )
        vocals = vocals + extra_vocals
        if self.vocals_to_instrumental_db is not None:
            vocals = self._levelled(vocals, instrumental, samples, self.vocals_to_instrumental_db)
        stems = torch.stack((vocals, instrumental), dim=1)
        return stems * self._audible(samples)[:, :, None, None]

    def _levelled(
        self,
        vocals: Float[Tensor, "B C L"],
        instrumental: Float[Tensor, "B C L"],
        samples: Int[Tensor, " B"],
        range_db: tuple[float, float],
    ) -> Float[Tensor, "B C L"]:
        low, high = range_db
        wanted_db = low + (high - low) * uniforms(self.seed, samples, "augment/level", 1)[:, 0]
        vocals_rms, instrumental_rms = _rms(vocals), _rms(instrumental)
        present_db = 20 * (vocals_rms / instrumental_rms).log10()
        change_db = (wanted_db - present_db).clamp(-MAX_LEVELLING_DB, MAX_LEVELLING_DB)
        is_silent = torch.minimum(vocals_rms, instrumental_rms) <= SILENCE_RMS
        gain = torch.where(is_silent, 1.0, 10 ** (change_db / 20))
        return vocals * gain[:, None, None]

    def _audible(self, samples: Int[Tensor, " B"]) -> Float[Tensor, "B S"]:
        """0 for a stem that is silent in a sample, else 1: at most one 0 in a row."""
        drawn = uniforms(self.seed, samples, "augment/silence", 2)
        has_silent_stem = drawn[:, 0] < self.silent_stem_probability
        silent_stem = (drawn[:, 1] * len(STEMS)).long()
        is_silent = nn.functional.one_hot(silent_stem, len(STEMS)).bool() & has_silent_stem[:, None]
        return (~is_silent).to(torch.float32)


def transformed(
    transforms: Sequence[Transform],
    waveform: Float[Tensor, "B C L"],
    samples: Int[Tensor, " B"],
    *,
    seed: int,
    stream: str,
) -> Float[Tensor, "B C L"]:
    """Apply transforms one after the other, each by what it draws for these samples."""
    sizes = [transform.num_uniforms for transform in transforms]
    drawn = uniforms(seed, samples, f"augment/{stream}", sum(sizes))
    for transform, part in zip(transforms, drawn.split(sizes, dim=1), strict=True):
        waveform = transform.apply(waveform, transform.draw(part))
    return waveform


def _rms(waveform: Float[Tensor, "B C L"]) -> Float[Tensor, " B"]:
    return waveform.square().mean(dim=(1, 2)).sqrt().clamp(min=1e-12)
