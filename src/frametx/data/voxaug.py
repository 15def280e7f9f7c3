"""Voxaug: unpaired vocals and instrumentals become training examples.

`VoxaugDataset` runs in the workers and only reads excerpts. `Voxaug` runs on the device, on whole
batches: it transforms each part by itself, adds the parts of a stem up, and hands over the stems;
the mixture is their sum, and so exact by construction. All chance is a function of the seed and the
sample number: neither rank, worker, batch nor order changes a sample.

    vocals --------- transforms -- (mixup) --+
    mixup_vocals --- transforms -- (mixup) --+
    extra_vocals --- transforms -- gain -----+-- level -- silence --+-- peak -- stems[:, 0]
                                                                    |
    instrumental --- transforms -- (mixup) --+                      |
    mixup_instrumental - transforms (mixup) -+---------- silence ---+-- peak -- stems[:, 1]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from scipy.special import betaincinv
from torch import Tensor, nn
from torch.utils.data import Dataset

from frametx.data.augment import (
    Consuming,
    Drawn,
    Transform,
    checked_probability,
    checked_range,
    input_samples,
    transformed,
)
from frametx.data.augment.transform import beside, between, per_row
from frametx.data.crops import CropReader, Crops
from frametx.data.library import Library
from frametx.data.sampling import uniform_pair, uniforms

__all__ = ["STEMS", "ExtraVocals", "Mixup", "Part", "Voxaug", "VoxaugDataset", "transformed"]

STEMS = ("vocals", "instrumental")
SILENCE_RMS = 1e-4
"""Excerpts below this (-80 dBFS) are silent: they are not brought to any level."""
MAX_LEVELLING_DB = 20.0
"""Nearly silent vocals are not lifted further, or their noise would become the voice."""


@dataclass(frozen=True)
class ExtraVocals:
    """Voices over the first one, which belong to the vocals as it does.

    Raises:
        ValueError: if a value is out of its range.
    """

    probability: float
    """Of a second voice; where it sings, of a third; and so on."""
    max_voices: int = 1
    """How many may come on top of the first."""
    same_voice_probability: float = 0.0
    """Share of the extra voices that double the first one: the same excerpt, a little later, with
    transforms of its own. The others are excerpts drawn like the first."""
    delay_samples: tuple[int, int] = (400, 1800)
    """Range of how much later a double is; 400 are 9 ms at 44.1 kHz."""
    gain_db: tuple[float, float] = (0.0, 0.0)
    """Range of the gain of each, on top of the transforms."""

    def __post_init__(self) -> None:
        """Check every value."""
        checked_probability(self.probability)
        checked_probability(self.same_voice_probability)
        checked_range("delay_samples", self.delay_samples, at_least=0)
        checked_range("gain_db", self.gain_db)
        if self.max_voices < 1:
            raise ValueError(
                f"max_voices ({self.max_voices}) of the extra vocals must be at least 1; "
                "extra_vocals: null has none"
            )


@dataclass(frozen=True)
class Mixup:
    """A stem becomes the weighted sum of two excerpts: gain times the one, 1 - gain the other.

    The second one is drawn for the sample, not taken from its neighbour in the batch, so the sample
    stays the same in any batch. All stems of a sample get one gain.

    Raises:
        ValueError: if a value is out of its range.

    Source: Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018.
    """

    probability: float
    alpha: float = 1.0
    """Both parameters of the gain's Beta distribution: 1 is even, less is nearer to 0 and 1."""
    stems: tuple[str, ...] = STEMS
    """To which it happens."""

    def __post_init__(self) -> None:
        """Check every value."""
        checked_probability(self.probability)
        if not self.alpha > 0:
            raise ValueError(f"alpha ({self.alpha}) of a mixup must be more than 0")
        unknown = [stem for stem in self.stems if stem not in STEMS]
        if unknown or not self.stems:
            raise ValueError(f"stems ({list(self.stems)}) of a mixup must be some of {STEMS}")


@dataclass(frozen=True)
class Part:
    """One of the excerpts of which a sample may consist."""

    name: str
    """In the batch, and as a stream of draws."""
    stem: str
    """To which it belongs, and from whose library it is read."""


