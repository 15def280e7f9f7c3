import pytest
import torch

from frametx.audio.stft import Stft


@pytest.mark.parametrize("hop_length", [64, 128, 200, 256])
@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 255, 256, 257, 511, 512, 513, 5000])
def test_the_inverse_returns_any_length_exactly(hop_length: int, length: int) -> None:
    stft = Stft(n_fft=512, hop_length=hop_length)
    waveform = torch.randn(2, 3, length, generator=torch.Generator().manual_seed(length))
    restored = stft.inverse(stft(waveform), length=length)
    torch.testing.assert_close(restored, waveform, atol=2e-6, rtol=0)


def test_frames_and_samples_are_counted_as_they_come() -> None:
    stft = Stft(n_fft=512, hop_length=128)
    for length in (1, 127, 128, 129, 1000):
        spectrogram = stft(torch.ones(length))
        assert spectrogram.shape == (257, stft.num_frames(length))
    assert stft.num_frames(stft.num_samples(64)) == 64


def test_a_tone_lands_in_its_own_bin() -> None:
    sample_rate, frequency_hz, n_fft = 8_000, 1_000, 512
    time_s = torch.arange(sample_rate) / sample_rate
    tone = torch.sin(2 * torch.pi * frequency_hz * time_s)
    magnitude = Stft(n_fft=n_fft, hop_length=128)(tone[None]).abs()
    assert magnitude[0, :, 20].argmax() == frequency_hz * n_fft // sample_rate


def test_a_shift_by_a_hop_is_a_shift_by_a_frame() -> None:
    stft = Stft(n_fft=256, hop_length=64)
    waveform = torch.randn(4096, generator=torch.Generator().manual_seed(0))
    shifted = torch.cat([torch.zeros(64), waveform])
    torch.testing.assert_close(
        stft(shifted)[:, 5:40], stft(waveform)[:, 4:39], atol=1e-5, rtol=1e-5
    )


def test_autocast_does_not_reach_inside() -> None:
    stft = Stft(n_fft=256, hop_length=64)
    waveform = torch.randn(1, 1000, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        spectrogram = stft(waveform)
        restored = stft.inverse(spectrogram, length=1000)
    assert spectrogram.dtype == torch.complex64
    torch.testing.assert_close(restored, waveform, atol=2e-6, rtol=0)
    half = stft(waveform.to(torch.bfloat16))
    assert half.dtype == torch.complex64


def test_the_gradient_passes_forward_and_inverse() -> None:
    stft = Stft(n_fft=64, hop_length=16)
    waveform = torch.randn(1, 200, dtype=torch.float64, requires_grad=True)
    stft.inverse(stft(waveform), length=200).square().sum().backward()
    assert waveform.grad is not None
    torch.testing.assert_close(waveform.grad, 2 * waveform.detach(), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize(
    ("n_fft", "hop_length", "says"),
    [(512, 257, "hop_length=257"), (512, 0, "hop_length=0"), (511, 100, "n_fft=511")],
)
def test_impossible_sizes_are_refused(n_fft: int, hop_length: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Stft(n_fft=n_fft, hop_length=hop_length)


def test_an_empty_waveform_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        Stft(n_fft=64, hop_length=16)(torch.zeros(1, 0))
