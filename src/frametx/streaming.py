"""Take apart audio of any length in constant memory: blocks in, blocks out.

    blocks C L at the input's rate ----------------------------------------> held
      -> resample -> chunks -> separator -> overlap-add -> resample -> S-1 stems
                                             last stem = held - the others

One stem, the remainder, is what the others leave of the input at the input's own rate and channels.
So the stems sum to the input, and what a model of a lower rate cannot hear stays in the remainder.
Stems of a model whose estimates do not sum to a mixture, as two speakers in noise, are all given as
the model has them: there is no remainder, and what it cannot hear is in no stem.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from frametx.audio.chunking import Chunk, OverlapAdder, Splitter, hop_samples
from frametx.audio.masking import with_rest
from frametx.audio.resample import StreamResampler
from frametx.audio.stem_order import ChunkOrder
from frametx.execution import Execution, device_of
from frametx.separator import (
    NO_REMAINDER,
    Past,
    Separator,
    SpectrogramSeparator,
    complement_of,
    has_ordered_stems,
    sums_to_mixture,
)

Block = Float[Tensor, "C _"]  # L differs from block to block
Stems = Float[Tensor, "S C _"]
BLOCK_SAMPLES = 1 << 18  # what separate_waveform hands over at once
PIECE_SAMPLES = 1 << 16  # computed in double precision at once


def separate_blocks(
    separator: Separator,
    blocks: Iterable[Block],
    *,
    sample_rate: int,
    overlap: float,
    execution: Execution,
    remainder: str | None = None,
    chunk_samples: int | None = None,
) -> Iterator[Stems]:
    """Stems of a stream, block by block, on the CPU; in all as many samples as came in.

    The blocks that come out depend neither in value nor in number of samples on how the stream was
    cut. A mono stream is doubled for a stereo separator and averaged back; channels beyond what the
    separator takes go through it in groups, as items of the batch.

    Args:
        separator: in evaluation mode, on `device`.
        blocks: consecutive pieces of the mixture, all with the same C.
        sample_rate: of the blocks, Hz.
        overlap: the part of a chunk that the next one sees again, 0 <= overlap < 1.
        execution: runs the separator, on its device.
        remainder: the stem that is the mixture minus the others, or `none`. None is `none` if the
            separator's estimates do not sum to the mixture, else the instrumental, else the last.
            A separator of a single stem has no remainder.
        chunk_samples: at the separator's rate; None is what the separator likes.

    Raises:
        ValueError: if an option is out of its range, or chunks of stems without an order do not
            overlap.
    """
    chunk_samples = separator.chunk_samples if chunk_samples is None else chunk_samples
    hop = hop_samples(chunk_samples, overlap)
    check_overlap(separator, chunk_samples=chunk_samples, overlap=overlap)
    rest = remainder_index(
        separator.stems,
        remainder,
        sums=sums_to_mixture(separator),
        complement=complement_of(separator),
    )
    return _stems(
        separator,
        blocks,
        rates=(sample_rate, separator.sample_rate),
        chunks=(chunk_samples, hop),
        execution=execution,
        rest=rest,
    )


def separate_waveform(
    separator: Separator,
    mixture: Float[Tensor, "C L"],
    *,
    sample_rate: int,
    overlap: float = 0.25,
    batch_size: int = 1,
    device: torch.device | str | None = None,
    remainder: str | None = None,
    chunk_samples: int | None = None,
) -> Float[Tensor, "S C L"]:
    """Stems of a waveform that fits into memory, on its device; see `separate_blocks`.

    Args:
        separator: in evaluation mode.
        mixture: a whole track, at least 1 sample.
        sample_rate: of the mixture, Hz.
        overlap: the part of a chunk that the next one sees again, 0 <= overlap < 1.
        batch_size: items that go through the separator at once.
        device: of the separator; None asks its weights.
        remainder: the stem that is the mixture minus the others, or `none`.
        chunk_samples: at the separator's rate; None is what the separator likes.
    """
    assert mixture.shape[1] >= 1, "an empty mixture has no stems"
    stems = separate_blocks(
        separator,
        mixture.cpu().split(BLOCK_SAMPLES, dim=1),
        sample_rate=sample_rate,
        overlap=overlap,
        execution=Execution(
            device=device_of(separator) if device is None else device, batch_size=batch_size
        ),
        remainder=remainder,
        chunk_samples=chunk_samples,
    )
    return torch.cat(list(stems), dim=2).to(mixture.device)


def remainder_index(
    stems: tuple[str, ...],
    remainder: str | None,
    *,
    sums: bool = True,
    complement: str | None = None,
) -> int | None:
    """Which stem is the mixture minus the others; None if no stem is.

    Args:
        stems: of the separator.
        remainder: a stem, or `none`; None chooses.
        sums: the separator's estimates sum to the mixture, so that one of them may be the rest.
        complement: the stem that is the rest within what the separator hears. The instrumental goes
            before it: of a network that masks it, the band that it cannot hear is no voice.

    Raises:
        ValueError: if the stem asked for is none of them.
    """
    if remainder not in (None, NO_REMAINDER, *stems):
        raise ValueError(
            f"remainder={remainder} must be one of the stems {list(stems)}, or {NO_REMAINDER}"
        )
    if len(stems) == 1 or remainder == NO_REMAINDER or (remainder is None and not sums):
        return None
    if remainder is None:
        remainder = "instrumental" if "instrumental" in stems else complement or stems[-1]
    return stems.index(remainder)


def check_overlap(separator: Separator, *, chunk_samples: int, overlap: float) -> None:
    """Refuse chunks side by side for stems without an order: nothing would say which is which.

    Raises:
        ValueError: naming the overlap.
    """
    if hop_samples(chunk_samples, overlap) == chunk_samples and not has_ordered_stems(separator):
        raise ValueError(
            f"overlap={overlap:g}: the stems {list(separator.stems)} of this model have no order, "
            "and only what two chunks both hold tells which is which: take overlap=0.25, or leave "
            "out quality=fast"
        )


def with_remainder(
    others: Float[Tensor, "S_others C L"], mixture: Float[Tensor, "C L"], rest: int
) -> Float[Tensor, "S C L"]:
    """All stems: number `rest` is what the others leave of the mixture."""
    num_stems, num_channels, num_samples = others.shape
    stems = others.new_empty(num_stems + 1, num_channels, num_samples)
    # Piece by piece: double precision, in which the sum of the stems is rounded only once, takes
    # several times the memory of a block.
    pieces = zip(
        *(part.split(PIECE_SAMPLES, dim=-1) for part in (stems, others, mixture)), strict=True
    )
    for piece, piece_of_others, piece_of_mixture in pieces:
        piece.copy_(with_rest(piece_of_others.double(), piece_of_mixture.double(), rest))
    return stems


def _stems(
    separator: Separator,
    blocks: Iterable[Block],
    *,
    rates: tuple[int, int],
    chunks: tuple[int, int],
    execution: Execution,
    rest: int | None,
) -> Iterator[Stems]:
    held = Held()
    others = [index for index in range(len(separator.stems)) if index != rest]
    outer, inner = rates
    estimates = _estimates(
        separator,
        resampled(held.remember(blocks), outer, inner),
        chunks=chunks,
        execution=execution,
    )

    def completed(stems: Float[Tensor, "S_others C _"]) -> Stems:
        mixture = held.take(stems.shape[2])
        stems = stems[:, :, : mixture.shape[1]]  # rounded up twice: a few samples may be too many
        if rest is None or not has_samples(mixture):
            return stems
        return with_remainder(stems, mixture, rest)

    # map and filter let go of a block that was handed on, where the variable of a loop would keep
    # it while the network runs.
    kept = map(itemgetter(others), estimates)
    yield from filter(has_samples, map(completed, resampled(kept, inner, outer)))
    assert held.num_samples == 0, "the stems are shorter than the mixture"


def _estimates(
    separator: Separator,
    blocks: Iterable[Block],
    *,
    chunks: tuple[int, int],
    execution: Execution,
) -> Iterator[Stems]:
    """Chunks through the separator and back together, all at the separator's rate."""
    chunk_samples, hop = chunks
    splitter = Splitter(chunk_samples=chunk_samples, hop=hop)
    adder = OverlapAdder(chunk_samples=chunk_samples, hop=hop)
    waiting: list[Chunk] = []
    num_owed = 0
    in_order = None
    if isinstance(separator, SpectrogramSeparator) and separator.num_past_frames:
        in_order = InOrder(separator, hop=hop)
    stem_order = None
    if not has_ordered_stems(separator):
        stem_order = ChunkOrder(hop=hop, num_channels=separator.num_channels)

    def run(batch: list[Chunk]) -> Iterator[Stems]:
        nonlocal num_owed
        if not batch:
            return
        mixtures = torch.stack([chunk.samples for chunk in batch])
        if in_order is not None:
            in_order.move_to(batch[0])
        estimates = _separated(separator, mixtures, execution=execution, in_order=in_order)
        for chunk, estimate in zip(batch, estimates, strict=True):
            if stem_order is not None:
                estimate = stem_order(estimate, chunk.num_settled)
            settled = adder.add(estimate, chunk.num_settled)
            num_owed -= settled.shape[2]
            yield settled

    for block in blocks:
        waiting += splitter.push(block)
        num_owed += block.shape[1]
        # As many chunks as fill a batch, whatever the block: the same batches for any block size.
        num_groups = -(-block.shape[0] // separator.num_channels)
        at_once = max(1, execution.batch_size // num_groups) if in_order is None else 1
        while len(waiting) >= at_once:
            yield from run(waiting[:at_once])
            del waiting[:at_once]
    waiting += splitter.finish()
    if not num_owed:
        return
    for batch in [waiting] if in_order is None else [[chunk] for chunk in waiting]:
        yield from run(batch)
    yield adder.finish()[:, :, :num_owed]


class InOrder:
    """A separator that is shown its past, given the chunks of one stream in their order.

    Args:
        separator: of a network that is shown earlier crops.
        hop: samples from the start of a chunk to the start of the next.
    """

    def __init__(self, separator: SpectrogramSeparator, *, hop: int) -> None:
        self.separator = separator
        self.hop = hop
        self._past: Past | None = None
        self._num_chunks = 0
        self._start = 0  # of the last chunk
        self._num_frames = 0  # of the last chunk

    def move_to(self, chunk: Chunk) -> None:
        """Forget what overlaps with the chunk that is separated next: its past ends before it."""
        start = self._num_chunks * self.hop - chunk.num_settled
        if self._past is not None:
            advanced = round((start - self._start) / self.separator.stft.hop_length)
            kept = self._past.mixture.shape[-1] - self._num_frames + advanced
            self._past = self._past.until(kept)
        self._num_chunks += 1
        self._start = start

    def __call__(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """Separate the chunk moved to, all its groups of channels at once."""
        estimates, self._past = self.separator.separate_after(mixture, past=self._past)
        self._num_frames = self.separator.stft.num_frames(mixture.shape[-1])
        return estimates


def _separated(
    separator: Separator,
    mixtures: Float[Tensor, "B C L"],
    *,
    execution: Execution,
    in_order: InOrder | None,
) -> Float[Tensor, "B S C L"]:
    """The separator, which takes a certain number of channels, over mixtures of any number."""
    num_mixtures, num_given, _ = mixtures.shape
    num_channels = separator.num_channels
    lacking = -num_given % num_channels
    if lacking:
        mixtures = torch.cat([mixtures, mixtures[:, -1:].expand(-1, lacking, -1)], dim=1)
    items = rearrange(mixtures, "b (group c) l -> (b group) c l", c=num_channels)
    if in_order is None:
        estimates = execution(separator, items)
    else:
        estimates = execution.whole(in_order, items)
    estimates = rearrange(estimates, "(b group) s c l -> b s (group c) l", b=num_mixtures)
    if not lacking:
        return estimates
    last = num_given - 1  # went in more than once: its copies are averaged
    averaged = estimates[:, :, last:].mean(dim=2, keepdim=True)
    return torch.cat([estimates[:, :, :last], averaged], dim=2)


def resampled(
    blocks: Iterable[Float[Tensor, "*any _"]], orig: int, new: int
) -> Iterator[Float[Tensor, "*any _"]]:
    """Blocks with samples in the last dimension, at another rate; untouched if it is the same."""
    if orig == new:
        yield from blocks
        return
    resampler: StreamResampler | None = None
    leading: torch.Size = torch.Size()
    for block in blocks:
        if resampler is None:
            leading = block.shape[:-1]
            resampler = StreamResampler(orig=orig, new=new, num_channels=leading.numel())
        yield resampler.push(block.reshape(leading.numel(), -1)).reshape(*leading, -1)
    if resampler is not None:
        yield resampler.finish().reshape(*leading, -1)


def has_samples(block: Float[Tensor, "*any _"]) -> bool:
    """Whether a block holds any."""
    return block.shape[-1] > 0


def aligned(streams: Sequence[Iterator[Tensor]]) -> Iterator[list[Tensor]]:
    """Streams of equal length in step: from all of them the same samples at a time."""
    waiting: list[Tensor | None] = [None] * len(streams)
    while True:
        for number, stream in enumerate(streams):
            if waiting[number] is None:
                waiting[number] = next((b for b in stream if b.shape[-1]), None)
        blocks = [block for block in waiting if block is not None]
        if len(blocks) < len(streams):
            assert not blocks, "one stream is longer than another"
            return
        length = min(block.shape[-1] for block in blocks)
        waiting = [block[..., length:] if block.shape[-1] > length else None for block in blocks]
        blocks = [block[..., :length] for block in blocks]
        yield blocks


class Held:
    """The mixture between the moment it came in and the moment its stems are ready."""

    def __init__(self) -> None:
        self.num_samples = 0
        self._blocks: deque[Tensor] = deque()

    def remember(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The same blocks, kept until they are taken."""
        for block in blocks:
            self._blocks.append(block)
            self.num_samples += block.shape[1]
            yield block

    def take(self, num_samples: int) -> Float[Tensor, "C L"]:
        """The oldest samples, `num_samples` of them or as many as there are."""
        taken: list[Tensor] = []
        wanted = min(num_samples, self.num_samples)
        self.num_samples -= wanted
        while wanted > 0:
            block = self._blocks.popleft()
            if block.shape[1] > wanted:
                self._blocks.appendleft(block[:, wanted:])
                block = block[:, :wanted]
            taken.append(block)
            wanted -= block.shape[1]
        return torch.cat(taken, dim=1) if taken else torch.empty(1, 0)
