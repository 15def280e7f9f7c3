"""Rates, betas and decays of a resumed run: those of its config, not those of its checkpoint."""

from typing import Any, cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

KEPT = ("params", "lr", "initial_lr")
"""What a group keeps: its parameters, and rates that follow from the base rate and the step."""


class ConfiguredOptimizers(Callback):
    """Gives restored optimisers the settings of the config again.

    Lightning restores the moments of an optimiser and, with them, every setting of its parameter
    groups. The rate at a step is the configured one times the schedule's factor, a pure function of
    the step; so without a change this changes nothing, to the last bit.
    """

    def __init__(self) -> None:
        self._settings: list[list[dict[str, Any]]] = []

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Remember the settings before the checkpoint's replace them."""
        self._settings = [group_settings(optimizer) for optimizer in trainer.optimizers]

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put them back."""
        for optimizer, settings in zip(trainer.optimizers, self._settings, strict=True):
            for group, configured in zip(optimizer.param_groups, settings, strict=True):
                group.update(configured)
        for one in trainer.lr_scheduler_configs:
            schedule = cast(LambdaLR, one.scheduler)
            groups = schedule.optimizer.param_groups
            schedule.base_lrs = [group["initial_lr"] for group in groups]
            for group, factor in zip(groups, schedule.lr_lambdas, strict=True):
                group["lr"] = group["initial_lr"] * factor(schedule.last_epoch)


def group_settings(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The settings of each parameter group, `initial_lr` as its rate without a schedule."""
    return [
        {key: value for key, value in group.items() if key not in KEPT}
        | {"initial_lr": group.get("initial_lr", group["lr"])}
        for group in optimizer.param_groups
    ]
