"""Every transform that colours sound, by what it must do to tones, noise and clicks.

They are together because they are measured with the same few instruments.
"""

from math import pi
from pathlib import Path

import pytest
import soundfile as sf
import torch
import torchaudio.functional as AF
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.data.augment import (
    Bell,
    CodecRoughness,
    Compressor,
    Distortion,
    DynamicRange,
    FrequencyMask,
    HighPass,
    LowPass,
    MultiplicativeNoise,
    NoiseGate,
    PhaseNoise,
    PitchShift,
    RecordedRooms,
    Resampling,
    Reverb,
    Shelf,
    SmoothEqualiser,
    SyntheticRooms,
    TimeMask,
    TimeStretch,
    Transform,
)
from frametx.data.augment.codec import inverse_mdct, mdct
from frametx.data.augment.counted_noise import even_noise, noise_keys, normal_noise
from frametx.data.augment.phase_vocoder import stretched
from frametx.data.augment.responses import fast_length
from frametx.data.augment.reverb import convolved

RATE = 16_000


def tone(frequency_hz: float, *, seconds: float = 1.0, amplitude: float = 0.5) -> Tensor:
    """1 1 L."""
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return (amplitude * (2 * pi * frequency_hz * time).sin()).float()[None, None]


def noise(rows: int = 2, *, seconds: float = 1.0, channels: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(rows, channels, round(seconds * RATE), generator=generator)


def middle(waveform: Tensor) -> Tensor:
    length = waveform.shape[-1]
    return waveform[..., length // 4 : length // 4 + length // 2].double()


def level_db(waveform: Tensor, frequency_hz: float) -> float:
    """Amplitude of a tone in the middle half of one waveform, dBFS."""
    part = middle(waveform).flatten()
    window = torch.hann_window(len(part), dtype=torch.float64)
    time = torch.arange(len(part), dtype=torch.float64) / RATE
    product = (part * torch.polar(window, -2 * pi * frequency_hz * time)).sum()
    return float(20 * (2 * product.abs() / window.sum()).clamp(min=1e-9).log10())


def loudest_hz(waveform: Tensor) -> float:
    """Frequency of the loudest tone in the middle half of one waveform."""
    part = middle(waveform).flatten()
    spectrum = torch.fft.rfft(part * torch.hann_window(len(part), dtype=torch.float64)).abs()
    peak = int(spectrum.argmax())
    left, top, right = (spectrum[peak + offset].log() for offset in (-1, 0, 1))
    return float(peak + (left - right) / (left - 2 * top + right) / 2) * RATE / len(part)


def always(transform: Transform, waveform: Tensor) -> Tensor:
    uniforms = torch.rand(
        len(waveform), transform.num_uniforms, generator=torch.Generator().manual_seed(1)
    )
    return transform.apply(waveform, transform.draw(uniforms))


def bell(frequency_hz: float, gain_db: float, *, quality: float = 1.0) -> Bell:
    return Bell(
        sample_rate=RATE,
        frequency_hz=(frequency_hz, frequency_hz),
        gain_db=(gain_db, gain_db),
        quality=(quality, quality),
        probability=1,
    )


def shelf(side: str, frequency_hz: float, gain_db: float, *, quality: float = 0.7) -> Shelf:
    return Shelf(
        side=side,
        sample_rate=RATE,
        frequency_hz=(frequency_hz, frequency_hz),
        gain_db=(gain_db, gain_db),
        quality=(quality, quality),
        probability=1,
    )


@pytest.mark.parametrize("gain_db", [6.0, -6.0])
def test_a_bell_of_6_db_at_1_khz_raises_a_tone_there_by_6_db(gain_db: float) -> None:
    waveform = tone(1_000)
    raised = level_db(always(bell(1_000, gain_db), waveform), 1_000) - level_db(waveform, 1_000)
    assert raised == pytest.approx(gain_db, abs=0.01)
    for far in (60.0, 7_500.0):
        waveform = tone(far)
        raised = level_db(always(bell(1_000, gain_db), waveform), far) - level_db(waveform, far)
        assert abs(raised) < 0.3


@pytest.mark.parametrize(("side", "low_db", "high_db"), [("low", 6, 0), ("high", 0, 6)])
def test_a_shelf_raises_one_side_only(side: str, low_db: float, high_db: float) -> None:
    transform = shelf(side, 1_000, 6)
    for frequency_hz, expected in ((60.0, low_db), (7_000.0, high_db)):
        waveform = tone(frequency_hz)
        raised = level_db(always(transform, waveform), frequency_hz)
        assert raised - level_db(waveform, frequency_hz) == pytest.approx(expected, abs=0.1)


def test_filters_equal_the_biquads_of_torchaudio() -> None:
    waveform = noise()
    exact = waveform.double()  # in 32 bits, theirs is off by 2e-5 at 60 Hz
    for ours, theirs in (
        (bell(700, 5, quality=1.5), AF.equalizer_biquad(exact, RATE, 700, 5, 1.5)),
        (bell(60, -6, quality=2), AF.equalizer_biquad(exact, RATE, 60, -6, 2)),
        (shelf("low", 300, 6, quality=0.6), AF.bass_biquad(exact, RATE, 6, 300, 0.6)),
        (shelf("high", 3_000, -6, quality=0.9), AF.treble_biquad(exact, RATE, -6, 3_000, 0.9)),
        (
            HighPass(sample_rate=RATE, cutoff_hz=(120, 120), probability=1),
            AF.highpass_biquad(exact, RATE, 120, 0.5**0.5),
        ),
        (
            LowPass(sample_rate=RATE, cutoff_hz=(2_000, 2_000), probability=1),
            AF.lowpass_biquad(exact, RATE, 2_000, 0.5**0.5),
        ),
    ):
        torch.testing.assert_close(always(ours, waveform), theirs.float(), atol=1e-6, rtol=0)


def test_a_high_pass_kills_a_low_tone_and_leaves_a_high_one() -> None:
    transform = HighPass(sample_rate=RATE, cutoff_hz=(1_000, 1_000), probability=1)
    low, high = tone(100), tone(6_000)
    assert level_db(always(transform, low), 100) - level_db(low, 100) < -39
    assert level_db(always(transform, high), 6_000) == pytest.approx(level_db(high, 6_000), abs=0.1)


def test_a_low_pass_kills_a_high_tone_and_leaves_a_low_one() -> None:
    transform = LowPass(sample_rate=RATE, cutoff_hz=(500, 500), probability=1)
    low, high = tone(50), tone(6_000)
    assert level_db(always(transform, high), 6_000) - level_db(high, 6_000) < -45
    assert level_db(always(transform, low), 50) == pytest.approx(level_db(low, 50), abs=0.1)


def test_cutoffs_above_half_the_rate_are_refused() -> None:
    with pytest.raises(ValueError, match="must end below half the sample rate, 8000 Hz"):
        LowPass(sample_rate=RATE, cutoff_hz=(2_000, 10_000), probability=1)


def test_a_smooth_equaliser_multiplies_each_tone_by_its_factor() -> None:
    transform = SmoothEqualiser(lowest=(0.2, 0.2), highest=(1.8, 1.8), probability=1)
    uniforms = torch.rand(1, transform.num_uniforms, generator=torch.Generator().manual_seed(3))
    drawn = transform.draw(uniforms)
    assert drawn["factor"].min() >= 0.2
    assert drawn["factor"].max() <= 1.8
    assert drawn["factor"].std() > 0.05
    for bin_number in (128, 300, 700):
        frequency_hz = bin_number * RATE / 2 / 1024
        waveform = tone(frequency_hz)
        changed = level_db(transform.apply(waveform, drawn), frequency_hz)
        expected = float(20 * drawn["factor"][0, bin_number].log10())
        assert changed - level_db(waveform, frequency_hz) == pytest.approx(expected, abs=0.3)


def test_a_flat_smooth_equaliser_is_a_gain() -> None:
    transform = SmoothEqualiser(lowest=(0.5, 0.5), highest=(0.5, 0.5), probability=1)
    waveform = noise()
    torch.testing.assert_close(always(transform, waveform), waveform / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize("semitones", [12.0, 7.0, 0.4, -5.0, -12.0])
def test_a_shift_of_12_semitones_doubles_a_tone(semitones: float) -> None:
    transform = PitchShift(max_semitones=12, probability=1)
    waveform = tone(880, seconds=2)
    drawn = transform.draw(torch.tensor([[(semitones / 12 + 1) / 2]]))
    shifted = transform.apply(waveform, drawn)
    assert shifted.shape == waveform.shape
    reported = float(drawn["semitones"])
    assert reported == pytest.approx(semitones, abs=0.02 if semitones > 0.5 else 0.14)
    expected = 880 * 2 ** (reported / 12)
    assert loudest_hz(shifted) == pytest.approx(expected, rel=2e-4)
    assert level_db(shifted, expected) == pytest.approx(level_db(waveform, 880), abs=0.5)


def test_shifts_are_even_and_off_by_14_cents_at_most() -> None:
    transform = PitchShift(max_semitones=12, probability=1)
    uniforms = (torch.arange(2_000) / 2_000)[:, None]
    error = transform.draw(uniforms)["semitones"] - 12 * (2 * uniforms[:, 0] - 1)
    assert error.abs().max() < 0.14
    assert error.abs().mean() < 0.03


def test_a_chord_keeps_its_level_and_gains_no_other_tones_when_stretched() -> None:
    chord = sum(tone(f, seconds=3, amplitude=0.2) for f in (440, 554.4, 659.3, 2_093.0))
    assert isinstance(chord, Tensor)
    rates = torch.tensor([0.75, 1.4], dtype=torch.float64)
    slow, fast = stretched(
        chord.expand(2, 1, -1), rates, num_samples=2 * RATE, stft=Stft(n_fft=2048, hop_length=512)
    )
    for changed in (slow, fast):
        for frequency_hz in (440, 554.4, 659.3, 2_093.0):
            before, after = level_db(chord, frequency_hz), level_db(changed, frequency_hz)
            assert after == pytest.approx(before, abs=0.5)
        assert middle(changed).square().mean() == pytest.approx(4 * 0.2**2 / 2, rel=0.05)


def test_a_stretch_keeps_the_pitch_and_moves_what_happens() -> None:
    rate = 1.25
    transform = TimeStretch(rate=(rate, rate), probability=1, n_fft=1024)
    needed = transform.input_samples(2 * RATE)
    time = torch.arange(needed) / RATE
    loud = ((time % 0.5) < 0.25).float()  # a tone that goes on and off twice a second
    waveform = (loud * (2 * pi * 600 * time).sin())[None, None]
    changed = always(transform, waveform)
    assert changed.shape[-1] == 2 * RATE
    envelope = changed[0, 0].abs().unfold(0, 160, 160).amax(dim=1)
    is_loud = (envelope > 0.5).int()
    onsets = (is_loud.diff() == 1).nonzero()[:, 0] * 0.01
    expected = torch.arange(1, 5) * 0.5 / rate
    torch.testing.assert_close(onsets, expected, atol=0.03, rtol=0)
    steady = always(transform, tone(600, seconds=needed / RATE))
    assert loudest_hz(steady) == pytest.approx(600, rel=3e-4)


def test_rate_1_is_the_identity_and_both_sides_keep_their_phase() -> None:
    stft = Stft(n_fft=512, hop_length=128)
    waveform = noise()
    same = stretched(
        waveform, torch.ones(2, dtype=torch.float64), num_samples=waveform.shape[-1], stft=stft
    )
    torch.testing.assert_close(same, waveform, atol=1e-5, rtol=0)
    inverted = torch.cat((waveform[:, :1], -waveform[:, :1]), dim=1)
    rates = torch.tensor([0.8, 1.3], dtype=torch.float64)
    left, right = stretched(inverted, rates, num_samples=8_000, stft=stft).unbind(dim=1)
    torch.testing.assert_close(left, -right)
    assert left.std() > 0.05


@pytest.mark.parametrize("rate", [(0.5, 2.0), (0.8, 1.25), (0.5, 0.9), (1.0, 1.7)])
def test_a_stretch_gives_back_exactly_the_length_it_asked_for(rate: tuple[float, float]) -> None:
    transform = TimeStretch(rate=rate, probability=1)
    for num_samples in (1, 2, 777, 44_100, 264_599, 2_097_151):
        needed = transform.input_samples(num_samples)
        assert needed >= num_samples * rate[1]
        assert transform.output_samples(needed) == num_samples
    with pytest.raises(ValueError, match=r"an excerpt of 100 samples is too short"):
        transform.output_samples(100)


def compressor(**drawn: float) -> Compressor:
    return Compressor(
        sample_rate=RATE,
        threshold_db=(drawn["threshold_db"],) * 2,
        ratio=(drawn["ratio"],) * 2,
        attack_ms=(5, 5),
        release_ms=(100, 100),
        probability=1,
    )


def test_a_compressor_divides_what_exceeds_the_threshold_by_its_ratio() -> None:
    levels_db = (-40.0, -20.0, -8.0, -32.0)
    steps = [tone(1_000, amplitude=10 ** (level / 20)) for level in levels_db]
    changed = always(compressor(threshold_db=-28, ratio=4), torch.cat(steps, dim=-1))
    for level, part in zip(levels_db, changed.chunk(4, dim=-1), strict=True):
        excess = max(0.0, level + 28)
        last = part[..., RATE // 2 :]
        # The level falls by 0.05 dB between two peaks of the tone: hence the tolerance.
        assert level_db(last, 1_000) == pytest.approx(level - excess * 3 / 4, abs=0.15)


def test_a_compressor_acts_with_its_attack_and_lets_go_with_its_release() -> None:
    quiet, loud = (tone(1_000, amplitude=10 ** (level / 20)) for level in (-40.0, -10.0))
    waveform = torch.cat((quiet, loud, quiet), dim=-1)
    changed = always(compressor(threshold_db=-30, ratio=5), waveform)
    gain_db = 20 * (changed.abs() / waveform.abs().clamp(min=1e-6)).log10()[0, 0]
    is_audible = waveform[0, 0].abs() > 1e-3
    time = torch.arange(3 * RATE) / RATE

    def gain_around(seconds: float) -> float:
        return float(gain_db[is_audible & ((time - seconds).abs() < 0.001)].mean())

    assert gain_around(0.9) == pytest.approx(0, abs=0.01)
    assert gain_around(1.005) == pytest.approx(-16 * 0.632, abs=1.5)  # one attack time
    assert gain_around(1.9) == pytest.approx(-16, abs=0.2)
    # A level that falls by 8.7 dB every 100 ms reaches the threshold 20 dB below after 230 ms.
    assert gain_around(2.1) == pytest.approx(-16 + 0.8 * 8.69, abs=0.7)
    assert gain_around(2.3) == pytest.approx(0, abs=0.05)


def test_a_compressor_keeps_the_stereo_image() -> None:
    waveform = noise(1)
    waveform[:, 1] *= 0.3
    changed = always(compressor(threshold_db=-40, ratio=8), waveform)
    torch.testing.assert_close(
        changed[:, 0] * waveform[:, 1], changed[:, 1] * waveform[:, 0], atol=1e-6, rtol=0
    )
    assert changed.square().mean() < 0.5 * waveform.square().mean()


def test_a_gate_turns_down_what_is_quiet_and_leaves_what_is_loud() -> None:
    gate = NoiseGate(sample_rate=RATE, threshold_db=(-30, -30), ratio=(3, 3), probability=1)
    quiet, loud = (tone(1_000, amplitude=10 ** (level / 20)) for level in (-40.0, -12.0))
    gated = always(gate, quiet)
    assert level_db(gated, 1_000) == pytest.approx(-40 - 10 * 2, abs=0.4)
    torch.testing.assert_close(always(gate, loud), loud, atol=1e-5, rtol=0)


def test_dynamic_range_changes_the_cells_that_are_meant() -> None:
    transform = DynamicRange(threshold=(0.1, 0.1), gain=(0.25, 0.25), probability=1, n_fft=512)
    loud, quiet = tone(1_000), tone(5_000, amplitude=0.005)
    expected = {0: (1.25, 1.0), 1: (0.75, 1.0), 2: (1.0, 1.25), 3: (1.0, 0.75)}
    for mode, factors in expected.items():
        drawn = {**transform.draw(torch.rand(1, 3)), "mode": torch.tensor([mode])}
        changed = transform.apply(loud + quiet, drawn)
        for waveform, frequency_hz, factor in zip(
            (loud, quiet), (1_000, 5_000), factors, strict=True
        ):
            ratio_db = level_db(changed, frequency_hz) - level_db(waveform, frequency_hz)
            # Cells at the foot of the loud tone's line are quiet: the line itself hardly moves.
            assert 10 ** (ratio_db / 20) == pytest.approx(factor, abs=0.02)


def test_counted_noise_is_normal_even_and_different_for_every_key() -> None:
    keys = noise_keys(torch.rand(4, 2, generator=torch.Generator().manual_seed(0)))
    drawn = normal_noise(keys, 100_000)
    assert drawn.mean(dim=1).abs().max() < 0.015
    torch.testing.assert_close(drawn.std(dim=1), torch.ones(4), atol=0.01, rtol=0)
    assert (drawn.abs() > 2).float().mean() == pytest.approx(0.0455, abs=0.002)
    assert (torch.corrcoef(drawn) - torch.eye(4)).abs().max() < 0.02
    lagged = torch.corrcoef(torch.stack((drawn[0, 1:], drawn[0, :-1])))[0, 1]
    assert lagged.abs() < 0.015
    even = even_noise(keys, 99_999)
    assert -1 < even.min() < -0.999
    assert 0.999 < even.max() < 1
    assert even.square().mean() == pytest.approx(1 / 3, abs=0.005)
    torch.testing.assert_close(normal_noise(keys, 77), drawn[:, :77], rtol=0, atol=0)


def test_multiplicative_noise_has_its_deviation_and_keeps_silence_silent() -> None:
    transform = MultiplicativeNoise(deviation=(0.1, 0.1), probability=1, n_fft=512)
    waveform = noise(1)
    changed = always(transform, waveform)
    # Overlapping windows average the noise of neighbouring cells: what is added is less than 10 %.
    added = (changed - waveform).square().mean().sqrt() / waveform.square().mean().sqrt()
    assert 0.03 < added < 0.1
    assert (always(transform, torch.zeros_like(waveform)) == 0).all()
    none = MultiplicativeNoise(deviation=(0, 0), probability=1, n_fft=512)
    torch.testing.assert_close(always(none, waveform), waveform, atol=1e-6, rtol=0)


def test_phase_noise_keeps_the_image_and_is_nothing_at_strength_0() -> None:
    waveform = noise(2)
    waveform[:, 1] = 0.5 * waveform[:, 0]
    none = PhaseNoise(strength=(0, 0), probability=1, n_fft=512)
    torch.testing.assert_close(always(none, waveform), waveform, atol=1e-6, rtol=0)
    changed = always(PhaseNoise(strength=(0.3, 0.3), probability=1, n_fft=512), waveform)
    torch.testing.assert_close(changed[:, 1], 0.5 * changed[:, 0], atol=1e-6, rtol=0)
    # The mean of e^(i x), x even in +-0.3 pi, is sin(0.3 pi) / (0.3 pi) = 0.86.
    kept = (changed * waveform).sum() / waveform.square().sum()
    assert float(kept) == pytest.approx(0.858, abs=0.02)


def test_a_time_mask_silences_its_stretch_only() -> None:
    transform = TimeMask(max_share=0.5, probability=1)
    waveform = noise(1)
    drawn = {"start": torch.tensor([0.25]), "end": torch.tensor([0.5])}
    masked = transform.apply(waveform, drawn)
    assert (masked[..., RATE // 4 : RATE // 2] == 0).all()
    assert torch.equal(masked[..., : RATE // 4 - 256], waveform[..., : RATE // 4 - 256])
    assert torch.equal(masked[..., RATE // 2 + 257 :], waveform[..., RATE // 2 + 257 :])
    shares = transform.draw(torch.rand(1_000, 2))
    assert shares["start"].min() >= 0
    assert shares["end"].max() <= 1
    assert (shares["end"] - shares["start"]).max() <= 0.5


def test_a_frequency_mask_kills_a_tone_inside_and_leaves_one_outside() -> None:
    transform = FrequencyMask(max_share=0.5, probability=1)
    drawn = {"start": torch.tensor([0.25]), "end": torch.tensor([0.5])}  # 2 to 4 kHz
    for frequency_hz in (2_100, 3_000, 3_900):
        assert level_db(transform.apply(tone(frequency_hz), drawn), frequency_hz) < -60
    for frequency_hz in (1_000, 1_900, 4_100):
        waveform = tone(frequency_hz)
        change = level_db(transform.apply(waveform, drawn), frequency_hz)
        assert change == pytest.approx(level_db(waveform, frequency_hz), abs=0.02)


def test_distortion_adds_odd_harmonics_only_and_keeps_the_loudness() -> None:
    waveform = tone(700)
    bent = always(Distortion(drive_db=(15, 15), probability=1), waveform)
    fundamental = level_db(bent, 700)
    assert level_db(bent, 2_100) > fundamental - 20
    assert level_db(bent, 3_500) > fundamental - 30
    assert level_db(bent, 1_400) < fundamental - 80
    assert level_db(bent, 2_800) < fundamental - 80
    assert bent.square().mean() == pytest.approx(float(waveform.square().mean()), rel=1e-4)


def test_distortion_of_a_high_tone_folds_less_down_than_a_plain_tangent() -> None:
    waveform = tone(5_000)  # its third harmonic, 15 kHz, would fold down to 1 kHz
    bent = always(Distortion(drive_db=(10, 10), probability=1), waveform)
    plain = (waveform * 10**0.5).tanh()
    assert level_db(bent, 1_000) < level_db(plain, 1_000) - 40
    soft = always(Distortion(drive_db=(-40, -40), probability=1), waveform)
    torch.testing.assert_close(soft, waveform, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lower_rate", [4_000, 8_000])
def test_resampling_leaves_nothing_above_half_the_lower_rate(lower_rate: int) -> None:
    transform = Resampling(sample_rate=RATE, lower_rates=[lower_rate], probability=1)
    low, high = tone(lower_rate / 8), tone(lower_rate * 0.65)
    assert level_db(always(transform, low), lower_rate / 8) == pytest.approx(
        level_db(low, lower_rate / 8), abs=0.1
    )
    assert (
        level_db(always(transform, high), lower_rate * 0.65)
        < level_db(high, lower_rate * 0.65) - 40
    )


def test_a_rate_that_is_not_lower_is_refused() -> None:
    with pytest.raises(ValueError, match=r"lower_rates \(\[8000, 22050\]\)"):
        Resampling(sample_rate=RATE, lower_rates=[8_000, 22_050], probability=1)


@pytest.mark.parametrize("length", [1, 1_000, 1_024, 5_000])
def test_the_transform_of_the_codec_is_inverted_exactly_and_keeps_energy(length: int) -> None:
    waveform = torch.randn(2, 2, length, generator=torch.Generator().manual_seed(0))
    coefficients = mdct(waveform)
    torch.testing.assert_close(
        inverse_mdct(coefficients, length=length), waveform, atol=1e-5, rtol=0
    )
    assert coefficients.square().sum() == pytest.approx(float(waveform.square().sum()), rel=1e-4)


def codec(signal_to_noise_db: float, *, limit_hz: float = 7_900) -> CodecRoughness:
    return CodecRoughness(
        sample_rate=RATE,
        signal_to_noise_db=(signal_to_noise_db,) * 2,
        limit_hz=(limit_hz,) * 2,
        probability=1,
    )


def test_the_roughness_of_the_codec_is_what_it_says() -> None:
    waveform = noise(2)
    for wanted_db in (12.0, 20.0, 40.0):
        error = always(codec(wanted_db), waveform) - waveform
        # 100 Hz of 8,000 lie above the limit: so much is lost in any case.
        lost = (1 / 80) if wanted_db == 12 else 0
        limited = always(codec(90), waveform)
        error = always(codec(wanted_db), waveform) - limited
        present_db = 10 * float((limited.square().mean() / error.square().mean()).log10())
        assert present_db == pytest.approx(wanted_db, abs=0.7 + lost)


def test_the_codec_cuts_above_its_limit_and_follows_the_level() -> None:
    transform = codec(20, limit_hz=4_000)
    assert level_db(always(transform, tone(6_000)), 6_000) < -45
    waveform = noise()
    torch.testing.assert_close(
        always(transform, 1e-3 * waveform), 1e-3 * always(transform, waveform), atol=1e-7, rtol=1e-3
    )
    assert (always(transform, torch.zeros_like(waveform)) == 0).all()


def test_a_unit_impulse_response_is_the_identity_and_a_late_one_an_echo() -> None:
    waveform = noise(1)
    impulse = torch.zeros(1, 2, 3_000)
    impulse[..., 0] = 1
    torch.testing.assert_close(convolved(waveform, impulse), waveform, atol=1e-6, rtol=0)
    late = impulse.roll(1_000, dims=-1)
    echo = convolved(waveform, late)
    torch.testing.assert_close(echo[..., 1_000:], waveform[..., :-1_000], atol=1e-6, rtol=0)
    assert echo[..., :1_000].abs().max() < 1e-6


def test_a_synthetic_room_decays_by_60_db_in_its_time_after_its_delay() -> None:
    rooms = SyntheticRooms(sample_rate=RATE, decay_seconds=(0.5, 0.5), delay_ms=(20, 20))
    drawn = rooms.draw(torch.rand(64, 4, generator=torch.Generator().manual_seed(0)))
    answers = rooms.responses(drawn, num_channels=2, device=torch.device("cpu"))
    delay = RATE // 50
    assert (answers[..., :delay] == 0).all()
    assert answers.square().sum(dim=-1).mean() == pytest.approx(1, rel=0.05)
    power = answers.square().mean(dim=(0, 1))[delay:]
    early, late = power[:400].mean(), power[4_000:4_400].mean()  # a quarter second: 30 dB
    assert 10 * float((early / late).log10()) == pytest.approx(30, abs=0.7)
    left, right = answers[:, 0].flatten(), answers[:, 1].flatten()
    assert torch.corrcoef(torch.stack((left, right)))[0, 1].abs() < 0.02


def test_a_reverb_keeps_the_direct_sound_and_adds_so_much_room() -> None:
    rooms = SyntheticRooms(sample_rate=RATE, decay_seconds=(0.2, 0.2), delay_ms=(5, 5))
    transform = Reverb(rooms=rooms, wet_db=(-10, -10), probability=1)
    waveform = noise(8)
    added = always(transform, waveform) - waveform
    assert added[..., :80].abs().max() < 1e-6
    present_db = 10 * float((middle(added).square().mean() / waveform.square().mean()).log10())
    assert present_db == pytest.approx(-10, abs=0.5)


def test_recorded_rooms_are_read_resampled_and_brought_to_one_energy(tmp_path: Path) -> None:
    (tmp_path / "halls").mkdir()
    click = torch.zeros(400, 2)
    click[0] = 0.25
    sf.write(tmp_path / "a.wav", click.numpy(), RATE)
    sf.write(tmp_path / "halls" / "b.wav", click[:, 0].roll(100).numpy(), RATE // 2)
    rooms = RecordedRooms(folder=tmp_path, sample_rate=RATE)
    drawn = rooms.draw(torch.tensor([[0.1], [0.9]]))
    assert drawn["room"].tolist() == [0, 1]
    transform = Reverb(rooms=rooms, wet_db=(0, 0), probability=1)
    waveform = noise()
    room = transform.apply(waveform, {"wet_db": torch.zeros(2), **drawn}) - waveform
    torch.testing.assert_close(room[0], waveform[0], atol=1e-4, rtol=0)
    # One sample at 8 kHz is 200 samples later at 16 kHz, and band-limited.
    correlation = (room[1, :, 200:] * waveform[1, :, :-200]).sum() / waveform[1].square().sum()
    assert correlation > 0.6
    with pytest.raises(ValueError, match="holds no impulse responses"):
        RecordedRooms(folder=tmp_path / "nowhere", sample_rate=RATE)
    sf.write(tmp_path / "c.wav", (0 * click).numpy(), RATE)
    with pytest.raises(ValueError, match=r"c\.wav is silent"):
        _ = RecordedRooms(folder=tmp_path, sample_rate=RATE).recorded


def test_lengths_for_the_fourier_transform_are_even_and_near() -> None:
    for length in (1, 2, 7, 1_000, 44_101, 275_625):
        found = fast_length(length)
        assert found % 2 == 0
        assert length <= found <= 1.1 * length + 2
