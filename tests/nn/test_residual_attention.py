import torch
import torch.nn.functional as F

from frametx.nn.residual_attention import residual_attention


def test_where_the_chain_starts_it_is_plain_attention() -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 8)
    ours, scores = residual_attention(q, k, v, scale=0.3, scores=None)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, scale=0.3))
    torch.testing.assert_close(scores, 0.3 * q @ k.mT)


def test_a_chain_of_two_is_one_attention_over_joined_queries_and_keys() -> None:
    q1, k1, q2, k2, v = torch.randn(5, 2, 4, 6, 8)
    _, first = residual_attention(q1, k1, v, scale=0.5, scores=None)
    ours, _ = residual_attention(q2, k2, v, scale=0.5, scores=first)
    joined = torch.cat([q1, q2], -1), torch.cat([k1, k2], -1)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(*joined, v, scale=0.5))


def test_the_scores_that_come_in_are_left_as_they_are() -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 8)
    before = torch.randn(2, 4, 6, 6)
    kept = before.clone()
    residual_attention(q, k, v, scale=0.5, scores=before)
    assert torch.equal(before, kept)


def test_memories_may_be_longer_than_the_queries() -> None:
    q, k, v = torch.randn(2, 3, 8), torch.randn(2, 9, 8), torch.randn(2, 9, 8)
    attended, scores = residual_attention(q, k, v, scale=1.0, scores=None)
    assert attended.shape == (2, 3, 8)
    assert scores.shape == (2, 3, 9)
