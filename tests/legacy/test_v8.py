"""What a state_dict of V8 and V8.1 tells, and the script that ran one of them rounding."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from frametx import legacy

Fixture = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("name", ["v8", "v81"])
def test_the_files_hyper_parameters_are_read_from_its_entries(
    name: str, reference: Fixture
) -> None:
    stored = reference(name)
    _, config = legacy.recognise(stored["state_dict"])
    asked = {
        key: value
        for key, value in stored["config"].items()
        if key not in ("dropout", "expansions")
    }
    assert asked == {key: config[key] for key in asked}
    assert config["widths"] == [1, 2, 4, 6, 8, 10]
    num_features = [config["n_fft"] // 2 >> level for level in range(6)]
    # theirs are multiples of a level's features, and the first of them belongs to no level
    ratios = stored["config"]["expansions"][1:]
    assert config["expansions"] == [
        int(features * ratio) for features, ratio in zip(num_features, ratios, strict=True)
    ]


def test_a_file_without_rotary_tables_needs_the_number_of_heads(reference: Fixture) -> None:
    old = reference("v8")["state_dict"]
    bare = {key: value for key, value in old.items() if not key.endswith("freqs")}
    with pytest.raises(ValueError, match="give num_heads"):
        legacy.recognise(bare)
    assert legacy.recognise(bare, num_heads=2) == legacy.recognise(old)


@torch.no_grad()
def test_the_script_of_v8_rounded_and_that_of_its_successor_did_not(reference: Fixture) -> None:
    def error(name: str, *, rounds: bool) -> float:
        stored = reference(name)
        network = legacy.build(stored["state_dict"], options={"rounds_upsampling": rounds})
        return (network(stored["input"]) - stored["output"]).abs().mean().item()

    # rounding amplifies whatever is summed in another order, so it is nearer but not equal
    assert error("v8", rounds=True) < 0.75 * error("v8", rounds=False)
    assert error("v81", rounds=False) < 1e-3 * error("v81", rounds=True)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "self_attn.o_proj"])
def test_a_layer_without_its_mixing_of_maps_is_refused(layer: str, reference: Fixture) -> None:
    old = reference("v8")["state_dict"]
    del old[f"dec2_transformer.{layer}.weight_dw"]
    with pytest.raises(ValueError, match=r"nearest is v8, but dec2_transformer.*weight_dw"):
        legacy.recognise(old)
