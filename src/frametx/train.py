"""python -m frametx.train: compose a config, build its parts, fit, test the best weights."""

import os
import sys
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
import torch.distributed
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_original_cwd, instantiate
from hydra._internal.utils import get_args_parser
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies.launchers import subprocess_script
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from torch import nn

from frametx.checkpoint import (
    load_separator,
    load_weights,
    read_checkpoint,
    recipe,
    separator_weights,
)
from frametx.config import hydra_main
from frametx.evaluate import evaluate, report
from frametx.training.callbacks import Recipe


def train(cfg: DictConfig) -> Path | None:
    """Train as the config says; returns the best checkpoint (None where none was written).

    Raises:
        ValueError: for values that cannot work, before any process or file is started where possible.
    """
    check_devices(cfg)
    run = Path(cfg.paths.output_dir)
    resume = resume_from(cfg, run)
    L.seed_everything(cfg.seed, workers=True)
    data = instantiate(cfg.data)
    data.prepare_data()  # before any other process exists: a missing library ends here, in one line
    module = instantiate(cfg.module)
    if cfg.init_from is not None:
        stored = read_checkpoint(cfg.init_from)
        load_weights(module.separator, separator_weights(stored), cfg.init_from)
    stored_recipe = recipe(
        cast(dict[str, Any], OmegaConf.to_container(cfg.separator, resolve=True)),
        model=cfg.name_of_model,
    )
    try:
        trainer: L.Trainer = instantiate(cfg.trainer)
        trainer.callbacks.insert(0, Recipe(recipe=stored_recipe))
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    return finish(cfg, trainer, data)
