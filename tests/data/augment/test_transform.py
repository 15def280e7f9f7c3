"""What holds for every transform, and for chains of them."""

from pathlib import Path

import pytest
import soundfile as sf
import torch
from torch import Tensor

import frametx.data.augment as augment
from frametx.data.augment import (
    Bell,
    ChannelSwap,
    CodecRoughness,
    Compressor,
    Distortion,
    Drawn,
    DynamicRange,
    FrequencyMask,
    Gain,
    HighPass,
    LowPass,
    MultiplicativeNoise,
    NoiseGate,
    Pan,
    PhaseNoise,
    PitchShift,
    PolarityFlip,
    Resampling,
    Reverb,
    Shelf,
    SilentSide,
    SmoothEqualiser,
    StereoWidth,
    SyntheticRooms,
    TimeMask,
    TimeStretch,
    Transform,
    input_samples,
    transformed,
)

RATE = 16_000
NUM_SAMPLES = 3_000
NARROW = {"n_fft": 256}


def every_transform(probability: float) -> list[Transform]:
    p, rate = probability, RATE
    rooms = SyntheticRooms(sample_rate=rate, decay_seconds=(0.05, 0.2), delay_ms=(0, 10))
    return [
        Gain(min_db=-12, max_db=6, probability=p),
        PolarityFlip(probability=p),
        ChannelSwap(probability=p),
        Pan(max_position=1, probability=p),
        SilentSide(probability=p, depth=(0.3, 1)),
        StereoWidth(width=(0, 2), probability=p),
        Bell(sample_rate=rate, frequency_hz=(100, 4_000), gain_db=(-9, 9), probability=p),
        Shelf(side="low", sample_rate=rate, frequency_hz=(100, 400), gain_db=(2, 6), probability=p),
        SmoothEqualiser(lowest=(0, 1), highest=(1, 2), probability=p),
        HighPass(sample_rate=rate, cutoff_hz=(50, 1_000), probability=p),
        LowPass(sample_rate=rate, cutoff_hz=(1_000, 5_000), probability=p),
        Compressor(sample_rate=rate, threshold_db=(-40, -20), ratio=(2, 9), probability=p),
        NoiseGate(sample_rate=rate, threshold_db=(-8, -5), ratio=(2, 9), probability=p),
        DynamicRange(threshold=(0.1, 0.5), gain=(0.1, 0.25), probability=p, **NARROW),
        MultiplicativeNoise(deviation=(0.1, 0.3), probability=p, **NARROW),
        PhaseNoise(strength=(0.1, 0.5), probability=p, **NARROW),
        TimeMask(max_share=0.5, probability=p),
        FrequencyMask(max_share=0.5, probability=p),
        TimeStretch(rate=(0.6, 1.5), probability=p, **NARROW),
        PitchShift(max_semitones=12, probability=p, **NARROW),
        Resampling(sample_rate=rate, lower_rates=[4_000, 8_000], probability=p),
        Distortion(drive_db=(10, 20), probability=p),
        CodecRoughness(
            sample_rate=rate, signal_to_noise_db=(6, 20), limit_hz=(3_000, 7_000), probability=p
        ),
        Reverb(rooms=rooms, wet_db=(-20, -5), probability=p),
    ]


def noise(rows: int = 6, *, channels: int = 2, length: int = NUM_SAMPLES) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.05 * torch.randn(rows, channels, length, generator=generator)


def chain(transforms: list[Transform], waveform: Tensor, samples: Tensor, *, seed: int) -> Tensor:
    return Drawn(transforms, samples, seed=seed, stream="vocals").apply(waveform)


all_always = pytest.mark.parametrize(
    "transform", every_transform(1.0), ids=lambda transform: type(transform).__name__
)


def test_every_transform_that_is_exported_is_tested_here() -> None:
    tested = {type(transform) for transform in every_transform(1.0)}
    exported = {
        value
        for value in vars(augment).values()
        if isinstance(value, type) and hasattr(value, "apply") and value is not Drawn
    }
    assert exported - {augment.Transform} == tested


@all_always
@pytest.mark.parametrize("channels", [1, 2])
def test_a_batch_equals_a_loop_and_the_input_is_untouched(
    transform: Transform, channels: int
) -> None:
    waveform = noise(channels=channels)
    uniforms = torch.rand(6, transform.num_uniforms, generator=torch.Generator().manual_seed(2))
    before = waveform.clone()
    drawn = transform.draw(uniforms)
    assert all(len(values) == 6 for values in drawn.values())
    batch = transform.apply(waveform, drawn)
    assert batch.dtype == torch.float32
    assert batch.shape[:2] == waveform.shape[:2]
    assert batch.isfinite().all()
    for row in range(6):
        alone = slice(row, row + 1)
        expected = transform.apply(waveform[alone], transform.draw(uniforms[alone]))
        torch.testing.assert_close(batch[alone], expected, atol=2e-5, rtol=0)
    assert torch.equal(waveform, before)
    is_stereo_only = isinstance(transform, ChannelSwap | Pan | SilentSide | StereoWidth)
    if channels == 2 or not is_stereo_only:
        assert not torch.equal(batch, before[..., : batch.shape[-1]])


@all_always
def test_silence_stays_silent_and_finite(transform: Transform) -> None:
    silence = torch.zeros(2, 2, NUM_SAMPLES)
    drawn = transform.draw(torch.rand(2, transform.num_uniforms))
    assert (transform.apply(silence, drawn) == 0).all()


@all_always
def test_extreme_draws_are_finite(transform: Transform) -> None:
    for extreme in (0.0, 1 - 2**-24):
        drawn = transform.draw(torch.full((2, transform.num_uniforms), extreme))
        assert transform.apply(noise(2), drawn).isfinite().all()


