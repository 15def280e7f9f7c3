"""How a separator learns: stems -> mixture -> estimates -> loss, one optimiser step a batch."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import lightning as L
import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from frametx.data.tracks import Mixture
from frametx.losses.vocal_bands import watch_separator
from frametx.nn.block import recompute_blocks
from frametx.nn.residual_scores import use_backend
from frametx.separator import Separator
from frametx.training.gradient_exchange import exchange_in_backward
from frametx.training.guarded_step import GuardedStep, step_schedules
from frametx.training.parameter_groups import optimizer_of, parameter_groups
from frametx.training.schedules import scheduled
from frametx.training.step_batch import StepBatch, seed_step
from frametx.training.track_scores import TrackScores


class SeparationModule(L.LightningModule):
    """Trains a separator to take mixtures of stems apart again.

    A batch is one whole optimiser step (see `StepBatch`), so steps, batches and the learning rate
    count alike and the curriculum may change batch size and accumulation between any two steps.
    Dropout is drawn from a generator seeded by (seed, step, rank): a resumed run continues to the
    last bit without any stored generator state.

    Args:
        separator: what is trained.
        loss: of (estimates, stems), B S C L each.
        optimizer: takes parameter groups.
        scheduler: factor of the learning rate at a step, a pure function.
        clip_norm: largest global L2 norm of the gradient.
        weight_decay: of matrices and kernels; norms and biases have none.
        max_nonfinite: steps in a row whose gradient may be NaN or infinite, which are skipped;
            one more ends the training.
        seed: of dropout.
        overlap: of chunks when whole tracks are separated in validation.
        attention: backend of every attention that has the choice: `auto`, `fused` or
            `materialised`, see `frametx.nn.residual_scores`.
        recompute: keep of every block only what goes in and out, and run it again in backward:
            much less memory for about a third more time, and the same numbers.
        layer_decay: factor of the learning rate from level to level, from the output to the input;
            None is one rate for all.

    Raises:
        ValueError: if there is no such backend, or nothing that could be run again, or the loss
            wants a side output that the network does not have.
    """

    def __init__(
        self,
        *,
        separator: nn.Module,
        loss: nn.Module,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        scheduler: Callable[[int], float],
        clip_norm: float,
        weight_decay: float,
        max_nonfinite: int,
        seed: int,
        overlap: float,
        attention: str,
        recompute: bool,
        layer_decay: float | None = None,
    ) -> None:
        super().__init__()
        use_backend(separator, attention)
        recompute_blocks(separator, recomputes=recompute)
        watch_separator(loss, separator)
        self.automatic_optimization = False
        self.separator = separator
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.weight_decay = weight_decay
        self.layer_decay = layer_decay
        self.seed = seed
        self.guarded_step = GuardedStep(clip_norm=clip_norm, max_nonfinite=max_nonfinite)
        self.scores = TrackScores(overlap=overlap)

    @property
    def position(self) -> int:
        """Steps tried so far, skipped ones included: where the data and the schedule stand."""
        return self.trainer.global_step + self.guarded_step.num_skipped

    def configure_optimizers(self) -> Any:  # Lightning's type names every form it accepts
        """Decay for matrices and kernels only; the schedule is stepped by `training_step`."""
        groups = parameter_groups(
            self, weight_decay=self.weight_decay, layer_decay=self.layer_decay
        )
        optimizer = optimizer_of(self.optimizer, groups)
        return [optimizer], [scheduled(optimizer, self.scheduler)]

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """One optimiser step: micro-batches forward and backward, clip, step, schedule."""
        optimizer = cast(Optimizer, self.optimizers())
        position = self.position
        seed_step(seed=self.seed, position=position, rank=self.global_rank)
        parts = batch.stems.split(batch.micro_batch)
        total = torch.zeros((), device=self.device)
        for i, stems in enumerate(parts):
            with exchange_in_backward(self.trainer.strategy, enabled=i == len(parts) - 1):
                estimates = self.separator(stems.sum(dim=1))
                loss = self.loss(estimates, stems) / len(parts)
                self.manual_backward(loss)
            total += loss.detach()
        norm = self.guarded_step(
            optimizer,
            self.parameters(),
            position=position,
            loss=total,
            batch=batch,
            say=self.print,
        )
        step_schedules(cast(LambdaLR, self.lr_schedulers()))
        self.log("train/loss", total, prog_bar=True, batch_size=len(batch.samples))
        self.log("train/gradient_norm", norm, batch_size=len(batch.samples))
        skipped = float(self.guarded_step.num_skipped)
        self.log("train/skipped", skipped, batch_size=len(batch.samples))

    def validation_step(self, batch: Mixture, batch_idx: int) -> None:
        """Separate one whole track as `separate` would, and keep its scores."""
        self.scores.add(cast(Separator, self.separator), batch, self.device)

    def on_validation_epoch_end(self) -> None:
        """Average the scores over all tracks of all ranks; silent stems (NaN) do not count."""
        self.scores.log(self, cast(Separator, self.separator))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the count of skipped steps, which the position needs."""
        checkpoint["num_skipped"] = self.guarded_step.num_skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the count of skipped steps."""
        self.guarded_step.num_skipped = checkpoint.get("num_skipped", 0)
