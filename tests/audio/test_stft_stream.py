import pytest
import torch
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.audio.stft_stream import InverseStftStream, StftStream

LENGTHS = (1, 2, 31, 32, 33, 63, 64, 65, 100, 128, 129, 500)


def noise(length: int, *, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, length, generator=torch.Generator().manual_seed(seed))


def frames_of(stft: Stft, waveform: Tensor, block: int) -> Tensor:
    stream = StftStream(stft)
    parts = [stream.push(part) for part in waveform.split(block, dim=-1)]
    return torch.cat([*parts, stream.finish()], dim=-1)


@pytest.mark.parametrize("hop", [16, 21, 32])
@pytest.mark.parametrize("block", [1, 7, 64, 1_000])
def test_the_frames_are_those_of_the_whole(hop: int, block: int) -> None:
    stft = Stft(n_fft=64, hop_length=hop)
    for length in LENGTHS:
        waveform = noise(length)
        torch.testing.assert_close(frames_of(stft, waveform, block), stft(waveform))


@pytest.mark.parametrize("hop", [16, 21, 32])
@pytest.mark.parametrize("block", [1, 3, 100])
def test_frames_become_the_stream_again(hop: int, block: int) -> None:
    stft = Stft(n_fft=64, hop_length=hop)
    for length in LENGTHS:
        waveform = noise(length)
        spectrogram = stft(waveform) * torch.linspace(0.2, 1, stft.num_frames(length))
        stream = InverseStftStream(stft)
        parts = [stream.push(part) for part in spectrogram.split(block, dim=-1)]
        samples = torch.cat([*parts, stream.finish()], dim=-1)
        assert samples.shape[-1] == stft.num_samples(stft.num_frames(length)) >= length
        expected = stft.inverse(spectrogram, length=length)
        torch.testing.assert_close(samples[..., :length], expected, atol=1e-5, rtol=1e-5)
