"""PatchGAN: a small stack of convolutions that judges overlapping patches of a spectrogram.

    num_layers = 3, channels = 64            receptive field of one logit: 70 frames x 70 bins

    shown -> 64 -> 128 -> 256 -> 512 -> 1 logit a patch
             /2    /2     /2     /1     /1

Every layer is a 4x4 convolution. The first `num_layers` halve frames and bins, two more do not.
Nothing looks at the whole, so it takes any number of frames and bins that leaves one patch.

Source: Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", 2017;
the name is theirs. Several scales: Wang et al., "High-Resolution Image Synthesis and Semantic
Manipulation with Conditional GANs" (pix2pixHD), 2018.
"""

from collections.abc import Callable

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from frametx.models.judgement import Judgement
from frametx.nn.bins import features_last
from frametx.nn.norm import InstanceNorm

_KERNEL_SIZE = 4
_MAX_WIDTH = 8  # layers double the maps up to so many times those of the first
_SLOPE = 0.2  # of the leaky rectifier below zero


class PatchDiscriminator(nn.Module):
    """Magnitudes to logits of overlapping patches.

    Args:
        in_channels: maps that are shown.
        num_bins: bins that are shown.
        channels: maps of the first layer; every next one doubles them, up to eight times.
        num_layers: how many layers halve frames and bins: 1 to 6 judge patches of 16, 34, 70, 142,
            286 and 574 frames and as many bins.
        norm: `none`, `instance` or `batch`, of all layers but the first and the last. `batch`
            depends on what else is in a batch, so accumulated gradients differ from those of one
            large batch.
        has_spectral_norm: divide every kernel by its largest singular value, which bounds how fast
            the logits can change (Miyato et al., "Spectral Normalization for Generative
            Adversarial Networks", 2018).

    Attributes:
        receptive_field: frames, and bins, that one logit sees.

    Raises:
        ValueError: if the bins leave no patch, or there is no such norm.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_bins: int,
        channels: int,
        num_layers: int,
        norm: str,
        has_spectral_norm: bool,
    ) -> None:
        super().__init__()
        if not 1 <= num_layers <= 6:
            raise ValueError(
                f"num_layers ({num_layers}) must be 1 to 6: layers that halve the size"
            )
        if norm not in ("none", "instance", "batch"):
            raise ValueError(f"norm={norm} must be none, instance or batch")
        self.num_bins = num_bins
        self.num_layers = num_layers
        self._check_size(num_bins, "bins")
        strides = [2] * num_layers + [1, 1]
        widths = [min(2**layer, _MAX_WIDTH) for layer in range(num_layers + 1)]
        num_maps = [in_channels, *(channels * width for width in widths), 1]
        self.receptive_field = 1
        for stride in reversed(strides):
            self.receptive_field = self.receptive_field * stride + _KERNEL_SIZE - stride
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for layer, stride in enumerate(strides):
            is_inner = 0 < layer < len(strides) - 1
            has_norm = is_inner and norm != "none"
            conv = nn.Conv2d(
                num_maps[layer],
                num_maps[layer + 1],
                _KERNEL_SIZE,
                stride=stride,
                padding=1,
                bias=not has_norm,
            )
            self.convs.append(spectral_norm(conv) if has_spectral_norm else conv)
            self.norms.append(_make_norm(norm if is_inner else "none", num_maps[layer + 1]))

    def forward(self, shown: Float[Tensor, "B C F T"]) -> Judgement:
        """Logits of every patch, and what each inner layer gave.

        Raises:
            ValueError: if there are too few frames for one patch.
        """
        self._check_size(shown.shape[-1], "frames")
        h = features_last(shown, num_bins=self.num_bins)
        features: list[Tensor] = []
        for conv, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            h = F.leaky_relu(norm(conv(h)), _SLOPE)
            features.append(h)
        return Judgement([self.convs[-1](h).transpose(2, 3)], features)

    def _check_size(self, size: int, name: str) -> None:
        smallest = 3 << self.num_layers
        if size < smallest:
            raise ValueError(
                f"{size} {name} leave no patch behind {self.num_layers} layers that halve them: "
                f"show at least {smallest}, or take fewer num_layers"
            )


class MultiscaleDiscriminator(nn.Module):
    """Discriminators of one kind that look at the same from ever further away.

    The first sees what is shown, each next one a mean over neighbouring frames and bins of what the
    one before saw, half as many of each.

    Args:
        in_channels: maps that are shown.
        num_bins: bins that are shown; divisible by two for every scale but the first.
        num_scales: how many discriminators.
        make_discriminator: makes one, from `in_channels` and the `num_bins` of its scale.

    Raises:
        ValueError: if the bins cannot be halved so often.

    Source: Wang et al., pix2pixHD, 2018.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_bins: int,
        num_scales: int,
        make_discriminator: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        if num_scales < 1 or num_bins % (1 << (num_scales - 1)):
            raise ValueError(
                f"num_scales ({num_scales}) must be at least 1, and {num_bins} bins must be "
                "divisible by two for every scale but the first: take fewer scales"
            )
        self.discriminators = nn.ModuleList(
            make_discriminator(in_channels=in_channels, num_bins=num_bins >> scale)
            for scale in range(num_scales)
        )

    def forward(self, shown: Float[Tensor, "B C F T"]) -> Judgement:
        """What all of them say, from the nearest to the furthest."""
        logits: list[Tensor] = []
        features: list[Tensor] = []
        for scale, discriminator in enumerate(self.discriminators):
            if scale:
                shown = F.avg_pool2d(shown, 3, stride=2, padding=1, count_include_pad=False)
            judgement = discriminator(shown)
            logits += judgement.logits
            features += judgement.features
        return Judgement(logits, features)


def _make_norm(norm: str, num_channels: int) -> nn.Module:
    if norm == "instance":
        return InstanceNorm(num_channels=num_channels, num_features=1)
    return nn.BatchNorm2d(num_channels) if norm == "batch" else nn.Identity()
