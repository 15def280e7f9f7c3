import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.bert.configuration_bert import BertConfig
from transformers.models.bert.modeling_bert import BertForMaskedLM, BertModel, BertSelfAttention
from transformers.utils import logging

from frametx.models.bert import Bert

SMALL: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 3,
    "n_fft": 64,
    "channels": 2,
    "encoder_features": 24,
    "num_layers": 2,
    "num_heads": 4,
    "expansion": 2,
    "dropout": 0.0,
    "norm_eps": 1e-5,
    "embedding_widths": [2, 3],
    "embedding_kernel_size": 3,
    "score_scale": "features",
    "pretrained": None,
    "freezes_encoder": True,
}
ORIGINAL = SMALL | {
    "out_channels": 2,
    "n_fft": 2048,
    "encoder_features": 1024,
    "expansion": 4,
    "embedding_widths": [2, 4, 6, 8, 10, 12, 14, 16],
    "embedding_kernel_size": 9,
}


def small(**changes: Any) -> Bert:
    torch.manual_seed(0)
    return Bert(**(SMALL | changes)).eval()


def magnitude() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.rand(2, 2, 32, 7)


def language_model(**changes: Any) -> BertForMaskedLM:
    torch.manual_seed(2)
    sizes: dict[str, Any] = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "vocab_size": 5,
    }
    return BertForMaskedLM(BertConfig(**(sizes | changes))).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    language_model().save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize(
    ("changes", "parameters", "learning"),
    [
        ({"channels": 2, "num_layers": 15, "num_heads": 4}, 383_238_721, 5_352_001),
        ({"channels": 4, "num_layers": 24, "num_heads": 16}, 1_216_686_667, 7_449_163),
        ({"channels": 8, "num_layers": 12, "num_heads": 16}, 1_220_880_991, 11_643_487),
    ],
)
def test_full_size_has_as_many_parameters_as_the_original(
    changes: dict[str, Any], parameters: int, learning: int
) -> None:
    with torch.device("meta"):
        model = Bert(**(ORIGINAL | changes))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == learning


def test_a_frozen_encoder_hands_the_gradient_on_and_takes_none() -> None:
    model = small()
    model(magnitude()).square().sum().backward()
    frozen = {name for name, p in model.named_parameters() if p.grad is None}
    assert frozen == {f"layers.{name}" for name, _ in model.layers.named_parameters()}
    assert model.embed.weight.grad is not None
    assert model.embed.weight.grad.any()


@torch.no_grad()
def test_the_maps_encoders_do_not_see_one_another() -> None:
    model = small()
    first, second, other = torch.rand(3, 2, 7, 24)
    (layer, _) = model.layers
    assert torch.equal(layer(first, second)[0], layer(first, other)[0])


@torch.no_grad()
def test_scores_divided_by_all_features_are_those_of_smaller_queries() -> None:
    model, smaller = small(), small(score_scale="head")
    for name, value in smaller.named_parameters():
        if ".query." in name:
            value /= 4**0.5  # the root of the number of heads
    torch.testing.assert_close(model(magnitude()), smaller(magnitude()))
    assert not torch.equal(small(score_scale="head")(magnitude()), model(magnitude()))


@torch.no_grad()
def test_a_pretrained_encoder_runs_in_every_map_as_it_learned(folder: Path) -> None:
    model = small(pretrained=str(folder), score_scale="head", norm_eps=1e-12)
    frames = torch.rand(3, 7, 24)
    maps = (frames, frames)
    for layer in model.layers:
        maps = layer(*maps)
    encoder = BertModel.from_pretrained(folder, local_files_only=True).eval().encoder
    expected = encoder(frames).last_hidden_state
    for ours in maps:
        torch.testing.assert_close(ours, expected)


def test_the_copies_of_a_pretrained_encoder_learn_apart(folder: Path) -> None:
    model = small(pretrained=str(folder), freezes_encoder=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(magnitude()).square().sum().backward()
    optimizer.step()
    weights = model.state_dict()
    name = "layers.0.maps.{}.intermediate.dense.weight"
    assert not torch.equal(weights[name.format(0)], weights[name.format(1)])


def test_reading_a_pretrained_encoder_prints_nothing(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    capfd.readouterr()
    small(pretrained=str(folder))
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled()


def test_a_missing_folder_is_named_when_the_network_is_run(tmp_path: Path) -> None:
    model = small(pretrained=str(tmp_path / "gone"))
    with pytest.raises(ValueError, match=r"pretrained=.*gone is no folder.*pretrained=null"):
        model(magnitude())


@torch.no_grad()
def test_loaded_weights_make_the_folder_unnecessary(folder: Path, tmp_path: Path) -> None:
    trained = small(pretrained=str(folder))
    # as a part of something, as in a checkpoint
    stored = nn.Sequential(trained).state_dict()
    again = small(pretrained=str(tmp_path / "gone"))
    nn.Sequential(again).load_state_dict(stored)
    assert torch.equal(again(magnitude()), trained(magnitude()))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_hidden_layers": 3}, "num_hidden_layers 3 instead of 2"),
        ({"num_attention_heads": 2}, "num_attention_heads 2 instead of 4"),
        ({"hidden_size": 32}, "hidden_size 32 instead of 24"),
        ({"intermediate_size": 40}, "intermediate_size 40 instead of 48"),
        ({"hidden_act": "relu"}, "relu"),
    ],
)
def test_a_folder_of_another_size_is_refused(
    changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    language_model(**changes).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=rf"must hold a BERT of the network's sizes.*{complaint}"):
        small(pretrained=str(tmp_path))


def test_a_folder_without_weights_or_without_anything_is_refused(
    folder: Path, tmp_path: Path
) -> None:
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    (tmp_path / "empty").mkdir()
    for place in (folder, tmp_path / "empty"):
        with pytest.raises(ValueError, match=rf"pretrained={place} must hold a BERT"):
            small(pretrained=str(place))


def test_without_the_package_the_way_to_get_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.models.bert", None)
    with pytest.raises(ValueError, match=r"pip install 'frametx\[bert\]'"):
        small()


def test_a_package_that_cannot_scale_scores_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    init = BertSelfAttention.__init__

    def without_scale(self: BertSelfAttention, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        del self.scaling

    monkeypatch.setattr(BertSelfAttention, "__init__", without_scale)
    with pytest.raises(ValueError, match="too old"):
        small()


def test_bins_that_cannot_be_halved_often_enough_are_refused() -> None:
    with pytest.raises(ValueError, match=r"n_fft \(72\).* 3 times.* 4 levels of embedding_widths"):
        small(n_fft=72, embedding_widths=[1, 2, 3])
