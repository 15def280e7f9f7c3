"""Evaluation sets without songs: mixtures drawn once and for all."""

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.data.crops import CropReader, Crops
from frametx.data.library import Library
from frametx.data.tracks import Mixture

SILENCE_RMS = 1e-4  # -80 dBFS
MAX_DRAWS = 100


class DrawnMixtures:
    """A fixed number of mixtures of two libraries: always the same ones for the same files.

    For use with held-out libraries. Vocals and music are by chance, as in training; there are no
    transforms, and the vocals are brought to one level above the music.
    """

    def __init__(
        self,
        *,
        vocals: Library,
        instrumental: Library,
        count: int,
        seconds: float,
        seed: int,
        sample_rate: int,
        num_channels: int,
        vocals_to_instrumental_db: float = 0.0,
    ) -> None:
        """Reads nothing yet.

        Args:
            vocals: voices that are not trained on.
            instrumental: music that is not trained on.
            count: number of mixtures.
            seconds: length of each.
            seed: another seed makes other mixtures.
            sample_rate: of all mixtures.
            num_channels: 1 or 2, of all mixtures.
            vocals_to_instrumental_db: level (RMS over the excerpt) of the vocals above the music.
        """
        if count < 1 or seconds <= 0:
            raise ValueError(f"count ({count}) and seconds ({seconds}) must be more than 0")
        readers = [
            CropReader(library, sample_rate=sample_rate, num_channels=num_channels, cache_dir=None)
            for library in (vocals, instrumental)
        ]
        self.crops = [
            Crops(reader, seed=seed, stream=f"evaluation/{role}")
            for reader, role in zip(readers, ("vocals", "instrumental"), strict=True)
        ]
        self.count = count
        self.num_samples = max(1, round(seconds * sample_rate))
        self.sample_rate = sample_rate
        self.vocals_to_instrumental_db = vocals_to_instrumental_db

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Mixture:
        """Read and level one mixture.

        Raises:
            ValueError: if a library is nearly all silence.
        """
        if not 0 <= index < self.count:
            raise IndexError(f"mixture {index} of {self.count}")
        (vocals, vocals_name), (music, music_name) = (
            self._audible(crops, index) for crops in self.crops
        )
        level = 10 ** (self.vocals_to_instrumental_db / 20)
        vocals = vocals * (level * _rms(music) / _rms(vocals))
        name = f"{index:03d}: {vocals_name} + {music_name}"
        return Mixture(name, torch.stack((vocals, music)), self.sample_rate)

    def _audible(self, crops: Crops, index: int) -> tuple[Float[Tensor, "C L"], str]:
        """The excerpt of this mixture, or the first one of its successors that is not silent."""
        for attempt in range(MAX_DRAWS):
            sample = index + attempt * self.count
            excerpt = torch.from_numpy(crops.read(sample, self.num_samples))
            if _rms(excerpt) > SILENCE_RMS:
                return excerpt, crops.describe(sample, self.num_samples)
        library = crops.reader.library
        raise ValueError(
            f"{library.role}: {MAX_DRAWS} excerpts of {self.num_samples / self.sample_rate:.1f} s "
            "were all silent; evaluate with longer ones, or with another library"
        )


def _rms(waveform: Float[Tensor, "C L"]) -> float:
    return float(waveform.double().square().mean().sqrt())
