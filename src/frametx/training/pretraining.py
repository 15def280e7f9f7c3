"""How a network learns from mixtures alone, before it is shown any stem.

Two tasks on the magnitude that a separator shows its network, scaled to [0, 1]:

    Denoising       noise is mixed in; the network says which noise       answer = noise
    MaskedFrames    runs of frames are replaced; the mask repairs them    mask * shown = magnitude

The network, its input and its output maps are those of separation, so all weights carry over by
`init_from`. Where a network gives several stems, each is asked for the same answer.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast

import lightning as L
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from frametx.audio.resample import resample
from frametx.data.tracks import Mixture
from frametx.nn.block import recompute_blocks
from frametx.nn.residual_scores import use_backend
from frametx.separator import SpectrogramSeparator
from frametx.training.gradient_exchange import average_gradients, exchange_in_backward
from frametx.training.guarded_step import GuardedStep
from frametx.training.parameter_groups import optimizer_of, parameter_groups
from frametx.training.schedules import scheduled
from frametx.training.step_batch import StepBatch, seed_step

_FLOOR = 1e-4  # below the peak (-80 dB): a root has no slope at 0

Chance = torch.Generator | None
"""What draws; None is torch's own generator of the device that the magnitude lies on."""


class Task(Protocol):
    """What a network is asked for.

    Attributes:
        min_frames: the shortest excerpt that can be asked about.
    """

    min_frames: int

    def loss(
        self, separator: SpectrogramSeparator, magnitude: Float[Tensor, "B C F T"], chance: Chance
    ) -> Float[Tensor, ""]:
        """How wrong the answer is, on average over the samples.

        Args:
            separator: around the network.
            magnitude: in [0, 1], the bins that the network sees.
            chance: what draws.
        """
        ...


class Denoising:
    """Say which noise was mixed into the magnitude; L1.

    With the magnitude spread from [0, 1] to x in [-1, 1], as images are in the paper:

        shown = sqrt(gamma) x + sqrt(1 - gamma) noise          noise: normal, variance 1

    and `shown` is spread over the range that the network takes, so gamma means the same for all.
    The answer is the network's output as it is, without sigmoid: noise has both signs and no bound.

    Args:
        gamma: share of the variance that is left to the magnitude.

    Raises:
        ValueError: if gamma is not between 0 and 1.

    Source: Brempong et al., "Decoder Denoising Pretraining for Semantic Segmentation" (2022);
        specs/training.md section 9. There the noise itself had variance gamma squared.
    """

    min_frames = 1

    def __init__(self, *, gamma: float) -> None:
        if not 0 < gamma < 1:
            raise ValueError(f"pretraining.task.gamma={gamma} must lie between 0 and 1, as 0.95")
        self.gamma = gamma

    def loss(
        self, separator: SpectrogramSeparator, magnitude: Float[Tensor, "B C F T"], chance: Chance
    ) -> Float[Tensor, ""]:
        """Mean distance of what the network says from the noise."""
        noise = _draw(torch.randn, magnitude, chance)
        answer = _answer(separator, self.shown(magnitude, noise))
        return (answer - _for_each_stem(noise, answer)).abs().mean()

    def shown(
        self, magnitude: Float[Tensor, "B C F T"], noise: Float[Tensor, "B C F T"]
    ) -> Float[Tensor, "B C F T"]:
        """Magnitude with noise, in units of the magnitude; it may leave [0, 1]."""
        x = 2 * magnitude - 1
        return (self.gamma**0.5 * x + (1 - self.gamma) ** 0.5 * noise + 1) / 2


