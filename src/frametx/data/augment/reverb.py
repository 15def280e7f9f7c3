"""The room in which a stem sounds, by its impulse response."""

from collections.abc import Sequence
from functools import cached_property
from math import log
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.io import probe, read_audio
from frametx.audio.resample import resample
from frametx.data.augment.counted_noise import (
    NUM_KEY_UNIFORMS,
    noise_keys,
    normal_noise,
)
from frametx.data.augment.responses import fast_length
from frametx.data.augment.transform import (
    Parameters,
    beside,
    between,
    checked_probability,
    checked_range,
    log_between,
)

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


class Rooms(Protocol):
    """Where impulse responses come from."""

    num_uniforms: int

    def draw(self, uniforms: Float[Tensor, "B num_uniforms"]) -> Parameters:
        """Which room, for each sample."""
        ...

    def responses(
        self, parameters: Parameters, *, num_channels: int, device: torch.device
    ) -> Float[Tensor, "B C taps"]:
        """What comes after the direct sound, with energy 1 summed over a channel, on average."""
        ...


class SyntheticRooms:
    """Exponentially decaying noise after a short delay: a diffuse room, with no walls to be heard.

    Args:
        sample_rate: Hz.
        decay_seconds: range of the time in which it falls by 60 dB; drawn evenly in octaves.
        delay_ms: range of the time before it starts.

    Source: Moorer, "About this reverberation business", Computer Music Journal 1979.
    """

    num_uniforms = 2 + NUM_KEY_UNIFORMS

    def __init__(
        self,
        *,
        sample_rate: int,
        decay_seconds: Sequence[float] = (0.2, 2.0),
        delay_ms: Sequence[float] = (0.0, 40.0),
    ) -> None:
        self.sample_rate = sample_rate
        self.decay_seconds = checked_range("decay_seconds", decay_seconds, at_least=0.01)
        self.delay_ms = checked_range("delay_ms", delay_ms, at_least=0)

    def draw(self, uniforms: Float[Tensor, "B 4"]) -> Parameters:
        """`decay_seconds`, `delay_ms`, and the `key` of the noise."""
        return {
            "decay_seconds": log_between(uniforms[:, 0], self.decay_seconds),
            "delay_ms": between(uniforms[:, 1], self.delay_ms),
            "key": noise_keys(uniforms[:, 2:]),
        }

    def responses(
        self, parameters: Parameters, *, num_channels: int, device: torch.device
    ) -> Float[Tensor, "B C taps"]:
        """Noise of its own in each channel, for as long as the longest of the batch lasts."""
        here = torch.empty(0, device=device)
        longest = parameters["decay_seconds"] + parameters["delay_ms"] / 1000
        num_taps = max(1, round(float(longest.max()) * self.sample_rate))
        keys = parameters["key"][:, None] + torch.arange(num_channels)[None] * (1 << 24)
        noise = normal_noise(beside(keys.flatten(), here), num_taps)
        noise = noise.view(len(keys), num_channels, num_taps)
        decay, delay = (
            beside(values, here)[:, None] * self.sample_rate
            for values in (parameters["decay_seconds"], parameters["delay_ms"] / 1000)
        )
        time = torch.arange(num_taps, device=device)[None] - delay
        envelope = torch.where(
            (time < 0) | (time > decay), 0.0, (-3 * log(10) * time / decay).exp()
        )
        envelope = envelope / envelope.square().sum(dim=1, keepdim=True).sqrt().clamp(min=1e-12)
        return noise * envelope[:, None]


class RecordedRooms:
    """Impulse responses from a folder of audio files.

    Args:
        folder: searched at any depth.
        sample_rate: Hz; files at another rate are resampled.
        max_seconds: what is longer is cut.

    Raises:
        ValueError: if there is no audio file in the folder, or a silent one.
    """

    num_uniforms = 1

    def __init__(self, *, folder: Path | str, sample_rate: int, max_seconds: float = 3.0) -> None:
        self.folder = Path(folder).expanduser()
        self.sample_rate = sample_rate
        self.max_taps = max(1, round(max_seconds * sample_rate))
        self.paths = sorted(
            path for path in self.folder.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES
        )
        if not self.paths:
            raise ValueError(
                f"{self.folder} holds no impulse responses: expected files with the endings "
                f"{', '.join(AUDIO_SUFFIXES)}"
            )

    @cached_property
    def recorded(self) -> Float[Tensor, "rooms 2 taps"]:
        """All of them, read once; a mono one serves both channels."""
        rooms = [self._read(path) for path in self.paths]
        longest = max(room.shape[1] for room in rooms)
        padded = torch.zeros(len(rooms), 2, longest)
        for place, room in zip(padded, rooms, strict=True):
            place[:, : room.shape[1]] = room
        return padded

    def draw(self, uniforms: Float[Tensor, "B 1"]) -> Parameters:
        """`room`, the number of the file in the order of names."""
        return {"room": (uniforms[:, 0] * len(self.paths)).long()}

    def responses(
        self, parameters: Parameters, *, num_channels: int, device: torch.device
    ) -> Float[Tensor, "B C taps"]:
        """Those of the drawn rooms."""
        rooms = self.recorded[parameters["room"]]
        rooms = rooms if num_channels == 2 else rooms.mean(dim=1, keepdim=True)
        return beside(rooms, torch.empty(0, device=device))

    def _read(self, path: Path) -> Float[Tensor, "C taps"]:
        room = read_audio(path)
        room = resample(room[:2], probe(path).sample_rate, self.sample_rate)[:, : self.max_taps]
        energy = room.square().sum(dim=1).mean()
        if not energy > 0:
            raise ValueError(f"{path} is silent and no impulse response: delete it")
        return room / energy.sqrt()


class Reverb:
    """Add what a room answers to a stem; the direct sound stays as it is.

    Args:
        rooms: impulse responses.
        wet_db: range of the energy of the room's answer over that of the direct sound, for noise.
        probability: share of the samples.
    """

    def __init__(self, *, rooms: Rooms, wet_db: Sequence[float], probability: float) -> None:
        self.rooms = rooms
        self.wet_db = checked_range("wet_db", wet_db)
        self.probability = checked_probability(probability)
        self.num_uniforms = 1 + rooms.num_uniforms

    def draw(self, uniforms: Float[Tensor, "B num_uniforms"]) -> Parameters:
        """`wet_db`, and what the rooms draw."""
        return {
            "wet_db": between(uniforms[:, 0], self.wet_db),
            **self.rooms.draw(uniforms[:, 1:]),
        }

    def apply(
        self, waveform: Float[Tensor, "B C L"], parameters: Parameters
    ) -> Float[Tensor, "B C L"]:
        """As long as before: what sounds on after the end is cut."""
        answers = self.rooms.responses(
            parameters, num_channels=waveform.shape[1], device=waveform.device
        )
        wet = beside(10 ** (parameters["wet_db"] / 20), waveform)[:, None, None]
        return waveform + wet * convolved(waveform, answers)


def convolved(
    waveform: Float[Tensor, "B C L"], responses: Float[Tensor, "B C taps"]
) -> Float[Tensor, "B C L"]:
    """Each channel with its own impulse response, cut to the old length."""
    length = waveform.shape[-1]
    responses = responses[..., :length]
    size = fast_length(length + responses.shape[-1] - 1)
    spectrum = torch.fft.rfft(waveform, n=size) * torch.fft.rfft(responses, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :length]
