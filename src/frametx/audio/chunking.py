r"""Cut a stream into overlapping chunks, and fade what was made of them into one stream again.

Every sample is divided by the sum of the fades it got, so the fades add up to one everywhere: at
the seams, at the start and at the end alike. The last chunk is moved back to end with the stream,
so that it is as full as the others; of it only what no earlier chunk has settled is used.

    hop 6, chunks of 8, a stream of 22
    chunk 0  /......\
    chunk 1        /......\
    chunk 2              /......\
    chunk 3                ----/...      -: settled before
    sample   0     6     12    18  22
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


class Chunk(NamedTuple):
    """A piece of a stream, and how many of its first samples are settled without it."""

    samples: Float[Tensor, "C L"]
    num_settled: int


def hop_samples(chunk_samples: int, overlap: float) -> int:
    """Distance between the starts of neighbouring chunks.

    Args:
        chunk_samples: length of a chunk.
        overlap: the part of a chunk that the next one sees again, 0 <= overlap < 1.

    Raises:
        ValueError: if either is out of range.
    """
    if not 0 <= overlap < 1:
        raise ValueError(
            f"overlap ({overlap}) must be at least 0 and below 1: "
            "it is the part of a chunk that the next one sees again"
        )
    if chunk_samples < 1:
        raise ValueError(f"a chunk must hold at least 1 sample, not {chunk_samples}")
    return max(1, chunk_samples - round(chunk_samples * overlap))


def fade_window(chunk_samples: int, hop: int) -> Float[Tensor, " L"]:
    """A ramp up, ones, and the ramp down; never zero, so that it can be divided by."""
    fade = min(chunk_samples - hop, chunk_samples // 2)
    ramp = (torch.arange(fade) + 0.5) / fade
    return torch.cat([ramp, torch.ones(chunk_samples - 2 * fade), ramp.flip(0)])


class Splitter:
    """Takes blocks of any length, gives chunks of one length.

    Args:
        chunk_samples: length of every chunk; a stream shorter than that is filled up with zeros.
        hop: samples from the start of one chunk to the start of the next.
    """

    def __init__(self, *, chunk_samples: int, hop: int) -> None:
        assert 1 <= hop <= chunk_samples
        self.chunk_samples = chunk_samples
        self.hop = hop
        # From the start of the last chunk given, else of the stream; joined when a chunk is full,
        # because joining at every block would copy a chunk each time.
        self._held: list[Tensor] = []
        self._num_held = 0
        self._next = 0  # where in it the next chunk starts

    def push(self, block: Float[Tensor, "C L"]) -> list[Chunk]:
        """The chunks that are complete with this block."""
        self._held.append(block)
        self._num_held += block.shape[1]
        chunks: list[Chunk] = []
        if self._num_held - self._next < self.chunk_samples:
            return chunks
        held = torch.cat(self._held, dim=1)
        while held.shape[1] - self._next >= self.chunk_samples:
            held = held[:, self._next :]
            self._next = self.hop
            chunks.append(Chunk(held[:, : self.chunk_samples], 0))
        self._held, self._num_held = [held], held.shape[1]
        return chunks

    def finish(self) -> list[Chunk]:
        """The last chunk, if samples are left that are in none yet."""
        if not self._num_held:
            return []
        held = torch.cat(self._held, dim=1)
        surplus = held.shape[1] - self.chunk_samples
        if self._next == 0:  # no chunk was given: surplus is negative
            return [Chunk(F.pad(held, (0, -surplus)), 0)]
        if surplus == 0:
            return []
        return [Chunk(held[:, surplus:], self._next - surplus)]


class OverlapAdder:
    """Takes what was made of each chunk in turn, gives the stream.

    Args:
        chunk_samples: length of every chunk.
        hop: samples from the start of one chunk to the start of the next.
    """

    def __init__(self, *, chunk_samples: int, hop: int) -> None:
        self.hop = hop
        self.window = fade_window(chunk_samples, hop)
        self._faded: Tensor | None = None  # sums from the start of the last chunk on
        self._weight = self.window

    def add(self, estimate: Float[Tensor, "*any L"], num_settled: int) -> Float[Tensor, "*any M"]:
        """The samples that this chunk and all later ones leave as they are."""
        fresh = estimate[..., num_settled:]
        window = self.window[: fresh.shape[-1]]
        faded = fresh * window
        if self._faded is None:
            self._faded, self._weight = faded, window
            return estimate[..., :0]
        settled = self._faded[..., : self.hop] / self._weight[: self.hop]
        shared = self._faded.shape[-1] - self.hop
        weight = window.clone()
        faded[..., :shared] += self._faded[..., self.hop :]
        weight[:shared] += self._weight[self.hop :]
        self._faded, self._weight = faded, weight
        return settled

    def finish(self) -> Float[Tensor, "*any L"]:
        """The samples after those given; with the zeros that filled up a short stream."""
        assert self._faded is not None, "no chunk was added"
        return self._faded / self._weight
