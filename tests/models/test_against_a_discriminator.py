"""Every network of the family can learn from what a discriminator says of its estimates."""

from functools import partial
from typing import Any, cast

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from frametx.audio.stft import Stft
from frametx.losses.adversarial import RealOrFake
from frametx.losses.waveform import WaveformL1
from frametx.models.patchgan import PatchDiscriminator
from frametx.separator import SpectrogramSeparator
from frametx.training.adversarial import AdversarialSeparationModule, frozen
from frametx.training.step_batch import StepBatch

Case = Any  # of conftest.py
NUM_FRAMES = 8


def against_a_discriminator(case: Case) -> AdversarialSeparationModule:
    stft = Stft(n_fft=case.config["n_fft"], hop_length=case.config["n_fft"] // 2)
    num_channels = case.config["in_channels"]
    separator = SpectrogramSeparator(
        stft=stft,
        network=case.build(out_channels=num_channels),
        stems=["vocals", "instrumental"],
        complement="vocals",
        sample_rate=8_000,
        num_channels=num_channels,
        chunk_frames=NUM_FRAMES,
        scale="chunk_peak",
        top_bin="copy",
    )
    optimizer = partial(torch.optim.SGD, lr=0.1)
    return AdversarialSeparationModule(
        separator=separator,
        discriminator=partial(
            PatchDiscriminator, channels=2, num_layers=1, norm="instance", has_spectral_norm=False
        ),
        contest=RealOrFake(
            loss="lsgan",
            label_smoothing=0.0,
            feature_matching_weight=1.0,
            r1_weight=1.0,
            r2_weight=0.0,
            penalty_interval=1,
            gradient_penalty_weight=None,
        ),
        loss=WaveformL1(weight=1.0),
        stft=stft,
        judged_stems=None,
        is_conditional=True,
        reconstruction_weight=0.0,
        adversarial_weight=1.0,
        start_step=0,
        ramp_steps=0,
        num_discriminator_steps=1,
        optimizer=optimizer,
        discriminator_optimizer=optimizer,
        scheduler=lambda step: 1.0,
        clip_norm=1.0,
        weight_decay=0.0,
        max_nonfinite=0,
        seed=0,
        overlap=0.25,
        attention="auto",
        recompute=False,
    )


def step_batch(case: Case, module: AdversarialSeparationModule) -> StepBatch:
    num_samples = (NUM_FRAMES - 1) * module.showing.stft.hop_length
    stems = torch.randn(
        (2, 2, case.config["in_channels"], num_samples), generator=torch.Generator().manual_seed(0)
    )
    return StepBatch(stems, [0, 1], 1, lambda sample: f"file {sample}")


def test_the_judgement_reaches_every_parameter_that_takes_part(case: Case) -> None:
    module = against_a_discriminator(case)
    batch = step_batch(case, module)
    micro_batch = module.micro_batches(batch, 0)[0]
    with frozen(module.discriminator):
        estimates = module.separator(micro_batch.stems.sum(dim=1))
        module.adversarial_loss(micro_batch, estimates).backward()
    network = cast(Any, module.separator).network
    reached = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.any()}
    trained = {n for n, p in network.named_parameters() if p.requires_grad}
    assert trained - reached == set(case.unused)
    assert all(parameter.grad is None for parameter in module.discriminator.parameters())


@pytest.mark.filterwarnings("ignore:You defined a `validation_step`:UserWarning")
def test_both_players_take_finite_steps(case: Case) -> None:
    module = against_a_discriminator(case)
    module.train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batch = step_batch(case, module)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(cast(Any, [batch, batch]), batch_size=None))
    assert trainer.global_step == module.position == 2
    moved = {n for n, value in module.state_dict().items() if not torch.equal(value, before[n])}
    assert {name.partition(".")[0] for name in moved} == {"separator", "discriminator"}
    assert all(value.isfinite().all() for value in module.state_dict().values())
