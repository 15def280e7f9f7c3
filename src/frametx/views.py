"""Test-time augmentation: a song is separated in several ways, and the answers are averaged.

Each view changes the stream so that the truth is known to change in the same way (swapped channels,
inverted polarity, a delay) or cuts it otherwise, separates it, and changes the answer back. A model
that none of this matters to gives the same answer every time, and the average is that answer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.chunking import hop_samples
from frametx.execution import Execution
from frametx.separator import Separator, SpectrogramSeparator
from frametx.streaming import has_samples, separate_blocks

# Crop and padding on each side in frames, as the original programs averaged them.
ORIGINAL_CONTEXTS = ((64, 128), (128, 256), (256, 512), (512, 1024), (1024, 2048))


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to look at a song.

    Attributes:
        chunk_samples: at the separator's rate.
        overlap: of the chunks.
        swaps: exchange the channels of each pair.
        inverts: the polarity.
        delay: silence put before the song, in seconds.
    """

    chunk_samples: int
    overlap: float
    swaps: bool = False
    inverts: bool = False
    delay: float = 0.0


def views(
    separator: Separator,
    *,
    chunk_samples: int | None,
    overlap: float,
    swap: bool,
    polarity: bool,
    shifts: int,
    contexts: Sequence[Sequence[int]],
) -> list[View]:
    """The views of a song; the plain one is the first, or one for each context in its place.

    Args:
        separator: decides what a frame is.
        chunk_samples: of the plain view; None is what the separator likes.
        overlap: of its chunks.
        swap: add one with exchanged channels, if the separator hears more than one.
        polarity: add one of inverted polarity.
        shifts: add so many whose chunks begin elsewhere, spread evenly over a chunk's hop.
        contexts: pairs of frames that are kept of a chunk and frames around them on each side that
            are only looked at; chunks fade into each other within them.

    Raises:
        ValueError: if a number is out of its range, or the separator has no frames.
    """
    if shifts < 0:
        raise ValueError(f"tta.shifts={shifts} must be at least 0")
    length = separator.chunk_samples if chunk_samples is None else chunk_samples
    hop = hop_samples(length, overlap)
    plain = View(chunk_samples=length, overlap=overlap)
    found = [in_context(separator, pair) for pair in contexts] or [plain]
    if swap and separator.num_channels > 1:
        found.append(View(chunk_samples=length, overlap=overlap, swaps=True))
    if polarity:
        found.append(View(chunk_samples=length, overlap=overlap, inverts=True))
    for number in range(1, shifts + 1):
        delay = number * hop / (shifts + 1) / separator.sample_rate
        found.append(View(chunk_samples=length, overlap=overlap, delay=delay))
    return found


def in_context(separator: Separator, pair: Sequence[int]) -> View:
    """The view of a crop with padding.

    Raises:
        ValueError: if it is no pair of such numbers, or the separator has no frames.
    """
    if len(pair) != 2 or pair[0] < 1 or pair[1] < 0:
        raise ValueError(
            f"tta.contexts: {list(pair)} must be two numbers of frames, a crop of at least 1 and "
            "the padding on each side of it"
        )
    if not isinstance(separator, SpectrogramSeparator):
        raise ValueError(
            f"tta.contexts: {type(separator).__name__} has no frames; use tta.shifts instead"
        )
    crop, padding = pair
    num_frames = crop + 2 * padding
    return View(
        chunk_samples=max(1, separator.stft.num_samples(num_frames)),
        overlap=2 * padding / num_frames,
    )


def separate_view(
    separator: Separator,
    blocks: Iterable[Float[Tensor, "C _"]],
    view: View,
    *,
    sample_rate: int,
    execution: Execution,
    remainder: str | None,
) -> Iterator[Float[Tensor, "S C _"]]:
    """Stems of a stream as one view shows them; see `streaming.separate_blocks`."""
    stems = separate_blocks(
        separator,
        _changed(blocks, view, delay := round(view.delay * sample_rate)),
        sample_rate=sample_rate,
        overlap=view.overlap,
        execution=execution,
        remainder=remainder,
        chunk_samples=view.chunk_samples,
    )

    def as_before(block: Tensor) -> Tensor:
        nonlocal delay
        dropped = min(delay, block.shape[2])
        delay -= dropped
        given = block[:, :, dropped:]
        if view.swaps:
            given = _swapped(given)
        return -given if view.inverts else given

    # no loop, whose variable would keep a block while the network makes the next
    return filter(has_samples, map(as_before, stems))


def _changed(blocks: Iterable[Tensor], view: View, delay: int) -> Iterator[Tensor]:
    for block in blocks:
        if delay:
            yield torch.zeros(block.shape[0], delay)
            delay = 0
        given = _swapped(block) if view.swaps else block
        yield -given if view.inverts else given


def _swapped(block: Float[Tensor, "*any C L"]) -> Float[Tensor, "*any C L"]:
    """Left and right of each pair exchanged; a channel without a partner stays."""
    num_channels = block.shape[-2]
    order = list(range(num_channels))
    for first in range(0, num_channels - 1, 2):
        order[first], order[first + 1] = first + 1, first
    return block[..., order, :]
