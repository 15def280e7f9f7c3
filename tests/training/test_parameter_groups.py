import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from frametx.training.parameter_groups import (
    distances,
    freeze_parameters,
    optimizer_of,
    parameter_groups,
)


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


def around(network: nn.Module) -> nn.Module:
    """Named as in a module of training."""
    separator = nn.Module()
    separator.network = network
    module = nn.Module()
    module.separator = separator
    return module


def adamw(groups: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=1e-3)


def units(network: nn.Module) -> dict[str, nn.Module]:
    """The children of a network, entry by entry where they are lists."""
    found: dict[str, nn.Module] = {}
    for name, child in network.named_children():
        parts = child.named_children() if isinstance(child, nn.ModuleList) else [("", child)]
        found |= {f"{name}.{entry}".rstrip("."): part for entry, part in parts}
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_what_runs_later_is_never_farther_from_the_output(name: str) -> None:
    case = NETWORKS[name]
    network = case.build()
    ran: list[str] = []
    for unit, part in units(network).items():
        part.register_forward_hook(lambda *_, unit=unit: ran.append(unit))
    with torch.no_grad():
        network(case.magnitude(batch=1))
    far = distances(around(network))
    unit_far = {
        unit: {n for p, n in far.items() if p.startswith(f"separator.network.{unit}.")}
        for unit in dict.fromkeys(ran)
    }
    assert all(len(each) <= 1 for each in unit_far.values())
    order = [n for each in unit_far.values() for n in each]
    assert order == sorted(order, reverse=True)
    assert order[-1] == 0
    assert set(far.values()) == set(range(max(far.values()) + 1))  # none is skipped
    assert far.keys() == {n for n, _ in around(network).named_parameters()}


def test_a_level_of_the_encoder_is_one_step_however_many_parts_it_has() -> None:
    far = distances(around(NETWORKS["asym_unet_mct"].build()))
    at = {n.split(".")[2] + "." + n.split(".")[3]: far[n] for n in far}
    # 3 decoders, 2 layers of the bridge, 4 encoders, the lowest three of which have a transformer
    assert [at[f"decoders.{i}"] for i in range(3)] == [1, 2, 3]
    assert [at[f"bridge.{i}"] for i in range(2)] == [5, 4]
    assert [at[f"encoders.{i}"] for i in range(4)] == [9, 8, 7, 6]
    assert [at[f"decoder_transformers.{i}"] for i in range(3)] == [1, 2, 3]
    assert {at[name] for name in at if name.startswith("embedding.")} == {10}
    assert at["out.weight"] == 0


def test_the_rate_falls_by_one_factor_a_level() -> None:
    module = around(NETWORKS["v3"].build())
    groups = parameter_groups(module, weight_decay=0.1, layer_decay=0.5)
    optimizer = optimizer_of(adamw, groups)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    far = distances(module)
    for name, parameter in module.named_parameters():
        assert rates[id(parameter)] == 1e-3 * 0.5 ** far[name]
    assert len({*rates.values()}) == 5  # three layers, what is before and what is behind them


@pytest.mark.parametrize("layer_decay", [None, 0.7])
def test_only_matrices_and_kernels_decay_and_each_learns_in_one_group(
    layer_decay: float | None,
) -> None:
    module = around(NETWORKS["v2b"].build())
    groups = parameter_groups(module, weight_decay=0.1, layer_decay=layer_decay)
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(decay)
    for name, parameter in module.named_parameters():
        is_plain = parameter.ndim < 2 or "norm" in name or name.endswith("bias")
        assert decay[id(parameter)] == (0.0 if is_plain else 0.1)


def test_frozen_parameters_do_not_move_and_the_others_do() -> None:
    case = NETWORKS["v3"]
    network = case.build()
    module = around(network)
    freeze_parameters(module, ["network.layers.0.*", "separator.network.embed.*"])
    groups = parameter_groups(module, weight_decay=0.1)
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    optimizer = optimizer_of(adamw, groups)
    network.train()
    for _ in range(2):
        network(case.magnitude()).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    still = {name for name, p in module.named_parameters() if torch.equal(p, before[name])}
    assert still == {n for n in before if ".layers.0." in n or ".embed." in n}


def test_a_frozen_batch_norm_keeps_its_statistics_and_another_does_not() -> None:
    norms = (nn.BatchNorm2d(2), nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False))
    flat = (nn.Flatten(), nn.BatchNorm1d(18))  # as in Open-Unmix
    module = nn.Sequential(*norms, *flat)
    freeze_parameters(module, ["0.*", "4.*"])
    before = {name: value.clone() for name, value in module.named_buffers()}
    module.train()(1 + torch.randn(4, 2, 3, 3))
    moved = {n for n, value in module.named_buffers() if not torch.equal(value, before[n])}
    statistics = ("running_mean", "running_var")
    assert {n for n in moved if "running" in n} == {f"{i}.{s}" for i in (1, 2) for s in statistics}


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda m: freeze_parameters(m, ["network.layer.0.*"]), r"fits no parameter.*layers.0"),
        (lambda m: freeze_parameters(m, "network.*"), r"must be a list: freeze=\[network.\*\]"),
        (
            lambda m: freeze_parameters(m, ["*"]) and parameter_groups(m, weight_decay=0),
            "nothing that could learn",
        ),
        (lambda m: parameter_groups(m, weight_decay=0, layer_decay=1.5), "at most 1"),
        (lambda m: parameter_groups(m, weight_decay=0, layer_decay=0.0), "above 0"),
        (
            lambda _: parameter_groups(nn.Linear(2, 2), weight_decay=0, layer_decay=0.5),
            "Linear has no network with levels",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(make: Callable[[nn.Module], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(around(NETWORKS["v3"].build()))
