import pytest
import torch
from torch import Tensor, nn

from frametx.audio.real_stft import RealStft
from frametx.audio.stft import Stft


def waveform(length: int, *, seed: int = 0) -> Tensor:
    """Full scale, in two items of three channels."""
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(2, 3, length, generator=generator) - 1


@pytest.mark.parametrize("hop_length", [16, 32, 50, 64])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 1000])
def test_real_and_imaginary_part_are_those_of_the_complex_transform(
    hop_length: int, length: int
) -> None:
    stft = Stft(n_fft=128, hop_length=hop_length)
    x = waveform(length)
    expected = stft(x)
    real, imaginary = RealStft(stft=stft)(x)
    torch.testing.assert_close(real, expected.real, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(imaginary, expected.imag, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hop_length", [16, 50, 64])
@pytest.mark.parametrize("length", [1, 64, 65, 1000])
def test_the_inverse_returns_any_length_exactly(hop_length: int, length: int) -> None:
    stft = RealStft(stft=Stft(n_fft=128, hop_length=hop_length))
    x = waveform(length)
    torch.testing.assert_close(stft.inverse(*stft(x), length=length), x, atol=1e-5, rtol=0)


def test_the_inverse_of_any_spectrogram_is_that_of_the_complex_transform() -> None:
    stft = Stft(n_fft=128, hop_length=32)
    parts = torch.randn(
        2, 2, 3, stft.n_fft // 2 + 1, 20, generator=torch.Generator().manual_seed(0)
    )
    expected = stft.inverse(torch.complex(parts[0], parts[1]), length=600)
    found = RealStft(stft=stft).inverse(parts[0], parts[1], length=600)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_window_of_the_originals_size_stays_within_a_hundred_thousandth_of_the_peak() -> None:
    stft = Stft(n_fft=2048, hop_length=1024)
    x = waveform(10_000)[:1, :1]
    expected = stft(x)
    real, imaginary = RealStft(stft=stft)(x)
    error = (torch.complex(real, imaginary) - expected).abs().max()
    assert error < 1e-5 * expected.abs().max()
    restored = RealStft(stft=stft).inverse(real, imaginary, length=10_000)
    torch.testing.assert_close(restored, x, atol=1e-5, rtol=0)


def test_silence_stays_exactly_silent() -> None:
    stft = RealStft(stft=Stft(n_fft=128, hop_length=64))
    real, imaginary = stft(torch.zeros(1, 2, 500))
    assert not real.any()
    assert not imaginary.any()
    assert not stft.inverse(real, imaginary, length=500).any()


def test_it_has_no_weights_and_leaves_nothing_in_a_checkpoint() -> None:
    stft: nn.Module = RealStft(stft=Stft(n_fft=128, hop_length=64))
    assert not stft.state_dict()
