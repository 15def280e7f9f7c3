"""What is read from a file of V2b, in both of its forms."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from frametx.legacy import build, convert
from frametx.legacy import v2b as legacy

Fixture = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("name", ["v2b", "v2b_posemb"])
def test_the_files_hyper_parameters_are_read_from_its_entries(
    name: str, reference: Fixture
) -> None:
    stored = reference(name)
    config, _ = legacy.convert(stored["state_dict"])
    asked = dict(stored["config"])
    assert set(asked.pop("transformer_channels")) == {config["num_attention_maps"]}
    assert asked == {key: config[key] for key in asked}
    assert config["widths"] == [1, 2, 4, 6, 8, 10]
    assert config["embedding_widths"] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert config["num_linear_levels"] == 2
    assert config["attention_kernel_size"] == 9
    assert config["has_sinusoids"] == (name == "v2b")


@pytest.mark.parametrize("name", ["v2b", "v2b_posemb"])
def test_every_number_of_the_file_becomes_a_parameter_but_the_tables(
    name: str, reference: Fixture
) -> None:
    old = reference(name)["state_dict"]
    learned = sum(value.numel() for key, value in old.items() if not key.endswith("freqs"))
    assert sum(parameter.numel() for parameter in build(old).parameters()) == learned


def test_the_table_of_sinusoids_in_a_file_is_not_needed(reference: Fixture) -> None:
    old = reference("v2b")["state_dict"]
    _, config, weights = convert(old | {"positional_embedding.pe": torch.zeros(1, 1, 256, 4096)})
    assert config == convert(old).config
    assert weights.keys() == convert(old).weights.keys()


def test_the_form_of_a_single_day_is_refused_in_words(reference: Fixture) -> None:
    old = reference("v2b_posemb")["state_dict"]
    for entry in ("weight", "bias"):
        old[f"positional_embedding.out.norm.{entry}"] = torch.zeros(10, 1, 256)
    with pytest.raises(ValueError, match="joins 10 maps of 9 levels"):
        convert(old)


def test_levels_with_different_numbers_of_maps_are_refused_in_words(reference: Fixture) -> None:
    old = reference("v2b")["state_dict"]
    old["enc3_transformer.embed.weight"] = torch.zeros(4, 8, 1, 1)
    with pytest.raises(ValueError, match=r"enc3_transformer has 4 maps and enc0_transformer 3"):
        convert(old)
