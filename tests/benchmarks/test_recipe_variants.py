"""The variants of the recipe: each composes, and the folded bodies are networks of an ensemble."""

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from benchmarks import recipe_variants
from benchmarks.recipe_variants import VARIANTS
from frametx.config import conf_dir

CONF = Path(recipe_variants.__file__).parent / "conf"
SMALLEST, LARGEST = 3e6, 11e6  # parameters


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_composes_and_differs_from_the_recipe(name: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        search = f"hydra.searchpath=[file://{CONF}]"
        recipe = compose("train", [search, "experiment=refiner"])
        cfg = compose("train", [search, "experiment=refiner", *VARIANTS[name]])
    assert (cfg == recipe) == (name == "recipe")


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.startswith("body_")])
def test_a_folded_body_returns_a_map_for_every_bin_and_all_of_it_learns(name: str) -> None:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        search = f"hydra.searchpath=[file://{CONF}]"
        overrides = ["experiment=refiner", *VARIANTS[name], "model.in_channels=9"]
        network = instantiate(compose("train", [search, *overrides]).model)
    assert SMALLEST < sum(weight.numel() for weight in network.parameters()) < LARGEST
    frames = 8 * network.frame_multiple
    maps = torch.rand(1, 9, 2048, frames, generator=torch.Generator().manual_seed(0))
    corrections = network(maps)
    assert corrections.shape == (1, 2, 2048, frames)
    corrections.square().mean().backward()
    without = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not without


def test_the_table_has_the_best_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe_variants, "RESULTS", tmp_path)
    for name, usdr in (("recipe", 6.8), ("rate", 6.9)):
        row = {"name": name, "overrides": [], "seconds_a_step": 4.0, "steps": 300, "usdr": usdr}
        (tmp_path / f"{name}.json").write_text(json.dumps(row))
    assert recipe_variants.table().splitlines()[2:] == [
        "| rate | nothing | 300 | 4.0 | 6.90 |",
        "| recipe | nothing | 300 | 4.0 | 6.80 |",
    ]
