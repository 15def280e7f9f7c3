from collections.abc import Callable
from typing import Any

import pytest
import torch

from frametx.legacy import v10_temporal as legacy
from frametx.models.v10_temporal import V10Temporal

Fixture = Callable[[str], dict[str, Any]]


def test_the_files_hyper_parameters_are_read_from_its_entries(reference: Fixture) -> None:
    stored = reference("v10_temporal")
    config, _ = legacy.convert(stored["state_dict"])
    asked = {key: value for key, value in stored["config"].items() if key != "dropout"}
    asked["channels"] = asked.pop("embedding")
    assert asked == {key: config[key] for key in asked}
    assert config["widths"] == [1, 2, 4, 6, 8, 10]
    assert config["map_widths"] == [1, 2, 4, 8, 12, 14]
    assert [config[key] for key in ("kernel_size", "projection_kernel_size", "num_taps")] == [3] * 3
    assert config["spares_single_maps"]


@torch.no_grad()
def test_other_names_of_tables_and_outputs_change_nothing(reference: Fixture) -> None:
    stored = reference("v10_temporal")
    renamed = {
        key.replace("attn.embedding.", "attn.rotary_embedding.").replace(
            "o_proj", "out_proj"
        ): value
        for key, value in stored["state_dict"].items()
    }
    assert renamed.keys() != stored["state_dict"].keys()
    assert all(legacy.KEYS.fullmatch(key) for key in renamed)
    config, weights = legacy.convert(renamed)
    network = V10Temporal(**config).eval()
    network.load_state_dict(weights)
    torch.testing.assert_close(network(stored["input"]), stored["output"], rtol=0, atol=1e-5)


def test_a_file_without_rotary_tables_needs_the_number_of_heads(reference: Fixture) -> None:
    old = reference("v10_temporal")["state_dict"]
    bare = {key: value for key, value in old.items() if not key.endswith("freqs")}
    with pytest.raises(ValueError, match="num_heads"):
        legacy.convert(bare)
    assert legacy.convert(bare, num_heads=4)[0]["num_heads"] == 4
