"""A synthetic room that is the same at every sample rate: decaying noise of a seed of its own.

`frametx.data.augment.reverb` has such rooms for training, where they are drawn on the device at one
rate. Here the noise comes from numpy at 44.1 kHz and is then resampled, so that a mixture read at
16 kHz is the one read at 44.1 kHz, without its highest octave.
"""

import math
from dataclasses import dataclass, fields

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from frametx.data.augment.reverb import convolved
from frametx.data.augment.stereo import Pan

ROOM_RATE = 44_100
"""Hz, of the noise."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """A diffuse stereo room, and where in it the voice stands.

    Args:
        decay_seconds: time in which the reverberation falls by 60 dB.
        predelay_ms: time between the direct sound and the reverberation.
        wet_db: energy of the reverberation above that of the direct sound, for noise.
        pan: position of the direct sound, from -1 (left) to 1 (right), at constant power.
        seed: of the noise.

    Raises:
        ValueError: if a value is out of its range.

    Source: Moorer, "About this reverberation business", Computer Music Journal 1979.
    """

    decay_seconds: float
    predelay_ms: float
    wet_db: float
    pan: float
    seed: int

    def __post_init__(self) -> None:
        values = [getattr(self, field.name) for field in fields(self)]
        is_real = all(isinstance(v, int | float) and math.isfinite(v) for v in values)
        if not is_real or not isinstance(self.seed, int) or self.seed < 0:
            raise ValueError(f"{self}: a room has finite numbers, and a whole number as its seed")
        if not 0.01 <= self.decay_seconds <= 20 or self.predelay_ms < 0 or abs(self.pan) > 1:
            raise ValueError(
                f"{self}: decay_seconds must lie between 0.01 and 20, predelay_ms above 0, and "
                "pan between -1 and 1"
            )

    @property
    def seconds(self) -> float:
        """How long a sound is heard after it has ended."""
        return self.decay_seconds + self.predelay_ms / 1000

    def response(self, sample_rate: int) -> Float[Tensor, "2 taps"]:
        """The reverberation without the direct sound, at `sample_rate` (Hz), in 64 bits.

        At 44.1 kHz each channel has an energy of about 1 (`wet_db` is not in it).
        """
        num_taps = max(1, round(self.seconds * ROOM_RATE))
        noise = np.random.Generator(np.random.PCG64(self.seed)).standard_normal((num_taps, 2))
        time_s = np.arange(num_taps) / ROOM_RATE - self.predelay_ms / 1000
        envelope = np.where(
            time_s < 0, 0.0, np.exp(-3 * math.log(10) * time_s / self.decay_seconds)
        )
        response = noise * (envelope / np.sqrt(np.square(envelope).sum()))[:, None]
        if sample_rate != ROOM_RATE:  # fewer taps, each of which stands for more time
            response = soxr.resample(response, ROOM_RATE, sample_rate) * (ROOM_RATE / sample_rate)
        return torch.from_numpy(np.ascontiguousarray(response.T))

    def apply(self, voice: Float[Tensor, " L"], *, sample_rate: int) -> Float[Tensor, "2 L"]:
        """The voice in the room, as long as before: what sounds on after the end is cut.

        Args:
            voice: dry, mono.
            sample_rate: Hz.
        """
        dry = voice.double().expand(1, 2, -1)
        wet = convolved(dry, self.response(sample_rate)[None])
        panned = Pan(max_position=1).apply(dry, {"position": torch.tensor([self.pan])})
        return (panned + 10 ** (self.wet_db / 20) * wet)[0].to(voice.dtype)
