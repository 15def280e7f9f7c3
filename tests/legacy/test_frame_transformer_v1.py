"""What is read from a file of FrameTransformerV1, and what its entries may be called."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from frametx.legacy import build
from frametx.legacy import frame_transformer_v1 as legacy

Fixture = Callable[[str], dict[str, Any]]


def test_the_files_hyper_parameters_are_read_from_its_entries(reference: Fixture) -> None:
    stored = reference("v1_thin")
    config, _ = legacy.convert(stored["state_dict"])
    assert stored["config"] == {key: config[key] for key in stored["config"]}
    assert config["widths"] == [1, 2, 4, 6, 8, 10]
    assert config["shares_attention_norm"]


def test_every_number_of_the_file_becomes_a_parameter_but_the_tables(reference: Fixture) -> None:
    old = reference("v1_thin")["state_dict"]
    learned = sum(value.numel() for key, value in old.items() if not key.endswith("freqs"))
    assert learned == 603_672
    assert sum(parameter.numel() for parameter in build(old).parameters()) == learned


@torch.no_grad()
def test_the_names_of_the_later_files_are_understood(reference: Fixture) -> None:
    stored = reference("v1_thin")
    renamed = {
        key.replace("rotary_embedding", "embedding").replace("out_proj", "o_proj"): value
        for key, value in stored["state_dict"].items()
    }
    assert renamed.keys() != stored["state_dict"].keys()
    torch.testing.assert_close(build(renamed)(stored["input"]), stored["output"], rtol=0, atol=5e-5)


def test_a_file_without_rotary_tables_needs_the_number_of_heads(reference: Fixture) -> None:
    old = reference("v1_thin")["state_dict"]
    bare = {key: value for key, value in old.items() if not key.endswith("freqs")}
    with pytest.raises(ValueError, match="num_heads"):
        legacy.convert(bare)
    assert legacy.convert(bare, num_heads=2)[0] == legacy.convert(old)[0]
