"""How a separator learns against a discriminator: two players, one count of steps.

One optimiser step, of micro-batches 1 .. k:

    discriminator   estimates of 1 .. k without gradient; judge 1 .. k, backward; clip, step
    generator       estimate 1, judge, backward; ...; estimate k, judge, backward; clip, step

With one micro-batch the estimates of the first line are those of the second, cut off from their
gradient. Only the generator's steps are counted, so schedules, the curriculum and callbacks mean by
a step what they mean elsewhere.

The family's own programs cut the estimates off in the second line as well, and so trained by the
reconstruction alone (specs/patchgan.md section 5).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import lightning as L
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from frametx.audio.stft import Stft
from frametx.data.tracks import Mixture
from frametx.losses.adversarial import Contest
from frametx.losses.shown import Showing
from frametx.losses.vocal_bands import watch_separator
from frametx.nn.block import recompute_blocks
from frametx.nn.residual_scores import use_backend
from frametx.separator import Separator
from frametx.training.gradient_exchange import average_gradients, exchange_in_backward
from frametx.training.guarded_step import GuardedStep, step_schedules
from frametx.training.parameter_groups import optimizer_of, parameter_groups
from frametx.training.schedules import scheduled
from frametx.training.step_batch import StepBatch, seed_step
from frametx.training.track_scores import TrackScores

MakeOptimizer = Callable[[Iterable[dict[str, Any]]], Optimizer]


@dataclass
class MicroBatch:
    """Samples that go through the networks at once."""

    stems: Float[Tensor, "B S C L"]
    chance: Float[Tensor, " B"]
    """A number in [0, 1) for each, which follows from the step and the sample's own number."""


