import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from frametx.nn.low_rank import LowRank, has_adapters, merged, num_added

SHAPES = [(6, 5), (3, 6, 5), (6, 4, 3, 3), (6, 1, 1, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_it_adds_nothing_at_first_and_then_a_matrix_of_its_rank(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape)
    adapter = LowRank(shape=weight.shape, rank=2, scale=0.5)
    assert torch.equal(adapter(weight), weight)
    nn.init.normal_(adapter.up)
    added = adapter(weight) - weight
    matrices = added if added.ndim <= 3 else added.flatten(1)
    assert (torch.linalg.matrix_rank(matrices, rtol=1e-4) == 2).all()
    doubled = LowRank(shape=weight.shape, rank=2, scale=1.0)
    doubled.load_state_dict(adapter.state_dict() | {"scale": torch.tensor(1.0)})
    torch.testing.assert_close(doubled(weight) - weight, 2 * added)


@pytest.mark.parametrize("shape", SHAPES)
def test_as_many_numbers_are_added_as_are_counted(shape: tuple[int, ...]) -> None:
    adapter = LowRank(shape=torch.Size(shape), rank=2, scale=1.0)
    assert sum(p.numel() for p in adapter.parameters()) == num_added(torch.Size(shape), 2)


def test_merging_touches_adapted_weights_alone_and_leaves_other_parametrisations() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 6), nn.Linear(6, 4), nn.Linear(4, 3))
    plain = {name: weight.clone() for name, weight in network.state_dict().items()}
    assert not has_adapters(plain)
    assert merged(plain).keys() == plain.keys()
    adapter = LowRank(shape=torch.Size((6, 5)), rank=1, scale=2.0)
    nn.init.normal_(adapter.up)
    parametrize.register_parametrization(network[0], "weight", adapter)
    nn.utils.parametrizations.spectral_norm(network[2])
    result = merged(network.state_dict())
    product = 2 * adapter.up @ adapter.down
    torch.testing.assert_close(result["0.weight"], plain["0.weight"] + product)
    assert torch.equal(result["1.weight"], plain["1.weight"])
    assert torch.equal(result["2.parametrizations.weight.original"], plain["2.weight"])


def test_the_product_is_as_precise_as_the_weight_under_autocast() -> None:
    torch.manual_seed(0)
    adapter = LowRank(shape=torch.Size((6, 5)), rank=2, scale=1.0)
    nn.init.normal_(adapter.up)
    weight = torch.randn(6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        inside = adapter(weight)
    torch.testing.assert_close(inside, adapter(weight), atol=0, rtol=0)
