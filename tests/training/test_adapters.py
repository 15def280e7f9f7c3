import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from frametx.nn.low_rank import has_adapters, merged
from frametx.training.adapters import add_adapters


def _small_networks() -> dict[str, Any]:
    """The small networks that the models' own laws are checked with."""
    path = Path(__file__).parents[1] / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("small_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.NETWORKS


NETWORKS = _small_networks()


def adapt(network: nn.Module, **changes: Any) -> list[str]:
    given = {"rank": 2, "scale": 1.0, "targets": ["*"], "trained": []} | changes
    return add_adapters(network, **given)


def learn(network: nn.Module, magnitude: torch.Tensor, *, steps: int = 2) -> None:
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(steps):
        network(magnitude).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", [name for name in NETWORKS if "," not in name])
def test_adapters_begin_as_nothing_learn_and_merge_into_plain_weights(name: str) -> None:
    case = NETWORKS[name]
    network, plain = case.build(), case.build()
    magnitude = case.magnitude()
    before = network(magnitude)
    frozen = {n: p.clone() for n, p in network.state_dict().items()}
    adapted = adapt(network)
    assert torch.equal(network(magnitude), before)

    learn(network, magnitude)
    learnt = network.state_dict()
    assert has_adapters(learnt)
    result = merged(learnt)
    assert result.keys() == frozen.keys()
    moved = {n for n, weight in result.items() if not torch.equal(weight, frozen[n])}
    # a part that takes no part in this network's answer learns nothing
    assert moved == {*adapted} - {*case.unused}
    plain.load_state_dict(result)
    after = network(magnitude)
    torch.testing.assert_close(plain(magnitude), after, atol=1e-6, rtol=1e-5)
    assert not torch.equal(after, before)


def test_few_numbers_learn_and_frozen_weights_do_not_move() -> None:
    network = NETWORKS["v3"].build(channels=8, num_heads=4, expansion=8)
    network.requires_grad_(True)
    before = {n: p.detach().clone() for n, p in network.named_parameters()}
    adapted = adapt(network, rank=1, targets=["layers.*"], trained=["out.*"])
    assert all(name.startswith("layers.") for name in adapted)
    learning = {n for n, p in network.named_parameters() if p.requires_grad}
    ends = {n.rpartition(".")[2] for n in learning}
    assert ends == {"down", "up", "weight"}  # its head has no bias
    total = sum(p.numel() for p in network.parameters())
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) < 0.2 * total
    learn(network, NETWORKS["v3"].magnitude())
    for name, parameter in network.named_parameters():
        kept = name.replace("parametrizations.", "").replace(".original", "")
        if kept in before:
            assert torch.equal(parameter, before[kept]) is (not kept.startswith("out."))


def test_what_was_frozen_before_gets_no_adapter() -> None:
    network = NETWORKS["v3"].build()
    network.get_submodule("layers.0").requires_grad_(False)
    adapted = adapt(network, rank=1)
    assert adapted
    assert not [name for name in adapted if name.startswith("layers.0.")]


def test_batch_norms_keep_their_statistics_unless_they_are_trained() -> None:
    network = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.BatchNorm1d(8))
    adapt(network, rank=1, trained=["2.*"])
    before = {name: value.clone() for name, value in network.named_buffers()}
    learn(network, 1 + torch.randn(4, 8))
    moved = {n for n, value in network.named_buffers() if not torch.equal(value, before[n])}
    assert {n for n in moved if "running" in n} == {"2.running_mean", "2.running_var"}


def test_an_average_of_the_weights_can_be_taken_of_an_adapted_network() -> None:
    network = NETWORKS["v10_temporal"].build()
    adapt(network, rank=1)
    magnitude = NETWORKS["v10_temporal"].magnitude()
    average = copy.deepcopy(network)
    learn(network, magnitude, steps=1)
    assert not torch.equal(average(magnitude), network(magnitude))
    average.load_state_dict(network.state_dict())
    assert torch.equal(average(magnitude), network(magnitude))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rank": 0}, "lora.rank=0"),
        ({"scale": 0.0}, "lora.scale=0.0"),
        ({"rank": 4000}, "none is larger than its product would be"),
        ({"targets": ["decoders.*"]}, r"lora.targets: decoders.\* fits no parameter"),
        ({"trained": ["head"]}, "lora.trained: head fits no parameter"),
    ],
)
def test_adapters_that_cannot_be_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        adapt(NETWORKS["v3"].build(), **changes)
