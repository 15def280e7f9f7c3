from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.execution import Execution
from frametx.separator import Separator, SpectrogramSeparator
from frametx.streaming import remainder_index, separate_blocks, separate_waveform

RATE = 8_000
CHUNK = 24


class Share(nn.Module):
    """Each stem is a fixed share of the mixture."""

    sums_to_mixture = True

    def __init__(self, shares: tuple[float, ...], num_channels: int = 2, rate: int = RATE) -> None:
        super().__init__()
        self.shares = shares
        self.stems: tuple[str, ...] = ("vocals", "instrumental", "drums", "bass")[: len(shares)]
        self.sample_rate = rate
        self.num_channels = num_channels
        self.chunk_samples = CHUNK if rate == RATE else 2_000
        self.batch_sizes: list[int] = []

    def forward(self, mixture: Tensor) -> Tensor:
        assert mixture.shape[1:] == (self.num_channels, self.chunk_samples)
        self.batch_sizes.append(len(mixture))
        return torch.stack([share * mixture for share in self.shares], dim=1)


class Smooth(Share):
    """The vocals are a moving average over five samples: chunks err only at their edges."""

    def forward(self, mixture: Tensor) -> Tensor:
        channels = mixture.shape[1]
        kernel = torch.full((channels, 1, 5), 0.2)
        smooth = nn.functional.conv1d(mixture, kernel, padding=2, groups=channels)
        return torch.stack([smooth, mixture - smooth], dim=1)


def noise(num_channels: int, length: int) -> Tensor:
    return torch.randn(num_channels, length, generator=torch.Generator().manual_seed(length)) * 0.3


def in_blocks(separator: Separator, mixture: Tensor, block: int, **options: object) -> Tensor:
    batch_size = options.pop("batch_size", 2)
    execution = Execution(device="cpu", batch_size=batch_size)  # pyright: ignore[reportArgumentType]
    chosen = {"sample_rate": RATE, "overlap": 0.25, "execution": execution} | options
    blocks = mixture.split(block, dim=1)
    return torch.cat(list(separate_blocks(separator, blocks, **chosen)), dim=2)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("shares", [(1.0, 0.0), (0.5, 0.5), (0.25, 0.25, 0.25, 0.25)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 5])
def test_shares_of_the_mixture_come_back_at_every_length(
    batch_size: int, overlap: float, shares: tuple[float, ...]
) -> None:
    separator = Share(shares)
    for length in (1, 2, 5, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK + 7, 3 * CHUNK):
        mixture = noise(2, length)
        estimates = separate_waveform(
            separator, mixture, sample_rate=RATE, overlap=overlap, batch_size=batch_size
        )
        assert estimates.shape == (len(shares), 2, length)
        for estimate, share in zip(estimates, shares, strict=True):
            torch.testing.assert_close(estimate, share * mixture, atol=1e-6, rtol=0)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("block", [1, 5, CHUNK - 1, CHUNK, CHUNK + 1, 500])
@pytest.mark.parametrize("rate", [RATE, 5_000, 11_025])
def test_no_sample_depends_on_the_block_size(rate: int, block: int, overlap: float) -> None:
    separator = Smooth((0.0, 0.0), rate=rate)
    mixture = noise(2, 211)
    expected = in_blocks(separator, mixture, 37, overlap=overlap)
    assert torch.equal(in_blocks(separator, mixture, block, overlap=overlap), expected)


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_batches_equal_one_at_a_time(batch_size: int) -> None:
    separator, mixture = Smooth((0.0, 0.0)), noise(2, 333)
    expected = in_blocks(separator, mixture, 50, batch_size=1)
    torch.testing.assert_close(in_blocks(separator, mixture, 50, batch_size=batch_size), expected)


def test_chunks_equal_the_whole_away_from_the_edges() -> None:
    separator, mixture = Smooth((0.0, 0.0)), noise(2, 40 * CHUNK + 7)
    whole = separator(mixture[None])[0]
    estimates = in_blocks(separator, mixture, 1_000, chunk_samples=10 * CHUNK, overlap=0.0)
    # Without overlap two samples on either side of a seam lack neighbours.
    hop = 10 * CHUNK
    at_seam = torch.zeros(mixture.shape[1], dtype=torch.bool)
    for seam in range(hop, mixture.shape[1], hop):
        at_seam[seam - 2 : seam + 2] = True
    torch.testing.assert_close(estimates[..., ~at_seam], whole[..., ~at_seam])
    assert (estimates - whole)[..., at_seam].abs().max() > 1e-3


