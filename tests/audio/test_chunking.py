import pytest
import torch
from torch import Tensor

from frametx.audio.chunking import Chunk, OverlapAdder, Splitter, fade_window, hop_samples

CHUNK = 16
OVERLAPS = [0.0, 0.25, 0.5, 0.75, 0.9]


def cut(stream: Tensor, overlap: float, block: int) -> list[Chunk]:
    splitter = Splitter(chunk_samples=CHUNK, hop=hop_samples(CHUNK, overlap))
    chunks = [chunk for part in stream.split(block, dim=1) for chunk in splitter.push(part)]
    return chunks + splitter.finish()


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("length", range(1, 3 * CHUNK + 2))
def test_a_stream_that_is_cut_and_added_is_the_stream(length: int, overlap: float) -> None:
    stream = torch.randn(2, length, generator=torch.Generator().manual_seed(length))
    adder = OverlapAdder(chunk_samples=CHUNK, hop=hop_samples(CHUNK, overlap))
    parts = [adder.add(chunk.samples, chunk.num_settled) for chunk in cut(stream, overlap, 5)]
    whole = torch.cat([*parts, adder.finish()], dim=1)
    torch.testing.assert_close(whole[:, :length], stream, atol=1e-6, rtol=0)
    assert not whole[:, length:].any()


@pytest.mark.parametrize("overlap", OVERLAPS)
def test_fades_add_up_to_one_for_a_constant_at_every_sample(overlap: float) -> None:
    adder = OverlapAdder(chunk_samples=CHUNK, hop=hop_samples(CHUNK, overlap))
    ones = cut(torch.ones(1, 57), overlap, 57)
    parts = [adder.add(chunk.samples, chunk.num_settled) for chunk in ones]
    whole = torch.cat([*parts, adder.finish()], dim=1)
    assert (whole - 1).abs().max() <= 1e-6


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("block", [1, 3, CHUNK - 1, CHUNK, CHUNK + 1, 1000])
def test_chunks_do_not_depend_on_the_blocks(block: int, overlap: float) -> None:
    stream = torch.arange(53.0)[None]
    expected = cut(stream, overlap, 7)
    chunks = cut(stream, overlap, block)
    assert [c.num_settled for c in chunks] == [c.num_settled for c in expected]
    assert all(torch.equal(a.samples, b.samples) for a, b in zip(chunks, expected, strict=True))


def test_the_last_chunk_is_full_and_ends_with_the_stream() -> None:
    chunks = cut(torch.arange(22.0)[None], 0.25, 4)
    assert chunks[-1].samples[0].tolist() == list(range(6, 22))
    assert chunks[-1].num_settled == 6  # chunks start at 0 and would at 12: 6 .. 11 are settled


def test_neighbouring_chunks_fade_without_a_jump() -> None:
    # Chunks that disagree by a constant: the seam is a ramp as long as the overlap.
    hop = hop_samples(64, 0.5)
    adder = OverlapAdder(chunk_samples=64, hop=hop)
    parts = [adder.add(torch.full((1, 64), float(i % 2)), 0) for i in range(6)]
    whole = torch.cat([*parts, adder.finish()], dim=1)
    assert whole.diff().abs().max() <= 1 / 32 + 1e-6


def test_the_last_seam_fades_too() -> None:
    splitter = Splitter(chunk_samples=64, hop=32)
    chunks = splitter.push(torch.zeros(1, 64 + 32 + 7)) + splitter.finish()
    adder = OverlapAdder(chunk_samples=64, hop=32)
    parts = [
        adder.add(torch.full((1, 64), float(i % 2)), c.num_settled) for i, c in enumerate(chunks)
    ]
    whole = torch.cat([*parts, adder.finish()], dim=1)
    assert whole.shape == (1, 103)
    assert whole.diff().abs().max() <= 1 / 32 + 1e-6


def test_the_window_never_touches_zero() -> None:
    assert all(fade_window(64, hop).min() > 0 for hop in range(1, 65))


def test_nothing_in_gives_no_chunk() -> None:
    assert cut(torch.zeros(1, 0), 0.5, 1) == []


@pytest.mark.parametrize("overlap", [-0.1, 1.0, 2.0])
def test_an_overlap_out_of_range_is_refused_with_its_value(overlap: float) -> None:
    with pytest.raises(ValueError, match=rf"overlap \({overlap}\) must be"):
        hop_samples(CHUNK, overlap)


def test_a_chunk_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 sample, not 0"):
        hop_samples(0, 0.5)
