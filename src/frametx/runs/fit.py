"""Training proper: checkpoints that survive, loggers that end, one line for a lost process."""

from pathlib import Path
from typing import Any, cast

import lightning as L
from lightning.fabric.utilities.exceptions import MisconfigurationException

from frametx.config import UnfinishedError
from frametx.runs.processes import announce_lost_processes, start_like_this
from frametx.runs.trainer import close_loggers
from frametx.training.callbacks import stopped_by
from frametx.training.optimizer_settings import ConfiguredOptimizers
from frametx.training.saving import AtomicCheckpoints
from frametx.training.stopping import StopBetweenSteps


def fit(
    trainer: L.Trainer, module: L.LightningModule, data: Any, *, resumed: str | None, folder: Path
) -> None:
    """Train to the end.

    Args:
        trainer: with all callbacks of the config.
        module: what learns.
        data: what it learns from.
        resumed: the checkpoint to go on from.
        folder: of the run.

    Raises:
        ValueError: if Lightning refuses the combination.
        UnfinishedError: if the last state could not be saved, or a process was lost.
        Stopped: if a signal ended it, when the state is saved.
    """
    checkpoints = AtomicCheckpoints()
    trainer.strategy.checkpoint_io = checkpoints
    cast(Any, trainer).callbacks[:0] = [StopBetweenSteps(), ConfiguredOptimizers()]
    start_like_this(resumed)
    failed = True
    try:
        with announce_lost_processes(trainer, folder / "checkpoints" / "last.ckpt"):
            trainer.fit(module, data, ckpt_path=resumed, weights_only=True)
        failed = False
    except MisconfigurationException as error:
        raise ValueError(str(error)) from error
    finally:
        close_loggers(trainer, failed=failed)
    stopped = stopped_by(trainer)
    if stopped is not None:  # in the last step
        raise stopped
    for path, reason in checkpoints.failed.items():
        state = "is still of an earlier step" if path.is_file() else "is not there"
        raise UnfinishedError(
            f"{path} could not be saved: {reason}; it {state}: make room, then ckpt_path=last goes "
            "on from what was saved last"
        )
