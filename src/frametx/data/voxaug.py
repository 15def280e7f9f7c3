"""Voxaug: excerpts that never met, one for each stem, become training examples.

`VoxaugDataset` runs in the workers and only reads excerpts. `Voxaug` runs on the device, on whole
batches: it transforms each part by itself, adds the parts of a stem up, and hands over the stems;
the mixture is their sum, and so exact by construction. All chance is a function of the seed and the
sample number: neither rank, worker, batch nor order changes a sample. What a stem may consist of:

    <stem> --------- transforms -- (mixup) --+
    extra_<stem> --- transforms -- gain -----+-- level -- silence -- peak -- stems[:, its place]
    mixup_<stem> --- transforms -- (mixup) --+
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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

__all__ = ["ExtraParts", "Mixup", "Part", "Voxaug", "VoxaugDataset", "transformed"]

SILENCE_RMS = 1e-4
"""Excerpts below this (-80 dBFS) are silent: they are not brought to any level."""
MAX_LEVELLING_DB = 20.0
"""A nearly silent stem is not lifted further, or its noise would become its sound."""
Said = TypeVar("Said")
SAMPLE = "sample"
"""Key of the sample numbers in a batch; all others are names of parts."""


@dataclass(frozen=True)
class ExtraParts:
    """Further excerpts laid over a stem, of its own library: second voices, second guitars.

    Raises:
        ValueError: if a value is out of its range.
    """

    probability: float
    """Of a second excerpt; where it sounds, of a third; and so on."""
    max_parts: int = 1
    """How many may come on top of the first."""
    double_probability: float = 0.0
    """Share of the further excerpts that double the first one: the same excerpt, a little later,
    with transforms of its own. The others are drawn like the first."""
    delay_samples: tuple[int, int] = (400, 1800)
    """Range of how much later a double is; 400 are 9 ms at 44.1 kHz."""
    gain_db: tuple[float, float] = (0.0, 0.0)
    """Range of the gain of each, on top of the transforms."""

    def __post_init__(self) -> None:
        """Check every value."""
        checked_probability(self.probability)
        checked_probability(self.double_probability)
        checked_range("delay_samples", self.delay_samples, at_least=0)
        checked_range("gain_db", self.gain_db)
        if self.max_parts < 1:
            raise ValueError(
                f"max_parts ({self.max_parts}) of extra parts must be at least 1; "
                "a stem that extra does not name has none"
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
    stems: tuple[str, ...] | None = None
    """To which it happens; None is to all."""

    def __post_init__(self) -> None:
        """Check every value."""
        checked_probability(self.probability)
        if not self.alpha > 0:
            raise ValueError(f"alpha ({self.alpha}) of a mixup must be more than 0")
        if self.stems is not None and not self.stems:
            raise ValueError("stems ([]) of a mixup must name one at least; null is all of them")


@dataclass(frozen=True)
class Part:
    """One of the excerpts of which a sample may consist."""

    name: str
    """In the batch, and as a stream of draws."""
    stem: str
    """To which it belongs, and from whose library it is read."""


class VoxaugDataset(Dataset[dict[str, Tensor]]):
    """Sample number n, read from the stems' libraries: all excerpts that `Voxaug` makes it of.

    It has no length: the sampler decides which sample numbers a run consists of, and how long
    they are.
    """

    def __init__(
        self,
        *,
        libraries: Mapping[str, Library],
        seed: int,
        sample_rate: int,
        num_channels: int,
        voxaug: "Voxaug",
        decode_cache_dir: Path | str | None,
    ) -> None:
        """Opens no file.

        Args:
            libraries: by stem, those of `voxaug`.
            seed: of all draws.
            sample_rate: rate of all samples; files at another are resampled.
            num_channels: 1 or 2, of all samples.
            voxaug: says which excerpts a sample consists of, and how long they must be.
            decode_cache_dir: where decoded files are kept (see `CropReader`), or None.
        """
        assert set(libraries) == set(voxaug.stems), "a library for each stem"
        self.readers = {
            stem: CropReader(
                library,
                sample_rate=sample_rate,
                num_channels=num_channels,
                cache_dir=decode_cache_dir,
            )
            for stem, library in libraries.items()
        }
        self.crops = {
            part.name: Crops(self.readers[part.stem], seed=seed, stream=part.name)
            for part in voxaug.parts
        }
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
        return {SAMPLE: torch.tensor(sample), **parts}

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
    """Batches of `VoxaugDataset` become stems.

    Every draw that concerns one stem is made under that stem's name, so that it does not depend on
    the order of the stems; where one draw chooses among stems, they are counted in the reverse
    order of the alphabet.
    """

    def __init__(
        self,
        *,
        seed: int,
        stems: Sequence[str],
        transforms: Mapping[str, Sequence[Transform] | None] | None = None,
        default_transforms: Sequence[Transform] = (),
        level_db: Mapping[str, tuple[float, float] | None] | None = None,
        silent_stem_probability: float = 0.0,
        silent_probability: Mapping[str, float | None] | None = None,
        extra: Mapping[str, ExtraParts | None] | None = None,
        mixup: Mixup | None = None,
        max_peak: float | None = None,
        optional_stems: Collection[str] = (),
    ) -> None:
        """Draws nothing yet. What is None for a stem is as if it were not said.

        Args:
            seed: of all draws.
            stems: their names, in the order of the second axis of what is made.
            transforms: by stem, in the order in which they are applied; all parts of a stem undergo
                the same ones with draws of their own.
            default_transforms: of the stems that `transforms` does not name.
            level_db: by stem, the range from which its level (RMS) above the sum of the stems that
                are not named here is drawn, whatever the transforms made of it.
            silent_stem_probability: share of the samples in which one stem, any, is silent.
            silent_probability: by stem, share of the samples in which this one is, beside those.
            extra: by stem, further excerpts laid over the first.
            mixup: stems made of two excerpts; None is none.
            max_peak: where a stem or the mixture exceeds it, all stems of the sample are turned
                down by one factor, so that nothing does; 1 is full scale. None leaves peaks.
            optional_stems: what `transforms`, `level_db`, `silent_probability` and `extra` may name
                though it is none of the stems: it is then passed over. For presets that serve many
                runs.

        Raises:
            ValueError: if a value is out of its range, or anything is said of an unknown stem.
        """
        super().__init__()
        chains, levels, extras = _said(transforms), _said(level_db), _said(extra)
        silent = _said(silent_probability)
        self.stems = checked_stems(stems)
        for name, known in (
            ("transforms", chains),
            ("level_db", levels),
            ("silent_probability", silent),
            ("extra", extras),
        ):
            _check_known(name, known, {*self.stems, *optional_stems}, self.stems)
        levels = {stem: bounds for stem, bounds in levels.items() if stem in self.stems}
        if levels and set(levels) == set(self.stems):
            raise ValueError(
                f"level_db ({list(levels)}) must leave out a stem at least: levels are above the "
                "sum of the stems that are not named"
            )
        silent = {stem: silent[stem] for stem in self.stems if stem in silent}
        for probability in (silent_stem_probability, *silent.values()):
            checked_probability(probability)
        if silent_stem_probability + sum(silent.values()) > 1:
            raise ValueError(
                f"silent_stem_probability ({silent_stem_probability}) and silent_probability "
                f"({silent}) must not exceed 1 together"
            )
        if max_peak is not None and max_peak <= 0:
            raise ValueError(f"max_peak ({max_peak}) must be more than 0; null leaves peaks")
        mixed = self.stems if mixup is None or mixup.stems is None else mixup.stems
        _check_known("stems of the mixup", mixed, self.stems, self.stems)
        self.seed = seed
        self.transforms = {stem: tuple(chains.get(stem, default_transforms)) for stem in self.stems}
        self.level_db = {
            stem: checked_range(f"level_db.{stem}", bounds) for stem, bounds in levels.items()
        }
        self.silent_stem_probability = silent_stem_probability
        self.silent_probability = silent
        self.extra = {stem: extras[stem] for stem in self.stems if stem in extras}
        self.mixup = mixup
        self.max_peak = max_peak
        self.counted = tuple(sorted(self.stems, reverse=True))
        self.extra_parts = {stem: _extra_parts(stem, told) for stem, told in self.extra.items()}
        self.partners = _partners(mixup, mixed)
        self.parts = (
            *(Part(stem, stem) for stem in self.stems),
            *(part for parts in self.extra_parts.values() for part in parts),
            *self.partners,
        )
        _check_names(self.parts)

    def input_samples(self, stem: str, num_samples: int) -> int:
        """How long excerpts of a stem must be, for `num_samples` to be left of them."""
        return input_samples(self.transforms[stem], num_samples)

    def is_present(self, part: Part, sample: int) -> bool:
        """Whether a sample has this part."""
        if part in self.partners:
            return self._mixes(sample)
        if self._is_extra(part):
            extra_parts = self.extra_parts[part.stem]
            return all(
                self._extra_draw(one, sample)[0] < self.extra[part.stem].probability
                for one in extra_parts[: extra_parts.index(part) + 1]
            )
        return True

    def is_read(self, part: Part, sample: int) -> bool:
        """Whether an excerpt has to be read for it: not for a double of the first one."""
        return self.is_present(part, sample) and not self._is_double(part, sample)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B S C L"]:
        """The stems of a batch; the mixture is their sum.

        The numbers of the samples should lie on the CPU even where the parts do not: what is drawn
        of them decides which rows are computed.
        """
        samples = batch[SAMPLE].cpu()
        numbers: list[int] = samples.tolist()
        length = min(self._output_samples(part, batch[part.name]) for part in self.parts)
        first = batch[self.stems[0]]
        stems = first.new_zeros(len(numbers), len(self.stems), first.shape[1], length)
        for part in self.parts:
            rows = [row for row, n in enumerate(numbers) if self.is_present(part, n)]
            if rows:
                added = self._part(part, batch, samples, numbers, rows)[..., :length]
                stem = stems[:, self.stems.index(part.stem)]
                if len(rows) == len(numbers):
                    stem += added
                else:
                    stem.index_add_(0, beside(torch.tensor(rows), stems), added)
        if self.level_db:
            self._bring_to_levels(stems, samples)
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
            "level_db": {
                stem: float(self._wanted_level_db(samples, stem)) for stem in self.level_db
            },
            "silent_stems": [
                stem for stem, is_audible in zip(self.stems, audible, strict=True) if not is_audible
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
                _delayed(batch[part.stem].index_select(0, sources), delays),
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
        """Of extra parts their own, of two mixed excerpts what the mixup gives each, else 1."""
        if self._is_extra(part):
            drawn = uniforms(self.seed, samples, f"augment/gain of {part.name}", 1)[:, 0]
            return 10 ** (between(drawn, self.extra[part.stem].gain_db) / 20)
        if all(partner.stem != part.stem for partner in self.partners):
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

    def _is_extra(self, part: Part) -> bool:
        return part in self.extra_parts.get(part.stem, ())

    def _extra_draw(self, part: Part, sample: int) -> tuple[float, float]:
        return uniform_pair(self.seed, sample, f"has {part.name}")

    def _is_double(self, part: Part, sample: int) -> bool:
        if not self._is_extra(part):
            return False
        return self._extra_draw(part, sample)[1] < self.extra[part.stem].double_probability

    def _delay(self, part: Part, sample: int) -> int:
        draw = uniform_pair(self.seed, sample, f"delay of {part.name}")[0]
        return round(between(draw, self.extra[part.stem].delay_samples))

    def _wanted_level_db(self, samples: Int[Tensor, " B"], stem: str) -> Float[Tensor, " B"]:
        drawn = uniforms(self.seed, samples, "augment/level", len(self.stems))
        return between(drawn[:, self.counted.index(stem)], self.level_db[stem])

    def _bring_to_levels(self, stems: Float[Tensor, "B S C L"], samples: Int[Tensor, " B"]) -> None:
        """Scale the named stems, in place, to the levels that are drawn for the samples."""
        others = [place for place, stem in enumerate(self.stems) if stem not in self.level_db]
        others_rms = _rms(stems[:, others].sum(dim=1))
        for stem in self.level_db:
            waveform = stems[:, self.stems.index(stem)]
            wanted_db = beside(self._wanted_level_db(samples, stem), waveform)
            rms = _rms(waveform)
            present_db = 20 * (rms / others_rms).log10()
            change_db = (wanted_db - present_db).clamp(-MAX_LEVELLING_DB, MAX_LEVELLING_DB)
            is_silent = torch.minimum(rms, others_rms) <= SILENCE_RMS
            waveform *= torch.where(is_silent, 1.0, 10 ** (change_db / 20))[:, None, None]

    def _audible(self, samples: Int[Tensor, " B"]) -> Float[Tensor, "B S"]:
        """0 for a stem that is silent in a sample, else 1: at most one 0 in a row."""
        drawn = uniforms(self.seed, samples, "augment/silence", 2)
        any_one = (drawn[:, 1] * len(self.stems)).long()
        is_silent = torch.zeros(len(samples), len(self.stems), dtype=torch.bool)
        for number, stem in enumerate(self.counted):
            is_silent[:, self.stems.index(stem)] = any_one == number
        edge = self.silent_stem_probability
        is_silent &= (drawn[:, 0] < edge)[:, None]
        for stem in self.counted:
            if stem in self.silent_probability:
                begin, edge = edge, edge + self.silent_probability[stem]
                is_this = (drawn[:, 0] >= begin) & (drawn[:, 0] < edge)
                is_silent[:, self.stems.index(stem)] |= is_this
        return (~is_silent).to(torch.float32)


def _said(by_stem: Mapping[str, Said | None] | None) -> dict[str, Said]:
    return {stem: value for stem, value in (by_stem or {}).items() if value is not None}


def checked_stems(stems: Sequence[str]) -> tuple[str, ...]:
    """The stems of training data.

    Raises:
        ValueError: unless they are a list of two at least, each of another name.
    """
    if isinstance(stems, str) or not isinstance(stems, Sequence):
        raise ValueError(f"stems ({stems}) must be a list of names: stems=[vocals,instrumental]")
    if len(stems) < 2 or len(set(stems)) < len(stems):
        raise ValueError(
            f"stems ({list(stems)}) must be two at least, each of another name: a mixture of one "
            "has nothing to be taken apart"
        )
    return tuple(stems)


def _check_known(
    name: str, named: Collection[str], known: Collection[str], stems: Sequence[str]
) -> None:
    unknown = [stem for stem in named if stem not in known]
    if unknown:
        raise ValueError(
            f"{name}: {', '.join(unknown)} must be among the stems {list(stems)}: take it out, or "
            "add it to stems"
        )


def _check_names(parts: Sequence[Part]) -> None:
    """Refuse stems that are called like a part of another one, or like the sample numbers."""
    names = [SAMPLE, *(part.name for part in parts)]
    for part in parts:
        if names.count(part.name) > 1:
            raise ValueError(
                f"stems: {part.name} cannot be a stem, because that is what a sample's numbers or "
                "another stem's excerpts are called; choose another name"
            )


def _extra_parts(stem: str, extra: ExtraParts) -> tuple[Part, ...]:
    if extra.probability == 0:
        return ()
    names = (f"extra_{stem}_{number}" for number in range(2, extra.max_parts + 1))
    return tuple(Part(name, stem) for name in (f"extra_{stem}", *names))


def _partners(mixup: Mixup | None, stems: Sequence[str]) -> tuple[Part, ...]:
    if mixup is None or mixup.probability == 0:
        return ()
    return tuple(Part(f"mixup_{stem}", stem) for stem in stems)


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
