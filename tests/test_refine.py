from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.refine import (
    Aggressiveness,
    FillBand,
    Frames,
    LeaveUntouched,
    RunWeights,
    Stage,
    Wiener,
    mask_of,
    refined,
)

NUM_BINS = 9
MAKERS: dict[str, Callable[[], Stage]] = {
    "aggressiveness": lambda: Aggressiveness(stem=1, exponent=2.0),
    "fill_band": lambda: FillBand(remainder=1, first_bin=6),
    "absent": lambda: LeaveUntouched(
        absent=0, threshold=0.05, min_frames=8, fade_frames=3, num_bins=NUM_BINS - 1
    ),
    "wiener": lambda: Wiener(iterations=1),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex64, generator=generator)


def song(num_frames: int, *, num_stems: int = 2, channels: int = 2, seed: int = 0) -> Frames:
    stems = noise(num_stems, channels, NUM_BINS, num_frames, seed=seed)
    stems[0, ..., 20:60] = 0  # no voice
    return Frames(stems.sum(dim=0), stems)


def through(stages: list[Stage], frames: Frames, block: int) -> Frames:
    parts: list[Frames] = []
    for at in range(0, frames.mixture.shape[-1], block):
        span = slice(at, at + block)
        part = refined(stages, Frames(frames.mixture[..., span], frames.stems[..., span]))
        assert part is not None
        parts.append(part)
    rest = refined(stages, None)
    parts += [] if rest is None else [rest]
    return Frames(
        torch.cat([part.mixture for part in parts], -1),
        torch.cat([part.stems for part in parts], -1),
    )


