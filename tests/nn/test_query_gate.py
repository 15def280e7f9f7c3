import torch

from frametx.nn.query_gate import QueryGate
from frametx.nn.residual_scores import ResidualScores


def chain(*, num_features: int) -> ResidualScores:
    query, key = torch.randn(2, 2, 3, 2, 5, num_features, dtype=torch.float64)
    return ResidualScores(query, terms=((query, key),))


def written(scores: ResidualScores) -> ResidualScores:
    return ResidualScores(scores.query, matrix=scores.materialised())


def gate() -> QueryGate:
    return QueryGate(num_channels=3, num_heads=2, previous_features=4, skip_features=8).double()


def test_the_blend_is_the_same_for_queries_and_keys_as_for_scores() -> None:
    layer, previous, skip = gate(), chain(num_features=4), chain(num_features=8)
    fused = layer(previous, skip)
    assert fused.matrix is None
    torch.testing.assert_close(
        fused.materialised(), layer(written(previous), written(skip)).materialised()
    )


def test_an_open_gate_gives_the_previous_scores_and_a_shut_one_those_of_the_skip() -> None:
    layer, previous, skip = gate(), chain(num_features=4), chain(num_features=8)
    with torch.no_grad():
        layer.bias.fill_(100)
        torch.testing.assert_close(layer(previous, skip).materialised(), previous.materialised())
        layer.bias.fill_(-100)
        torch.testing.assert_close(layer(previous, skip).materialised(), skip.materialised())


def test_each_head_and_query_has_a_weight_of_its_own_for_all_maps_and_keys() -> None:
    layer, previous, skip = gate(), chain(num_features=4), chain(num_features=8)
    p, s = previous.materialised(), skip.materialised()
    with torch.no_grad():
        weight = (layer(previous, skip).materialised() - s) / (p - s)
    torch.testing.assert_close(weight, weight[:, :1, :, :, :1].expand_as(weight))
    assert weight[0, 0, :, :, 0].unique().numel() == 2 * 5
