"""What a state_dict of V7 tells, and that of the version before it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from frametx import legacy

Fixture = Callable[[str], dict[str, Any]]
CHECKOUT = Path(__file__).parents[2]


def test_the_files_hyper_parameters_are_read_from_its_entries(reference: Fixture) -> None:
    stored = reference("v7")
    _, config = legacy.recognise(stored["state_dict"])
    asked = {key: value for key, value in stored["config"].items() if key != "dropout"}
    assert asked == {key: config[key] for key in asked}
    assert config["widths"] == [1, 2, 4, 6, 8, 10, 12, 14, 16]
    assert config["embedding_widths"] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert config["num_bottom_heads"] == config["num_heads"] // 2
    assert not config["mixes_encoder_hidden"]


def test_a_file_without_rotary_tables_needs_the_number_of_heads(reference: Fixture) -> None:
    old = reference("v7")["state_dict"]
    bare = {key: value for key, value in old.items() if not key.endswith("freqs")}
    with pytest.raises(ValueError, match="give num_heads"):
        legacy.recognise(bare)
    assert legacy.recognise(bare, num_heads=2) == legacy.recognise(old)


@torch.no_grad()
def test_the_version_before_it_mixed_the_encoders_hidden_features_and_converts_too() -> None:
    """Its reference numbers are ours: the plain V7, with the linear layers that version had."""
    if not (CHECKOUT / "benchmarks" / "plain").is_dir():
        pytest.skip(f"no benchmarks in {CHECKOUT}: not a checkout")
    sys.path.insert(0, str(CHECKOUT))
    from benchmarks.plain.blocks import MultichannelLinear
    from benchmarks.plain.v7 import EncoderTransformer, PlainV7

    torch.manual_seed(0)
    plain = PlainV7(n_fft=512, num_heads=2, num_attention_maps=2, expansions=[8] * 9).eval()
    for level in range(9):
        transformer = plain.get_submodule(f"enc{level + 1}_transformer")
        assert isinstance(transformer, EncoderTransformer)
        transformer.conv1 = MultichannelLinear(
            channels=2, features=256 >> level, features_out=8, depthwise=True
        )
    for part in plain.modules():  # at one, a map's scale would hide another's
        if isinstance(part, nn.Module) and hasattr(part, "eps"):
            nn.init.uniform_(part.get_parameter("weight"), 0.5, 1.5)
    name, config = legacy.recognise(plain.state_dict())
    assert name == "v7"
    assert config["mixes_encoder_hidden"]
    x = torch.rand(1, 2, 256, 9)
    ours = legacy.build(plain.state_dict())
    torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=1e-4)


def test_a_level_without_the_mixing_of_the_others_is_refused(reference: Fixture) -> None:
    old = reference("v7")["state_dict"]
    old["enc1_transformer.conv1.weight_dw"] = torch.eye(2)
    with pytest.raises(ValueError, match=r"enc2_transformer\.conv1\.weight_dw is missing"):
        legacy.recognise(old)