class AdversarialSeparationModule(L.LightningModule):
    """Trains a separator to take mixtures apart so that a discriminator cannot tell.

    A batch is one whole optimiser step of both players (see `StepBatch`). The loss of the generator
    is

        reconstruction_weight * loss + ramp(step) * adversarial_weight * contest's loss

    where the ramp is 0 before `start_step`, 1 from `ramp_steps` behind it on, and straight between.
    Before `start_step` nobody is judged and the discriminator learns nothing. From there on it
    learns at full strength, so that it knows something when the ramp lets it speak.

    Devices exchange gradients once a player, after its backward passes, whatever parameters took
    part in them. Chance follows from the step, so a resumed run continues to the last bit.

    Args:
        separator: the generator.
        discriminator: makes the discriminator from `in_channels` and `num_bins`.
        contest: what both are asked for.
        loss: reconstruction, of (estimates, stems), B S C L each.
        stft: of the magnitudes that are judged; the discriminator takes all bins but the highest.
        judged_stems: which are judged; None judges those the separator gives by itself: all but
            its complement.
        is_conditional: show the mixture too.
        reconstruction_weight: of `loss`.
        adversarial_weight: of the contest's loss.
        start_step: the first that is adversarial.
        ramp_steps: until the contest's loss has its full weight.
        num_discriminator_steps: steps of the discriminator for each of the generator, on the same
            estimates.
        optimizer: takes the generator's parameter groups.
        discriminator_optimizer: takes the discriminator's.
        scheduler: factor of both learning rates at a step, a pure function.
        clip_norm: largest global L2 norm of either gradient.
        weight_decay: of matrices and kernels; norms and biases have none.
        max_nonfinite: steps in a row of one player whose gradient may be NaN or infinite, which are
            skipped; one more ends the training.
        seed: of dropout and all other chance.
        overlap: of chunks when whole tracks are separated in validation.
        attention: backend of every attention that has the choice, see `frametx.nn.residual_scores`.
        recompute: let the separator run again in backward instead of keeping its insides.
        layer_decay: of the separator's learning rates, from level to level towards the input; None
            is one rate.

    Attributes:
        not_averaged: parts that an average of the weights leaves out.

    Raises:
        ValueError: for weights or steps that cannot work, or a loss that wants a side output which
            the network lacks.
    """

    not_averaged = ("discriminator",)

    def __init__(
        self,
        *,
        separator: nn.Module,
        discriminator: Callable[..., nn.Module],
        contest: Contest,
        loss: nn.Module,
        stft: Stft,
        judged_stems: Sequence[str] | None,
        is_conditional: bool,
        reconstruction_weight: float,
        adversarial_weight: float,
        start_step: int,
        ramp_steps: int,
        num_discriminator_steps: int,
        optimizer: MakeOptimizer,
        discriminator_optimizer: MakeOptimizer,
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
        if reconstruction_weight < 0 or adversarial_weight <= 0:
            raise ValueError(
                f"module.reconstruction_weight={reconstruction_weight} must not be negative, and "
                f"module.adversarial_weight={adversarial_weight} must be above 0; "
                "discriminator=none trains without a discriminator"
            )
        if start_step < 0 or ramp_steps < 0 or num_discriminator_steps < 1:
            raise ValueError(
                f"module.start_step={start_step} and module.ramp_steps={ramp_steps} must not be "
                f"negative, and module.num_discriminator_steps={num_discriminator_steps} must be "
                "at least 1"
            )
        use_backend(separator, attention)
        recompute_blocks(separator, recomputes=recompute)
        watch_separator(loss, separator)
        stems = cast(Separator, separator).stems
        if judged_stems is None:
            complement = getattr(separator, "complement", None)
            judged_stems = [stem for stem in stems if stem != complement]
        num_bins = stft.n_fft // 2
        self.automatic_optimization = False
        self.separator = separator
        self.showing = Showing(
            stft=stft,
            stems=stems,
            judged=judged_stems,
            num_bins=num_bins,
            shows_mixture=is_conditional,
        )
        num_maps = self.showing.in_channels(cast(Separator, separator).num_channels)
        self.discriminator = discriminator(in_channels=num_maps, num_bins=num_bins)
        use_backend(self.discriminator, attention)
        self.contest = contest
        self.loss = loss
        self.reconstruction_weight = reconstruction_weight
        self.adversarial_weight = adversarial_weight
        self.start_step = start_step
        self.ramp_steps = ramp_steps
        self.num_discriminator_steps = num_discriminator_steps
        self.optimizer = optimizer
        self.discriminator_optimizer = discriminator_optimizer
        self.scheduler = scheduler
        self.weight_decay = weight_decay
        self.layer_decay = layer_decay
        self.seed = seed
        self.guarded_step = GuardedStep(clip_norm=clip_norm, max_nonfinite=max_nonfinite)
        self.guarded_discriminator_step = GuardedStep(
            clip_norm=clip_norm, max_nonfinite=max_nonfinite, player="discriminator"
        )
        self.scores = TrackScores(overlap=overlap)

    @property
    def position(self) -> int:
        """Steps of the generator tried so far, skipped ones included."""
        return self.trainer.global_step + self.guarded_step.num_skipped

    def ramp(self, step: int) -> float:
        """Share of the contest's full weight at a step counted from 0."""
        return min(1.0, max(0, step - self.start_step + 1) / (self.ramp_steps + 1))

    def configure_optimizers(self) -> Any:  # Lightning's type names every form it accepts
        """One optimiser and schedule a player; `training_step` steps them."""
        generator = nn.ModuleDict({"separator": self.separator, "loss": self.loss})
        optimizers = [
            optimizer_of(
                self.optimizer,
                parameter_groups(
                    generator, weight_decay=self.weight_decay, layer_decay=self.layer_decay
                ),
            ),
            optimizer_of(
                self.discriminator_optimizer,
                parameter_groups(self.discriminator, weight_decay=self.weight_decay),
            ),
        ]
        return optimizers, [scheduled(optimizer, self.scheduler) for optimizer in optimizers]

    def training_step(self, batch: StepBatch, batch_idx: int) -> None:
        """One optimiser step of both players: the discriminator first, then the generator."""
        position = self.position
        seed_step(seed=self.seed, position=position, rank=self.global_rank)
        micro_batches = self.micro_batches(batch, position)
        values: dict[str, Tensor] = {}
        kept: list[Tensor | None] = [None] * len(micro_batches)
        with exchange_in_backward(self.trainer.strategy, enabled=False):
            if self.ramp(position):
                if len(micro_batches) == 1:
                    kept = [self.separator(micro_batches[0].stems.sum(dim=1))]
                values |= self._teach_discriminator(batch, micro_batches, kept, position)
            values |= self._teach_generator(batch, micro_batches, kept, position)
        step_schedules(*cast(list[LambdaLR], self.lr_schedulers()))
        values["skipped"] = torch.tensor(float(self.guarded_step.num_skipped))
        skipped = float(self.guarded_discriminator_step.num_skipped)
        values["d_skipped"] = torch.tensor(skipped)
        for name, value in values.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=len(batch.samples))

    def micro_batches(self, batch: StepBatch, position: int) -> list[MicroBatch]:
        """What goes through the networks at once; its chance follows from each sample's number."""
        chance = torch.tensor(
            [
                torch.rand((), generator=torch.Generator().manual_seed(number)).item()
                for number in (hash((self.seed, position, n)) % 2**63 for n in batch.samples)
            ]
        ).to(batch.stems.device, non_blocking=True)
        parts = zip(
            batch.stems.split(batch.micro_batch), chance.split(batch.micro_batch), strict=True
        )
        return [MicroBatch(*part) for part in parts]

    def discriminator_loss(
        self, micro_batch: MicroBatch, estimates: Float[Tensor, "B S C L"], *, step: int
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        """What the discriminator minimises, and how sure it is; the estimates learn nothing."""
        shown = self.showing(estimates.detach(), micro_batch.stems, micro_batch.chance)
        return self.contest.discriminator_loss(self.discriminator, shown, step=step)

    def adversarial_loss(
        self, micro_batch: MicroBatch, estimates: Float[Tensor, "B S C L"]
    ) -> Float[Tensor, ""]:
        """What the generator minimises beside its reconstruction."""
        shown = self.showing(estimates, micro_batch.stems, micro_batch.chance)
        return self.contest.generator_loss(self.discriminator, shown)

    def _teach_discriminator(
        self,
        batch: StepBatch,
        micro_batches: list[MicroBatch],
        kept: list[Tensor | None],
        position: int,
    ) -> dict[str, Tensor]:
        """Its steps on one set of estimates; what is logged is of the last of them."""
        estimates = [
            self._without_gradient(micro_batch) if known is None else known.detach()
            for micro_batch, known in zip(micro_batches, kept, strict=True)
        ]
        optimizer = cast(list[Optimizer], self.optimizers(use_pl_optimizer=False))[1]
        values: dict[str, Tensor] = {}
        for _ in range(self.num_discriminator_steps):
            total = torch.zeros((), device=self.device)
            values = {}
            for micro_batch, estimate in zip(micro_batches, estimates, strict=True):
                loss, certainty = self.discriminator_loss(micro_batch, estimate, step=position)
                loss = loss / len(micro_batches)
                self.manual_backward(loss)
                total += loss.detach()
                for name, value in certainty.items():
                    values[name] = values.get(name, 0) + value / len(micro_batches)
            average_gradients(self.discriminator.parameters(), self.trainer.strategy)
            # the plain optimiser, so that Lightning does not count the step
            norm = self.guarded_discriminator_step(
                optimizer,
                self.discriminator.parameters(),
                position=position,
                loss=total,
                batch=batch,
                say=self.print,
            )
            values |= {"d_loss": total, "d_gradient_norm": norm}
        return values

    def _teach_generator(
        self,
        batch: StepBatch,
        micro_batches: list[MicroBatch],
        kept: list[Tensor | None],
        position: int,
    ) -> dict[str, Tensor]:
        """Its step; `kept` holds the estimates that are there already, with their gradient."""
        optimizer = cast(list[Optimizer], self.optimizers())[0]
        weight = self.adversarial_weight * self.ramp(position)
        names = ("loss", "g_rec", "g_adv") if weight else ("loss", "g_rec")
        values = {name: torch.zeros((), device=self.device) for name in names}
        # through backward too, where a block may run again
        with frozen(self.discriminator):
            for micro_batch, known in zip(micro_batches, kept, strict=True):
                stems = micro_batch.stems
                estimates = self.separator(stems.sum(dim=1)) if known is None else known
                reconstruction = self.loss(estimates, stems)
                parts = {"g_rec": reconstruction}
                loss = self.reconstruction_weight * reconstruction
                if weight:
                    parts["g_adv"] = self.adversarial_loss(micro_batch, estimates)
                    loss = loss + weight * parts["g_adv"]
                self.manual_backward(loss / len(micro_batches))
                for name, value in {"loss": loss, **parts}.items():
                    values[name] += value.detach() / len(micro_batches)
        learning = [*self.separator.parameters(), *self.loss.parameters()]
        average_gradients(learning, self.trainer.strategy)
        values["gradient_norm"] = self.guarded_step(
            optimizer,
            learning,
            position=position,
            loss=values["loss"],
            batch=batch,
            say=self.print,
        )
        return values

    @torch.no_grad()
    def _without_gradient(self, micro_batch: MicroBatch) -> Float[Tensor, "B S C L"]:
        return self.separator(micro_batch.stems.sum(dim=1))

    def validation_step(self, batch: Mixture, batch_idx: int) -> None:
        """Separate one whole track as `separate` would, and keep its scores."""
        self.scores.add(cast(Separator, self.separator), batch, self.device)

    def on_validation_epoch_end(self) -> None:
        """Average the scores over all tracks of all ranks; silent stems (NaN) do not count."""
        self.scores.log(self, cast(Separator, self.separator))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the counts of skipped steps; the position needs the generator's."""
        checkpoint["num_skipped"] = self.guarded_step.num_skipped
        checkpoint["num_skipped_discriminator"] = self.guarded_discriminator_step.num_skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counts of skipped steps."""
        self.guarded_step.num_skipped = checkpoint.get("num_skipped", 0)
        self.guarded_discriminator_step.num_skipped = checkpoint.get("num_skipped_discriminator", 0)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Let a module's parameters take no gradient, while gradients flow through it."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
