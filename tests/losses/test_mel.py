import librosa
import pytest
import torch
from torchaudio.transforms import MelScale

from frametx.losses.mel import MelL1
from frametx.losses.spectral import magnitude


def test_the_bands_are_those_of_librosa() -> None:
    loss = MelL1(sample_rate=44_100, n_fft=2048, num_bands=128, weight=1.0)
    reference = librosa.filters.mel(sr=44_100, n_fft=2048, n_mels=128, htk=True, norm=None)
    torch.testing.assert_close(loss.bands, torch.from_numpy(reference), atol=1e-4, rtol=0)


def test_the_loss_is_the_mean_difference_of_torchaudios_mel_scale() -> None:
    loss = MelL1(sample_rate=16_000, n_fft=256, num_bands=20, weight=0.5)
    stems, estimates = torch.randn(2, 1, 2, 1, 2000)
    mel = MelScale(n_mels=20, sample_rate=16_000, n_stft=129)
    bands = [mel(magnitude(loss.stft, x)) for x in (estimates, stems)]
    expected = 0.5 * (bands[0] - bands[1]).abs().mean() / 16
    torch.testing.assert_close(loss(estimates, stems), expected)


def test_bands_without_a_bin_are_left_out() -> None:
    loss = MelL1(sample_rate=16_000, n_fft=64, num_bands=128, weight=1.0)
    assert len(loss.bands) < 128
    assert (loss.bands.amax(dim=1) > 0).all()
    assert (loss.bands.sum(dim=0)[1:-1] > 0).all()  # and no bin between the ends is lost


def test_no_bands_are_refused() -> None:
    with pytest.raises(ValueError, match="num_bands=0"):
        MelL1(sample_rate=16_000, n_fft=64, num_bands=0, weight=1.0)