@pytest.mark.parametrize("num_stems", [2, 4])
@pytest.mark.parametrize("names", [*([name] for name in MAKERS), list(MAKERS)])
def test_the_sum_is_kept_and_no_frame_depends_on_the_blocks(
    names: list[str], num_stems: int
) -> None:
    for num_frames in (1, 7, 100, 700):
        given = song(num_frames, num_stems=num_stems)
        results = [
            through([MAKERS[name]() for name in names], given, block) for block in (1, 13, 1_000)
        ]
        for result in results:
            torch.testing.assert_close(result.mixture, given.mixture)
            torch.testing.assert_close(result.stems.sum(dim=0), given.mixture, atol=2e-4, rtol=1e-4)
            torch.testing.assert_close(result.stems, results[0].stems, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("level", [0.0, 1e-20, 1e-6, 1e6])
def test_silence_and_extremes_give_numbers(name: str, level: float) -> None:
    given = song(400)
    given = Frames(given.mixture * level, given.stems * level)
    for stems in (given.stems, torch.zeros_like(given.stems)):
        result = through([MAKERS[name]()], Frames(given.mixture, stems), 50)
        assert torch.isfinite(torch.view_as_real(result.stems)).all()
        assert result.stems.shape == stems.shape


def test_an_exponent_sharpens_the_mask() -> None:
    given = song(50)
    same = through([Aggressiveness(stem=1, exponent=1.0)], given, 50)
    torch.testing.assert_close(same.stems, given.stems, atol=1e-5, rtol=1e-5)
    sharper = through([Aggressiveness(stem=1, exponent=3.0)], given, 50)
    before, after = (mask_of(frames.mixture, frames.stems[1]) for frames in (given, sharper))
    torch.testing.assert_close(after, before**3, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match=r"aggressiveness \(-1\) must be at least 0"):
        Aggressiveness(stem=0, exponent=-1)


def test_the_band_above_is_shared_as_just_below() -> None:
    mixture = noise(2, NUM_BINS, 30)
    stems = torch.stack([0.3 * mixture, 0.7 * mixture])
    stems[0, :, 6:], stems[1, :, 6:] = 0, mixture[:, 6:]
    filled = through([FillBand(remainder=1, first_bin=6)], Frames(mixture, stems), 30)
    torch.testing.assert_close(filled.stems[0], 0.3 * mixture)
    torch.testing.assert_close(filled.stems[1], 0.7 * mixture)
    untouched = through([FillBand(remainder=1, first_bin=NUM_BINS)], Frames(mixture, stems), 30)
    assert torch.equal(untouched.stems, stems)


def test_a_voiceless_stretch_becomes_the_mixture() -> None:
    stems = 0.5 * noise(2, 2, NUM_BINS, 200)
    mixture = noise(2, NUM_BINS, 200, seed=1)
    stems[1] = mixture - stems[0]
    stems[:, :, :, 50:150] = torch.stack([0.02 * mixture, 0.98 * mixture])[..., 50:150]
    stems[1, 0, 0, :50], stems[1, 0, 0, 150:] = 0, 0  # elsewhere a bin is all voice
    stems[0] = mixture - stems[1]
    stage = LeaveUntouched(
        absent=0, threshold=0.05, min_frames=64, fade_frames=32, num_bins=NUM_BINS
    )
    result = through([stage], Frames(mixture, stems), 17)
    assert torch.equal(result.stems[..., :50], stems[..., :50])
    assert torch.equal(result.stems[..., 150:], stems[..., 150:])
    torch.testing.assert_close(result.stems[1, ..., 82:117], mixture[..., 82:117])
    assert result.stems[0, ..., 82:117].abs().max() < 1e-6


def test_an_absent_stem_is_given_back_to_the_others_as_their_shares_are() -> None:
    mixture = noise(2, NUM_BINS, 200, seed=1)
    shares = torch.tensor([0.1, 0.6, 0.3])[:, None, None, None]
    stems = shares * mixture
    stems[0, :, 4, :50] = mixture[:, 4, :50]  # at first it is all of a bin
    stems[1:, :, 4, :50] = 0
    given = Frames(mixture, stems)
    stage = LeaveUntouched(absent=0, threshold=0.5, min_frames=64, fade_frames=32, num_bins=5)
    result = through([stage], given, 17)
    assert torch.equal(result.stems[..., :50], stems[..., :50])
    kept = result.stems[..., 90:150]
    assert kept[0].abs().max() < 1e-6
    torch.testing.assert_close(kept[1], 2 / 3 * mixture[..., 90:150], atol=1e-5, rtol=0)
    torch.testing.assert_close(kept[2], 1 / 3 * mixture[..., 90:150], atol=1e-5, rtol=0)


def whole_song_weights(quiet: list[bool], min_frames: int, fade: int) -> list[float]:
    """The weights of a song that lies there as a whole, by the rules as they are written down."""
    weights = [0.0] * len(quiet)
    ramp = torch.linspace(0, 1, fade).tolist()
    last_end: int | None = None
    at = 0
    while at < len(quiet):
        if not quiet[at]:
            at += 1
            continue
        start = at
        while at < len(quiet) and quiet[at]:
            at += 1
        end = at - 1
        if end - start <= min_frames:
            continue
        if last_end is not None and start - last_end < fade:
            start = last_end - 2 * fade
        if start:
            weights[start : start + fade] = ramp
        weights[end - fade : end] = ramp[::-1]
        full = start + fade if start else 0
        weights[full : end - fade] = [1.0] * (end - fade - full)
        last_end = end
    return weights


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_found_in_a_stream_as_in_the_whole(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 30, (40,), generator=generator).tolist()
    quiet = [bool(n % 2) for n, length in enumerate(lengths) for _ in range(length * (1 + n % 2))]
    if seed % 2:  # hardly any gaps
        quiet = [flag or bool(k % 7) for k, flag in enumerate(quiet)]
        quiet = [flag or (k // 50) % 2 == 1 for k, flag in enumerate(quiet)]
    expected = whole_song_weights(quiet, 8, 4)
    assert any(expected)
    for block in (1, 5, 1_000):
        stream = RunWeights(min_frames=8, fade_frames=4)
        flags = torch.tensor(quiet)
        parts = [stream.push(part) for part in flags.split(block)]
        assert torch.cat([*parts, stream.finish()]).tolist() == pytest.approx(expected), block


def test_a_run_of_hours_is_given_while_it_lasts() -> None:
    stream = RunWeights(min_frames=8, fade_frames=4)
    given = 0
    for _ in range(100):
        given += len(stream.push(torch.ones(50, dtype=torch.bool)))
    assert 5_000 - given == 8 + 3 * 4 + 1


def test_merged_artifacts_are_the_originals(reference: Callable[[str], dict[str, Any]]) -> None:
    case = reference("min_ensemble")["cases"]["merge"]
    mask = case["mask"]
    stream = RunWeights(min_frames=64, fade_frames=32)
    quiet = mask.amin(dim=(0, 1)) > 0.05
    weights = torch.cat([stream.push(quiet), stream.finish()])
    assert weights.any()
    torch.testing.assert_close(mask + weights * (1 - mask), case["out"], atol=1e-6, rtol=0)


def panned(num_samples: int) -> tuple[Tensor, Tensor]:
    """Two stereo sources in different places, S C L, and their mixture."""
    generator = torch.Generator().manual_seed(0)
    sources = torch.randn(2, num_samples, generator=generator)
    sources *= torch.rand(2, num_samples // 200, generator=generator).repeat_interleave(200, dim=1)
    places = torch.tensor([[0.9, 0.3], [0.2, 0.8]])
    stems = places[:, :, None] * sources[:, None]
    return stems, stems.sum(dim=0)


def test_wiener_filtering_improves_noisy_oracle_masks() -> None:
    stems, mixture = panned(40_000)
    stft = Stft(n_fft=256, hop_length=64)
    spectrum, truth = stft(mixture), stft(stems)
    sizes = truth.abs() * torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)) * 2
    masks = sizes / sizes.sum(dim=0).clamp_min(1e-9)
    noisy = Frames(spectrum, masks * spectrum)

    def sdr(frames: Frames) -> float:
        error = (frames.stems - truth).abs().square().sum()
        return float(10 * torch.log10(truth.abs().square().sum() / error))

    filtered = through([Wiener(iterations=2)], noisy, 37)
    assert sdr(filtered) > sdr(noisy) + 3
    one_channel = Frames(spectrum[:1], noisy.stems[:, :1])
    untouched = through([Wiener(iterations=1)], one_channel, 50)  # but for the fades of its windows
    torch.testing.assert_close(untouched.stems, one_channel.stems)


def test_a_value_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"wiener \(0\)"):
        Wiener(iterations=0)
    with pytest.raises(ValueError, match=r"at least twice absent\.fade_seconds"):
        LeaveUntouched(absent=0, threshold=0.1, min_frames=5, fade_frames=3, num_bins=4)
