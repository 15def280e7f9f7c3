import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import nn

from frametx.checkpoint import load_separator, recipe, save_separator

Compose = Callable[..., DictConfig]


@pytest.fixture
def config(compose_tiny: Compose, tmp_path: Path) -> dict[str, Any]:
    cfg = compose_tiny(tmp_path)
    return cast(dict[str, Any], OmegaConf.to_container(cfg.separator, resolve=True))


class Code:
    """What a malicious file would hold."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("exit 0",)


@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
def test_what_is_loaded_is_what_was_saved(
    name: str, config: dict[str, Any], tmp_path: Path
) -> None:
    separator = instantiate(config)
    save_separator(tmp_path / name, separator, config, model="tiny")
    loaded = load_separator(tmp_path / name)
    assert isinstance(loaded, nn.Module)
    assert not loaded.training
    mixture = 0.1 * torch.randn(1, 1, 3000)
    torch.testing.assert_close(loaded(mixture), separator.eval()(mixture), atol=0, rtol=0)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.ckpt: no such checkpoint"):
        load_separator(tmp_path / "none.ckpt")


def test_a_pickle_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "frametx": Code()}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="holds code"):
        load_separator(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.hub.load",
        "torch.nn.modules.module.torch.load",
        "frametx.config.os.system",
        "frametx.checkpoint.load_separator",
    ],
)
def test_a_config_that_calls_anything_else_is_refused(
    target: str, config: dict[str, Any], tmp_path: Path
) -> None:
    weights = instantiate(config).state_dict()
    bad = {**config, "network": {**config["network"], "extra": [{"_target_": target}]}}
    stored = {"state_dict": weights, "frametx": recipe(bad, model="tiny")}
    torch.save(stored, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=f"refused, because its config calls {target}"):
        load_separator(tmp_path / "x.ckpt")


def test_another_architecture_is_refused_with_the_first_keys(
    config: dict[str, Any], tmp_path: Path
) -> None:
    separator = instantiate(config)
    other = {**config, "network": {**config["network"], "expansion": 8}}
    save_separator(tmp_path / "x.ckpt", separator, other, model="tiny")
    with pytest.raises(ValueError, match=r"another architecture: \d+ of \d+ weights differ"):
        load_separator(tmp_path / "x.ckpt")


@pytest.mark.parametrize("contents", [b"", b"RIFF....WAVE", b"PK\x03\x04 cut short", b"\x80\x02}q"])
def test_a_file_that_is_no_checkpoint_is_refused(contents: bytes, tmp_path: Path) -> None:
    for name in ("x.ckpt", "x.safetensors"):
        (tmp_path / name).write_bytes(contents)
        with pytest.raises(ValueError, match="no checkpoint"):
            load_separator(tmp_path / name)


def test_plain_weights_are_no_frametx_checkpoint(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="no frametx checkpoint"):
        load_separator(tmp_path / "x.pth")
