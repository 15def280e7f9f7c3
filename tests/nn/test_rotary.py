import pytest
import torch

from frametx.nn.rotary import Rotary


def test_a_turn_keeps_lengths() -> None:
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(Rotary(num_features=8)(x).norm(dim=-1), x.norm(dim=-1))


def test_products_depend_only_on_the_distance_between_tokens() -> None:
    q, k = torch.randn(8), torch.randn(8)
    rotary = Rotary(num_features=8)
    queries, keys = rotary(q.expand(1, 20, 8)), rotary(k.expand(1, 20, 8))
    products = (queries @ keys.mT)[0]
    for distance in range(-5, 6):
        along = products.diagonal(distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-4, rtol=0)


def test_each_pair_turns_as_a_complex_number() -> None:
    x = torch.randn(1, 6, 4)
    pairs = torch.view_as_complex(x.unflatten(-1, (2, 2)))
    angles = torch.arange(6.0)[:, None] * torch.tensor([1.0, 10_000**-0.5])
    turned = torch.view_as_real(pairs * torch.polar(torch.ones(6, 2), angles)).flatten(-2)
    torch.testing.assert_close(Rotary(num_features=4)(x), turned)


def test_the_first_token_and_a_lone_last_feature_stay() -> None:
    x = torch.randn(2, 6, 5)
    turned = Rotary(num_features=5)(x)
    torch.testing.assert_close(turned[:, 0], x[:, 0])
    torch.testing.assert_close(turned[..., 4], x[..., 4])
    assert not torch.allclose(turned[:, 1:, :4], x[:, 1:, :4])


def test_heads_of_one_feature_are_not_turned() -> None:
    x = torch.randn(2, 6, 1)
    assert Rotary(num_features=1)(x) is x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_angles_stay_exact_in_low_precision(dtype: torch.dtype) -> None:
    # 4001 and 4002 are the same number in float16 and bfloat16; their turns are not
    x = torch.tensor([1.0, 0.0]).expand(1, 4_096, 2)
    rotary = Rotary(num_features=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        turned = rotary(x.to(dtype))
    assert turned.dtype == dtype
    torch.testing.assert_close(turned.float(), rotary(x), atol=5e-3, rtol=0)


def test_half_precision_angles_are_exact_at_first_and_mistake_neighbours_far_out() -> None:
    x = torch.randn(1, 4097, 2)
    exact = Rotary(num_features=2)(x)
    rounded = Rotary(num_features=2, angle_precision="float16")(x)
    assert torch.equal(rounded[:, :2049], exact[:, :2049])  # whole numbers that half precision has
    assert not torch.equal(rounded[:, 2049:], exact[:, 2049:])


def test_features_beyond_those_that_turn_stay_as_they_are() -> None:
    x = torch.randn(2, 5, 8)
    turned = Rotary(num_features=4)(x)
    assert torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.equal(turned[..., :4], Rotary(num_features=4)(x[..., :4]))
