from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx.training.initialisation import Initialisation, initialise


def network(*, maps: int = 3, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.ModuleDict(
        {"encoder": nn.Linear(4, 5), "decoder": nn.Linear(5, 4), "out": nn.Linear(4, maps)}
    )


def take(
    into: nn.Module,
    weights: dict[str, Tensor],
    *,
    strict: bool = True,
    leave_out: tuple[str, ...] = (),
    stored_config: dict[str, Any] | None = None,
    config: dict[str, Any] | None = None,
) -> Initialisation:
    return initialise(
        into,
        weights,
        path="a.ckpt",
        strict=strict,
        leave_out=leave_out,
        stored_config=stored_config or {},
        config=config or {},
    )


def test_what_fits_is_taken_to_the_bit() -> None:
    source, into = network(seed=1), network(seed=2)
    done = take(into, source.state_dict())
    for name, weight in into.state_dict().items():
        assert torch.equal(weight, source.state_dict()[name])
    assert sum(done.loaded.values()) == sum(p.numel() for p in into.parameters())
    assert "loaded 6 weights" in done.describe("a.ckpt")
    assert "anew" not in done.describe("a.ckpt")


def test_another_head_starts_anew_only_when_asked_and_both_shapes_are_told() -> None:
    source, into = network(maps=3, seed=1), network(maps=7, seed=2)
    before = into.state_dict()["out.weight"].clone()
    with pytest.raises(ValueError, match=r"out.weight: file \(3, 4\), network \(7, 4\)"):
        take(into, source.state_dict())
    done = take(into, source.state_dict(), strict=False)
    assert torch.equal(into.state_dict()["out.weight"], before)
    assert torch.equal(into.state_dict()["encoder.weight"], source.state_dict()["encoder.weight"])
    told = done.describe("a.ckpt")
    assert "start anew 2 of the network: out.weight, out.bias" in told
    assert "out.weight: file (3, 4), network (7, 4)" in told


def test_weights_of_the_file_without_a_place_are_named() -> None:
    source = network(seed=1).state_dict() | {"other.weight": torch.zeros(2)}
    with pytest.raises(ValueError, match=r"other.weight"):
        take(network(), source)
    done = take(network(), source, strict=False)
    assert list(done.left_out) == ["other.weight"]
    assert "left out 1 of the file: other.weight" in done.describe("a.ckpt")


def test_a_part_that_is_left_out_stays_as_it_was_drawn_also_when_strict() -> None:
    source, into = network(seed=1), network(seed=2)
    before = {name: weight.clone() for name, weight in into.state_dict().items()}
    done = take(into, source.state_dict(), leave_out=("out.*",))
    for name, weight in into.state_dict().items():
        expected = before if name.startswith("out.") else source.state_dict()
        assert torch.equal(weight, expected[name])
    assert list(done.anew) == ["out.weight", "out.bias"]
    with pytest.raises(ValueError, match=r"init.leave_out: head.\* fits no parameter"):
        take(into, source.state_dict(), leave_out=("head.*",))


def test_nothing_that_fits_is_an_error_even_when_tolerant() -> None:
    with pytest.raises(ValueError, match="none of its 1 weights fits"):
        take(network(), {"a": torch.zeros(1)}, strict=False)


def test_options_that_shapes_do_not_show_are_told() -> None:
    done = take(
        network(),
        network().state_dict(),
        stored_config={"network": {"score_scale": "head", "widths": [1, 2]}, "scale": "none"},
        config={"network": {"score_scale": "features", "widths": [1, 2]}, "new": 1},
    )
    told = "options that differ: network.score_scale: file head, network features"
    assert told in done.describe("a.ckpt")
    assert list(done.options) == ["network.score_scale"]
