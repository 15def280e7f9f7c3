import pytest
import torch

from frametx.nn.convolutional_attention import ConvolutionalMultiheadAttention
from frametx.nn.convolutional_transformer_encoder import ConvolutionalTransformerEncoder
from frametx.nn.residual_scores import ResidualScores


def test_scores_add_up_along_a_chain() -> None:
    layer, x = ConvolutionalMultiheadAttention(num_channels=8, num_heads=2), torch.randn(3, 8, 4, 5)
    previous = torch.randn(3, 2, 20, 20)
    _, alone = layer(x)
    _, chained = layer(x, scores=ResidualScores(previous[..., :1], matrix=previous))
    torch.testing.assert_close(chained.materialised(), alone.materialised() + previous)


def test_maps_that_do_not_split_into_the_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="8 maps cannot be split into 3 heads"):
        ConvolutionalMultiheadAttention(num_channels=8, num_heads=3)


@pytest.mark.parametrize("restarts", [False, True])
def test_what_attention_and_feed_forward_ignore_passes_only_along_a_running_residual(
    restarts: bool,
) -> None:
    block = ConvolutionalTransformerEncoder(
        num_channels=8, num_heads=2, dropout=0.0, restarts_residual=restarts
    )
    x = torch.randn(2, 8, 3, 4)
    with torch.no_grad():
        for parameter in (*block.attention.to_out.parameters(), *block.contract.parameters()):
            parameter.zero_()
        passed, _ = block(x)
    assert torch.equal(passed, x) is restarts
