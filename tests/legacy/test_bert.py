"""What the files of Bert tell, and what they do not."""

from collections.abc import Callable
from typing import Any

from frametx import legacy
from frametx.legacy import bert

Fixture = Callable[[str], dict[str, Any]]


def test_the_files_hyper_parameters_are_read_from_its_entries(reference: Fixture) -> None:
    stored = reference("bert")
    config, _ = bert.convert(stored["state_dict"])
    asked = {key: value for key, value in stored["config"].items() if key in config}
    assert {"channels", "num_layers", "num_heads", "expansion", "n_fft"} <= asked.keys()
    assert asked == {key: config[key] for key in asked}
    assert config["encoder_features"] == stored["config"]["hidden_size"]
    assert config["embedding_widths"] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert config["embedding_kernel_size"] == 9


def test_the_heads_are_as_many_as_bert_has_or_as_many_as_are_given(reference: Fixture) -> None:
    old = reference("bert")["state_dict"]
    assert legacy.recognise(old)[1]["num_heads"] == 4
    assert legacy.recognise(old, num_heads=8)[1]["num_heads"] == 8


def test_only_what_surrounds_the_encoders_learns(reference: Fixture) -> None:
    network = legacy.build(reference("bert")["state_dict"])
    learning = {name.split(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert learning == {"embedding", "embed", "out"}
