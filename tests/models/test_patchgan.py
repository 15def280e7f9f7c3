from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from frametx.models.patchgan import MultiscaleDiscriminator, PatchDiscriminator

SMALL: dict[str, Any] = {
    "in_channels": 2,
    "num_bins": 24,
    "channels": 2,
    "num_layers": 2,
    "norm": "none",
    "has_spectral_norm": False,
}


def small(**changes: Any) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(**(SMALL | changes)).eval()


@pytest.mark.parametrize(
    ("num_layers", "patch"), [(1, 16), (2, 34), (3, 70), (4, 142), (5, 286), (6, 574)]
)
def test_a_logit_sees_a_square_patch_of_the_published_size(num_layers: int, patch: int) -> None:
    size = -(-2 * patch // 2**num_layers) * 2**num_layers
    discriminator = small(in_channels=1, num_bins=size, channels=1, num_layers=num_layers)
    assert discriminator.receptive_field == patch
    x = torch.rand(1, 1, size, size, requires_grad=True)
    (logits,) = discriminator(x).logits
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert x.grad is not None
    seen = x.grad[0, 0].nonzero()
    extent = seen.amax(0) - seen.amin(0) + 1
    assert extent.tolist() == [patch, patch]


def test_the_published_sizes_have_the_published_number_of_parameters() -> None:
    """2.769 million: what the authors' program says of 6 channels and the defaults.

    https://github.com/junyanz/pytorch-CycleGAN-and-pix2pix
    """
    discriminator = small(in_channels=6, num_bins=256, channels=64, num_layers=3, norm="batch")
    assert sum(parameter.numel() for parameter in discriminator.parameters()) == 2_768_705


@torch.no_grad()
def test_it_is_a_stack_of_convolutions_norms_and_leaky_rectifiers() -> None:
    discriminator = small(norm="instance", num_layers=1)
    x = torch.rand(2, 2, 24, 10)
    first, second, last = discriminator.convs
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    assert isinstance(last, nn.Conv2d)
    assert second.bias is None  # the norm would take it away
    h = F.conv2d(x.transpose(2, 3), first.weight, first.bias, stride=2, padding=1)
    h = F.conv2d(F.leaky_relu(h, 0.2), second.weight, padding=1)
    h = F.leaky_relu(F.instance_norm(h), 0.2)
    expected = F.conv2d(h, last.weight, last.bias, padding=1).transpose(2, 3)
    (logits,) = discriminator(x).logits
    torch.testing.assert_close(logits, expected)
    assert logits.shape == (2, 1, 10, 3)


def test_spectral_norm_keeps_the_largest_singular_value_of_every_kernel_at_one() -> None:
    discriminator = small(has_spectral_norm=True).train()
    with torch.no_grad():
        for parameter in discriminator.parameters():
            parameter.mul_(30)
    for _ in range(50):  # each pass in training is a step of the power iteration
        discriminator(torch.rand(1, 2, 24, 16))
    for conv in discriminator.convs:
        assert isinstance(conv, nn.Conv2d)
        largest = torch.linalg.svdvals(conv.weight.flatten(1))[0]
        assert largest.item() == pytest.approx(1, abs=0.01)


@torch.no_grad()
def test_every_scale_sees_means_of_the_one_before() -> None:
    torch.manual_seed(0)
    one = {key: value for key, value in SMALL.items() if key not in ("in_channels", "num_bins")}
    discriminator = MultiscaleDiscriminator(
        in_channels=2,
        num_bins=48,
        num_scales=3,
        make_discriminator=partial(PatchDiscriminator, **one | {"num_layers": 1}),
    )
    x = torch.rand(1, 2, 48, 40)
    judgement = discriminator(x)
    for scale, logits in enumerate(judgement.logits):
        (expected,) = discriminator.discriminators[scale](x).logits
        torch.testing.assert_close(logits, expected)
        x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
    assert [logits.shape[2:] for logits in judgement.logits] == [(22, 18), (10, 8), (4, 3)]
    assert len(judgement.features) == 6


@torch.no_grad()
def test_a_constant_stays_the_same_constant_at_every_scale() -> None:
    seen = []

    class Spy(nn.Module):
        def __init__(self, *, in_channels: int, num_bins: int) -> None:
            super().__init__()
            self.judge = small(in_channels=in_channels, num_bins=num_bins, num_layers=1)

        def forward(self, shown: torch.Tensor) -> Any:
            seen.append(shown)
            return self.judge(shown)

    MultiscaleDiscriminator(in_channels=2, num_bins=32, num_scales=3, make_discriminator=Spy)(
        torch.full((1, 2, 32, 29), 0.7)
    )
    assert [x.shape[2:] for x in seen] == [(32, 29), (16, 15), (8, 8)]
    assert all(torch.allclose(x, torch.tensor(0.7)) for x in seen)


def test_what_leaves_no_patch_is_refused_with_the_smallest_that_does() -> None:
    with pytest.raises(ValueError, match=r"12 bins leave no patch behind 3 .* at least 24"):
        small(num_bins=12, num_layers=3)
    with pytest.raises(ValueError, match=r"11 frames leave no patch behind 2 .* at least 12"):
        small()(torch.rand(1, 2, 24, 11))
    assert small()(torch.rand(1, 2, 24, 12)).logits[0].numel() > 0


def test_options_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match=r"num_layers \(0\) must be 1 to 6"):
        small(num_layers=0)
    with pytest.raises(ValueError, match="norm=layer must be none, instance or batch"):
        small(norm="layer")


@pytest.mark.parametrize(("num_scales", "num_bins"), [(0, 32), (3, 34)])
def test_scales_that_do_not_fit_the_bins_are_refused(num_scales: int, num_bins: int) -> None:
    with pytest.raises(ValueError, match=rf"num_scales \({num_scales}\).*take fewer scales"):
        MultiscaleDiscriminator(
            in_channels=2,
            num_bins=num_bins,
            num_scales=num_scales,
            make_discriminator=lambda **sizes: small(**sizes),
        )