@pytest.mark.parametrize("index", range(len(every_transform(0))))
def test_what_is_not_chosen_passes_bit_by_bit(index: int) -> None:
    waveform, samples = noise(64), torch.arange(64)
    never, sometimes, always = (
        chain([every_transform(p)[index]], waveform, samples, seed=3) for p in (0.0, 0.4, 1.0)
    )
    kept = waveform[..., : never.shape[-1]]
    assert torch.equal(never, kept)
    transform = every_transform(0.4)[index]
    chosen = Drawn([transform], samples, seed=3, stream="vocals").chosen[0]
    assert 0.2 < chosen.float().mean() < 0.6
    assert torch.equal(sometimes[~chosen], kept[~chosen])
    torch.testing.assert_close(sometimes[chosen], always[chosen], atol=2e-5, rtol=0)
    assert not any(torch.equal(sometimes[row], kept[row]) for row in chosen.nonzero()[:, 0])


def test_a_sample_is_the_same_in_any_batch_and_another_for_another_seed() -> None:
    transforms = every_transform(0.3)
    needed = input_samples(transforms, 2_000)
    waveform, samples = noise(12, length=needed), torch.arange(100, 112)
    together = chain(transforms, waveform, samples, seed=5)
    assert together.shape == (12, 2, 2_000)
    order = torch.tensor([7, 2, 9])
    apart = chain(transforms, waveform[order], samples[order], seed=5)
    # The codec rounds: what lies on an edge between two steps can fall to either side.
    difference = (apart - together[order]).square().mean().sqrt()
    assert difference < 1e-4
    assert not torch.allclose(chain(transforms, waveform, samples, seed=6), together, atol=1e-2)


def test_turning_a_transform_on_changes_no_draw_of_the_others() -> None:
    samples = torch.arange(5)
    few = [Gain(min_db=-6, max_db=6), Pan(max_position=1)]
    more = [Gain(min_db=-6, max_db=6), ChannelSwap(probability=1), Pan(max_position=1)]
    drawn, drawn_more = (Drawn(each, samples, seed=0, stream="vocals") for each in (few, more))
    assert torch.equal(drawn.parameters[0]["gain_db"], drawn_more.parameters[0]["gain_db"])
    assert torch.equal(drawn.parameters[1]["position"], drawn_more.parameters[2]["position"])


def test_two_of_a_kind_two_streams_and_two_samples_draw_differently() -> None:
    gain = Gain(min_db=-6, max_db=6)
    drawn = Drawn([gain, gain], torch.arange(500), seed=0, stream="vocals")
    other = Drawn([gain], torch.arange(500), seed=0, stream="instrumental")
    rows = torch.stack([part["gain_db"] for part in (*drawn.parameters, *other.parameters)])
    assert torch.corrcoef(rows)[~torch.eye(3, dtype=torch.bool)].abs().max() < 0.14
    assert all(row.unique().numel() == 500 for row in rows)


def test_a_probability_is_the_share_of_chosen_samples() -> None:
    for probability in (0.0, 0.25, 1.0):
        transform = PolarityFlip(probability=probability)
        drawn = Drawn([transform], torch.arange(4_000), seed=0, stream="vocals")
        assert drawn.chosen[0].float().mean() == pytest.approx(probability, abs=0.02)


def test_a_description_holds_what_was_applied() -> None:
    transforms = [Gain(min_db=-6, max_db=6), PolarityFlip(probability=0.5)]
    drawn = Drawn(transforms, torch.arange(8), seed=0, stream="vocals")
    changed = drawn.apply(torch.ones(8, 1, 4))[:, 0, 0]
    for row in range(8):
        described = drawn.describe(row)
        names = [entry["transform"] for entry in described]
        gain_db = described[0]["gain_db"]
        assert isinstance(gain_db, float)
        sign = -1 if "PolarityFlip" in names else 1
        assert float(changed[row]) == pytest.approx(sign * 10 ** (gain_db / 20))


def test_a_transform_that_takes_more_than_it_gives_is_refused_for_aligned_stems() -> None:
    stretch = TimeStretch(rate=(0.8, 1.2), probability=1)
    with pytest.raises(ValueError, match="TimeStretch needs longer excerpts than it gives"):
        transformed([stretch], noise(), torch.arange(6), seed=0, stream="stem 0")


def test_recorded_rooms_act_row_by_row(tmp_path: Path) -> None:
    for number in range(3):
        room = torch.randn(200 * (number + 1), 1, generator=torch.Generator().manual_seed(number))
        sf.write(tmp_path / f"{number}.wav", 0.1 * room.numpy(), RATE)
    reverb = Reverb(
        rooms=augment.RecordedRooms(folder=tmp_path, sample_rate=RATE),
        wet_db=(-9, 0),
        probability=1,
    )
    waveform, uniforms = noise(), torch.rand(6, 2)
    batch = reverb.apply(waveform, reverb.draw(uniforms))
    for row in range(6):
        alone = reverb.apply(waveform[row : row + 1], reverb.draw(uniforms[row : row + 1]))
        torch.testing.assert_close(batch[row : row + 1], alone, atol=1e-5, rtol=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@all_always
def test_the_device_gives_what_the_cpu_gives(transform: Transform) -> None:
    waveform = noise()
    drawn = transform.draw(torch.rand(6, transform.num_uniforms))
    torch.cuda.set_sync_debug_mode("error")
    try:
        there = transform.apply(waveform.pin_memory().cuda(non_blocking=True), drawn)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (there.cpu() - transform.apply(waveform, drawn)).square().mean().sqrt()
    assert difference < 1e-3
