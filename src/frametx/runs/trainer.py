"""Lightning's trainer for a run: what this machine cannot do is refused in one line."""

import logging
import warnings
from importlib import import_module
from typing import Any

import lightning as L
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ProgressBar
from omegaconf import DictConfig, open_dict

from frametx.config import one_line, root_cause


def quieten_lightning() -> None:
    """Leave out what Lightning says that a user can do nothing about."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*LeafSpec.*",  # Lightning 2.6 uses a deprecated class of torch
        "Experiment logs directory",  # Hydra has just made it
        ".*does not have many workers",  # data_wait_percent says whether more would help
        ".*smaller than the logging interval",
        "Checkpoint directory .* exists",  # it is the run's own, resumed
        r"Found \d+ module\(s\) in eval mode",  # members of an ensemble
        ".*sync_dist=True",  # scores have been averaged over all devices by then
        "The dirpath has changed",  # a resumed run looks for its best checkpoint anew
    ):
        warnings.filterwarnings("ignore", message=message)


def check_trainer(cfg: DictConfig) -> None:
    """Refuse a trainer that this machine or this kind of training cannot run.

    Raises:
        ValueError: naming the key, what there is, and the way out.
    """
    devices, accelerator = cfg.trainer.devices, cfg.trainer.accelerator
    wanted = devices if isinstance(devices, int) else None
    num_gpus = torch.cuda.device_count()
    if accelerator in ("gpu", "cuda") and num_gpus == 0:
        raise ValueError(
            f"trainer.accelerator={accelerator}: this machine has no GPU that torch can use; "
            "leave it at auto"
        )
    if accelerator != "cpu" and wanted is not None and wanted > max(1, num_gpus):
        raise ValueError(
            f"trainer.devices={wanted}: this machine has {num_gpus} GPU(s); give at most that "
            "many, or trainer.accelerator=cpu for as many processes on the CPU"
        )
    if cfg.trainer.max_steps < 1:
        raise ValueError(f"trainer.max_steps={cfg.trainer.max_steps} must be at least 1")
    if str(cfg.trainer.precision) in ("16", "16-mixed", "16-true"):
        raise ValueError(
            f"trainer.precision={cfg.trainer.precision} is not supported: half precision overflows "
            "in training; use strategy=bf16, or 32-true where the device has no bf16"
        )


def make_trainer(cfg: DictConfig) -> L.Trainer:
    """The trainer that the config describes, with its callbacks and loggers.

    Raises:
        ValueError: if Lightning refuses a key, a value, or a callback with them.
    """
    if not cfg.trainer.get("enable_progress_bar", True):
        leave_out_progress(cfg)
    try:
        return instantiate(cfg.trainer)
    except (InstantiationException, MisconfigurationException) as error:
        root = root_cause(error)
        if not isinstance(root, MisconfigurationException | TypeError | ValueError):
            raise
        raise ValueError(f"trainer: {one_line(error)}") from error


def leave_out_progress(cfg: DictConfig) -> None:
    """Take the progress bars out of the callbacks: Lightning refuses them without one."""
    callbacks = cfg.get("callbacks") or {}
    for name in [name for name, one in callbacks.items() if is_progress_bar(one)]:
        with open_dict(cfg):
            del cfg.callbacks[name]


def is_progress_bar(callback: Any) -> bool:
    """Whether a callback's config is of one of Lightning's progress bars, or derived from them."""
    module, _, name = str(callback and callback.get("_target_", "")).rpartition(".")
    try:
        return issubclass(getattr(import_module(module), name), ProgressBar)
    except (ImportError, AttributeError, ValueError, TypeError):
        return False


def close_loggers(trainer: L.Trainer, *, failed: bool) -> None:
    """Close what loggers keep open, so that the next run of this process begins its own.

    Lightning leaves a wandb run open, and a later logger goes on writing into it.
    """
    for logger in trainer.loggers:
        experiment = getattr(logger, "_experiment", None)
        ends = ("finish", "end", "stop", "close")  # wandb, comet, neptune, tensorboard
        end = next((e for n in ends if callable(e := getattr(experiment, n, None))), None)
        if end is not None and trainer.is_global_zero:
            quiet = {"exit_code": int(failed)} if end.__name__ == "finish" else {}
            end(**quiet)
            setattr(logger, "_experiment", None)  # noqa: B010 - of Lightning's own loggers
