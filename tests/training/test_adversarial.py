import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader

from frametx.audio.stft import Stft
from frametx.checkpoint import load_separator
from frametx.config import conf_dir
from frametx.losses.adversarial import RealOrFake
from frametx.losses.shown import Shown
from frametx.losses.waveform import WaveformL1
from frametx.models.judgement import Judgement
from frametx.separator import SpectrogramSeparator
from frametx.train import train
from frametx.training.adversarial import AdversarialSeparationModule, MicroBatch, frozen
from frametx.training.step_batch import StepBatch

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`:UserWarning")
Compose = Callable[..., DictConfig]
# For 32 bins and 17 frames: fewer levels than the presets have.
SMALL = {
    "patchgan_tiny": ["discriminator.num_layers=1"],
    "patchgan_multiscale_tiny": ["discriminator.make_discriminator.num_layers=1"],
    "frame_tiny": [
        "discriminator.widths=[1,2,2]",
        "discriminator.num_plain_levels=0",
        "discriminator.embedding_widths=[2]",
    ],
    "frame_multiscale_tiny": [
        "discriminator.widths=[1,2]",
        "discriminator.num_heads=[2,2]",
        "discriminator.embedding_widths=[2]",
    ],
}
SMALL["vocal_presence_tiny"] = SMALL["frame_tiny"]
FRAMES = "curriculum.stages=[{until_step:null,frames:17,batch_size:2,accumulate:1}]"
ACCUMULATED = "curriculum.stages=[{until_step:null,frames:17,batch_size:1,accumulate:2}]"
SLOW = pytest.mark.slow
DISCRIMINATORS = sorted(path.stem for path in (conf_dir() / "discriminator").glob("*.yaml"))
MODELS = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


class MaskNetwork(nn.Module):
    """Logits of a mask from one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.num_calls = 0

    def forward(self, magnitude: Tensor) -> Tensor:
        self.num_calls += 1
        return self.conv(magnitude)


class WaveformNetwork(nn.Module):
    """A separator without a spectrogram: a filter for each stem."""

    stems = ("vocals", "instrumental")
    sample_rate, num_channels, chunk_samples = 8_000, 1, 256

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 2, 5, padding=2)

    def forward(self, mixture: Tensor) -> Tensor:
        return self.conv(mixture).unsqueeze(2)


class SmallDiscriminator(nn.Module):
    """Two convolutions; logits at two scales."""

    def __init__(self, *, in_channels: int, num_bins: int) -> None:
        super().__init__()
        assert num_bins == 8
        self.first = nn.Conv2d(in_channels, 4, 3, padding=1)
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, shown: Tensor) -> Judgement:
        h = F.leaky_relu(self.first(shown), 0.2)
        logits = self.last(h)
        return Judgement([logits, F.avg_pool2d(logits, 2)], [h])


def small_separator() -> SpectrogramSeparator:
    return SpectrogramSeparator(
        stft=Stft(n_fft=16, hop_length=8),
        network=MaskNetwork(),
        stems=["vocals", "instrumental"],
        complement="vocals",
        sample_rate=8_000,
        num_channels=1,
        chunk_frames=17,
        scale="chunk_peak",
        top_bin="copy",
    )


def real_or_fake(**changes: Any) -> RealOrFake:
    settings: dict[str, Any] = {
        "loss": "bce",
        "label_smoothing": 0.0,
        "feature_matching_weight": 0.0,
        "r1_weight": 0.0,
        "r2_weight": 0.0,
        "penalty_interval": 1,
        "gradient_penalty_weight": None,
    }
    return RealOrFake(**{**settings, **changes})


def gradient_descent(groups: Any) -> torch.optim.Optimizer:
    """Its step is the gradient itself."""
    return torch.optim.SGD(groups, lr=1.0)


def slow_descent(groups: Any) -> torch.optim.Optimizer:
    """Its step is a twentieth of the gradient: weights stay near 1, where 32 bits resolve 1e-7."""
    return torch.optim.SGD(groups, lr=0.05)


def small_module(**changes: Any) -> AdversarialSeparationModule:
    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "separator": small_separator(),
        "discriminator": SmallDiscriminator,
        "contest": real_or_fake(),
        "loss": WaveformL1(weight=1.0),
        "stft": Stft(n_fft=16, hop_length=8),
        "judged_stems": None,
        "is_conditional": True,
        "reconstruction_weight": 1.0,
        "adversarial_weight": 1.0,
        "start_step": 0,
        "ramp_steps": 0,
        "num_discriminator_steps": 1,
        "optimizer": gradient_descent,
        "discriminator_optimizer": gradient_descent,
        "scheduler": lambda step: 1.0,
        "clip_norm": 1e9,
        "weight_decay": 0.0,
        "max_nonfinite": 10,
        "seed": 0,
        "overlap": 0.25,
        "attention": "auto",
        "recompute": False,
    }
    return AdversarialSeparationModule(**{**settings, **changes})


def batches(*, micro_batch: int, count: int = 1) -> list[StepBatch]:
    generator = torch.Generator().manual_seed(1)
    return [
        StepBatch(
            torch.randn(4, 2, 1, 128, generator=generator),
            list(range(4 * step, 4 * step + 4)),
            micro_batch,
            lambda sample: f"file {sample}",
        )
        for step in range(count)
    ]


def fit(module: AdversarialSeparationModule, steps: list[StepBatch], **changes: Any) -> L.Trainer:
    """Train on these batches; returns the trainer, which holds what was logged and counted."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=len(steps),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **changes,
    )
    trainer.fit(module, DataLoader(cast(Any, steps), batch_size=None))
    return trainer


def weights(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def largest_change(module: nn.Module, before: dict[str, Tensor]) -> float:
    changes = [float((value - before[name]).abs().max()) for name, value in weights(module).items()]
    return max(changes)


def micro_batch_of(module: AdversarialSeparationModule, *, num_samples: int = 512) -> MicroBatch:
    """A tone as vocals over noise, in the first half, so that there is something to hear."""
    torch.manual_seed(3)
    num_channels = cast(Any, module.separator).num_channels
    time = torch.arange(num_samples) / 16_000
    sung = torch.sin(2 * torch.pi * 1_000 * time) * (time < time.median())
    vocals = sung.expand(2, num_channels, -1)
    return MicroBatch(
        torch.stack([vocals, 0.3 * torch.randn(2, num_channels, num_samples)], 1),
        torch.tensor([0.3, 0.6]),
    )


def descend(module: AdversarialSeparationModule, micro_batch: MicroBatch) -> tuple[float, float]:
    """The adversarial loss before and behind one small step of the generator down its gradient."""
    mixture = micro_batch.stems.sum(1)
    with frozen(module.discriminator):
        before = module.adversarial_loss(micro_batch, module.separator(mixture))
        parameters = [p for p in module.separator.parameters() if p.requires_grad]
        found = torch.autograd.grad(before, parameters, allow_unused=True)
        gradients = [torch.zeros(()) if g is None else g for g in found]
        norm = torch.stack([g.norm() for g in gradients]).norm()
        assert norm > 1e-8
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 1e-2 / norm * gradient
        behind = module.adversarial_loss(micro_batch, module.separator(mixture))
    return float(before.detach()), float(behind.detach())


@pytest.fixture
def composed(tmp_path: Path, compose_tiny: Compose) -> Callable[..., AdversarialSeparationModule]:
    """The tiny network against one of the shipped discriminators, without dropout."""

    def build(discriminator: str, *overrides: str) -> AdversarialSeparationModule:
        choice = [f"discriminator={discriminator}", *SMALL[discriminator], *overrides]
        L.seed_everything(0)
        return instantiate(compose_tiny(tmp_path, *choice).module).eval()

    return build


@pytest.mark.parametrize("discriminator", SMALL)
def test_the_generators_step_lowers_the_certainty_of_each_discriminator(
    discriminator: str, composed: Callable[..., AdversarialSeparationModule]
) -> None:
    """A discriminator that has learned something: where it says the truth, the step confuses it."""
    module = composed(discriminator, "module.reconstruction_weight=0.0")
    micro_batch = micro_batch_of(module)
    optimizer = torch.optim.Adam(module.discriminator.parameters(), lr=1e-3)
    mixture = micro_batch.stems.sum(1)
    with torch.no_grad():
        estimates = module.separator(mixture)
    loss, certainty = module.discriminator_loss(micro_batch, estimates, step=0)
    while loss > 0.6:  # sure of something, but not so sure that nothing could change its mind
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss, certainty = module.discriminator_loss(micro_batch, estimates, step=0)
    before, behind = descend(module, micro_batch)
    assert behind < before
    with torch.no_grad():
        estimates = module.separator(mixture)
        later_loss, later = module.discriminator_loss(micro_batch, estimates, step=0)
    if "d_fake" in certainty:
        assert later["d_fake"] > certainty["d_fake"]
        assert later_loss > loss
    else:
        assert later["d_voice"] < certainty["d_voice"]


@pytest.mark.parametrize(
    ("discriminator", "overrides"),
    [
        *(
            pytest.param(name, ["contest.r1_weight=1.0"], marks=() if number % 3 == 0 else SLOW)
            for number, name in enumerate(sorted(SMALL))
            if name != "vocal_presence_tiny"
        ),
        ("vocal_presence_tiny", []),
        ("patchgan_tiny", ["discriminator.has_spectral_norm=true", "contest.loss=hinge"]),
        ("patchgan_tiny", ["loss=vocal_bands", "model.has_vocal_bands=true"]),
        ("frame_tiny", ["contest.loss=wgan_gp", "contest.feature_matching_weight=1.0"]),
        ("patchgan_tiny", ["module.recompute=true", "module.is_conditional=false"]),
    ],
)
def test_two_steps_in_bf16_with_each_discriminator_move_both_players(
    discriminator: str,
    overrides: list[str],
    composed: Callable[..., AdversarialSeparationModule],
) -> None:
    module = composed(discriminator, "module.ramp_steps=0", *overrides).train()
    stems = micro_batch_of(module).stems
    steps = [StepBatch(stems, [2 * n, 2 * n + 1], 1 + n, str) for n in range(2)]
    start = weights(module)
    fit(module, steps, precision="bf16-mixed")
    moved = [name for name, value in weights(module).items() if not torch.equal(value, start[name])]
    assert {name.partition(".")[0] for name in moved} == {"separator", "discriminator"}
    assert module.guarded_step.num_skipped == module.guarded_discriminator_step.num_skipped == 0


@pytest.mark.parametrize("make", [small_separator, WaveformNetwork])
def test_every_kind_of_separator_can_be_judged(make: Callable[[], nn.Module]) -> None:
    module = small_module(separator=make(), reconstruction_weight=0.0)
    before, behind = descend(module, micro_batch_of(module, num_samples=128))
    assert behind < before


def test_estimates_cut_off_as_in_the_originals_teach_the_generator_nothing() -> None:
    """The flaw of every run of the family: what is judged has no way back to the generator."""
    module = small_module()
    micro_batch = micro_batch_of(module, num_samples=128)
    estimates = module.separator(micro_batch.stems.sum(1))
    assert module.adversarial_loss(micro_batch, estimates).requires_grad
    with frozen(module.discriminator):
        assert module.adversarial_loss(micro_batch, estimates).requires_grad
        assert not module.adversarial_loss(micro_batch, estimates.detach()).requires_grad


@pytest.mark.parametrize(
    "contest",
    [
        {"loss": "bce", "r1_weight": 1.0, "feature_matching_weight": 2.0},
        {"loss": "lsgan", "r2_weight": 1.0},
        {"loss": "hinge"},
        {"loss": "wgan_gp"},
    ],
)
def test_accumulated_steps_of_both_players_are_those_of_one_large_batch(
    contest: dict[str, Any],
) -> None:
    modules = []
    for micro_batch in (1, 2, 4):
        module = small_module(
            contest=real_or_fake(**contest),
            num_discriminator_steps=2,
            optimizer=slow_descent,
            discriminator_optimizer=slow_descent,
        )
        start = weights(module)
        fit(module, batches(micro_batch=micro_batch))
        for player in (module.separator, module.discriminator):
            prefix = "separator." if player is module.separator else "discriminator."
            mine = {k.removeprefix(prefix): v for k, v in start.items() if k.startswith(prefix)}
            assert largest_change(player, mine) > 1e-4
        modules.append(weights(module))
    for other in modules[1:]:
        torch.testing.assert_close(other, modules[0], atol=1e-6, rtol=0)


def test_only_the_steps_of_the_generator_are_counted() -> None:
    rates: list[float] = []

    def schedule(step: int) -> float:
        rates.append(1 / (1 + step))
        return rates[-1]

    def adam(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.Adam(groups, lr=1e-3)

    module = small_module(
        num_discriminator_steps=3,
        optimizer=adam,
        discriminator_optimizer=adam,
        scheduler=schedule,
    )
    trainer = fit(module, batches(micro_batch=2, count=2))
    assert trainer.global_step == 2
    assert module.position == 2
    generator, discriminator = trainer.optimizers
    assert {int(state["step"]) for state in generator.state.values()} == {2}
    assert {int(state["step"]) for state in discriminator.state.values()} == {6}
    assert {group["lr"] for o in trainer.optimizers for group in o.param_groups} == {1e-3 / 3}


def test_one_micro_batch_is_separated_once() -> None:
    for micro_batch, num_calls in ((4, 1), (2, 4)):
        module = small_module(num_discriminator_steps=2)
        fit(module, batches(micro_batch=micro_batch))
        assert cast(Any, module.separator).network.num_calls == num_calls


def test_the_contest_starts_at_its_step_and_ramps_up() -> None:
    module = small_module(start_step=2, ramp_steps=3)
    ramp = [module.ramp(step) for step in range(8)]
    assert ramp == [0, 0, 1 / 4, 2 / 4, 3 / 4, 1, 1, 1]
    assert [small_module().ramp(step) for step in (0, 1)] == [1, 1]
    start = weights(module.discriminator)
    trainer = fit(module, batches(micro_batch=4, count=2))
    assert largest_change(module.discriminator, start) == 0
    assert "train/g_adv" not in trainer.logged_metrics
    module = small_module(start_step=2, ramp_steps=3)
    trainer = fit(module, batches(micro_batch=4, count=3))
    assert largest_change(module.discriminator, start) > 0
    logged = {name: float(value) for name, value in trainer.logged_metrics.items()}
    total = logged["train/g_rec"] + logged["train/g_adv"] / 4
    assert logged["train/loss"] == pytest.approx(total, rel=1e-5)


class Poisoned:
    """A contest in which the discriminator's loss is infinite."""

    def discriminator_loss(
        self, judge: Callable[[Tensor], Judgement], shown: Shown, *, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return judge(shown.real).logits[0].square().sum() * torch.inf, {}

    def generator_loss(self, judge: Callable[[Tensor], Judgement], shown: Shown) -> Tensor:
        return judge(shown.fake).logits[0].mean()


def test_a_step_of_the_discriminator_that_is_not_finite_is_skipped_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = small_module(contest=Poisoned())
    start = weights(module)
    trainer = fit(module, batches(micro_batch=2, count=2))
    names = [name for name, value in weights(module).items() if not torch.equal(value, start[name])]
    assert {name.partition(".")[0] for name in names} == {"separator"}
    assert module.position == 2
    assert trainer.logged_metrics["train/d_skipped"] == 2
    assert trainer.logged_metrics["train/skipped"] == 0
    said = capsys.readouterr().out
    assert "step 0 of the discriminator has loss inf" in said
    assert "file 3" in said
    with pytest.raises(FloatingPointError, match="max_nonfinite=1"):
        fit(small_module(contest=Poisoned(), max_nonfinite=1), batches(micro_batch=4, count=2))


def test_in_bf16_both_players_learn_from_what_they_are_now() -> None:
    """A cache of casts would keep weights from before a step; Lightning's autocast has none."""
    moves = []
    for precision in ("32-true", "bf16-mixed"):
        module = small_module(num_discriminator_steps=2, contest=real_or_fake(r1_weight=1.0))
        start = weights(module)
        fit(module, batches(micro_batch=2), precision=precision)
        moves.append({name: value - start[name] for name, value in weights(module).items()})
    for name, exact in moves[0].items():
        assert exact.abs().max() > 0
        assert (moves[1][name] - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"adversarial_weight": 0.0}, "discriminator=none"),
        ({"reconstruction_weight": -1.0}, "must not be negative"),
        ({"num_discriminator_steps": 0}, "at least 1"),
        ({"start_step": -1}, "negative"),
        ({"judged_stems": ["drums"]}, "one or more of"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        small_module(**changes)


def last(run: Path) -> dict[str, Any]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)


TINY_CONTEST = [
    "discriminator=patchgan_tiny",
    *SMALL["patchgan_tiny"],
    "module.ramp_steps=2",
    "contest.r1_weight=1.0",
    "contest.penalty_interval=2",
    "module.num_discriminator_steps=2",
]


def test_resume_is_exact_for_both_players_and_only_the_generator_is_averaged(
    tmp_path: Path, compose_tiny: Compose
) -> None:
    settings = [*TINY_CONTEST, ACCUMULATED, "callbacks.ema.decay=0.9", "optimizer.lr=1e-2"]
    train(compose_tiny(tmp_path / "whole", *settings, "trainer.max_steps=4"))
    train(compose_tiny(tmp_path / "half", *settings, "trainer.max_steps=2"))
    half = tmp_path / "half" / "checkpoints" / "last.ckpt"
    train(compose_tiny(tmp_path / "rest", *settings, "trainer.max_steps=4", f"ckpt_path={half}"))
    one, other = last(tmp_path / "rest"), last(tmp_path / "whole")
    assert one["global_step"] == other["global_step"] == 4
    keys = ("state_dict", "current_model_state", "optimizer_states", "lr_schedulers")
    for key in (*keys, "averaging_state"):
        torch.testing.assert_close(one[key], other[key], atol=0, rtol=0)
    assert len(one["optimizer_states"]) == 2
    assert not torch.equal(
        other["state_dict"]["discriminator.convs.0.weight"],
        last(tmp_path / "half")["state_dict"]["discriminator.convs.0.weight"],
    )
    is_averaged = {
        player: any(
            not torch.equal(value, one["current_model_state"][name])
            for name, value in one["state_dict"].items()
            if name.startswith(f"{player}.")
        )
        for player in ("separator", "discriminator")
    }
    assert is_averaged == {"separator": True, "discriminator": False}
    loaded = cast(nn.Module, load_separator(tmp_path / "rest" / "checkpoints" / "last.ckpt"))
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, one["state_dict"][f"separator.{name}"])
    plain = compose_tiny(tmp_path / "plain", "trainer.max_steps=4", f"ckpt_path={half}")
    with pytest.raises(ValueError, match="with a discriminator and this run has none"):
        train(plain)
    changed = compose_tiny(
        tmp_path / "changed", *settings, "discriminator.channels=4", f"ckpt_path={half}"
    )
    with pytest.raises(ValueError, match="another architecture"):
        train(changed)


@pytest.mark.slow
def test_two_ranks_take_the_steps_of_one(
    tmp_path: Path, tiny_overrides: list[str], compose_tiny: Compose
) -> None:
    """Without dropout, one step of plain gradient descent shows the gradients themselves."""
    settings = [
        *TINY_CONTEST,
        "curriculum.stages=[{until_step:null,frames:17,batch_size:1,accumulate:4}]",
        "model.dropout=0.0",
        "optimizer=sgd",
        "optimizer.lr=1.0",
        "optimizer.momentum=0.0",
        "module.discriminator_optimizer._target_=torch.optim.SGD",
        "~module.discriminator_optimizer.betas",
        "~module.discriminator_optimizer.eps",
        "module.weight_decay=0.0",
        "scheduler.shape=constant",
        "scheduler.warmup_steps=0",
        "trainer.max_steps=1",
    ]
    one = compose_tiny(tmp_path / "one", *settings)
    train(one)
    command = [sys.executable, "-m", "frametx.train", *tiny_overrides, *settings]
    done = subprocess.run(
        [*command, "trainer.devices=2", "name=two"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    ours = last(tmp_path / "one")["current_model_state"]
    theirs = last(tmp_path / "runs" / "two")["current_model_state"]
    torch.testing.assert_close(theirs, ours, atol=2e-6, rtol=1e-4)
    L.seed_everything(one.seed)
    start = instantiate(one.module)
    for player in ("separator", "discriminator"):
        before = getattr(start, player).state_dict()
        moved = [(ours[f"{player}.{name}"] - was).abs().max() for name, was in before.items()]
        assert max(moved) > 100 * 2e-6  # the step is far larger than what is tolerated


def test_a_discriminator_can_start_from_the_encoder_of_a_separator(
    tmp_path: Path, compose_tiny: Compose, capsys: pytest.CaptureFixture[str]
) -> None:
    train(compose_tiny(tmp_path / "first", "trainer.max_steps=1"))
    first = tmp_path / "first" / "checkpoints" / "last.ckpt"
    source = f"discriminator_init_from={first}"
    model = compose_tiny(tmp_path / "first").model
    shape = [
        *(f"discriminator.{key}={model[key]}" for key in ("channels", "num_heads", "expansion")),
        f"discriminator.widths={list(model.widths)}".replace(" ", ""),
        f"discriminator.num_plain_levels={model.num_plain_levels}",
        f"discriminator.num_attention_maps={model.num_attention_maps}",
        f"discriminator.kernel_sizes={list(model.encoder_kernel_sizes)}".replace(" ", ""),
        f"discriminator.embedding_widths={list(model.embedding_widths)}".replace(" ", ""),
    ]
    still = [
        *("trainer.max_steps=1", "optimizer.lr=0.0", "module.weight_decay=0.0"),
        *("discriminator=frame_tiny", *shape, source, FRAMES),
    ]
    train(compose_tiny(tmp_path / "second", *still))
    said = capsys.readouterr().out
    assert "copied: " in said
    given, taken = last(tmp_path / "first")["state_dict"], last(tmp_path / "second")["state_dict"]
    names = [
        name.removeprefix("separator.network.")
        for name in given
        if name.startswith("separator.network.encoders.1.")
    ]
    assert names
    for name in names:
        assert torch.equal(taken[f"discriminator.{name}"], given[f"separator.network.{name}"])
    refused = compose_tiny(tmp_path / "third", *TINY_CONTEST, source)
    with pytest.raises(ValueError, match="discriminator=frame"):
        train(refused)
    resumed = compose_tiny(tmp_path / "fourth", *TINY_CONTEST, f"ckpt_path={first}")
    with pytest.raises(ValueError, match="with no discriminator and this run has one"):
        train(resumed)


def built_on_meta(*overrides: str) -> tuple[nn.Module, nn.Module]:
    """Both players of a shipped config, without memory for their weights."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", list(overrides))
    with torch.device("meta"):
        module = instantiate(cfg.module)
    return module.separator, module.discriminator


@pytest.mark.parametrize("discriminator", sorted({*DISCRIMINATORS} - {"none"}))
def test_every_discriminator_builds(discriminator: str) -> None:
    _, built = built_on_meta(f"discriminator={discriminator}")
    assert sum(p.numel() for p in built.parameters()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("model", sorted({*MODELS} - {"neural_ensemble"}))
def test_every_network_builds_with_a_discriminator(model: str) -> None:
    """Not the ensemble, which is made of checkpoints."""
    fine = ["audio=44k1_stereo_4096"] if model == "mmdenselstm" else []  # its bands are counted so
    separator, discriminator = built_on_meta(f"model={model}", "discriminator=patchgan", *fine)
    assert sum(p.numel() for p in separator.parameters()) > 0
    maps = next(p for p in discriminator.parameters() if p.ndim == 4).shape[1]
    assert maps == 4  # two channels of the mixture, two of the judged stem
