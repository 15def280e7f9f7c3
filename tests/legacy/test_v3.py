"""What the files of V3 tell, under either name of their tables."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from frametx import legacy
from frametx.legacy import v3

Fixture = Callable[[str], dict[str, Any]]


def test_the_files_hyper_parameters_are_read_from_its_entries(reference: Fixture) -> None:
    stored = reference("v3")
    config, _ = v3.convert(stored["state_dict"])
    asked = {key: value for key, value in stored["config"].items() if key in config}
    assert {"channels", "num_layers", "num_heads", "expansion", "n_fft"} <= asked.keys()
    assert asked == {key: config[key] for key in asked}
    assert (config["kernel_size"], config["embedding_kernel_size"]) == (3, 3)


def test_every_weight_of_the_file_is_a_parameter_and_every_table_is_not(reference: Fixture) -> None:
    old = reference("v3")["state_dict"]
    learned = sum(value.numel() for key, value in old.items() if not key.endswith("freqs"))
    assert sum(p.numel() for p in legacy.build(old).parameters()) == learned == 201_680


@torch.no_grad()
def test_the_later_name_of_the_rotary_table_makes_the_same_network(reference: Fixture) -> None:
    stored = reference("v3")
    later = {
        key.replace("rotary_embedding", "embedding"): value
        for key, value in stored["state_dict"].items()
    }
    assert later.keys() != stored["state_dict"].keys()
    network = legacy.build(later)
    torch.testing.assert_close(network(stored["input"]), stored["output"], rtol=0, atol=1e-5)


def test_a_file_without_rotary_tables_needs_the_number_of_heads(reference: Fixture) -> None:
    old = reference("v3")["state_dict"]
    bare = {key: value for key, value in old.items() if not key.endswith("freqs")}
    with pytest.raises(ValueError, match="num_heads"):
        v3.convert(bare)
    assert v3.convert(bare, num_heads=2)[0]["num_heads"] == 2


@torch.no_grad()
def test_as_a_network_of_magnitudes_it_returns_the_same_numbers(reference: Fixture) -> None:
    stored = reference("v3")
    network = legacy.build(stored["state_dict"], options={"head": "magnitude"})
    assert isinstance(network, v3.V3)
    assert network.head == "magnitude"
    torch.testing.assert_close(network(stored["input"]), stored["output"], rtol=0, atol=1e-5)
