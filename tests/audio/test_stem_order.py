"""Stems brought into one order: over chunks, channels and streams."""

import pytest
import torch
from torch import Tensor

from frametx.audio.stem_order import ChunkOrder, StreamOrder


def voices(num_stems: int, num_channels: int, length: int) -> Tensor:
    generator = torch.Generator().manual_seed(length + num_stems)
    return torch.randn(num_stems, num_channels, length, generator=generator)


@pytest.mark.parametrize("num_stems", [2, 3, 4])
def test_every_chunk_gets_the_order_of_the_first(num_stems: int) -> None:
    stems = voices(num_stems, 2, 1_000)
    order = ChunkOrder(hop=60, num_channels=2)
    torch.manual_seed(0)
    orders = [torch.randperm(num_stems) for _ in range(10)]
    for number, drawn in enumerate(orders):
        chunk = stems[..., 60 * number : 60 * number + 80]
        assert torch.equal(order(chunk[drawn], 0), chunk[orders[0]])
    # The last one is moved back, to end with the stream.
    assert torch.equal(order(stems[..., 550:630].roll(1, 0), 50), stems[..., 550:630][orders[0]])


def test_a_chunk_with_nothing_in_common_is_treated_as_the_one_before() -> None:
    stems = voices(2, 1, 300)
    stems[..., 60:200] = 0
    order = ChunkOrder(hop=60, num_channels=1)
    order(stems[..., :80], 0)
    swapped = stems.flip(0)
    for start in (60, 120, 180):  # in silence nothing tells that they are swapped
        assert torch.equal(
            order(swapped[..., start : start + 80], 0), swapped[..., start:][..., :80]
        )
    # Swapped once more, and now there is sound in common: brought back to what came before.
    assert torch.equal(order(stems[..., 210:290], 30), swapped[..., 210:290])


def test_each_channel_is_followed_by_itself_and_by_the_others_as_far_as_they_are_alike() -> None:
    left, right = voices(2, 1, 5_000), voices(2, 1, 4_000)
    alike = torch.cat([left[..., :4_000], -0.5 * left[..., :4_000]], dim=1)
    apart = torch.cat([left[..., :4_000], right], dim=1)
    for given in (alike, apart):
        order = ChunkOrder(hop=600, num_channels=1)
        stems = given.clone()
        if not torch.equal(order(given[..., :800], 0), given[..., :800]):
            assert given is apart  # of unlike channels nothing says which stems belong together
            stems[:, 1] = given.flip(0)[:, 1]
        for number, swapped_channel in enumerate((0, 1, 0, 1), start=1):
            chunk = stems[..., 600 * number : 600 * number + 800]
            turned = chunk.clone()
            turned[:, swapped_channel] = chunk.flip(0)[:, swapped_channel]
            assert torch.equal(order(turned, 0), chunk)
    order = ChunkOrder(hop=600, num_channels=1)
    turned = alike[..., :800].clone()
    turned[:, 1] = turned.flip(0)[:, 1]
    assert torch.equal(order(turned, 0), alike[..., :800])  # already in the first chunk


def test_a_channel_that_was_silent_takes_the_order_of_those_that_spoke() -> None:
    stems = voices(2, 1, 300).repeat(1, 2, 1)
    stems[:, 0, :100] = 0
    order = ChunkOrder(hop=60, num_channels=1)
    order(stems[..., :80], 0)
    chunk = stems[..., 60:140]
    assert torch.equal(order(chunk.flip(0), 0), chunk)


def test_streams_follow_the_first_one_and_forget() -> None:
    stems = voices(2, 2, 3_000)
    order = StreamOrder(num_channels=[1, 1, 2], is_ordered=[False] * 3, half_life=100.0)
    for start in range(0, 2_000, 200):
        block = stems[..., start : start + 200]
        one_channel = block.clone()
        one_channel[:, 1] = block.flip(0)[:, 1]
        for found in order([block, one_channel, block.flip(0)]):
            assert torch.equal(found, block)
    # From here on the last stream is right by itself: a block of two half-lives tells.
    block = stems[..., 2_000:2_200]
    assert all(torch.equal(found, block) for found in order([block, block, block]))
    # A sample or two say nothing against what was heard just before.
    tiny = stems[..., 2_200:2_202]
    assert torch.equal(order([tiny, tiny, tiny])[1], tiny)
    assert torch.equal(order([tiny, tiny.flip(0), tiny])[1], tiny.flip(0))


def test_streams_whose_stems_have_an_order_keep_it_and_the_others_follow() -> None:
    stems = torch.randn(3, 2, 2_000, generator=torch.Generator().manual_seed(2))
    order = StreamOrder(num_channels=[2] * 3, is_ordered=[False, True, True], half_life=100.0)
    for block in stems.split(200, dim=-1):
        found = order([block.roll(1, 0), block, block.flip(0)])
        assert torch.equal(found[0], block)
        assert torch.equal(found[1], block)
        assert torch.equal(found[2], block.flip(0))  # a model that errs is not put right
