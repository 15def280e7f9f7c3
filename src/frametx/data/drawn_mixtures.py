"""Evaluation sets without songs: mixtures drawn once and for all."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.data.crops import CropReader, Crops, drawn_samples
from frametx.data.left_out import left_out_line
from frametx.data.library import Library
from frametx.data.tracks import Mixture
from frametx.data.trained_on import key_of_file

SILENCE_RMS = 1e-4  # -80 dBFS
MAX_DRAWS = 100


class DrawnMixtures:
    """A fixed number of mixtures of single stems: always the same ones for the same files.

    For use with held-out libraries. Which excerpts meet is chance, as in training; there are no
    transforms, and levels are fixed.
    """

    def __init__(
        self,
        *,
        libraries: Mapping[str, Library],
        count: int,
        seconds: float,
        seed: int,
        sample_rate: int,
        num_channels: int,
        level_db: Mapping[str, float] | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            libraries: by stem, files that are not trained on; their order is that of the stems.
            count: number of mixtures.
            seconds: length of each.
            seed: another seed makes other mixtures.
            sample_rate: of all mixtures.
            num_channels: 1 or 2, of all mixtures.
            level_db: by stem, its level (RMS over the excerpt) above the sum of the stems that are
                not named here; None brings the first stem to 0 dB above the sum of all others.

        Raises:
            ValueError: if a value is out of its range, or `level_db` names an unknown stem or all.
        """
        self.num_samples = drawn_samples(count=count, seconds=seconds, sample_rate=sample_rate)
        self.stems = tuple(libraries)
        self.level_db = {self.stems[0]: 0.0} if level_db is None else dict(level_db)
        if not set(self.level_db) < set(self.stems):
            raise ValueError(
                f"level_db ({self.level_db}) must name some of the stems {list(self.stems)} and "
                "leave out one at least: levels are above the sum of the others"
            )
        self.libraries = dict(libraries)
        self.crops = [
            Crops(
                CropReader(
                    library, sample_rate=sample_rate, num_channels=num_channels, cache_dir=None
                ),
                seed=seed,
                stream=f"evaluation/{stem}",
            )
            for stem, library in libraries.items()
        ]
        self.count = count
        self.sample_rate = sample_rate

    @classmethod
    def of_folder(
        cls,
        root: Path | str,
        *,
        stems: Sequence[str],
        cache_dir: Path | str,
        count: int,
        seconds: float,
        seed: int,
        sample_rate: int,
        num_channels: int,
        level_db: Mapping[str, float] | None = None,
    ) -> "DrawnMixtures":
        """Mixtures of the libraries `root`/<stem>, one for each stem.

        Args:
            root: a folder or an address.
            stems: their names, in order.
            cache_dir: where the indices are kept.
            count: as for the class.
            seconds: as for the class.
            seed: as for the class.
            sample_rate: as for the class.
            num_channels: as for the class.
            level_db: as for the class.

        Raises:
            ValueError: as the class, or if a library is missing or empty.
        """
        libraries = {
            stem: Library.open(
                f"{str(root).rstrip('/')}/{stem}", role=f"validation {stem}", cache_dir=cache_dir
            )
            for stem in stems
        }
        return cls(
            libraries=libraries,
            count=count,
            seconds=seconds,
            seed=seed,
            sample_rate=sample_rate,
            num_channels=num_channels,
            level_db=level_db,
        )

    @property
    def notes(self) -> list[str]:
        """What its libraries leave out, in lines; nothing of files that were held out of others."""
        lines: list[str] = []
        for library in self.libraries.values():
            lines += left_out_line(library.role, len(library.files), library.rejected)
        return lines

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Mixture:
        """Read and level one mixture.

        Raises:
            ValueError: if a library is nearly all silence.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"mixture {index} of {self.count}")
        drawn = [self._audible(crops, index) for crops in self.crops]
        stems = torch.stack([waveform for waveform, _, _ in drawn])
        others = [place for place, stem in enumerate(self.stems) if stem not in self.level_db]
        others_rms = rms(stems[others].sum(dim=0))
        for stem, level_db in self.level_db.items():
            waveform = stems[self.stems.index(stem)]
            waveform *= 10 ** (level_db / 20) * others_rms / rms(waveform)
        name = f"{index:03d}: {' + '.join(place for _, place, _ in drawn)}"
        files = frozenset(key for _, _, key in drawn if key is not None)
        return Mixture(name, stems, self.sample_rate, files=files)

    def _audible(self, crops: Crops, index: int) -> tuple[Float[Tensor, "C L"], str, bytes | None]:
        """The excerpt of this mixture, or the first one of its successors that is not silent.

        With it come its place, in words, and the key of its file's content.
        """
        for attempt in range(MAX_DRAWS):
            sample = index + attempt * self.count
            excerpt = torch.from_numpy(crops.read(sample, self.num_samples))
            if rms(excerpt) > SILENCE_RMS:
                file = crops.file(sample, self.num_samples)
                key = None if file is None else key_of_file(file)
                return excerpt, crops.describe(sample, self.num_samples), key
        library = crops.reader.library
        raise ValueError(
            f"{library.role}: {MAX_DRAWS} excerpts of {self.num_samples / self.sample_rate:.1f} s "
            "were all silent; evaluate with longer ones, or with another library"
        )


def rms(waveform: Float[Tensor, "C L"]) -> float:
    """Root mean square over all channels and samples, computed in 64 bits."""
    return float(waveform.double().square().mean().sqrt())