class VoxaugDataset(Dataset[dict[str, Tensor]]):
    """Sample number n, read from two libraries: all the excerpts that `Voxaug` makes it of.

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
        voxaug: "Voxaug",
        decode_cache_dir: Path | str | None,
    ) -> None:
        """Opens no file.

        Args:
            vocals: voices alone.
            instrumental: music without voices.
            seed: of all draws.
            sample_rate: rate of all samples; files at another are resampled.
            num_channels: 1 or 2, of all samples.
            voxaug: says which excerpts a sample consists of, and how long they must be.
            decode_cache_dir: where decoded files are kept (see `CropReader`), or None.
        """
        readers = {
            stem: CropReader(
                library,
                sample_rate=sample_rate,
                num_channels=num_channels,
                cache_dir=decode_cache_dir,
            )
            for stem, library in zip(STEMS, (vocals, instrumental), strict=True)
        }
        self.crops = {
            part.name: Crops(readers[part.stem], seed=seed, stream=part.name)
            for part in voxaug.parts
        }
        self.vocals, self.instrumental = (self.crops[stem] for stem in STEMS)
        self.voxaug = voxaug
        self.num_channels = num_channels

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """Read one sample.

        Args:
            index: number of the sample, and its length in samples.

        Returns:
            `sample` (its number), and every part (C L), silent where the sample has it not. A part
            is longer than asked for where its transforms take more than they give.
        """
        sample, num_samples = index
        parts = {
            part.name: self._read(part, sample, self.voxaug.input_samples(part.stem, num_samples))
            for part in self.voxaug.parts
        }
        return {"sample": torch.tensor(sample), **parts}

    def describe(self, sample: int, num_samples: int) -> str:
        """Which files, from where on, sample number `sample` consists of."""
        places = (
            f"{part.name.replace('_', ' ')} "
            + self.crops[part.name].describe(
                sample, self.voxaug.input_samples(part.stem, num_samples)
            )
            for part in self.voxaug.parts
            if self.voxaug.is_read(part, sample)
        )
        return f"sample {sample}: {', '.join(places)}"

    def _read(self, part: Part, sample: int, num_samples: int) -> Float[Tensor, "C L"]:
        if not self.voxaug.is_read(part, sample):
            return torch.zeros(self.num_channels, num_samples)
        return torch.from_numpy(self.crops[part.name].read(sample, num_samples))


class Voxaug(nn.Module):
    """Batches of `VoxaugDataset` become stems, (vocals, instrumental)."""

    stems = STEMS

    def __init__(
        self,
        *,
        seed: int,
        vocals: Sequence[Transform],
        instrumental: Sequence[Transform],
        vocals_to_instrumental_db: tuple[float, float] | None = None,
        silent_stem_probability: float = 0.0,
        silent_vocals_probability: float = 0.0,
        extra_vocals: ExtraVocals | None = None,
        mixup: Mixup | None = None,
        max_peak: float | None = None,
    ) -> None:
        """Draws nothing yet.

        Args:
            seed: of all draws.
            vocals: transforms of the vocals, in this order; all their parts undergo the same ones
                with draws of their own.
            instrumental: transforms of the instrumental.
            vocals_to_instrumental_db: range from which the level (RMS) of the vocals above the
                instrumental is drawn, whatever the transforms made of it; None leaves it.
            silent_stem_probability: share of the samples in which one stem, either, is silent.
            silent_vocals_probability: share of the samples, beside those, without vocals.
            extra_vocals: voices over the first; None is none.
            mixup: stems made of two excerpts; None is none.
            max_peak: where a stem or the mixture exceeds it, all stems of the sample are turned
                down by one factor, so that nothing does; 1 is full scale. None leaves peaks.
        """
        super().__init__()
        if vocals_to_instrumental_db is not None:
            checked_range("vocals_to_instrumental_db", vocals_to_instrumental_db)
        if silent_stem_probability + silent_vocals_probability > 1:
            raise ValueError(
                f"silent_stem_probability ({silent_stem_probability}) and "
                f"silent_vocals_probability ({silent_vocals_probability}) must not exceed 1 "
                "together"
            )
        if max_peak is not None and max_peak <= 0:
            raise ValueError(f"max_peak ({max_peak}) must be more than 0; null leaves peaks")
        self.seed = seed
        self.transforms = {"vocals": tuple(vocals), "instrumental": tuple(instrumental)}
        self.vocals_to_instrumental_db = vocals_to_instrumental_db
        self.silent_stem_probability = checked_probability(silent_stem_probability)
        self.silent_vocals_probability = checked_probability(silent_vocals_probability)
        self.extra_vocals = extra_vocals
        self.mixup = mixup
        self.max_peak = max_peak
        self.voices = _voices(extra_vocals)
        self.partners = _partners(mixup)
        self.parts = (*(Part(stem, stem) for stem in STEMS), *self.voices, *self.partners)

    def input_samples(self, stem: str, num_samples: int) -> int:
        """How long excerpts of a stem must be, for `num_samples` to be left of them."""
        return input_samples(self.transforms[stem], num_samples)

    def is_present(self, part: Part, sample: int) -> bool:
        """Whether a sample has this part."""
        if part in self.partners:
            return self._mixes(sample)
        if part in self.voices:
            assert self.extra_vocals is not None
            return all(
                self._voice_draw(voice, sample)[0] < self.extra_vocals.probability
                for voice in self.voices[: self.voices.index(part) + 1]
            )
        return True

    def is_read(self, part: Part, sample: int) -> bool:
        """Whether an excerpt has to be read for it: not for a double of the first voice."""
        return self.is_present(part, sample) and not self._is_double(part, sample)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B S C L"]:
        """The stems of a batch; the mixture is their sum.

        The numbers of the samples should lie on the CPU even where the parts do not: what is drawn
        of them decides which rows are computed.
        """
        samples = batch["sample"].cpu()
        numbers: list[int] = samples.tolist()
        length = min(self._output_samples(part, batch[part.name]) for part in self.parts)
        stems = batch["vocals"].new_zeros(
            len(numbers), len(STEMS), batch["vocals"].shape[1], length
        )
        for part in self.parts:
            rows = [row for row, n in enumerate(numbers) if self.is_present(part, n)]
            if rows:
                added = self._part(part, batch, samples, numbers, rows)[..., :length]
                stem = stems[:, STEMS.index(part.stem)]
                if len(rows) == len(numbers):
                    stem += added
                else:
                    stem.index_add_(0, beside(torch.tensor(rows), stems), added)
        if self.vocals_to_instrumental_db is not None:
            stems[:, 0] *= self._levelling(stems[:, 0], stems[:, 1], samples)
        audible = self._audible(samples)
        if not audible.all():
            stems *= beside(audible, stems)[:, :, None, None]
        if self.max_peak is not None:
            loudest = torch.maximum(
                stems.abs().amax(dim=(1, 2, 3)), stems.sum(dim=1).abs().amax(dim=(1, 2))
            )
            stems *= (self.max_peak / loudest.clamp(min=self.max_peak))[:, None, None, None]
        return stems

    def describe(self, sample: int) -> dict[str, object]:
        """All that is drawn for a sample, by name with unit, for reports."""
        samples = torch.tensor([sample])
        parts: dict[str, object] = {}
        for part in self.parts:
            if self.is_present(part, sample):
                gain_db = 20 * self._gain(part, samples, [sample]).clamp(min=1e-12).log10()
                parts[part.name] = {
                    "gain_db": float(gain_db),
                    "is_double": self._is_double(part, sample),
                    "transforms": self._drawn(part, samples).describe(0),
                }
        audible = self._audible(samples)[0].tolist()
        return {
            "sample": sample,
            "parts": parts,
            "vocals_to_instrumental_db": (
                None
                if self.vocals_to_instrumental_db is None
                else float(self._wanted_level_db(samples, self.vocals_to_instrumental_db))
            ),
            "silent_stems": [
                stem for stem, is_audible in zip(STEMS, audible, strict=True) if not is_audible
            ],
        }

    def _part(
        self,
        part: Part,
        batch: Mapping[str, Tensor],
        samples: Int[Tensor, " B"],
        numbers: list[int],
        rows: list[int],
    ) -> Float[Tensor, "rows C L"]:
        """These rows of a part, transformed and with their gains."""
        there = beside(torch.tensor(rows), batch[part.name])
        samples, numbers = samples[rows], [numbers[row] for row in rows]
        waveform = batch[part.name]
        if len(rows) < len(waveform):
            waveform = waveform.index_select(0, there)
        doubles = [i for i, n in enumerate(numbers) if self._is_double(part, n)]
        if doubles:
            sources = beside(torch.tensor([rows[i] for i in doubles]), waveform)
            delays = torch.tensor([self._delay(part, numbers[i]) for i in doubles])
            waveform = waveform.index_copy(
                0,
                beside(torch.tensor(doubles), waveform),
                _delayed(batch["vocals"].index_select(0, sources), delays),
            )
        waveform = self._drawn(part, samples).apply(waveform)
        gain = self._gain(part, samples, numbers)
        return waveform if bool((gain == 1).all()) else waveform * per_row(gain, waveform)

    def _drawn(self, part: Part, samples: Int[Tensor, " B"]) -> Drawn:
        return Drawn(self.transforms[part.stem], samples, seed=self.seed, stream=part.name)

    def _output_samples(self, part: Part, waveform: Float[Tensor, "B C L"]) -> int:
        length = waveform.shape[-1]
        for transform in self.transforms[part.stem]:
            if isinstance(transform, Consuming):
                length = transform.output_samples(length)
        return length

    def _gain(
        self, part: Part, samples: Int[Tensor, " B"], numbers: list[int]
    ) -> Float[Tensor, " B"]:
        """Of extra voices their own, of two mixed excerpts what the mixup gives each, else 1."""
        if part in self.voices:
            assert self.extra_vocals is not None
            drawn = uniforms(self.seed, samples, f"augment/gain of {part.name}", 1)[:, 0]
            return 10 ** (between(drawn, self.extra_vocals.gain_db) / 20)
        if self.mixup is None or part.stem not in self.mixup.stems:
            return torch.ones(len(numbers))
        share = torch.tensor([self._share_of_first(n) for n in numbers], dtype=torch.float32)
        return 1 - share if part in self.partners else share

    def _mixes(self, sample: int) -> bool:
        draw = uniform_pair(self.seed, sample, "augment/mixup")[0]
        return self.mixup is not None and draw < self.mixup.probability

    def _share_of_first(self, sample: int) -> float:
        if self.mixup is None or not self._mixes(sample):
            return 1.0
        draw = uniform_pair(self.seed, sample, "augment/mixup")[1]
        return float(betaincinv(self.mixup.alpha, self.mixup.alpha, draw))

    def _voice_draw(self, part: Part, sample: int) -> tuple[float, float]:
        return uniform_pair(self.seed, sample, f"has {part.name}")

    def _is_double(self, part: Part, sample: int) -> bool:
        if part not in self.voices or self.extra_vocals is None:
            return False
        return self._voice_draw(part, sample)[1] < self.extra_vocals.same_voice_probability

    def _delay(self, part: Part, sample: int) -> int:
        assert self.extra_vocals is not None
        draw = uniform_pair(self.seed, sample, f"delay of {part.name}")[0]
        return round(between(draw, self.extra_vocals.delay_samples))

    def _wanted_level_db(
        self, samples: Int[Tensor, " B"], range_db: tuple[float, float]
    ) -> Float[Tensor, " B"]:
        return between(uniforms(self.seed, samples, "augment/level", 1)[:, 0], range_db)

    def _levelling(
        self,
        vocals: Float[Tensor, "B C L"],
        instrumental: Float[Tensor, "B C L"],
        samples: Int[Tensor, " B"],
    ) -> Float[Tensor, "B 1 1"]:
        """The gain of the vocals that brings them to the level that is drawn for the sample."""
        assert self.vocals_to_instrumental_db is not None
        wanted_db = beside(self._wanted_level_db(samples, self.vocals_to_instrumental_db), vocals)
        vocals_rms, instrumental_rms = _rms(vocals), _rms(instrumental)
        present_db = 20 * (vocals_rms / instrumental_rms).log10()
        change_db = (wanted_db - present_db).clamp(-MAX_LEVELLING_DB, MAX_LEVELLING_DB)
        is_silent = torch.minimum(vocals_rms, instrumental_rms) <= SILENCE_RMS
        return torch.where(is_silent, 1.0, 10 ** (change_db / 20))[:, None, None]

    def _audible(self, samples: Int[Tensor, " B"]) -> Float[Tensor, "B S"]:
        """0 for a stem that is silent in a sample, else 1: at most one 0 in a row."""
        drawn = uniforms(self.seed, samples, "augment/silence", 2)
        has_silent_stem = drawn[:, 0] < self.silent_stem_probability
        has_silent_vocals = ~has_silent_stem & (
            drawn[:, 0] < self.silent_stem_probability + self.silent_vocals_probability
        )
        silent_stem = torch.where(has_silent_vocals, 0, (drawn[:, 1] * len(STEMS)).long())
        is_silent = nn.functional.one_hot(silent_stem, len(STEMS)).bool()
        return (~(is_silent & (has_silent_stem | has_silent_vocals)[:, None])).to(torch.float32)


def _voices(extra_vocals: ExtraVocals | None) -> tuple[Part, ...]:
    if extra_vocals is None or extra_vocals.probability == 0:
        return ()
    names = (f"extra_vocals_{number}" for number in range(2, extra_vocals.max_voices + 1))
    return tuple(Part(name, "vocals") for name in ("extra_vocals", *names))


def _partners(mixup: Mixup | None) -> tuple[Part, ...]:
    if mixup is None or mixup.probability == 0:
        return ()
    return tuple(Part(f"mixup_{stem}", stem) for stem in mixup.stems)


def _delayed(waveform: Float[Tensor, "B C L"], delays: Int[Tensor, " B"]) -> Float[Tensor, "B C L"]:
    """Each row later by its delay, silent before."""
    place = (
        torch.arange(waveform.shape[-1], device=waveform.device)[None]
        - beside(delays, waveform)[:, None]
    )
    read = waveform.gather(-1, place.clamp(min=0)[:, None].expand_as(waveform))
    return read * (place >= 0)[:, None]


def _rms(waveform: Float[Tensor, "B C L"]) -> Float[Tensor, " B"]:
    return waveform.square().mean(dim=(1, 2)).sqrt().clamp(min=1e-12)
