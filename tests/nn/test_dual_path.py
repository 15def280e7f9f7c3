from itertools import pairwise

import pytest
import torch
from torch import nn

from frametx.nn.dual_path import (
    DualPathBlock,
    GlobalNorm,
    PathLayer,
    PathTransformer,
    into_chunks,
    overlap_add,
)


@pytest.mark.parametrize("chunk_frames", [2, 6, 10])
def test_chunks_added_up_are_twice_the_sequence_at_any_length(chunk_frames: int) -> None:
    for num_frames in range(1, 3 * chunk_frames + 2):
        x = torch.randn(2, num_frames, 3)
        joined = overlap_add(into_chunks(x, chunk_frames=chunk_frames), num_frames=num_frames)
        torch.testing.assert_close(joined, 2 * x)


def test_every_frame_is_in_two_chunks_half_a_chunk_apart() -> None:
    x = torch.arange(1.0, 12.0)[None, :, None]
    chunks = into_chunks(x, chunk_frames=6)[0, :, :, 0]
    assert chunks.shape[0] % 2 == 0
    assert chunks[0].tolist() == [0, 0, 0, 1, 2, 3]
    for earlier, later in pairwise(chunks):
        assert torch.equal(earlier[3:], later[:3])
    for frame in x.flatten():
        assert (chunks == frame).sum() == 2


def test_a_layer_is_torchs_own_with_the_norms_first() -> None:
    torch.manual_seed(0)
    ours = PathLayer(num_features=12, num_heads=3, hidden_features=20, dropout=0.0)
    theirs = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(ours.to_qkv.weight)
        theirs.self_attn.in_proj_bias.copy_(ours.to_qkv.bias.normal_())
    for target, source in (
        (theirs.self_attn.out_proj, ours.to_out),
        (theirs.linear1, ours.expand),
        (theirs.linear2, ours.contract),
        (theirs.norm1, ours.attention_norm),
        (theirs.norm2, ours.feed_forward_norm),
    ):
        target.load_state_dict(source.state_dict())
    x = torch.randn(2, 7, 12)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-5)


def test_a_global_norm_is_a_group_norm_of_one_group() -> None:
    x = torch.randn(2, 4, 6, 5)
    ours = GlobalNorm(num_features=5)
    theirs = nn.GroupNorm(1, 5, eps=1e-8)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.normal_())
        theirs.bias.copy_(ours.bias.normal_())
    torch.testing.assert_close(ours(x), theirs(x.movedim(-1, 1)).movedim(1, -1))


def test_a_block_runs_along_chunks_first_and_then_across_them() -> None:
    """Checked against loops over chunks and places."""
    torch.manual_seed(0)

    def transformer() -> PathTransformer:
        return PathTransformer(
            num_layers=1, num_features=4, num_heads=2, hidden_features=6, dropout=0.0
        )

    block = DualPathBlock(intra=transformer(), inter=transformer(), num_features=4)
    x = torch.randn(2, 3, 6, 4)
    within = torch.stack([block.intra(x[:, chunk]) for chunk in range(3)], dim=1)
    x1 = x + block.intra_norm(within)
    across = torch.stack([block.inter(x1[:, :, place]) for place in range(6)], dim=2)
    torch.testing.assert_close(block(x), x1 + block.inter_norm(across), atol=1e-5, rtol=1e-5)
