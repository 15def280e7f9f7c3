import pytest
import torch
from torch import Tensor

from frametx.audio.resample import StreamResampler, resample, resampled_length

RATES = [(44_100, 16_000), (16_000, 44_100), (48_000, 44_100), (44_100, 48_000), (96_000, 22_050)]


def stream(waveform: Tensor, orig: int, new: int, block: int) -> Tensor:
    resampler = StreamResampler(orig=orig, new=new, num_channels=waveform.shape[0])
    parts = [resampler.push(part) for part in waveform.split(block, dim=1)]
    return torch.cat([*parts, resampler.finish()], dim=1)


def tone(frequency_hz: float, sample_rate: int, seconds: float = 0.5) -> Tensor:
    time_s = torch.arange(int(seconds * sample_rate), dtype=torch.float64) / sample_rate
    return torch.sin(2 * torch.pi * frequency_hz * time_s).float()[None]


@pytest.mark.parametrize(("orig", "new"), RATES)
@pytest.mark.parametrize("length", [1, 2, 3, 100, 441, 44_100, 50_001])
def test_both_ways_have_the_length_they_promise(length: int, orig: int, new: int) -> None:
    noise = torch.randn(2, length, generator=torch.Generator().manual_seed(0)) * 0.1
    expected = resampled_length(length, orig, new)
    assert resample(noise, orig, new).shape == (2, expected)
    assert stream(noise, orig, new, block=4096).shape == (2, expected)


@pytest.mark.parametrize(("orig", "new"), RATES)
@pytest.mark.parametrize("length", [1, 7, 12_345])
def test_there_and_back_loses_no_sample(length: int, orig: int, new: int) -> None:
    there = stream(torch.ones(1, length), orig, new, block=1000)
    assert length <= stream(there, new, orig, block=1000).shape[1] <= length + 1 + orig // new


@pytest.mark.parametrize(("orig", "new"), RATES)
@pytest.mark.parametrize("block", [1, 37, 5000, 100_000])
def test_the_stream_does_not_depend_on_its_blocks(block: int, orig: int, new: int) -> None:
    noise = torch.randn(1, 3_000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(stream(noise, orig, new, block), stream(noise, orig, new, 999))


@pytest.mark.parametrize(("orig", "new"), RATES)
def test_a_tone_stays_the_same_tone_in_time(orig: int, new: int) -> None:
    expected = tone(1_000, new)
    for resampled in (
        stream(tone(1_000, orig), orig, new, 4096),
        resample(tone(1_000, orig), orig, new),
    ):
        away = slice(new // 20, -new // 20)
        error = resampled[:, : expected.shape[1]] - expected
        assert error[:, away].abs().max() < 2e-3


def test_a_tone_above_the_new_nyquist_dies() -> None:
    high = tone(15_000, 44_100)
    assert stream(high, 44_100, 16_000, 4096)[:, 800:-800].abs().max() < 1e-4
    assert resample(high, 44_100, 16_000)[:, 800:-800].abs().max() < 1e-2


def test_the_same_rate_is_the_same_tensor() -> None:
    noise = torch.randn(2, 100)
    assert resample(noise, 44_100, 44_100) is noise


def test_channels_do_not_mix() -> None:
    left = torch.cat([tone(500, 48_000), torch.zeros(1, 24_000)])
    resampled = stream(left, 48_000, 44_100, 1000)
    assert not resampled[1].any()
    assert resampled[0].abs().max() > 0.9


def test_resampling_a_tensor_is_differentiable() -> None:
    noise = torch.randn(1, 500, requires_grad=True)
    resample(noise, 44_100, 22_050).square().sum().backward()
    assert noise.grad is not None
    assert noise.grad.abs().sum() > 0