def test_overlap_heals_the_seams() -> None:
    separator, mixture = Smooth((0.0, 0.0)), noise(2, 40 * CHUNK + 7)
    whole = separator(mixture[None])[0]

    def error(overlap: float) -> float:
        estimates = in_blocks(separator, mixture, 999, chunk_samples=10 * CHUNK, overlap=overlap)
        return float((estimates - whole).abs().max())

    assert error(0.5) < error(0.0) / 10


@pytest.mark.parametrize("rate", [5_000, 8_000, 11_025])
@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("channels_in", [1, 2, 3, 5, 6])
def test_stems_sum_to_the_mixture(channels_in: int, num_channels: int, rate: int) -> None:
    separator = Smooth((0.0, 0.0), num_channels=num_channels, rate=rate)
    mixture = noise(channels_in, 1_234)
    estimates = in_blocks(separator, mixture, 4_000)
    assert estimates.shape == (2, channels_in, 1_234)
    torch.testing.assert_close(estimates.sum(dim=0), mixture, atol=1e-6, rtol=0)


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("channels_in", [1, 2, 3, 5, 6])
def test_every_channel_is_separated_as_if_it_were_alone(
    channels_in: int, num_channels: int
) -> None:
    separator = Smooth((0.0, 0.0), num_channels=num_channels)
    mixture = noise(channels_in, 200)
    together = in_blocks(separator, mixture, 64)
    for channel in range(channels_in):
        alone = in_blocks(separator, mixture[channel : channel + 1], 64)
        torch.testing.assert_close(together[:, channel], alone[:, 0])


def test_a_mono_stream_is_the_average_of_what_a_stereo_separator_makes_of_it() -> None:
    class OneSided(Share):
        def forward(self, mixture: Tensor) -> Tensor:
            vocals = mixture * torch.tensor([1.0, 0.0])[:, None]
            return torch.stack([vocals, mixture - vocals], dim=1)

    mixture = noise(1, 100)
    estimates = in_blocks(OneSided((0.0, 0.0)), mixture, 30)
    torch.testing.assert_close(estimates[0], mixture / 2, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("channels_in", "batch_size", "expected"), [(1, 3, 3), (2, 3, 3), (6, 1, 1), (6, 4, 3)]
)
def test_no_batch_is_larger_than_asked_for(
    channels_in: int, batch_size: int, expected: int
) -> None:
    separator = Share((0.5, 0.5), num_channels=2)
    in_blocks(separator, noise(channels_in, 2_000), 512, batch_size=batch_size)
    assert max(separator.batch_sizes) == expected


@pytest.mark.parametrize("rate", [5_000, 11_025, 44_100])
@pytest.mark.parametrize("length", [1, 2, 3, 500, 1_999, 2_000, 2_001, 10_007])
def test_the_length_is_kept_through_any_rate(length: int, rate: int) -> None:
    mixture = noise(2, length)
    estimates = in_blocks(Share((0.5, 0.5), rate=rate), mixture, 700)
    assert estimates.shape == (2, 2, length)
    torch.testing.assert_close(estimates.sum(dim=0), mixture, atol=1e-6, rtol=0)


def test_what_the_model_cannot_hear_stays_in_the_remainder() -> None:
    time_s = torch.arange(44_100, dtype=torch.float64) / 44_100
    low = torch.sin(2 * torch.pi * 1_000 * time_s).float()[None]
    high = torch.sin(2 * torch.pi * 12_000 * time_s).float()[None]
    separator = Share((1.0, 0.0), num_channels=1, rate=16_000)
    vocals, instrumental = in_blocks(separator, low + high, 9_999, sample_rate=44_100)
    away = slice(4_000, -4_000)
    assert (vocals - low)[:, away].abs().max() < 1e-3
    assert (instrumental - high)[:, away].abs().max() < 1e-3


def test_the_remainder_may_be_chosen() -> None:
    assert remainder_index(("vocals", "instrumental"), None) == 1
    assert remainder_index(("instrumental", "vocals"), None) == 0
    assert remainder_index(("drums", "bass", "other"), None) == 2
    assert remainder_index(("drums", "bass", "other"), None, complement="drums") == 0
    assert remainder_index(("vocals", "instrumental"), None, complement="vocals") == 1
    assert remainder_index(("drums", "bass", "other"), "bass") == 1
    assert remainder_index(("vocals",), None) is None
    with pytest.raises(ValueError, match=r"remainder=piano must be one of .*drums.* or none"):
        remainder_index(("drums", "bass"), "piano")


def test_stems_that_do_not_sum_have_no_remainder_unless_one_is_asked_for() -> None:
    assert remainder_index(("vocals", "instrumental"), None, sums=False) is None
    assert remainder_index(("vocals", "instrumental"), "none") is None
    assert remainder_index(("vocals", "instrumental"), "vocals", sums=False) == 0


