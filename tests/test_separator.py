from typing import Literal

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.separator import Separator, SpectrogramSeparator, TopBin


class ConstantMask(nn.Module):
    """Logits that do not depend on the input, and a record of what it was shown."""

    def __init__(self, *, num_bins: int, logit: float, stems: int = 1) -> None:
        super().__init__()
        self.num_bins = num_bins
        self.logit = nn.Parameter(torch.tensor(logit))
        self.stems = stems
        self.seen = torch.zeros(0)

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B SC F T"]:
        self.seen = magnitude
        batch, channels, bins, frames = magnitude.shape
        return self.logit.expand(batch, self.stems * channels, bins, frames)


def separator(
    network: nn.Module,
    *,
    complement: str | None = "vocals",
    scale: Literal["chunk_peak", "none"] = "chunk_peak",
    top_bin: TopBin = "copy",
) -> SpectrogramSeparator:
    return SpectrogramSeparator(
        stft=Stft(n_fft=64, hop_length=16),
        network=network,
        stems=["vocals", "instrumental"],
        complement=complement,
        sample_rate=8000,
        num_channels=2,
        chunk_frames=32,
        scale=scale,
        top_bin=top_bin,
    )


def test_estimates_sum_to_the_mixture_for_any_length() -> None:
    model = separator(ConstantMask(num_bins=32, logit=0.3))
    for length in (1, 15, 16, 17, 500):
        mixture = torch.randn(2, 2, length)
        estimates = model(mixture)
        assert estimates.shape == (2, 2, 2, length)
        torch.testing.assert_close(estimates.sum(dim=1), mixture, atol=1e-6, rtol=0)


def test_an_open_mask_gives_everything_to_its_stem() -> None:
    mixture = torch.randn(1, 2, 700)
    vocals, instrumental = separator(ConstantMask(num_bins=32, logit=50.0))(mixture)[0]
    torch.testing.assert_close(instrumental, mixture[0], atol=2e-6, rtol=0)
    assert vocals.abs().max() < 2e-6


def test_the_complement_keeps_its_place_among_the_stems() -> None:
    network = ConstantMask(num_bins=32, logit=50.0)
    model = SpectrogramSeparator(
        stft=Stft(n_fft=64, hop_length=16),
        network=network,
        stems=["instrumental", "vocals"],
        complement="vocals",
        sample_rate=8000,
        num_channels=1,
        chunk_frames=32,
        scale="none",
        top_bin="copy",
    )
    mixture = torch.randn(1, 1, 300)
    torch.testing.assert_close(model(mixture)[0, 0], mixture[0], atol=2e-6, rtol=0)


def test_the_network_sees_its_bins_scaled_to_one_and_a_silent_chunk_stays_silent() -> None:
    network = ConstantMask(num_bins=32, logit=0.0)
    mixture = torch.randn(2, 2, 400) * 1e-3
    mixture[1] = 0
    estimates = separator(network)(mixture)
    assert network.seen.shape[2] == 32
    assert network.seen[0].max() == pytest.approx(1.0)
    assert network.seen[1].max() == 0
    assert torch.isfinite(estimates).all()
    assert estimates[1].abs().max() == 0


def test_without_scaling_the_magnitude_is_handed_over_as_it_is() -> None:
    network = ConstantMask(num_bins=32, logit=0.0)
    mixture = torch.randn(1, 2, 400)
    model = separator(network, scale="none")
    model(mixture)
    torch.testing.assert_close(network.seen, model.stft(mixture).abs()[:, :, :32])


@pytest.mark.parametrize(("top_bin", "kept"), [("copy", 1.0), ("average", 0.5), ("zero", 0.0)])
def test_the_bins_above_the_network_follow_the_policy(top_bin: TopBin, kept: float) -> None:
    network = ConstantMask(num_bins=32, logit=50.0)
    network.logit = nn.Parameter(torch.where(torch.arange(32) < 16, -50.0, 50.0)[:, None])
    model = separator(network, top_bin=top_bin)
    mask = model.mask(torch.rand(1, 2, 33, 5))
    assert mask.shape == (1, 1, 2, 33, 5)
    torch.testing.assert_close(mask[..., 32, :], torch.full((1, 1, 2, 5), kept))


def test_a_network_may_give_every_stem() -> None:
    model = separator(ConstantMask(num_bins=33, logit=0.0, stems=2), complement=None)
    mixture = torch.randn(1, 2, 333)
    torch.testing.assert_close(model(mixture)[0, 0], mixture[0] / 2, atol=1e-6, rtol=0)


