import torch

from frametx.nn.squared_relu import squared_relu


def test_negative_is_zero_and_positive_is_squared() -> None:
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    torch.testing.assert_close(squared_relu(x), torch.tensor([0.0, 0.0, 0.25, 9.0]))


def test_its_first_and_second_derivatives_are_those_of_finite_differences() -> None:
    x = torch.tensor([-2.0, -0.3, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(squared_relu, x)
    assert torch.autograd.gradgradcheck(squared_relu, x)