@pytest.mark.parametrize("rate", [5_000, 8_000])
def test_without_a_remainder_every_stem_is_the_separators_own(rate: int) -> None:
    free = Share((0.5, 0.1), rate=rate)
    free.sums_to_mixture = False
    mixture = noise(2, 1_234)
    stems = in_blocks(free, mixture, 300)
    assert torch.equal(in_blocks(free, mixture, 300, remainder="none"), stems)
    torch.testing.assert_close(stems[0], 5 * stems[1], atol=1e-6, rtol=1e-5)
    if rate == RATE:
        torch.testing.assert_close(stems[1], 0.1 * mixture, atol=1e-6, rtol=0)
    # The one that is not the remainder is the same to the last bit.
    with_rest = in_blocks(free, mixture, 300, remainder="instrumental")
    assert torch.equal(with_rest[0], stems[0])
    torch.testing.assert_close(with_rest.sum(dim=0), mixture, atol=1e-6, rtol=0)


class Voices(nn.Module):
    """Low and high tones of a mixture, in an order that chance gives each item of each batch.

    Args:
        swaps: whether chance has a say.
    """

    ordered_stems = False
    sums_to_mixture = False
    stems: tuple[str, ...] = ("low", "high")
    sample_rate = RATE
    chunk_samples = 1_000

    def __init__(self, *, swaps: bool, num_channels: int = 1, seed: int = 0) -> None:
        super().__init__()
        self.swaps = swaps
        self.num_channels = num_channels
        self.generator = torch.Generator().manual_seed(seed)
        self.num_swapped = 0

    def forward(self, mixture: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(mixture)
        hz = torch.fft.rfftfreq(mixture.shape[-1], 1 / RATE)
        estimates = torch.stack(
            [
                torch.fft.irfft(spectrum * part, n=mixture.shape[-1])
                for part in (hz < 1e3, hz > 1e3)
            ],
            dim=1,
        )
        if not self.swaps:
            return estimates
        is_swapped = torch.rand(len(mixture), generator=self.generator) < 0.5
        self.num_swapped += int(is_swapped.sum())
        return torch.where(is_swapped[:, None, None, None], estimates.flip(1), estimates)


def order_of(found: Tensor, expected: Tensor) -> Tensor:
    """The estimates found, turned as a whole: which stem a stream begins with is chance as well."""
    turned = found.flip(0)
    near, far = (float((x - expected).square().sum()) for x in (found, turned))
    return found if near < far else turned


@pytest.mark.parametrize("channels_in", [1, 2, 3])
@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("overlap", [0.1, 0.25, 0.75])
def test_a_separator_that_swaps_its_stems_by_chance_gives_what_one_gives_that_does_not(
    overlap: float, num_channels: int, channels_in: int
) -> None:
    mixture = noise(1, 8_300).expand(channels_in, -1) + 0.5 * noise(channels_in, 8_300)
    mixture[0] *= -1  # a microphone with its wires the other way round
    plain = Voices(swaps=False, num_channels=num_channels)
    plain.ordered_stems = True
    expected = in_blocks(plain, mixture, 700, overlap=overlap)
    for seed in range(3):
        swapping = Voices(swaps=True, num_channels=num_channels, seed=seed)
        found = in_blocks(swapping, mixture, 700, overlap=overlap)
        assert swapping.num_swapped > 0
        torch.testing.assert_close(order_of(found, expected), expected, atol=1e-6, rtol=0)
    kept = in_blocks(Voices(swaps=False, num_channels=num_channels), mixture, 700, overlap=overlap)
    assert torch.equal(kept, expected)


def test_without_that_a_seam_would_swap_them() -> None:
    mixture, swapping = noise(1, 8_300), Voices(swaps=True)
    expected = in_blocks(Voices(swaps=False), mixture, 700)
    swapping.ordered_stems = True
    found = order_of(in_blocks(swapping, mixture, 700), expected)
    assert (found - expected).abs().max() > 0.1


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("block", [1, 333, 5_000])
def test_stems_without_an_order_depend_on_neither_blocks_nor_batches(
    block: int, batch_size: int
) -> None:
    mixture = noise(2, 4_444)
    expected = in_blocks(Voices(swaps=True), mixture, 700, batch_size=2)
    found = in_blocks(Voices(swaps=True), mixture, block, batch_size=batch_size)
    torch.testing.assert_close(order_of(found, expected), expected, atol=1e-6, rtol=0)


def test_a_silence_longer_than_a_chunk_keeps_the_order() -> None:
    mixture = noise(1, 9_000)
    mixture[:, 3_000:6_000] = 0
    plain = Voices(swaps=False)
    plain.ordered_stems = True
    expected = in_blocks(plain, mixture, 700)
    assert torch.equal(in_blocks(Voices(swaps=False), mixture, 700), expected)
    assert not expected[..., 4_200:4_700].any()  # chunks lie in it that hold nothing at all


def test_chunks_side_by_side_are_refused_where_stems_have_no_order() -> None:
    for options in ({"overlap": 0.0}, {"overlap": 0.01, "chunk_samples": 20}):
        with pytest.raises(ValueError, match=r"overlap=0.* have no order.* take overlap=0.25"):
            in_blocks(Voices(swaps=False), noise(1, 5_000), 700, **options)


def test_a_single_stem_is_given_as_it_is() -> None:
    mixture = noise(2, 100)
    estimates = in_blocks(Share((0.3,)), mixture, 33)
    torch.testing.assert_close(estimates[0], 0.3 * mixture)


def test_an_empty_stream_gives_nothing() -> None:
    separator = Share((0.5, 0.5))
    for blocks in ([], [torch.zeros(2, 0)]):
        stems = separate_blocks(
            separator, blocks, sample_rate=RATE, overlap=0.0, execution=Execution(device="cpu")
        )
        assert not list(stems)


def test_stems_appear_before_the_stream_ends() -> None:
    num_read = 0

    def endless() -> Iterator[Tensor]:
        nonlocal num_read
        while True:
            num_read += 1
            yield torch.zeros(2, 100)

    separator = Share((0.5, 0.5), rate=11_025)
    execution = Execution(device="cpu", batch_size=2)
    stems = separate_blocks(
        separator, endless(), sample_rate=RATE, overlap=0.25, execution=execution
    )
    given = 0
    while given < 50_000:
        given += next(stems).shape[2]
    assert num_read * 100 - given < 3 * 2_000  # two chunks in a batch, and what resampling holds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"overlap": 1.0}, "overlap"),
        ({"chunk_samples": 0}, "at least 1 sample"),
        ({"remainder": "piano"}, "remainder=piano"),
    ],
)
def test_an_option_out_of_range_is_refused_at_once(
    options: dict[str, object], message: str
) -> None:
    execution = Execution(device="cpu")
    chosen = {"sample_rate": RATE, "overlap": 0.0, "execution": execution} | options
    with pytest.raises(ValueError, match=message):
        separate_blocks(Share((0.5, 0.5)), [], **chosen)  # pyright: ignore[reportArgumentType]


