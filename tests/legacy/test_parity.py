"""Every original network: recognised from its weights alone, it returns its own numbers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from frametx import legacy

Fixture = Callable[[str], dict[str, Any]]

# file of tests/fixtures/parity -> variant, tolerance, and what the file does not tell
NETWORKS: dict[str, tuple[str, float, dict[str, Any]]] = {
    "v1_thin": ("frame_transformer_v1", 5e-5, {}),
    "positionwise": ("positionwise", 2e-5, {}),
    "v2b": ("v2b", 1.5e-3, {}),
    "v2b_posemb": ("v2b", 1.3e-3, {}),
    "v3": ("v3", 1e-5, {}),
    "bert": ("bert", 1e-5, {}),
    "asym_unet_mct": ("asym_unet_mct", 1e-5, {}),
    "asym_unet_mct_gen_vout": ("asym_unet_mct", 5e-4, {}),
    "v7": ("v7", 1e-5, {}),
    "v8": ("v8", 3e-3, {}),
    "v81": ("v8", 1e-5, {}),
    "v9_patch": ("v9_patch", 1e-5, {}),
    "v10_temporal": ("v10_temporal", 1e-5, {}),
}


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_recognised_network_returns_the_original_logits(name: str, reference: Fixture) -> None:
    stored = reference(name)
    variant, tolerance, told = NETWORKS[name]
    assert legacy.recognise(stored["state_dict"], **told)[0] == variant
    network = legacy.build(stored["state_dict"], **told)
    expected = stored["output"][0] if isinstance(stored["output"], list) else stored["output"]
    torch.testing.assert_close(network(stored["input"]), expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_of_a_file_is_left_out_and_nothing_is_invented(
    name: str, reference: Fixture
) -> None:
    stored = reference(name)
    network = legacy.build(stored["state_dict"], **NETWORKS[name][2])
    entries = stored["state_dict"].items()
    trained = sum(value.numel() for key, value in entries if not key.endswith(("freqs", ".pe")))
    expected = stored.get("params", trained)
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize("name", NETWORKS)
def test_the_prefix_of_a_parallel_wrapper_changes_nothing(name: str, reference: Fixture) -> None:
    old, told = reference(name)["state_dict"], NETWORKS[name][2]
    wrapped = {f"module.{key}": value for key, value in old.items()}
    assert legacy.recognise(wrapped, **told) == legacy.recognise(old, **told)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_missing_entry_is_named(name: str, reference: Fixture) -> None:
    old, told = reference(name)["state_dict"], NETWORKS[name][2]
    missing = sorted(key for key in old if "freqs" not in key and not key.endswith(".pe"))[7]
    del old[missing]
    with pytest.raises(ValueError, match=rf"nearest is {NETWORKS[name][0]}, but .*{missing[-6:]}"):
        legacy.recognise(old, **told)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_entry_too_many_is_named(name: str, reference: Fixture) -> None:
    old, told = reference(name)["state_dict"], NETWORKS[name][2]
    old["detector.head.weight"] = torch.zeros(2, 3)
    with pytest.raises(ValueError, match=r"no place for 1 of \d+ entries: detector.*\(2, 3\)"):
        legacy.recognise(old, **told)


def test_something_else_is_refused_with_the_nearest_network() -> None:
    with pytest.raises(ValueError, match="no known network has these entries; the nearest is"):
        legacy.recognise({"encoder.weight": torch.zeros(3), "decoder.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="no known network"):
        legacy.recognise({})
