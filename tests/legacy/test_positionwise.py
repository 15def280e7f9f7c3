"""What the original files of the position-wise U-Net tell of their network."""

from collections.abc import Callable
from typing import Any

import torch

from frametx.legacy import positionwise as legacy
from frametx.legacy import recognise

Fixture = Callable[[str], dict[str, Any]]


def test_the_files_hyper_parameters_are_read_from_its_entries(reference: Fixture) -> None:
    stored = reference("positionwise")
    config, _ = legacy.convert(stored["state_dict"])
    asked = dict(stored["config"])
    assert config["expansion_factor"] == asked.pop("expansion")
    assert asked == {key: config[key] for key in asked}
    assert config["widths"] == [1, 2, 4, 6, 8, 10]
    assert config["num_taps"] == 9
    assert config["out_channels"] == 2
    assert config["has_unused_norms"]


def test_a_file_without_the_norms_that_take_no_part_is_understood(reference: Fixture) -> None:
    old = reference("positionwise")["state_dict"]
    unused = [key for key in old if key.startswith("enc") and "_transformer.norm3" in key]
    assert len(unused) == 12
    for key in unused:
        del old[key]
    name, config = recognise(old)
    assert (name, config["has_unused_norms"]) == ("positionwise", False)


def test_earlier_and_later_names_of_a_layer_are_the_same_layer(reference: Fixture) -> None:
    old = reference("positionwise")["state_dict"]
    renamed = {
        key.replace("out_proj", "o_proj").replace("rotary_embedding", "embedding"): value
        for key, value in old.items()
    }
    assert renamed.keys() != old.keys()
    config, weights = legacy.convert(renamed)
    expected_config, expected = legacy.convert(old)
    assert config == expected_config
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=0)
