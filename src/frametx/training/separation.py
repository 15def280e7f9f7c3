"""How a separator learns: stems -> mixture -> estimates -> loss, one optimiser step a batch."""

import math
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import lightning as L
import torch
from jaxtyping import Float
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from frametx.data.tracks import Mixture
from frametx.metrics.sdr import si_sdr, usdr
from frametx.nn.block import recompute_blocks
from frametx.nn.residual_scores import use_backend
from frametx.separator import Separator
from frametx.streaming import separate_waveform


@dataclass
class StepBatch:
    """This device's samples of one optimiser step, mixed and ready.

    samples: rank-free numbers, from which everything about them can be drawn again.
    micro_batch: how many of them go through the network at once.
    describe: names the files behind a sample.
    """

    stems: Float[Tensor, "B S C L"]
    samples: list[int]
    micro_batch: int
    describe: Callable[[int], str]


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

    Raises:
        ValueError: if there is no such backend, or nothing that could be run again.
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
    ) -> None:
        super().__init__()
        use_backend(separator, attention)
        recompute_blocks(separator, recomputes=recompute)
        self.automatic_optimization = False
        self.separator = separator
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.clip_norm = clip_norm
        self.weight_decay = weight_decay
        self.max_nonfinite = max_nonfinite
        self.seed = seed
        self.overlap = overlap
        self.num_skipped = 0
        self._skipped_in_a_row = 0
        self._scores: dict[str, list[float]] = {}

    @property
    def position(self) -> int:
        """Steps tried so far, skipped ones included: where the data and the schedule stand."""
        return self.trainer.global_step + self.num_skipped

    def configure_optimizers(self) -> Any:  # Lightning's type names every form it accepts
        """Decay for matrices and kernels only; the schedule is stepped by `training_step`."""
        plain = {
            name
            for name, parameter in self.named_parameters()
            if parameter.ndim < 2 or "norm" in name or name.endswith("bias")
        }
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        groups = [
            {"params": [p for n, p in named if n not in plain], "weight_decay": self.weight_decay},
            {"params": [p for n, p in named if n in plain], "weight_decay": 0.0},
        ]
        optimizer = self.optimizer([group for group in groups if group["params"]])
        # A plain function: of a callable object LambdaLR would store the attributes in checkpoints,
        # and a resumed run could not be given a longer schedule.
        return [optimizer], [LambdaLR(optimizer, lambda step: self.scheduler(step))]

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """One optimiser step: micro-batches forward and backward, clip, step, schedule."""
        optimizer = cast(Optimizer, self.optimizers())
        torch.manual_seed(hash((self.seed, self.position, self.global_rank)) % 2**63)
        parts = batch.stems.split(batch.micro_batch)
        total = torch.zeros((), device=self.device)
        for i, stems in enumerate(parts):
            with self._gradient_exchange(enabled=i == len(parts) - 1):
                estimates = self.separator(stems.sum(dim=1))
                loss = self.loss(estimates, stems) / len(parts)
                self.manual_backward(loss)
            total += loss.detach()
        norm = nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm)
        if math.isfinite(norm.item()):
            self._skipped_in_a_row = 0
            optimizer.step()
        else:
            self._skip(batch, float(total), norm.item())
        optimizer.zero_grad(set_to_none=True)
        cast(LambdaLR, self.lr_schedulers()).step()
        self.log("train/loss", total, prog_bar=True, batch_size=len(batch.samples))
        self.log("train/gradient_norm", norm, batch_size=len(batch.samples))
        self.log("train/skipped", float(self.num_skipped), batch_size=len(batch.samples))

    def validation_step(self, batch: Mixture, batch_idx: int) -> None:
        """Separate one whole track as `separate` would, and keep its scores."""
        stems = batch.stems
        estimates = separate_waveform(
            cast(Separator, self.separator),
            stems.sum(dim=0),
            sample_rate=batch.sample_rate,
            overlap=self.overlap,
            batch_size=1,
            device=self.device,
        ).cpu()
        # A network that has diverged scores as one that gives silence, not as a silent stem.
        estimates = torch.nan_to_num(estimates, nan=0.0, posinf=0.0, neginf=0.0)
        for name, metric in (("usdr", usdr), ("si_sdr", si_sdr)):
            values = metric(estimates, stems.cpu())
            for stem, value in zip(cast(Separator, self.separator).stems, values, strict=True):
                self._scores.setdefault(f"val/{name}/{stem}", []).append(float(value))
                self._scores.setdefault(f"val/{name}", []).append(float(value))

    def on_validation_epoch_end(self) -> None:
        """Average the scores over all tracks of all ranks; silent stems (NaN) do not count."""
        stems = cast(Separator, self.separator).stems
        keys = [f"val/{m}{s}" for m in ("usdr", "si_sdr") for s in ("", *(f"/{s}" for s in stems))]
        sums = torch.tensor(
            [
                [
                    sum(finite := [v for v in self._scores.get(key, []) if math.isfinite(v)]),
                    len(finite),
                ]
                for key in keys
            ],
            device=self.device,
            dtype=torch.float32,
        )
        sums = cast(Tensor, self.trainer.strategy.reduce(sums, reduce_op="sum"))
        for key, (total, count) in zip(keys, sums.tolist(), strict=True):
            if count:
                self.log(key, total / count, prog_bar=key == "val/si_sdr", rank_zero_only=False)
        self._scores.clear()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the count of skipped steps, which the position needs."""
        checkpoint["num_skipped"] = self.num_skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the count of skipped steps."""
        self.num_skipped = checkpoint.get("num_skipped", 0)

    def _gradient_exchange(self, *, enabled: bool) -> AbstractContextManager[Any]:
        """Let several devices exchange gradients only in the last micro-batch of a step."""
        strategy = self.trainer.strategy
        if enabled or not isinstance(strategy, ParallelStrategy):
            return nullcontext()
        return strategy.block_backward_sync()

    def _skip(self, batch: StepBatch, loss: float, norm: float) -> None:
        """Count and name a batch whose gradient is not finite; give up after too many in a row.

        All ranks decide alike, because the norm is taken after the exchange of gradients.
        """
        self.num_skipped += 1
        self._skipped_in_a_row += 1
        behind = "; ".join(f"sample {n}: {batch.describe(n)}" for n in batch.samples)
        message = (
            f"step {self.position - 1} has loss {loss:g} and gradient norm {norm:g}: skipped "
            f"({self._skipped_in_a_row} in a row, {self.num_skipped} in all); it was {behind}"
        )
        if self._skipped_in_a_row > self.max_nonfinite:
            raise FloatingPointError(
                f"{message}. Training stops after more than module.max_nonfinite="
                f"{self.max_nonfinite} such steps in a row: lower optimizer.lr, or look at these "
                "files; the last checkpoint is from before"
            )
        self.print(message)
