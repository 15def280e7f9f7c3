import pytest
import torch

from frametx.data.augment import ChannelSwap, Pan, SilentSide, StereoWidth, Transform


def grid(columns: int = 1) -> torch.Tensor:
    return (torch.arange(1_000) / 1_000)[:, None].expand(-1, columns)


def test_a_swap_exchanges_left_and_right_and_twice_is_nothing() -> None:
    swap, waveform = ChannelSwap(probability=1), torch.randn(2, 2, 64)
    swapped = swap.apply(waveform, {})
    assert torch.equal(swapped[:, 0], waveform[:, 1])
    assert torch.equal(swapped[:, 1], waveform[:, 0])
    assert torch.equal(swap.apply(swapped, {}), waveform)


def test_panning_keeps_the_power_and_moves_it() -> None:
    position = {"position": torch.linspace(-1, 1, 9)}
    panned = Pan(max_position=1).apply(torch.ones(9, 2, 4), position)[:, :, 0]
    torch.testing.assert_close(panned.square().sum(dim=1), torch.full((9,), 2.0))
    torch.testing.assert_close(panned[4], torch.ones(2))
    torch.testing.assert_close(panned[0], torch.tensor([2**0.5, 0.0]))
    assert (panned[:, 1].diff() > 0).all()


def test_positions_stay_within_the_range() -> None:
    positions = Pan(max_position=0.3).draw(grid())["position"]
    assert positions.min() == pytest.approx(-0.3)
    assert 0.299 < positions.max() < 0.3


def test_one_side_falls_silent_and_the_other_stays_bit_by_bit() -> None:
    transform, waveform = SilentSide(probability=1), torch.randn(2, 2, 64)
    drawn = transform.draw(torch.tensor([[0.1, 0.5], [0.9, 0.5]]))
    assert drawn["side"].tolist() == [0, 1]
    silenced = transform.apply(waveform, drawn)
    assert (silenced[0, 0] == 0).all()
    assert (silenced[1, 1] == 0).all()
    assert torch.equal(silenced[0, 1], waveform[0, 1])
    assert torch.equal(silenced[1, 0], waveform[1, 0])
    half = SilentSide(probability=1, depth=(0.5, 0.5))
    softer = half.apply(waveform, half.draw(torch.tensor([[0.1, 0.0], [0.1, 0.9]])))
    torch.testing.assert_close(softer[:, 0], waveform[:, 0] / 2)


@pytest.mark.parametrize("width", [0.0, 0.5, 1.0, 2.0])
def test_width_scales_the_side_and_keeps_the_mid(width: float) -> None:
    waveform = torch.randn(3, 2, 64)
    transform = StereoWidth(width=(width, width), probability=1)
    wide = transform.apply(waveform, transform.draw(torch.rand(3, 1)))
    torch.testing.assert_close(wide.mean(dim=1), waveform.mean(dim=1))
    torch.testing.assert_close(wide[:, 0] - wide[:, 1], width * (waveform[:, 0] - waveform[:, 1]))


@pytest.mark.parametrize(
    "transform",
    [
        Pan(max_position=1),
        ChannelSwap(probability=1),
        SilentSide(probability=1),
        StereoWidth(width=(0, 2), probability=1),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_mono_has_no_sides(transform: Transform) -> None:
    waveform = torch.randn(4, 1, 64)
    drawn = transform.draw(torch.rand(4, transform.num_uniforms))
    assert torch.equal(transform.apply(waveform, drawn), waveform)


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_position \(2\)"):
        Pan(max_position=2)
    with pytest.raises(ValueError, match=r"depth \(\[0, 2\]\) must lie within 0 and 1"):
        SilentSide(probability=1, depth=(0, 2))
    with pytest.raises(ValueError, match=r"width \(\[2, 1\]\) must be \[lowest, highest\]"):
        StereoWidth(width=(2, 1), probability=1)
