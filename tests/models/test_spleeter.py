from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.models.spleeter import Spleeter
from frametx.separator import SpectrogramSeparator

SMALL: dict[str, Any] = {
    "in_channels": 2,
    "num_stems": 3,
    "gives_last_stem": True,
    "num_bins": 16,
    "widths": [4, 6, 8],
    "kernel_size": 5,
    "num_dropout_levels": 1,
    "dropout": 0.0,
    "down_activation": "leaky_relu",
    "up_activation": "relu",
    "own_masks": "sigmoid",
    "exponent": 2.0,
    "trains_shares": True,
}
PUBLISHED: dict[str, Any] = {"num_bins": 1024, "widths": [16, 32, 64, 128, 256, 512]}


def small(**changes: Any) -> Spleeter:
    torch.manual_seed(0)
    return Spleeter(**(SMALL | changes)).eval()


def own_logits(network: Spleeter, magnitude: Tensor) -> Tensor:
    return torch.stack([unet(magnitude.mT) for unet in network.unets], 1).transpose(3, 4)


@pytest.mark.parametrize("num_stems", [2, 4, 5])
def test_every_stem_has_as_many_parameters_as_the_published_network(num_stems: int) -> None:
    with torch.device("meta"):
        network = small(**PUBLISHED, num_stems=num_stems)
    # the published file has 9823749 a stem: its norm of the deepest level, 1024, is never used
    assert sum(p.numel() for p in network.parameters()) == num_stems * 9_822_725


@torch.no_grad()
def test_the_masks_are_the_shares_of_the_own_masks_squared() -> None:
    network, x = small(), torch.rand(2, 2, 16, 8)
    own = own_logits(network, x).sigmoid()
    shares = own**2 / (own**2).sum(1, keepdim=True)
    masks = network(x).sigmoid().unflatten(1, (3, 2))
    torch.testing.assert_close(masks, shares)
    torch.testing.assert_close(masks.sum(1), torch.ones(2, 2, 16, 8))


@torch.no_grad()
def test_with_softmax_the_own_masks_share_each_bin_before_the_power() -> None:
    network, x = small(own_masks="softmax"), torch.rand(2, 2, 16, 8)
    own = own_logits(network, x).softmax(1)
    shares = own**2 / (own**2).sum(1, keepdim=True)
    torch.testing.assert_close(network(x).sigmoid().unflatten(1, (3, 2)), shares)


@torch.no_grad()
def test_the_power_sharpens() -> None:
    x = torch.rand(1, 2, 16, 8)
    soft, sharp = (small(exponent=power)(x).sigmoid() for power in (1.0, 4.0))
    assert (sharp - 0.5).abs().mean() > (soft - 0.5).abs().mean()


@pytest.mark.parametrize("own_masks", ["sigmoid", "softmax"])
def test_training_on_own_masks_returns_them_and_evaluation_their_shares(own_masks: str) -> None:
    network = small(trains_shares=False, own_masks=own_masks)
    x = torch.rand(2, 2, 16, 8)
    assert torch.equal(network(x), small(own_masks=own_masks)(x))
    trained = network.train()(x).sigmoid().unflatten(1, (3, 2))
    logits = own_logits(network, x)
    own = logits.sigmoid() if own_masks == "sigmoid" else logits.softmax(1)
    torch.testing.assert_close(trained, own)


@torch.no_grad()
def test_the_last_stem_is_the_complement_of_a_separator_that_is_not_given_it() -> None:
    def separator(network: Spleeter, complement: str | None) -> SpectrogramSeparator:
        return SpectrogramSeparator(
            stft=Stft(n_fft=64, hop_length=16),
            network=network,
            stems=["vocals", "drums", "other"],
            complement=complement,
            sample_rate=8000,
            num_channels=2,
            chunk_frames=32,
            scale="none",
            top_bin="copy",
        ).eval()

    mixture = torch.randn(1, 2, 300)
    given = separator(small(), None)(mixture)
    left = separator(small(gives_last_stem=False), "other")(mixture)
    torch.testing.assert_close(given, left, atol=1e-5, rtol=0)
    assert (given[:, 0] - given[:, 2]).abs().max() > 1e-2


@torch.no_grad()
def test_the_deepest_level_and_the_skips_bypass_the_norms() -> None:
    network = small(widths=[4, 6])
    unet: Any = network.unets[0]
    x = torch.rand(1, 2, 8, 16)
    first = F.conv2d(F.pad(x, (1, 2, 1, 2)), unet.encoders[0].conv.weight, stride=2)
    second = unet.encoders[1](unet.encoder_norms[0](first))
    h = unet.decoders[1](torch.cat([first, unet.decoders[0](second)], 1))
    torch.testing.assert_close(unet(x), unet.out(h))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_bins": 20}, r"num_bins \(20\) cannot be halved 3 times.* multiple of 8"),
        ({"num_stems": 1}, r"num_stems \(1\) must be at least 2"),
        ({"exponent": 0.0}, r"exponent \(0.0\) must be above 0"),
        ({"trains_shares": False, "gives_last_stem": False}, "gives_last_stem=true"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        small(**changes)
