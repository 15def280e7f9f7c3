"""Stems that have no order, as speakers, brought into one: over chunks, channels and streams.

A network that tells voices apart gives them in any order, and perhaps in another one in the next
chunk, or in a channel that it heard by itself. Where two answers are about the same samples, that
order is taken in which they differ least.

    chunk 0    a ............          a ............
               b ............          b ............
    chunk 1            b ............          a ............
                       a ............          b ............
                       ----                    ----            what both are about
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from frametx.audio.permutation import best_order

_AGREEMENT = 1e-3  # of what equal answers would have; less says nothing about the order


class ChunkOrder:
    """Gives the chunks of one stream the order of the first one.

    Where chunks have nothing in common but silence, the order is kept: what was done to the chunk
    before is done to this one. Channels that were separated apart from each other may be upside
    down or silent against each other; each agrees with itself over time and, as far as they are
    alike, with the others.

    Args:
        hop: samples from the start of a chunk to the start of the next.
        num_channels: that are separated together and so have one order.

    Source: the overlap of blocks decides in continuous speech separation as well (Chen et al.,
        "Continuous speech separation: dataset and analysis", 2020).
    """

    def __init__(self, *, hop: int, num_channels: int) -> None:
        self.hop = hop
        self.num_channels = num_channels
        self._before: list[Tensor] = []  # groups of channels of the last chunk, in order
        self._orders: list[Tensor] = []  # that they were brought into it by

    def __call__(
        self, estimate: Float[Tensor, "S C L"], num_settled: int
    ) -> Float[Tensor, "S C L"]:
        """The next chunk in the order of those before.

        Args:
            estimate: of the chunk.
            num_settled: of its samples lie before the place where a chunk would begin.
        """
        groups = list(estimate.split(self.num_channels, dim=1))
        advanced = self.hop - num_settled
        shared = estimate.shape[-1] - advanced
        over_time = [
            _Agreement.of(group[..., :shared], before[..., advanced:])
            for group, before in zip(groups, self._before, strict=False)
        ]
        if not self._before:
            over_time = [_Agreement.none(len(estimate))] * len(groups)
            self._orders = [torch.arange(len(estimate))] * len(groups)
        ordered: dict[int, Tensor] = {}
        # The channel that knows best who went on speaking decides first.
        for number in sorted(range(len(groups)), key=lambda n: -float(over_time[n].pairs.max())):
            agreement = over_time[number]
            for other in ordered.values():
                agreement = agreement.beside(_Agreement.across(groups[number], other))
            self._orders[number] = agreement.order(kept=self._orders[number])
            ordered[number] = groups[number][self._orders[number]]
        self._before = [ordered[number] for number in range(len(groups))]
        return torch.cat(self._before, dim=1)


class StreamOrder:
    """Gives several streams of stems of one mixture the order of one of them, block by block.

    That one is the first whose stems have an order of their own, else the first. What was said long
    ago counts less: a stream may have lost its order over a silence.

    Args:
        num_channels: of each stream, that were separated together and so have one order.
        is_ordered: of each stream, whether its stems are what they are called; it stays as it is.
        half_life: samples after which what was heard counts half.
    """

    def __init__(
        self, *, num_channels: Sequence[int], is_ordered: Sequence[bool], half_life: float
    ) -> None:
        self.num_channels = tuple(num_channels)
        self.is_ordered = tuple(is_ordered)
        self.half_life = half_life
        self._agreements: dict[tuple[int, int], _Agreement] = {}
        self._orders: dict[tuple[int, int], Tensor] = {}

    def __call__(self, blocks: Sequence[Float[Tensor, "S C L"]]) -> list[Float[Tensor, "S C L"]]:
        """The same samples of all streams."""
        chosen = self.is_ordered.index(True) if any(self.is_ordered) else 0
        model = blocks[chosen]
        weight = 0.5 ** (model.shape[-1] / self.half_life)
        found: list[Tensor] = []
        for number, block in enumerate(blocks):
            if number == chosen or self.is_ordered[number]:
                found.append(block)
                continue
            width = self.num_channels[number]
            groups = zip(block.split(width, dim=1), model.split(width, dim=1), strict=True)
            found.append(
                torch.cat(
                    [
                        self._ordered((number, at), group, reference, weight=weight)
                        for at, (group, reference) in enumerate(groups)
                    ],
                    dim=1,
                )
            )
        return found

    def _ordered(
        self, key: tuple[int, int], group: Tensor, reference: Tensor, *, weight: float
    ) -> Tensor:
        agreement = _Agreement.of(group, reference)
        if key in self._agreements:
            agreement = agreement.beside(self._agreements[key].times(weight))
        kept = self._orders.get(key, torch.arange(len(group)))
        self._agreements[key] = agreement
        self._orders[key] = agreement.order(kept=kept)
        return group[self._orders[key]]


class _Agreement:
    """How much of each stem of one answer is in each stem of another, and how much there could be.

    The order of the largest sum of inner products is the one of the smallest squared difference,
    because the energies are the same in every order.
    """

    def __init__(self, pairs: Float[Tensor, "S_here S_there"], most: float) -> None:
        self.pairs = pairs
        self.most = most

    @classmethod
    def none(cls, num_stems: int) -> "_Agreement":
        return cls(torch.zeros(num_stems, num_stems, dtype=torch.float64), 0.0)

    @classmethod
    def of(cls, here: Float[Tensor, "S C L"], there: Float[Tensor, "S C L"]) -> "_Agreement":
        """Of the same samples of the same channels."""
        a, b = here.double(), there.double()
        return cls(torch.einsum("scl,tcl->st", a, b), float(a.norm() * b.norm()))

    @classmethod
    def across(
        cls, here: Float[Tensor, "S C L"], there: Float[Tensor, "S C_other L"]
    ) -> "_Agreement":
        """Of the same samples of different channels, which may be upside down to each other."""
        a, b = here.double(), there.double()
        pairs = torch.einsum("scl,tdl->stcd", a, b).abs().sum(dim=(2, 3))
        return cls(pairs, float(a.norm() * b.norm()))

    def beside(self, other: "_Agreement") -> "_Agreement":
        return _Agreement(self.pairs + other.pairs, self.most + other.most)

    def times(self, weight: float) -> "_Agreement":
        return _Agreement(weight * self.pairs, weight * self.most)

    def order(self, *, kept: Int[Tensor, " S"]) -> Int[Tensor, " S"]:
        """For each stem there its number here; `kept` where nothing speaks for another order."""
        best = best_order(self.pairs)
        places = torch.arange(len(kept))
        gained = self.pairs[best, places].sum() - self.pairs[kept, places].sum()
        return best if float(gained) > _AGREEMENT * self.most else kept
