import pytest
import torch
from torch import Tensor

from frametx.data.augment import ChannelSwap, Gain, Pan, PolarityFlip, Transform

TRANSFORMS = [
    Gain(min_db=-12, max_db=6),
    PolarityFlip(probability=0.5),
    ChannelSwap(probability=0.5),
    Pan(max_position=1),
]


def noise(batch: int = 4, channels: int = 2) -> Tensor:
    return torch.randn(batch, channels, 256, generator=torch.Generator().manual_seed(0))


def grid(count: int = 1_000) -> Tensor:
    return (torch.arange(count) / count)[:, None]


def test_six_decibels_double_the_amplitude() -> None:
    gain = Gain(min_db=-6.0206, max_db=6.0206)
    parameters = gain.draw(torch.tensor([[0.0], [0.5], [1.0]]))
    transformed = gain.apply(torch.ones(3, 2, 8), parameters)
    torch.testing.assert_close(transformed[:, 0, 0], torch.tensor([0.5, 1.0, 2.0]))


def test_gains_are_even_in_decibels() -> None:
    gains = Gain(min_db=-9, max_db=3).draw(grid())
    assert gains.min() == -9
    assert 2.98 < gains.max() < 3
    assert gains.mean() == pytest.approx(-3, abs=0.01)


def test_a_flipped_waveform_and_its_twin_cancel() -> None:
    flip = PolarityFlip(probability=0.5)
    waveform = noise(2)
    flipped = flip.apply(waveform, torch.tensor([True, False]))
    assert (flipped + waveform)[0].abs().max() == 0
    assert torch.equal(flipped[1], waveform[1])


def test_a_swap_exchanges_left_and_right_and_twice_is_nothing() -> None:
    swap = ChannelSwap(probability=0.5)
    waveform = noise(2)
    chosen = torch.tensor([True, False])
    swapped = swap.apply(waveform, chosen)
    assert torch.equal(swapped[0, 0], waveform[0, 1])
    assert torch.equal(swapped[0, 1], waveform[0, 0])
    assert torch.equal(swapped[1], waveform[1])
    assert torch.equal(swap.apply(swapped, chosen), waveform)


@pytest.mark.parametrize("transform", [PolarityFlip, ChannelSwap])
def test_a_probability_is_the_share_of_chosen_samples(transform: type) -> None:
    for probability in (0.0, 0.25, 1.0):
        chosen = transform(probability=probability).draw(grid())
        assert chosen.float().mean() == pytest.approx(probability)


def test_panning_keeps_the_power_and_moves_it() -> None:
    pan = Pan(max_position=1)
    positions = torch.linspace(-1, 1, 9)
    panned = pan.apply(torch.ones(9, 2, 4), positions)[:, :, 0]
    torch.testing.assert_close(panned.square().sum(dim=1), torch.full((9,), 2.0))
    torch.testing.assert_close(panned[4], torch.ones(2))
    torch.testing.assert_close(panned[0], torch.tensor([2**0.5, 0.0]))
    assert (panned[:, 1].diff() > 0).all()


def test_positions_stay_within_the_range() -> None:
    positions = Pan(max_position=0.3).draw(grid())
    assert positions.min() == pytest.approx(-0.3)
    assert 0.299 < positions.max() < 0.3


def test_mono_has_no_sides() -> None:
    waveform = noise(channels=1)
    assert torch.equal(Pan(max_position=1).apply(waveform, torch.ones(4)), waveform)
    swapped = ChannelSwap(probability=1).apply(waveform, torch.ones(4, dtype=torch.bool))
    assert torch.equal(swapped, waveform)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda transform: type(transform).__name__)
def test_a_batch_equals_a_loop_and_the_input_is_untouched(transform: Transform) -> None:
    waveform, uniforms = noise(8), torch.rand(8, transform.num_uniforms)
    before = waveform.clone()
    batch = transform.apply(waveform, transform.draw(uniforms))
    for row in range(8):
        alone = slice(row, row + 1)
        expected = transform.apply(waveform[alone], transform.draw(uniforms[alone]))
        torch.testing.assert_close(batch[alone], expected)
    assert torch.equal(waveform, before)
    assert not torch.equal(batch, before)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"a probability \(1\.5\) must lie between 0 and 1"):
        ChannelSwap(probability=1.5)
    with pytest.raises(ValueError, match=r"min_db \(3\) must not exceed max_db \(-3\)"):
        Gain(min_db=3, max_db=-3)
    with pytest.raises(ValueError, match=r"max_position \(2\)"):
        Pan(max_position=2)
