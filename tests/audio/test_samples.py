"""Arrays of a caller: the same music in any type is the same mixture, and all else is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from frametx.audio.samples import as_mixture, as_tensor, checked_blocks, checked_rate

STEPS = np.array([[-128, -64, 0, 64, 127], [0, 1, -1, 100, -100]])


@pytest.mark.parametrize(
    ("dtype", "scale", "zero"),
    [("uint8", 1, 128), ("int8", 1, 0), ("int16", 2**8, 0), (">i2", 2**8, 0), ("int32", 2**24, 0)],
)
def test_pcm_of_any_width_is_the_same_music(dtype: str, scale: int, zero: int) -> None:
    found = as_mixture((STEPS * scale + zero).astype(dtype))
    assert found.dtype == torch.float32
    assert np.array_equal(found.numpy(), STEPS / 128)


def test_a_silent_wav_of_8_bits_is_silent() -> None:
    assert not as_tensor(np.full((2, 100), 128, dtype=np.uint8)).any()
    assert not as_tensor(torch.full((2, 100), 128, dtype=torch.uint8)).any()


def every_form(samples: np.ndarray) -> list[Any]:
    """The same samples as what a program may hold them in."""
    read_only = samples.copy()
    read_only.setflags(write=False)
    return [
        samples,
        samples.tolist(),
        list(samples),
        read_only,
        samples.astype(np.float64),
        samples.astype(">f4"),
        samples.astype(np.float16),
        samples.astype(np.longdouble),
        np.asfortranarray(samples),
        samples[:, ::-1][:, ::-1],
        np.repeat(samples, 2, axis=1)[:, ::2],
        torch.from_numpy(samples),
        torch.from_numpy(samples).bfloat16(),
        torch.from_numpy(samples).half(),
        torch.from_numpy(samples).requires_grad_(),
        torch.from_numpy(samples.T.copy()).T,
    ]


def test_every_form_of_an_array_is_the_same_mixture() -> None:
    samples = (STEPS / 128).astype(np.float32)
    for form in every_form(samples):
        found = as_mixture(form)
        assert (found.dtype, found.requires_grad) == (torch.float32, False)
        assert np.array_equal(found.numpy(), samples)


def test_floats_are_not_copied_and_not_changed() -> None:
    given = torch.randn(2, 100, generator=torch.Generator().manual_seed(0)) * 1e20
    assert as_mixture(given).data_ptr() == given.data_ptr()


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        ((800, 2), r"channels come first, as \(2, L\): got shape \(800, 2\); transpose it"),
        ((441_000, 1), r"got shape \(441000, 1\); transpose it"),
        ((6, 3), r"got shape \(6, 3\); transpose it"),
        ((65, 48_000), r"got shape \(65, 48000\); transpose it"),
        ((2, 0), r"shape \(2, 0\) holds no samples"),
        ((0, 16_000), r"shape \(0, 16000\) holds no samples"),
        ((0,), r"shape \(0,\) holds no samples"),
        ((), r"shape \(\): give channels x samples"),
        ((1, 2, 100), r"shape \(1, 2, 100\): give channels x samples"),
    ],
)
def test_other_shapes_are_refused(shape: tuple[int, ...], said: str) -> None:
    for given in (np.zeros(shape, dtype=np.float32), torch.zeros(shape)):
        with pytest.raises(ValueError, match=said):
            as_mixture(given)


@pytest.mark.parametrize("shape", [(1,), (1, 1), (2, 1), (2, 2), (6, 6), (17, 100), (64, 64)])
def test_short_and_wide_mixtures_stay_possible(shape: tuple[int, ...]) -> None:
    assert as_mixture(np.zeros(shape, dtype=np.float32)).shape == shape


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((2, 9), dtype=bool), "samples of type bool"),
        (torch.zeros(2, 9, dtype=torch.bool), "samples of type bool"),
        (np.zeros((2, 9), dtype=complex), "samples of type complex128"),
        (torch.zeros(2, 9, dtype=torch.complex64), "samples of type complex64"),
        (np.zeros((2, 9), dtype=np.int64), "samples of type int64: give floats of full scale 1"),
        (np.zeros((2, 9), dtype=np.uint16), "samples of type uint16"),
        (np.zeros((2, 9), dtype="M8[s]"), "samples of type datetime64"),
        (np.array([["a", "b"]]), "samples of type <U1"),
        (np.array([[None, 1.0]]), "samples of type object"),
        ([[0.0, 1.0], [0.0]], "lists of one length"),
        ([[0, 1, 0], [0, 1, 0]], "samples of type int64"),
        (torch.zeros(2, 9).to_sparse(), "dense tensor"),
        (torch.zeros(2, 9, device="meta"), "dense tensor"),
    ],
)
def test_what_is_no_number_of_a_known_scale_is_refused(given: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        as_mixture(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_sample_that_is_not_finite_is_named_by_its_position(
    dtype: torch.dtype, value: float
) -> None:
    samples = torch.zeros(2, 100, dtype=dtype)
    samples[1, 42] = value
    with pytest.raises(ValueError, match=rf"not finite: sample 42 of channel 1 is {value}"):
        as_mixture(samples)
    with pytest.raises(ValueError, match=rf"not finite: sample 42 is {value}"):
        as_mixture(samples[1])


@pytest.mark.parametrize("value", [3e38, -3e38, 1e31, 1e300])
def test_amplitudes_that_no_network_can_square_are_refused(value: float) -> None:
    samples = torch.zeros(2, 100, dtype=torch.float64)
    samples[0, 7] = value
    with pytest.raises(ValueError, match=r"sample 7 of channel 0 is .*scale the samples"):
        as_mixture(samples)
    samples[0, 7] = 1e30
    assert torch.isfinite(as_mixture(samples)).all()


@pytest.mark.parametrize(
    "rate", [44_100, 44_100.0, np.int32(44_100), np.uint16(44_100), np.float64(44_100)]
)
def test_a_whole_number_of_any_type_is_a_rate(rate: Any) -> None:
    assert checked_rate(rate) == 44_100
    assert type(checked_rate(rate)) is int


@pytest.mark.parametrize(
    "rate",
    [None, 0, -5, 44_100.5, 1e12, float("nan"), float("inf"), True, "44100", [44_100], 0.5, 1j],
)
def test_what_is_no_rate_is_refused(rate: Any) -> None:
    with pytest.raises(ValueError, match="sample_rate=") as caught:
        checked_rate(rate)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("blocks", "said"),
    [
        ([torch.zeros(2, 9), torch.zeros(1, 9)], "block 1 has 1 channels and those before it 2"),
        ([torch.zeros(2, 9), torch.zeros(3, 9)], "block 1 has 3 channels and those before it 2"),
        ([torch.zeros(9)], r"block 0 of shape \(9,\)"),
        ([torch.zeros(0, 9)], r"block 0 of shape \(0, 9\)"),
        ([torch.zeros(1, 2, 9)], r"block 0 of shape \(1, 2, 9\)"),
        ([torch.zeros(800, 2)], r"block 0 of shape \(800, 2\)"),
        ([torch.full((2, 9), float("nan"))], "not finite: sample 0 of channel 0"),
    ],
)
def test_blocks_that_make_no_song_are_refused(blocks: list[Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        list(checked_blocks(blocks))


def test_blocks_may_be_short_empty_or_arrays() -> None:
    blocks = [torch.ones(2, 9), torch.ones(2, 0), np.ones((2, 1), dtype=np.float32)]
    assert [block.shape[1] for block in checked_blocks(blocks)] == [9, 0, 1]