def test_batch_equals_loop_and_gradient_arrives() -> None:
    network = ConstantMask(num_bins=32, logit=0.1)
    model = separator(network)
    mixture = torch.randn(3, 2, 200)
    alone = torch.cat([model(one[None]) for one in mixture])
    torch.testing.assert_close(model(mixture), alone, atol=1e-6, rtol=0)
    model(mixture)[:, 1].square().sum().backward()
    assert network.logit.grad is not None
    assert network.logit.grad.abs() > 0


def test_it_is_a_separator() -> None:
    assert isinstance(separator(ConstantMask(num_bins=32, logit=0.1)), Separator)


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match="complement=drums"):
        separator(ConstantMask(num_bins=32, logit=0.0), complement="drums")
    with pytest.raises(ValueError, match="takes 64 bins but n_fft=64 gives 33"):
        separator(ConstantMask(num_bins=64, logit=0.0))


class Recorder(nn.Module):
    """Half of everything, whatever it is asked for, and a record of all it was shown."""

    def __init__(self, **wants: object) -> None:
        super().__init__()
        self.num_bins = 32
        self.shown: list[Tensor] = []
        for name, value in wants.items():
            setattr(self, name, value)

    def forward(self, magnitude: Float[Tensor, "B C_in F T"]) -> Float[Tensor, "B C F T"]:
        self.shown.append(magnitude.detach())
        return torch.zeros_like(magnitude[:, :2])


def test_a_network_is_given_its_range_and_its_multiple_of_frames() -> None:
    network = Recorder(input_range=(-1, 1), frame_multiple=8)
    mixture = torch.randn(1, 2, 16 * 12)  # 13 frames
    estimates = separator(network)(mixture)
    (shown,) = network.shown
    assert shown.shape[-1] == 16
    assert shown.amax() == 1
    assert (shown[..., 13:] == -1).all()
    torch.testing.assert_close(estimates[:, 0], 0.5 * mixture, atol=1e-5, rtol=0)


def test_a_network_may_return_the_magnitude_of_its_stem() -> None:
    class Same(Recorder):
        def forward(self, magnitude: Tensor) -> Tensor:
            return 0.25 * magnitude

    mixture = torch.randn(2, 2, 500)
    mixture[1] = 0  # silence stays silence
    model = separator(Same(head="magnitude"), top_bin="copy")
    torch.testing.assert_close(model(mixture)[:, 1], 0.25 * mixture, atol=1e-4, rtol=0)


def past_separator(*, crop_frames: int = 4) -> tuple[SpectrogramSeparator, Recorder]:
    network = Recorder(num_past_crops=2, crop_frames=crop_frames)
    return separator(network, scale="none"), network


def test_every_crop_is_shown_with_the_crops_before_it_and_what_was_made_of_them() -> None:
    model, network = past_separator()
    mixture = torch.randn(1, 2, 16 * 9)  # 10 frames: crops of 4, 4 and 2
    magnitude = model.stft(mixture).abs()[:, :, :32]
    model(mixture)
    first, second, third = network.shown
    assert torch.equal(first[:, :2], magnitude[..., :4])
    assert not first[:, 2:].any()
    assert torch.equal(second[:, 2:4], magnitude[..., :4])
    torch.testing.assert_close(second[:, 4:6], 0.5 * magnitude[..., :4])
    assert not second[:, 6:].any()
    assert torch.equal(third[:, 2:4], magnitude[..., 6:8])
    torch.testing.assert_close(third[:, 8:10], 0.5 * magnitude[..., 4:6])


def test_what_follows_on_a_past_is_separated_as_if_it_had_been_one() -> None:
    model, network = past_separator(crop_frames=8)
    mixture = torch.randn(1, 2, 16 * 31)
    model(mixture)
    whole = network.shown
    network.shown = []
    _, past = model.separate_after(mixture[..., : 16 * 15], past=None)
    model.separate_after(mixture[..., 16 * 16 :], past=past)
    for together, apart in zip(whole, network.shown, strict=True):
        # at the cut, windows see zeros instead of the other part
        torch.testing.assert_close(together[..., 2:6], apart[..., 2:6])


def test_a_network_with_a_past_gives_one_stem() -> None:
    with pytest.raises(ValueError, match="gives one stem"):
        separator(Recorder(num_past_crops=2, crop_frames=4), complement=None)
