"""What a transform is, how its parameters are drawn, and how a chain of them is applied.

Parameters are drawn first, on the CPU, from the sample number alone; then each transform acts on
those rows of the batch that drew it. Because the CPU knows the draws, nothing is computed for the
other rows, and no device has to be waited for.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import exp, log
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from frametx.audio.transfer import on_device
from frametx.data.sampling import WORD, philox, stream_key

Parameters = Mapping[str, Tensor]
"""What a transform drew, by name with unit; the first axis of each is that of the batch."""

FloatOrTensor = TypeVar("FloatOrTensor", float, Tensor)


class Transform(Protocol):
    """One thing that can happen to a stem.

    A class with these members is a transform; nothing else needs to know it.
    """

    probability: float
    """Share of the samples to which it happens; all others pass bit by bit."""
    num_uniforms: int
    """How many numbers in [0, 1) it needs for each sample."""

    def draw(self, uniforms: Float[Tensor, "B num_uniforms"]) -> Parameters:
        """Parameters, a row of each for every sample; on the CPU."""
        ...

    def apply(self, waveform: Float[Tensor, "B C L"], parameters: Parameters) -> Tensor:
        """The transformed waveforms: every row by its own parameters, the input left as it is.

        The waveform may lie on any device; the parameters lie on the CPU.
        """
        ...


@runtime_checkable
class Consuming(Protocol):
    """A transform that takes longer waveforms than it gives."""

    def input_samples(self, num_samples: int) -> int:
        """Samples it must be given to give `num_samples`."""
        ...

    def output_samples(self, num_samples: int) -> int:
        """Samples it gives of `num_samples`: the inverse of `input_samples`."""
        ...


class Drawn:
    """What the transforms of one chain drew for the samples of a batch."""

    def __init__(
        self,
        transforms: Sequence[Transform],
        samples: Int[Tensor, " B"],
        *,
        seed: int,
        stream: str,
    ) -> None:
        """Draws.

        Every transform has numbers of its own, which depend on the seed, the stream, the sample
        and the name of its class (with a count where it occurs twice). So turning a transform on
        changes nothing about the others.

        Args:
            transforms: in the order in which they are applied.
            samples: numbers of the samples. On the CPU, or it is waited for.
            seed: of all draws.
            stream: what the waveforms are, so that two stems draw differently.
        """
        names = tuple(type(transform).__name__ for transform in transforms)
        sizes = tuple(1 + transform.num_uniforms for transform in transforms)
        uniforms = _uniforms(samples.cpu(), names, sizes, seed=seed, stream=stream)
        self.transforms = tuple(transforms)
        self.chosen: list[Bool[Tensor, " B"]] = []
        self.parameters: list[Parameters] = []
        for transform, part in zip(transforms, uniforms, strict=True):
            self.chosen.append(part[:, 0] < transform.probability)
            self.parameters.append(transform.draw(part[:, 1:]))

    def apply(self, waveform: Float[Tensor, "B C L"]) -> Float[Tensor, "B C L_out"]:
        """The waveforms after all transforms."""
        for transform, chosen, parameters in zip(
            self.transforms, self.chosen, self.parameters, strict=True
        ):
            waveform = _applied(transform, waveform, chosen, parameters)
        return waveform

    def describe(self, row: int) -> list[dict[str, object]]:
        """Name and parameters of the transforms that one sample drew, for reports."""
        return [
            {
                "transform": type(transform).__name__,
                **{name: values[row].tolist() for name, values in parameters.items()},
            }
            for transform, chosen, parameters in zip(
                self.transforms, self.chosen, self.parameters, strict=True
            )
            if bool(chosen[row])
        ]


def transformed(
    transforms: Sequence[Transform],
    waveform: Float[Tensor, "B C L"],
    samples: Int[Tensor, " B"],
    *,
    seed: int,
    stream: str,
) -> Float[Tensor, "B C L"]:
    """Apply transforms one after the other, each by what it draws for these samples.

    Raises:
        ValueError: if one of them would give less than it is given.
    """
    for transform in transforms:
        if isinstance(transform, Consuming):
            raise ValueError(
                f"{type(transform).__name__} needs longer excerpts than it gives, and stems that "
                "belong together must keep their length: use it in a Voxaug preset (conf/augment)"
            )
    return Drawn(transforms, samples, seed=seed, stream=stream).apply(waveform)


def input_samples(transforms: Sequence[Transform], num_samples: int) -> int:
    """Samples that a chain must be given so that `num_samples` are left."""
    for transform in reversed(transforms):
        if isinstance(transform, Consuming):
            num_samples = transform.input_samples(num_samples)
    return num_samples


def beside(parameter: Shaped[Tensor, "*any"], waveform: Tensor) -> Shaped[Tensor, "*any"]:
    """A parameter on the device of a waveform, without waiting for that device."""
    return on_device(parameter, waveform.device)


def per_row(parameter: Float[Tensor, " B"], waveform: Tensor) -> Float[Tensor, "B 1 1"]:
    """A number for each row, ready to be multiplied with a waveform B C L."""
    return beside(parameter, waveform)[:, None, None]


def between(uniform: FloatOrTensor, bounds: tuple[float, float]) -> FloatOrTensor:
    """Evenly within bounds."""
    low, high = bounds
    return low + (high - low) * uniform


def log_between(uniform: Float[Tensor, " B"], bounds: tuple[float, float]) -> Float[Tensor, " B"]:
    """Evenly in octaves within bounds: as the ear counts frequencies and times."""
    low, high = (log(bound) for bound in bounds)
    return (low + (high - low) * uniform).exp().clamp(exp(low), exp(high))


def checked_probability(probability: float) -> float:
    """`probability` itself.

    Raises:
        ValueError: if it is none.
    """
    if not 0 <= probability <= 1:
        raise ValueError(f"a probability ({probability}) must lie between 0 and 1")
    return probability


def checked_range(
    name: str,
    bounds: Sequence[float],
    *,
    at_least: float = float("-inf"),
    at_most: float = float("inf"),
) -> tuple[float, float]:
    """`bounds` as a pair.

    Raises:
        ValueError: if they are no [lowest, highest] within `at_least` and `at_most`.
    """
    if len(bounds) != 2 or bounds[0] > bounds[1]:
        raise ValueError(f"{name} ({list(bounds)}) must be [lowest, highest]")
    low, high = bounds
    if low < at_least or high > at_most:
        raise ValueError(f"{name} ({list(bounds)}) must lie within {at_least:g} and {at_most:g}")
    return float(low), float(high)


def checked_frequencies(
    name: str, bounds: Sequence[float], *, sample_rate: int
) -> tuple[float, float]:
    """`bounds` in Hz as a pair.

    Raises:
        ValueError: if they do not lie above 1 Hz and below half the sample rate.
    """
    if len(bounds) == 2 and bounds[1] >= sample_rate / 2:
        raise ValueError(
            f"{name} ({list(bounds)}) must end below half the sample rate, {sample_rate / 2:g} Hz: "
            "lower it, or train at a higher rate"
        )
    return checked_range(name, bounds, at_least=1)


def _applied(
    transform: Transform,
    waveform: Float[Tensor, "B C L"],
    chosen: Bool[Tensor, " B"],
    parameters: Parameters,
) -> Float[Tensor, "B C L_out"]:
    kept = waveform
    if isinstance(transform, Consuming):
        kept = waveform[..., : transform.output_samples(waveform.shape[-1])]
    if not chosen.any():
        return kept
    if chosen.all():
        return transform.apply(waveform, parameters)
    rows = chosen.nonzero()[:, 0]
    rows_there = beside(rows, waveform)
    parameters = {name: values[rows] for name, values in parameters.items()}
    changed = transform.apply(waveform.index_select(0, rows_there), parameters)
    return kept.index_copy(0, rows_there, changed)


@lru_cache(maxsize=256)
def _blocks(
    names: tuple[str, ...], sizes: tuple[int, ...]
) -> tuple[Int[Tensor, " blocks"], Int[Tensor, " blocks"]]:
    """Which counters every transform uses: number of the block, and a word for its name."""
    occurrences: Counter[str] = Counter()
    blocks, words = [], []
    for name, size in zip(names, sizes, strict=True):
        digest = hashlib.blake2b(f"{name}#{occurrences[name]}".encode(), digest_size=4).digest()
        occurrences[name] += 1
        count = -(-size // 4)
        blocks.append(torch.arange(count))
        words.append(torch.full((count,), int.from_bytes(digest, "little")))
    return torch.cat(blocks), torch.cat(words)


def _uniforms(
    samples: Int[Tensor, " B"],
    names: tuple[str, ...],
    sizes: tuple[int, ...],
    *,
    seed: int,
    stream: str,
) -> list[Float[Tensor, "B size"]]:
    """Numbers in [0, 1) for each transform, all made in one go."""
    if not names:
        return []
    blocks, names_word = _blocks(names, sizes)
    low, high, blocks, names_word = torch.broadcast_tensors(
        (samples & WORD)[:, None], (samples >> 32)[:, None], blocks[None], names_word[None]
    )
    words = philox((low, high, blocks, names_word), stream_key(seed, f"augment/{stream}"))
    numbers = (torch.stack(words, dim=-1) >> 8).to(torch.float32) * 2**-24
    parts = numbers.split([-(-size // 4) for size in sizes], dim=1)
    return [part.flatten(start_dim=1)[:, :size] for part, size in zip(parts, sizes, strict=True)]
