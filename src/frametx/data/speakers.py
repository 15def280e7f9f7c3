"""Several speakers at once, of one library of single voices: a new mixture for every sample.

`SpeakerCrops` runs in the workers and only reads excerpts; `SpeakerMix` runs on the device and sets
levels. All chance is a function of the seed and the sample number.

    library -- draw 1 -- excerpt -- transforms -- level --+-- peak -- stems[:, 0]
            -- draw 2 -- excerpt -- transforms -- level --+-- peak -- stems[:, 1]
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.data import Dataset

from frametx.data.augment import (
    Drawn,
    Transform,
    checked_probability,
    checked_range,
    transformed,
)
from frametx.data.augment.transform import beside, between
from frametx.data.crops import CropReader, drawn_samples
from frametx.data.decoded import UnreadableFileError
from frametx.data.files import AudioFile
from frametx.data.library import Library
from frametx.data.sampling import Crop, uniforms
from frametx.data.stored_text import name_bytes
from frametx.data.tracks import EvaluationSet, Mixture, notes_of
from frametx.data.trained_on import TrainedOn
from frametx.printable import printable

SILENCE_RMS = 1e-4
"""Excerpts below this (-80 dBFS) are silent: they are not brought to any level."""
MAX_DRAWS = 200
"""How often another excerpt is drawn before a sample is given up."""
_NEXT_DRAW = 1 << 48
"""Far behind the numbers of all samples: where a sample that must draw again finds new numbers."""


def speaker_of(file: AudioFile) -> tuple[int, str]:
    """Whose voice a file is: its root, and the first folder below it, or itself if it has none."""
    folder, has_folder, _ = file.name.partition("/")
    return file.root, folder if has_folder else file.name


def split_speakers(
    library: Library, held_out: float, *, num_speakers: int
) -> tuple[Library, Library]:
    """Divide into speakers to train on and speakers to hold out, by a hash of their names.

    Args:
        library: all files.
        held_out: expected share of the speakers to hold out, between 0 and 1.
        num_speakers: of a mixture; both sides have at least as many.

    Raises:
        ValueError: if there are too few speakers, or the share is none.
    """
    if not 0 < held_out < 1:
        raise ValueError(f"held_out ({held_out}) must lie between 0 and 1")
    speakers = sorted({speaker_of(file) for file in library.files}, key=_unit_hash)
    if len(speakers) < 2 * num_speakers:
        raise ValueError(
            f"{library.role}: {len(speakers)} speaker(s) cannot be divided into {num_speakers} to "
            f"train on and {num_speakers} to hold out; add a folder of another speaker, or give "
            "data.validation and data.test"
        )
    count = sum(_unit_hash(speaker) < held_out for speaker in speakers)
    count = min(max(count, num_speakers), len(speakers) - num_speakers)
    chosen = set(speakers[:count])
    kept = tuple(file for file in library.files if speaker_of(file) not in chosen)
    held = tuple(file for file in library.files if speaker_of(file) in chosen)
    return replace(library, files=kept), replace(library, files=held, rejected=())


class SpeakerCrops(Dataset[dict[str, Tensor]]):
    """Sample number n: excerpts of as many different speakers as a mixture has.

    Who speaks is told by folders: the first one below a root is a speaker, and a file without one
    is a speaker of its own. It has no length: the sampler knows the numbers.

    Args:
        library: single voices.
        num_speakers: of a mixture.
        seed: of all draws.
        stream: names the part the library plays, so that two parts draw differently.
        sample_rate: of all excerpts.
        num_channels: 1 or 2.
        decode_cache_dir: where decoded files are kept (see `CropReader`), or None.

    Raises:
        ValueError: if the library has fewer speakers.
    """

    def __init__(
        self,
        *,
        library: Library,
        num_speakers: int,
        seed: int,
        stream: str,
        sample_rate: int,
        num_channels: int,
        decode_cache_dir: Path | str | None,
    ) -> None:
        self.speakers = [speaker_of(file) for file in library.files]
        num_there = len(set(self.speakers))
        if num_speakers < 1 or num_there < num_speakers:
            raise ValueError(
                f"num_speakers={num_speakers} must be at least 1 and at most the {num_there} "
                f"speaker(s) of {library.role}: the first folder below the root is a speaker, and "
                "so is a file in the root"
            )
        self.reader = CropReader(
            library,
            sample_rate=sample_rate,
            num_channels=num_channels,
            cache_dir=decode_cache_dir,
        )
        self.samplers = [
            library.sampler(sample_rate=sample_rate, seed=seed, stream=f"{stream} {number}")
            for number in range(1, num_speakers + 1)
        ]

    def __getitem__(self, index: tuple[int, int]) -> dict[str, Tensor]:
        """`sample`, its number, and `stems` S C L, of (sample number, length in samples).

        A file that has vanished or broken during the run is drawn anew, with a warning when the
        count of such files reaches 1, 2, 4, 8...

        Raises:
            ValueError: if so many speakers cannot be found.
        """
        sample, num_samples = index
        stems: list[Tensor] = []
        taken: list[int] = []
        for place in range(len(self.samplers)):
            for crop in self._candidates(place, taken, sample, num_samples):
                try:
                    excerpt = self.reader.read(crop.file, crop.start, num_samples)
                except UnreadableFileError as error:
                    self.reader.lose(crop.file, str(error))
                    continue
                stems.append(torch.from_numpy(excerpt))
                taken.append(crop.file)
                break
        return {"sample": torch.tensor(sample), "stems": torch.stack(stems)}

    def describe(self, sample: int, num_samples: int) -> str:
        """Which files, from where on."""
        files, rate = self.reader.library.files, self.reader.sample_rate
        crops = self._crops(sample, num_samples)
        return " + ".join(
            f"{printable(files[c.file].name)} at {c.start / rate:.3f} s" for c in crops
        )

    def files(self, sample: int, num_samples: int) -> list[AudioFile]:
        """Those that a sample is made of."""
        crops = self._crops(sample, num_samples)
        return [self.reader.library.files[crop.file] for crop in crops]

    def _crops(self, sample: int, num_samples: int) -> list[Crop]:
        crops: list[Crop] = []
        for place in range(len(self.samplers)):
            taken = [crop.file for crop in crops]
            crops.append(next(self._candidates(place, taken, sample, num_samples)))
        return crops

    def _candidates(
        self, place: int, taken: Sequence[int], sample: int, num_samples: int
    ) -> Iterator[Crop]:
        """Excerpts for this place of the mixture, of speakers that it does not have yet."""
        heard = {self.speakers[file] for file in taken}
        for attempt in range(MAX_DRAWS):
            crop = self.samplers[place].draw(sample + attempt * _NEXT_DRAW, num_samples)
            if self.speakers[crop.file] not in heard and not self.reader.is_lost(crop.file):
                yield crop
        raise ValueError(
            f"{self.reader.library.role}: {MAX_DRAWS} draws found no speaker number {place + 1} "
            f"for a mixture of {len(self.samplers)}; weighting=folder makes all speakers equally "
            "likely"
        )


class SpeakerMix(nn.Module):
    """Sets the levels of speakers, on the device; the mixture is their sum.

    Each speaker is brought to one level (RMS over the excerpt), and then as far above or below it
    as evenly spaced steps over the sample's spread say: with two speakers half the spread up and
    half down, with three none for the second one. WSJ0-mix does so too, with spreads of 0 to 5 dB,
    but measures the level of active speech (ITU-T P.56), which leaves pauses out.

    Args:
        seed: of all draws.
        level_db: RMS in the middle, dB relative to full scale.
        spread_db: range of the difference between the loudest speaker and the quietest.
        silence_probability: share of samples in which one of the speakers says nothing.
        max_peak: mixtures and stems above this are turned down together; None leaves them.
        transforms: of every speaker, each with draws of its own.

    Raises:
        ValueError: if a value is out of its range.
    """

    def __init__(
        self,
        *,
        seed: int,
        level_db: float,
        spread_db: tuple[float, float],
        silence_probability: float,
        max_peak: float | None,
        transforms: Sequence[Transform],
    ) -> None:
        super().__init__()
        if max_peak is not None and max_peak <= 0:
            raise ValueError(f"max_peak ({max_peak}) must be more than 0; null leaves peaks")
        low, high = spread_db
        checked_range("spread_db", (low, high), at_least=0)
        self.seed = seed
        self.level_db = level_db
        self.spread_db = (float(low), float(high))
        self.silence_probability = checked_probability(silence_probability)
        self.max_peak = max_peak
        self.transforms = tuple(transforms)

    @torch.no_grad()
    def forward(self, batch: Mapping[str, Tensor]) -> Float[Tensor, "B S C L"]:
        """The stems of a batch of `SpeakerCrops`; the numbers of the samples lie on the CPU."""
        samples = batch["sample"].cpu()
        stems = torch.stack(
            [
                transformed(
                    self.transforms, stem, samples, seed=self.seed, stream=f"speaker {number}"
                )
                for number, stem in enumerate(batch["stems"].unbind(dim=1), start=1)
            ],
            dim=1,
        )
        level_db, is_silent = self._levels(samples, stems.shape[1])
        wanted = beside(torch.where(is_silent, 0.0, 10 ** (level_db / 20)), stems)
        rms = stems.square().mean(dim=(2, 3)).sqrt()
        # What is silent already gets no level, for its noise would become the voice.
        gain = torch.where(
            rms > SILENCE_RMS, wanted / rms.clamp_min(SILENCE_RMS), (wanted > 0) * 1.0
        )
        stems = stems * gain[:, :, None, None]
        if self.max_peak is not None:
            loudest = torch.maximum(
                stems.abs().amax(dim=(1, 2, 3)), stems.sum(dim=1).abs().amax(dim=(1, 2))
            )
            stems = stems * (self.max_peak / loudest.clamp(min=self.max_peak))[:, None, None, None]
        return stems

    def describe(self, sample: int, names: Sequence[str]) -> dict[str, object]:
        """What is drawn for each speaker of a sample, for reports."""
        samples = torch.tensor([sample])
        level_db, is_silent = self._levels(samples, len(names))
        return {
            name: {
                "level_db": None if bool(is_silent[0, number]) else float(level_db[0, number]),
                "transforms": Drawn(
                    self.transforms, samples, seed=self.seed, stream=f"speaker {number + 1}"
                ).describe(0),
            }
            for number, name in enumerate(names)
        }

    def _levels(
        self, samples: Int[Tensor, " B"], num_speakers: int
    ) -> tuple[Float[Tensor, "B S"], Bool[Tensor, "B S"]]:
        """Levels in dB, and who says nothing."""
        drawn = uniforms(self.seed, samples, "speakers/levels", 3)
        steps = torch.linspace(0.5, -0.5, num_speakers) if num_speakers > 1 else torch.zeros(1)
        level_db = self.level_db + between(drawn[:, :1], self.spread_db) * steps
        silent = (drawn[:, 2] * num_speakers).long()
        is_silent = nn.functional.one_hot(silent, num_speakers).bool()
        return level_db, is_silent & (drawn[:, 1:2] < self.silence_probability)


class DrawnSpeakers:
    """Mixtures of speakers, drawn once and for all; in which order the speakers are means nothing.

    Args:
        crops: of speakers who are not trained on.
        mix: sets their levels.
        count: number of mixtures.
        seconds: length of each.

    Raises:
        ValueError: if there would be none.
    """

    def __init__(self, crops: SpeakerCrops, mix: SpeakerMix, *, count: int, seconds: float) -> None:
        self.crops = crops
        self.mix = mix
        self.count = count
        rate = crops.reader.sample_rate
        self.num_samples = drawn_samples(count=count, seconds=seconds, sample_rate=rate)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int, /) -> Mixture:
        """Read and level one."""
        if not 0 <= index < self.count:
            raise IndexError(f"mixture {index} of {self.count}")
        sample = self.crops[(index, self.num_samples)]
        stems = self.mix({name: value.unsqueeze(0) for name, value in sample.items()})[0]
        name = f"{index:03d}: {self.crops.describe(index, self.num_samples)}"
        heard = TrainedOn.of_files(self.crops.files(index, self.num_samples))
        return Mixture(
            name, stems, self.crops.reader.sample_rate, has_order=False, files=heard.files
        )


class AnyOrder:
    """Tracks of which the order of the stems means nothing: scored under the best one.

    Args:
        tracks: with one file per speaker, as in WSJ0-mix: speaker_1.wav, speaker_2.wav.
    """

    def __init__(self, *, tracks: EvaluationSet) -> None:
        self.tracks = tracks

    @property
    def notes(self) -> list[str]:
        """Those of the tracks."""
        return notes_of(self.tracks)

    def __len__(self) -> int:
        return len(self.tracks)

    def __getitem__(self, index: int, /) -> Mixture:
        """One track."""
        return replace(self.tracks[index], has_order=False)


def _unit_hash(speaker: tuple[int, str]) -> float:
    digest = hashlib.blake2b(name_bytes(f"{speaker[0]}:{speaker[1]}"), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
