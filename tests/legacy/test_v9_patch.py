"""What the original files of V9 tell of their network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from frametx.legacy import build
from frametx.legacy import v9_patch as legacy
from frametx.models.v9_patch import V9Patch

Fixture = Callable[[str], dict[str, Any]]


def test_the_files_hyper_parameters_are_read_from_its_entries(reference: Fixture) -> None:
    stored = reference("v9_patch")
    config, _ = legacy.convert(stored["state_dict"])
    asked = dict(stored["config"])
    crops = 1 + 2 * config["num_past_crops"]
    assert (config["in_channels"], crops) == (2, 5)
    assert asked.pop("in_channels") == config["in_channels"] * crops
    for untold in ("n_fft", "dropout", "num_attention_maps"):
        del asked[untold]
    assert asked == {key: config[key] for key in asked}
    assert config["widths"] == [1, 2, 4, 8]
    assert config["kernel_size"] == 3


def test_the_bins_leave_no_trace_and_are_those_of_the_released_network(reference: Fixture) -> None:
    config, _ = legacy.convert(reference("v9_patch")["state_dict"])
    assert config["n_fft"] == 2048


def test_a_file_without_rotary_tables_needs_the_number_of_heads(reference: Fixture) -> None:
    old = reference("v9_patch")["state_dict"]
    bare = {key: value for key, value in old.items() if not key.endswith("freqs")}
    with pytest.raises(ValueError, match="num_heads"):
        legacy.convert(bare)
    config, _ = legacy.convert(bare, num_heads=2)
    assert config["num_heads"] == 2


def test_channels_that_are_no_whole_number_of_crops_are_refused(reference: Fixture) -> None:
    old = reference("v9_patch")["state_dict"]
    old["enc1.norm1.weight"] = torch.ones(8)
    with pytest.raises(ValueError, match="8 channels are not a mixture of 2 channels"):
        legacy.convert(old)


@pytest.mark.parametrize("block", ["enc1", "enc3", "dec2"])
def test_a_missing_shortcut_is_named(block: str, reference: Fixture) -> None:
    old = reference("v9_patch")["state_dict"]
    del old[f"{block}.idt.weight"]
    with pytest.raises(ValueError, match=rf"{block}.idt.weight"):
        legacy.convert(old)


def test_a_first_level_that_changes_nothing_has_no_shortcut(reference: Fixture) -> None:
    old = reference("v9_patch")["state_dict"]
    del old["enc1.idt.weight"]
    for name in ("norm1.weight", "norm1.bias"):
        old[f"enc1.{name}"] = old[f"enc1.{name}"][:2]
    old["enc1.conv1.weight"] = old["enc1.conv1.weight"][:2, :2]
    old["enc1.conv2.weight"] = old["enc1.conv2.weight"][:, :2]
    network = build(old, options={"n_fft": 256})
    assert isinstance(network, V9Patch)
    assert network.num_past_crops == 0
    assert isinstance(network.encoders[0].shortcut, nn.Identity)
