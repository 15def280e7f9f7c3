import pytest
import torch

from frametx.nn.residual_scores import ResidualScores
from frametx.nn.score_gate import ScoreGate
from frametx.nn.squared_relu import squared_relu


def known(matrix: torch.Tensor) -> ResidualScores:
    """Scores that were written down, of queries that do not matter."""
    return ResidualScores(matrix[..., :1], matrix=matrix)


def gated(gate: ScoreGate, previous: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    return gate(known(previous), known(skip)).materialised()


def plainly(gate: ScoreGate, previous: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
    """The gate as it is defined: two 3-d convolutions."""
    hidden = squared_relu(gate.conv_in(torch.cat([previous, skip], 1)))
    g = gate.conv_out(hidden).sigmoid()
    return g * previous + (1 - g) * skip


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("num_heads", [1, 2, 5])
@pytest.mark.parametrize("num_frames", [1, 6])
def test_the_banded_convolution_is_the_3d_convolution(
    num_channels: int, num_heads: int, num_frames: int
) -> None:
    gate = ScoreGate(num_channels=num_channels).double()
    shape = (2, num_channels, num_heads, num_frames, num_frames)
    previous, skip = torch.randn(2, *shape, dtype=torch.float64)
    torch.testing.assert_close(gated(gate, previous, skip), plainly(gate, previous, skip))


def test_its_gradients_are_those_of_the_3d_convolution() -> None:
    gate = ScoreGate(num_channels=2).double()
    previous, skip = torch.randn(2, 1, 2, 3, 4, 4, dtype=torch.float64).requires_grad_()
    wanted = (previous, skip, *gate.parameters())
    upstream = torch.randn(1, 2, 3, 4, 4, dtype=torch.float64)
    ours = torch.autograd.grad(gated(gate, previous, skip), wanted, upstream)
    expected = torch.autograd.grad(plainly(gate, previous, skip), wanted, upstream)
    for gradient, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(gradient, other)


def test_an_open_gate_gives_the_previous_scores_and_a_shut_one_those_of_the_skip() -> None:
    gate = ScoreGate(num_channels=2)
    previous, skip = torch.randn(2, 1, 2, 3, 4, 4)
    with torch.no_grad():
        gate.conv_out.weight.zero_()
        assert gate.conv_out.bias is not None
        gate.conv_out.bias.fill_(100)
        torch.testing.assert_close(gated(gate, previous, skip), previous)
        gate.conv_out.bias.fill_(-100)
        torch.testing.assert_close(gated(gate, previous, skip), skip)
