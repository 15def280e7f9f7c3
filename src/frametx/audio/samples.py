"""Samples and rates from a caller's own program, as the float tensors that everything works on."""

from collections.abc import Iterable, Iterator
from numbers import Real
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

MAX_CHANNELS = 64  # above it, an array is much more likely turned than recorded so
MAX_AMPLITUDE = 1e30  # of full scale 1; squares of sums beyond it leave the range of a float
MAX_SAMPLE_RATE = 10_000_000  # Hz
FULL_SCALES = {torch.uint8: 2**7, torch.int8: 2**7, torch.int16: 2**15, torch.int32: 2**31}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def checked_rate(sample_rate: Any) -> int:
    """A sample rate in Hz as an int; 44100.0 is one, and so are numpy's integers.

    Raises:
        ValueError: if it is missing, no whole number, or out of range.
    """
    if sample_rate is None:
        raise ValueError("sample_rate=None: samples need their rate, in Hz")
    is_number = isinstance(sample_rate, Real) and not isinstance(sample_rate, bool | np.bool_)
    rate = float(cast(Any, sample_rate)) if is_number else 0.0
    if not 1 <= rate <= MAX_SAMPLE_RATE or not rate.is_integer():
        raise ValueError(
            f"sample_rate={sample_rate!r} must be a whole number of Hz from 1 to {MAX_SAMPLE_RATE},"
            " such as 44100"
        )
    return int(rate)


def as_tensor(samples: Any) -> Tensor:
    """Samples of any array type as 32-bit floats of full scale 1 on the CPU, in their own shape.

    Integers are PCM and are divided by their full scale; `uint8` has its zero at 128, as in a WAV.

    Raises:
        ValueError: if the samples are of another type, not numbers, not finite, or too large.
    """
    given = samples if isinstance(samples, Tensor) else _from_array(samples)
    if given.layout != torch.strided or given.device.type == "meta":
        raise ValueError("samples must be a dense tensor that holds values")
    given = given.detach().cpu()
    if given.dtype in FULL_SCALES:
        zero = 128 if given.dtype == torch.uint8 else 0
        return ((given.double() - zero) / FULL_SCALES[given.dtype]).float()
    if given.dtype not in FLOATS:
        raise ValueError(
            f"samples of type {str(given.dtype).removeprefix('torch.')}: give floats of full scale "
            "1, or PCM as uint8, int8, int16 or int32"
        )
    _check_amplitude(given)
    return given.float()


def as_mixture(samples: Any) -> Tensor:
    """A mixture, channels x samples or samples alone, as `as_tensor` gives it.

    Raises:
        ValueError: if it has another number of axes, no samples, or its axes in the other order;
            and as `as_tensor` does.
    """
    shape = tuple(np.shape(samples)) if isinstance(samples, Tensor | np.ndarray) else None
    if shape is None:
        samples = _from_array(samples)
        shape = tuple(samples.shape)
    if len(shape) not in (1, 2):
        raise ValueError(f"a mixture of shape {shape}: give channels x samples, or samples")
    if 0 in shape:
        raise ValueError(f"a mixture of shape {shape} holds no samples: give channels x samples")
    # One sample of stereo stays possible; two samples of mono are taken for it.
    if len(shape) == 2 and (shape[0] > MAX_CHANNELS or shape[0] > max(2, shape[1])):
        raise ValueError(f"channels come first, as (2, L): got shape {shape}; transpose it")
    return as_tensor(samples)


def checked_blocks(blocks: Iterable[Any]) -> Iterator[Float[Tensor, "C _"]]:
    """Consecutive blocks of one signal, each as `as_tensor` gives it.

    Raises:
        ValueError: at the first block that is not channels x samples, or has other channels than
            the first.
    """
    num_channels = None
    for number, given in enumerate(blocks):
        block = as_tensor(given)
        shape = tuple(block.shape)
        if len(shape) != 2 or not 1 <= shape[0] <= MAX_CHANNELS:
            raise ValueError(f"block {number} of shape {shape}: give channels x samples, as (2, L)")
        num_channels = shape[0] if num_channels is None else num_channels
        if shape[0] != num_channels:
            raise ValueError(
                f"block {number} has {shape[0]} channels and those before it {num_channels}: all "
                "blocks of a song need the same"
            )
        yield block


def _from_array(samples: Any) -> Tensor:
    """A copy as a tensor, where torch takes neither strides, byte order nor read-only memory."""
    try:
        array = np.asarray(samples)
    except (ValueError, TypeError) as error:
        raise ValueError("samples must be an array: lists of one length, of numbers") from error
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    try:
        return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
    except TypeError as error:
        raise ValueError(
            f"samples of type {array.dtype}: give floats of full scale 1, or PCM as uint8, int8, "
            "int16 or int32"
        ) from error


def _check_amplitude(samples: Tensor) -> None:
    """Refuse the first sample that is not finite or too large, by its position."""
    if not samples.numel():
        return
    lowest, highest = torch.aminmax(samples)  # NaN, where there is one
    if float(lowest) >= -MAX_AMPLITUDE and float(highest) <= MAX_AMPLITUDE:
        return
    is_bad = ~(samples.abs().double() <= MAX_AMPLITUDE)
    position = is_bad.nonzero()[0].tolist()
    where = f"sample {position[-1]}" + (f" of channel {position[0]}" if len(position) > 1 else "")
    value = float(samples[tuple(position)])
    if not np.isfinite(value):
        raise ValueError(f"samples that are not finite: {where} is {value}; repair them")
    raise ValueError(
        f"{where} is {value:g}, beyond {MAX_AMPLITUDE:g}: scale the samples to a peak of 1"
    )
