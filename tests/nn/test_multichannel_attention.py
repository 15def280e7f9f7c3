import pytest
import torch

from frametx.nn.frame_projection import FrameProjection
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention
from frametx.nn.residual_scores import ResidualScores


def attention(*, heads: int = 2, memory: bool = False) -> MultichannelMultiheadAttention:
    return MultichannelMultiheadAttention(
        num_channels=2, num_features=8, num_heads=heads, attends_memory=memory
    )


def test_scores_add_up_along_a_chain() -> None:
    layer, x = attention(), torch.randn(3, 2, 5, 8)
    previous = torch.randn(3, 2, 2, 5, 5)
    _, alone = layer(x)
    _, chained = layer(x, scores=ResidualScores(previous[..., :1], matrix=previous))
    torch.testing.assert_close(chained.materialised(), alone.materialised() + previous)


def test_a_memory_gives_keys_and_values_and_the_first_input_the_queries() -> None:
    layer = attention(memory=True)
    x, memory = torch.randn(2, 3, 2, 5, 8)
    constant = torch.ones_like(memory[:, :, :1]).expand_as(memory).contiguous()
    with torch.no_grad():  # no neighbours, so that equal frames of the memory give equal values
        for projection in (layer.to_q, layer.to_kv):
            assert isinstance(projection, FrameProjection)
            assert projection.taps is not None
            projection.taps[..., 0] = projection.taps[..., 2] = 0
    out, _ = layer(x, memory=constant)
    torch.testing.assert_close(out, out[:, :, :1].expand_as(out))
    assert not torch.allclose(layer(x, memory=memory)[0], out)


def test_a_missing_or_unexpected_memory_is_a_mistake() -> None:
    x = torch.randn(3, 2, 5, 8)
    with pytest.raises(AssertionError):
        attention(memory=True)(x)
    with pytest.raises(AssertionError):
        attention()(x, memory=x)


@pytest.mark.parametrize("heads", [3, 16])
def test_features_that_do_not_split_into_the_heads_are_refused(heads: int) -> None:
    with pytest.raises(ValueError, match=rf"8 features cannot be split into {heads} heads"):
        attention(heads=heads)


def test_heads_of_a_single_feature_work() -> None:
    out, scores = attention(heads=8)(torch.randn(3, 2, 5, 8))
    assert out.shape == (3, 2, 5, 8)
    assert scores.materialised().shape == (3, 2, 8, 5, 5)