class MaskedFrames:
    """Repair runs of frames that were replaced; L1 on these frames alone, of magnitude^exponent.

    The frames are cut into tokens of one length, drawn for each batch. Of each sample's tokens some
    are chosen, at least one; of these most are shown as ones, which a mask can turn into anything,
    some with noise added (from 0 to 1, clipped at 1), the rest as they are.

    With exponent 1, as in the family's programs, silence is nearly the best guess, because most
    bins are near 0: on the demo audio the mask fell to 0 everywhere within a hundred steps, and
    what was trained from there on lay far behind a fresh network. A smaller exponent lets quiet
    bins count, whose level can be told from the frames around.

    Args:
        token_frames: shortest and longest token.
        share: of the tokens, that are chosen.
        ones: of the chosen, that are shown as ones.
        noise: of the chosen, that are shown with noise.
        exponent: of the magnitudes that are compared.

    Raises:
        ValueError: if a number cannot be.

    Source: Hsu et al., "HuBERT" (2021), for the loss on what is masked alone; Devlin et al., "BERT"
        (2018), for the three ways to show it; specs/voxaug.md section 7.
    """

    def __init__(
        self,
        *,
        token_frames: Sequence[int],
        share: float,
        ones: float,
        noise: float,
        exponent: float,
    ) -> None:
        if len(token_frames) != 2 or not 1 <= token_frames[0] <= token_frames[1]:
            raise ValueError(
                f"pretraining.task.token_frames={list(token_frames)} must be [shortest, longest], "
                "as [16, 64]"
            )
        if not 0 < share < 1 or min(ones, noise) < 0 or ones + noise > 1:
            raise ValueError(
                f"pretraining.task: share={share} must lie between 0 and 1, ones={ones} and noise="
                f"{noise} must not be negative nor exceed 1 together"
            )
        if not 0 < exponent <= 1:
            raise ValueError(
                f"pretraining.task.exponent={exponent} must be above 0 and at most 1, as 0.5"
            )
        self.shortest, self.longest = token_frames
        self.share = share
        self.ones = ones
        self.noise = noise
        self.exponent = exponent
        self.min_frames = 2 * self.shortest  # one token to repair, one to repair it from

    def loss(
        self, separator: SpectrogramSeparator, magnitude: Float[Tensor, "B C F T"], chance: Chance
    ) -> Float[Tensor, ""]:
        """Mean distance of the repaired frames from the true ones."""
        chosen, how = self.choose(magnitude.shape[0], magnitude.shape[-1], chance)
        chosen, how = chosen.to(magnitude.device), how.to(magnitude.device)
        noise = _draw(torch.rand, magnitude, chance)
        shown = self.shown(magnitude, noise, chosen, how)
        mask = separator.mask_of(_with_past(separator, shown), num_channels=shown.shape[1])
        return self.distance(mask * _for_each_stem(shown, mask), magnitude, chosen)

    def choose(
        self, num_samples: int, num_frames: int, chance: Chance
    ) -> tuple[Bool[Tensor, "B T"], Float[Tensor, "B T"]]:
        """Which frames are chosen; and for each a number in [0, 1) that says how it is shown.

        Drawn on the CPU, because the length of a token is needed there.

        Raises:
            ValueError: if the frames do not hold two tokens.
        """
        if num_frames < self.min_frames:
            raise ValueError(
                f"excerpts of {num_frames} frames hold no two tokens of {self.shortest}: choose "
                f"curriculum stages of at least {self.min_frames} frames, or a smaller "
                "pretraining.task.token_frames"
            )
        longest = min(self.longest, num_frames // 2)
        length = int(torch.randint(self.shortest, longest + 1, (), generator=chance))
        num_tokens = -(-num_frames // length)
        drawn = torch.rand(2, num_samples, num_tokens, generator=chance)
        chosen = (drawn[0] < self.share) | (drawn[0] == drawn[0].amin(1, keepdim=True))
        frames = torch.arange(num_frames) // length
        return chosen[:, frames], drawn[1][:, frames]

    def shown(
        self,
        magnitude: Float[Tensor, "B C F T"],
        noise: Float[Tensor, "B C F T"],
        chosen: Bool[Tensor, "B T"],
        how: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B C F T"]:
        """The magnitude with the chosen frames replaced."""
        with_noise = (magnitude + noise).clamp_max(1)
        is_ones, is_noise = how < self.ones, (how >= self.ones) & (how < self.ones + self.noise)
        shown = torch.where((chosen & is_noise)[:, None, None], with_noise, magnitude)
        return torch.where((chosen & is_ones)[:, None, None], torch.ones_like(shown), shown)

    def distance(
        self,
        repaired: Float[Tensor, "B C_out F T"],
        magnitude: Float[Tensor, "B C F T"],
        chosen: Bool[Tensor, "B T"],
    ) -> Float[Tensor, ""]:
        """L1 on the chosen frames, the mean of each sample's mean."""
        wanted = _for_each_stem(magnitude, repaired)
        if self.exponent != 1:
            repaired, wanted = ((y + _FLOOR) ** self.exponent for y in (repaired, wanted))
        far = (repaired - wanted).abs().mean((1, 2))
        return ((far * chosen).sum(1) / chosen.sum(1)).mean()


class PretrainingModule(L.LightningModule):
    """Trains the network of a separator on a task that needs no stems.

    Data may be mixtures or stems, whose sum is one. As in `SeparationModule` a batch is one
    optimiser step, and all chance follows from (seed, step, rank). In validation the chance of a
    track follows from its number alone, so the losses of two checkpoints can be compared.

    Args:
        separator: whose network learns; from its STFT come the magnitudes.
        task: what is asked.
        optimizer: takes parameter groups.
        scheduler: factor of the learning rate at a step, a pure function.
        clip_norm: largest global L2 norm of the gradient.
        weight_decay: of matrices and kernels; norms and biases have none.
        max_nonfinite: steps in a row whose gradient may be NaN or infinite, which are skipped.
        seed: of dropout and of the task.
        attention: backend of every attention that has the choice, see `frametx.nn.residual_scores`.
        recompute: run blocks again in backward instead of keeping their insides.
        layer_decay: factor of the learning rate from level to level towards the input; None is one
            rate for all.

    Raises:
        ValueError: if the separator has no network that reads magnitudes.
    """

    def __init__(
        self,
        *,
        separator: nn.Module,
        task: Task,
        optimizer: Callable[[Iterable[dict[str, Any]]], Optimizer],
        scheduler: Callable[[int], float],
        clip_norm: float,
        weight_decay: float,
        max_nonfinite: int,
        seed: int,
        attention: str,
        recompute: bool,
        layer_decay: float | None,
    ) -> None:
        super().__init__()
        if not isinstance(separator, SpectrogramSeparator):
            raise ValueError(
                f"pretraining needs a network that reads magnitudes; {type(separator).__name__} "
                "has none: choose another model, or pretraining=none"
            )
        use_backend(separator, attention)
        recompute_blocks(separator, recomputes=recompute)
        self.automatic_optimization = False
        self.separator = separator
        self.task = task
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.weight_decay = weight_decay
        self.layer_decay = layer_decay
        self.seed = seed
        self.guarded_step = GuardedStep(clip_norm=clip_norm, max_nonfinite=max_nonfinite)
        self._losses: list[float] = []

    @property
    def position(self) -> int:
        """Steps tried so far, skipped ones included: where the data and the schedule stand."""
        return self.trainer.global_step + self.guarded_step.num_skipped

    def configure_optimizers(self) -> Any:  # Lightning's type names every form it accepts
        """One optimiser; the schedule is stepped by `training_step`."""
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
        # Gradients are exchanged behind all backward passes, because a task may leave out a part.
        with exchange_in_backward(self.trainer.strategy, enabled=False):
            for stems in parts:
                magnitude = scaled_magnitude(self.separator, stems.sum(dim=1))
                loss = self.task.loss(self.separator, magnitude, None) / len(parts)
                self.manual_backward(loss)
                total += loss.detach()
        average_gradients(self.parameters(), self.trainer.strategy)
        norm = self.guarded_step(
            optimizer,
            self.parameters(),
            position=position,
            loss=total,
            batch=batch,
            say=self.print,
        )
        cast(LambdaLR, self.lr_schedulers()).step()
        values = {"loss": total, "gradient_norm": norm}
        values["skipped"] = torch.tensor(float(self.guarded_step.num_skipped))
        for name, value in values.items():
            self.log(f"train/{name}", value, prog_bar=name == "loss", batch_size=len(batch.samples))

    def validation_step(self, batch: Mixture, batch_idx: int) -> None:
        """The loss of one whole track, piece by piece, each as long as in separation."""
        separator = self.separator
        mixture = batch.stems.sum(dim=0)
        if not mixture.any():  # what fills up the share of a device
            return
        if batch.sample_rate != separator.sample_rate:
            mixture = resample(mixture, batch.sample_rate, separator.sample_rate)
        if len(mixture) != separator.num_channels:  # of stereo the middle, of mono two alike
            mixture = mixture.mean(0, keepdim=True).expand(separator.num_channels, -1)
        number = batch_idx * self.trainer.world_size + self.global_rank
        chance = torch.Generator().manual_seed(hash((self.seed, number)) % 2**63)
        losses, lengths = [], []
        for piece in mixture.split(separator.chunk_samples, dim=-1):
            if piece.shape[-1] < separator.stft.num_samples(self.task.min_frames):
                continue
            magnitude = scaled_magnitude(separator, piece[None].to(self.device))
            if magnitude.shape[-1] >= self.task.min_frames and magnitude.any():
                losses.append(self.task.loss(separator, magnitude, chance))
                lengths.append(magnitude.shape[-1])
        if losses:
            weight = torch.tensor(lengths, device=self.device) / sum(lengths)
            self._losses.append(float((torch.stack(losses) * weight).sum()))

    def on_validation_epoch_end(self) -> None:
        """Average over all tracks of all ranks.

        Raises:
            ValueError: if no track was long enough.
        """
        mine = torch.tensor([sum(self._losses), len(self._losses)], dtype=torch.float32)
        self._losses.clear()
        total, count = cast(
            Tensor, self.trainer.strategy.reduce(mine.to(self.device), reduce_op="sum")
        ).tolist()
        if not count:
            raise ValueError(
                f"validation: no track has {self.task.min_frames} frames that are not silent; "
                "choose longer ones"
            )
        self.log("val/loss", total / count, prog_bar=True, rank_zero_only=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the count of skipped steps, which the position needs."""
        checkpoint["num_skipped"] = self.guarded_step.num_skipped

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the count of skipped steps."""
        self.guarded_step.num_skipped = checkpoint.get("num_skipped", 0)


@torch.no_grad()
def scaled_magnitude(
    separator: SpectrogramSeparator, mixture: Float[Tensor, "B C L"]
) -> Float[Tensor, "B C F T"]:
    """What a separator would show its network, before it is spread over the network's range."""
    seen = separator.stft(mixture).abs()[:, :, : separator.num_bins]
    if separator.scale == "none":
        return seen
    return seen / seen.amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(seen.dtype).tiny)


def _answer(
    separator: SpectrogramSeparator, shown: Float[Tensor, "B C F T"]
) -> Float[Tensor, "B C_out F T"]:
    """The network's output as it is, in the precision of the input."""
    num_frames = shown.shape[-1]
    low, high = separator.input_range
    given = low + (high - low) * _with_past(separator, shown)
    given = F.pad(given, (0, -num_frames % separator.frame_multiple), value=low)
    return separator.network(given)[..., :num_frames].to(shown.dtype)


def _with_past(
    separator: SpectrogramSeparator, shown: Float[Tensor, "B C F T"]
) -> Float[Tensor, "B C_in F T"]:
    """For a network that reads earlier crops: silence, as at the start of a song."""
    if not separator.num_past_frames:
        return shown
    num_maps = 2 * shown.shape[1] * (separator.num_past_frames // separator.crop_frames)
    return torch.cat([shown, shown.new_zeros(1).expand(len(shown), num_maps, *shown.shape[2:])], 1)


def _for_each_stem(
    one: Float[Tensor, "B C F T"], like: Float[Tensor, "B C_out F T"]
) -> Float[Tensor, "B C_out F T"]:
    return one.repeat(1, like.shape[1] // one.shape[1], 1, 1)


def _draw(
    draw: Callable[..., Tensor], like: Float[Tensor, "B C F T"], chance: Chance
) -> Float[Tensor, "B C F T"]:
    """Numbers of the shape of `like`, on its device, wherever the generator lies."""
    device = like.device if chance is None else chance.device
    return draw(like.shape, generator=chance, device=device, dtype=like.dtype).to(like.device)
