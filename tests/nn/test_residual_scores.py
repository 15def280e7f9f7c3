import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from frametx.nn.residual_scores import (
    Backend,
    ResidualScores,
    residual_attention,
    use_backend,
)

BACKENDS: tuple[Backend, ...] = ("auto", "fused", "materialised")


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def chain(layers: list[tuple[Tensor, Tensor, Tensor]], backend: Backend) -> list[Tensor]:
    """What every layer attended to, and the scores at the end."""
    scores, outputs = None, []
    for q, k, v in layers:
        attended, scores = residual_attention(q, k, v, scale=0.5, scores=scores, backend=backend)
        outputs.append(attended)
    assert scores is not None
    return [*outputs, scores.materialised()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_where_the_chain_starts_it_is_plain_attention(backend: Backend) -> None:
    q, k, v = draw(3, 2, 4, 6, 8)
    ours, scores = residual_attention(q, k, v, scale=0.3, scores=None, backend=backend)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(q, k, v, scale=0.3))
    torch.testing.assert_close(scores.materialised(), 0.3 * q @ k.mT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_chain_of_two_is_one_attention_over_joined_queries_and_keys(backend: Backend) -> None:
    q1, k1, q2, k2, v = draw(5, 2, 4, 6, 8)
    ours = chain([(q1, k1, v), (q2, k2, v)], backend)[1]
    joined = torch.cat([q1, q2], -1), torch.cat([k1, k2], -1)
    torch.testing.assert_close(ours, F.scaled_dot_product_attention(*joined, v, scale=0.5))


@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3), (1, 2, 2, 3)])
@pytest.mark.parametrize("num_queries", [1, 7, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_backends_agree_in_values_and_gradients(
    shape: tuple[int, ...], num_queries: int, dtype: torch.dtype
) -> None:
    """Layers of different widths, as a U-Net has, and values narrower than the chain."""
    torch.manual_seed(0)
    num_keys, widths = 9, (4, 2, 3)
    layers = [
        tuple(
            torch.randn(*shape, tokens, width, dtype=dtype).requires_grad_()
            for tokens in (num_queries, num_keys, num_keys)
        )
        for width in widths
    ]
    inputs = [tensor for layer in layers for tensor in layer]
    results = {}
    for backend in ("fused", "materialised"):
        outputs = chain([(q, k, v) for q, k, v in layers], backend)
        upstream = [torch.linspace(-1, 1, out.numel(), dtype=dtype).view_as(out) for out in outputs]
        results[backend] = outputs, torch.autograd.grad(outputs, inputs, upstream)
    for fused, materialised in zip(*results.values(), strict=True):
        for ours, theirs in zip(fused, materialised, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(3,), (2, 1, 3)])
def test_long_chains_agree_too(shape: tuple[int, ...]) -> None:
    """From so many keys on, the matrix is written block by block."""
    torch.manual_seed(0)
    layers = [
        tuple(torch.randn(*shape, 700, 4, dtype=torch.float64).requires_grad_() for _ in "qkv")
        for _ in range(2)
    ]
    inputs = [tensor for layer in layers for tensor in layer]
    fused, written = (chain([(q, k, v) for q, k, v in layers], b) for b in BACKENDS[1:])
    for ours, theirs in zip(fused, written, strict=True):
        torch.testing.assert_close(ours, theirs)
    # the last output needs the first layer's scores; the scores themselves count too
    gradients = []
    for outputs in (fused, written):
        loss = torch.stack([(0.1 * out).sin().sum() for out in outputs]).sum()
        gradients.append(torch.autograd.grad(loss, inputs))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_scores_that_come_in_are_left_as_they_are() -> None:
    q, k, v = draw(3, 2, 4, 6, 8)
    before = draw(2, 4, 6, 6)
    kept = before.clone()
    residual_attention(q, k, v, scale=0.5, scores=ResidualScores(q, matrix=before))
    assert torch.equal(before, kept)


def test_fused_scores_are_not_written_down_and_materialised_ones_stay_so() -> None:
    q, k, v = draw(3, 2, 4, 6, 8)
    _, fused = residual_attention(q, k, v, scale=0.5, scores=None, backend="fused")
    assert fused.matrix is None
    assert fused.num_features == 8
    _, written = residual_attention(q, k, v, scale=0.5, scores=fused, backend="materialised")
    assert written.matrix is not None
    _, still = residual_attention(q, k, v, scale=0.5, scores=written, backend="fused")
    torch.testing.assert_close(still.materialised(), 3 * 0.5 * q @ k.mT)


def test_auto_writes_short_scores_down_and_not_long_ones() -> None:
    with torch.inference_mode():
        for num_tokens, is_fused in ((16, False), (1024, True)):
            q, k, v = torch.randn(3, 1, 2, num_tokens, 8)
            _, scores = residual_attention(q, k, v, scale=0.5, scores=None)
            assert (scores.matrix is None) == is_fused


def test_auto_gives_up_queries_and_keys_when_the_chain_has_grown_wide() -> None:
    scores = None
    with torch.inference_mode():
        for _ in range(10):
            q, k, v = torch.randn(3, 1, 1, 1024, 32)
            _, scores = residual_attention(q, k, v, scale=0.1, scores=scores)
    assert scores is not None
    assert scores.matrix is not None


@pytest.mark.parametrize("matrix", [False, True])
@pytest.mark.parametrize("other_matrix", [False, True])
def test_chains_add_up_in_either_form(matrix: bool, other_matrix: bool) -> None:
    def scores(written: bool) -> ResidualScores:
        q, k = draw(2, 2, 3, 5, 4)
        known = ResidualScores(q, terms=((q, k),))
        return ResidualScores(q, matrix=known.materialised()) if written else known

    one, other = scores(matrix), scores(other_matrix)
    torch.testing.assert_close(
        (one + other).materialised(), one.materialised() + other.materialised()
    )


def test_a_layer_that_is_in_both_chains_counts_twice_and_takes_no_more_room() -> None:
    q, k = draw(2, 2, 3, 5, 4)
    one = ResidualScores(q, terms=((q, k),))
    assert (one + one).num_features == 4
    torch.testing.assert_close((one + one).materialised(), 2 * one.materialised())


def test_weights_of_queries_are_weights_of_scores_in_either_form() -> None:
    q, k = draw(2, 2, 3, 5, 4)
    weight = torch.rand(2, 1, 5, 1, dtype=torch.float64)
    fused = ResidualScores(q, terms=((q, k), (q, 2 * k)))
    written = ResidualScores(q, matrix=fused.materialised())
    expected = weight * fused.materialised()
    torch.testing.assert_close(fused.weighted(weight).materialised(), expected)
    torch.testing.assert_close(written.weighted(weight).materialised(), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_memories_may_be_longer_than_the_queries(backend: Backend) -> None:
    q, k, v = draw(2, 3, 8), draw(2, 9, 8), draw(2, 9, 8)
    attended, scores = residual_attention(q, k, v, scale=1.0, scores=None, backend=backend)
    assert attended.shape == (2, 3, 8)
    assert scores.materialised().shape == (2, 3, 9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_autocast_stays_close(backend: Backend) -> None:
    q, k, v = torch.randn(3, 2, 4, 40, 8)
    exact, _ = residual_attention(q, k, v, scale=0.3, scores=None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, first = residual_attention(q, k, v, scale=0.3, scores=None, backend=backend)
        rough, _ = residual_attention(0 * q, k, v, scale=0.3, scores=first, backend=backend)
    torch.testing.assert_close(rough.float(), exact, atol=0.05, rtol=0.05)


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="attention backend flash must be one of auto, fused"):
        use_backend(nn.Identity(), "flash")