def test_the_estimates_can_be_used_in_place_by_the_caller() -> None:
    estimates = separate_waveform(Share((0.5, 0.5)), noise(2, 100), sample_rate=RATE)
    assert not estimates.is_inference()
    estimates.mul_(2)


class Remembering(nn.Module):
    """The louder the past, the more it gives to its stem: a mask that depends on what came before.

    Attributes:
        num_calls: how often it was asked.
    """

    num_bins = 32
    num_past_crops = 2
    crop_frames = 8

    def __init__(self) -> None:
        super().__init__()
        self.num_calls = 0

    def forward(self, magnitude: Tensor) -> Tensor:
        self.num_calls += 1
        mixture, past = magnitude[:, :1], magnitude[:, 1:].mean((1, 2, 3), keepdim=True)
        return (10 * past - 1).expand_as(mixture)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_network_with_a_past_is_taken_through_a_stream_in_order(
    overlap: float, channels: int
) -> None:
    """Batches do not matter, channels do not mix, and chunks agree with the whole."""
    torch.manual_seed(0)
    separator = SpectrogramSeparator(
        stft=Stft(n_fft=64, hop_length=16),
        network=Remembering(),
        stems=("vocals", "instrumental"),
        complement="vocals",
        sample_rate=8000,
        num_channels=1,
        chunk_frames=33,
        scale="none",
        top_bin="copy",
    )
    mixture = torch.randn(channels, 16 * 200) * torch.linspace(0.1, 0.5, 16 * 200)
    options: dict[str, Any] = {"sample_rate": 8000, "overlap": overlap}
    one, batched = (
        separate_waveform(separator, mixture, batch_size=size, **options) for size in (1, 8)
    )
    torch.testing.assert_close(one, batched)
    alone = [separate_waveform(separator, channel[None], **options) for channel in mixture]
    torch.testing.assert_close(one, torch.cat(alone, 1))
    whole = separator(mixture.unsqueeze(1)).squeeze(2).transpose(0, 1)
    loudness = [estimate.square().mean().sqrt() for estimate in (one[0], whole[0])]
    assert 0.8 < loudness[0] / loudness[1] < 1.25
