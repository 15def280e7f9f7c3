"""What happens beside a training step: averaged weights, the recipe in checkpoints, throughput."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, Checkpoint, EMAWeightAveraging
from torch import Tensor

from frametx.data.trained_on import TrainedOn
from frametx.training.step_batch import StepBatch
from frametx.training.stopping import StopBetweenSteps, Stopped


class Ema(EMAWeightAveraging):
    """Lightning's exponential moving average of the weights, kept on the device of the module.

    Lightning's own copies the module while it still lies on the CPU and would fetch every weight
    from the device in every step. What is validated and saved as `state_dict` is the average.
    Parameters that do not learn, and those of parts that the module names in `not_averaged`, are
    not averaged but shared: they take memory, and room in a checkpoint, once. Buffers follow those
    of the module.

    Args:
        decay: share of the old average that stays at each step.
        start_step: first optimiser step that is averaged; the weights before it are noise.
    """

    def __init__(self, *, decay: float, start_step: int) -> None:
        super().__init__(use_buffers=False, decay=decay, update_starting_at_step=start_step)
        self.start_step = start_step
        self._is_swapped = False

    def _swap_models(self, pl_module: L.LightningModule) -> None:
        """Note who has the average."""
        super()._swap_models(pl_module)
        self._is_swapped = not self._is_swapped

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Give the module its own weights back if validation was broken off, for what saves it."""
        if self._is_swapped:
            self._swap_models(pl_module)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the average to where the module now is, but for what it shares with it."""
        average = self._average_model
        assert average is not None
        left_out = tuple(f"{part}." for part in getattr(pl_module, "not_averaged", ()))
        for averaged, (name, current) in zip(
            average.module.parameters(), pl_module.named_parameters(), strict=True
        ):
            if not current.requires_grad or name.startswith(left_out):
                averaged.data = current.data
        average.to(pl_module.device)
        mix = cast(Callable[[Tensor, Tensor, Tensor | int], Tensor], average.avg_fn)

        def mix_unless_shared(averaged: Tensor, current: Tensor, count: Tensor | int) -> Tensor:
            # a weighted sum of a number and itself is rounded
            is_shared = averaged.data_ptr() == current.data_ptr()
            return averaged if is_shared else mix(averaged, current, count)

        average.avg_fn = mix_unless_shared

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Average; until `start_step` simply follow, so that a checkpoint is always usable."""
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if trainer.global_step <= self.start_step and self._average_model is not None:
            self._average_model.module.load_state_dict(pl_module.state_dict())


class Recipe(Callback):
    """Puts the separator's config, versions, stage and what it was trained on in checkpoints.

    Args:
        recipe: what `frametx.checkpoint.recipe` returned; plain values only.
        heard_before: what the weights were trained on before this run.
    """

    def __init__(self, *, recipe: dict[str, Any], heard_before: TrainedOn) -> None:
        self.recipe = recipe
        self.heard_before = heard_before
        self._trained_on: dict[str, str | bool] | None = None

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the recipe and where in the curriculum the run is.

        The stream of samples has no end, so no batch is its last one: a run that reached max_steps
        can be resumed with a larger one.
        """
        checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["is_last_batch"] = False
        data = cast(Any, trainer).datamodule
        stage = data.curriculum.index(cast(Any, pl_module).position)
        if self._trained_on is None:
            self._trained_on = (self.heard_before | data.trained_on).stored()
        checkpoint["frametx"] = {
            **self.recipe,
            "stage": stage,
            "data_fingerprint": data.fingerprint,
            "trained_on": self._trained_on,
        }


class Throughput(Callback):
    """Logs steps, audio seconds and the share of time spent waiting for data.

    Args:
        every_n_steps: how often; each figure is the mean since the last time.
    """

    def __init__(self, *, every_n_steps: int) -> None:
        self.every_n_steps = every_n_steps
        self._reset()
        self._batch_ended: float | None = None

    def _reset(self) -> None:
        self._begin = time.monotonic()
        self._waited_s = self._audio_s = 0.0
        self._steps = 0

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: StepBatch, batch_idx: int
    ) -> None:
        """What passed since the last step ended was spent waiting for data and mixing it."""
        if self._batch_ended is None:
            self._reset()
        else:
            self._waited_s += time.monotonic() - self._batch_ended

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: StepBatch,
        batch_idx: int,
    ) -> None:
        """Count, and log every so often."""
        rate = cast(Any, pl_module).separator.sample_rate
        self._audio_s += len(batch.stems) * batch.stems.shape[-1] / rate
        self._steps += 1
        if self._steps == self.every_n_steps:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            elapsed = time.monotonic() - self._begin
            values = {
                "throughput/steps_per_s": self._steps / elapsed,
                "throughput/audio_s_per_s": self._audio_s * trainer.world_size / elapsed,
                "throughput/data_wait_percent": 100 * self._waited_s / elapsed,
            }
            lost = cast(Any, trainer).datamodule.num_lost_files
            if lost:
                values["data/lost_files"] = float(lost)
            for name, value in values.items():
                pl_module.log(name, value, batch_size=1)
            self._reset()
        self._batch_ended = time.monotonic()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave validation out: the next figure starts behind it."""
        self._batch_ended = None


class LastCheckpoint(Checkpoint):
    """Keeps one file from which a run resumes: rewritten every so often and at the end.

    Written between two steps only, when nothing is half done.
    Lightning's own `save_last` writes once more after the average has replaced the weights, and a
    run resumed from that file would not be the same run.

    Args:
        path: of the file.
        every_n_steps: steps tried between two writes.
    """

    def __init__(self, *, path: str, every_n_steps: int) -> None:
        self.path = path
        self.every_n_steps = every_n_steps
        self._repeats_validation = False

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save at every n-th step, at the last one, and where a signal ends the run."""
        stopped = stopped_by(trainer)
        is_last = trainer.global_step == trainer.max_steps or trainer.should_stop
        position = cast(Any, pl_module).position
        if is_last or stopped is not None or position % self.every_n_steps == 0:
            trainer.save_checkpoint(self.path)
        if stopped is not None:
            stopped.saved = self._saved(trainer, position)

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        """Save the step before a validation that was broken off by a signal."""
        agreed = stopped_by(trainer)
        if agreed is not None and agreed is exception and trainer.validating and not agreed.saved:
            self._repeats_validation = True
            trainer.save_checkpoint(self.path)
            agreed.saved = self._saved(trainer, cast(Any, pl_module).position)

    def _saved(self, trainer: L.Trainer, position: int) -> tuple[str, int] | None:
        """Where the state lies, unless there was no room for it."""
        failed = getattr(trainer.strategy.checkpoint_io, "failed", {})
        return None if Path(self.path) in failed else (self.path, position)

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Let a resumed run begin with the validation that was broken off."""
        if self._repeats_validation:
            progress = checkpoint["loops"]["fit_loop"]["epoch_loop.val_loop.batch_progress"]
            before = progress["total"]["completed"] - progress["current"]["completed"]
            progress["current"] = dict.fromkeys(progress["current"], 0)
            # What Lightning takes for an evaluation that was interrupted in a batch.
            begun, ended = ("ready", "started"), ("processed", "completed")
            progress["total"] = dict.fromkeys(begun, before + 1) | dict.fromkeys(ended, before)


def stopped_by(trainer: L.Trainer) -> Stopped | None:
    """What all devices have agreed to stop for."""
    found = (c.stopped for c in cast(Any, trainer).callbacks if isinstance(c, StopBetweenSteps))
    return next(found, None)
