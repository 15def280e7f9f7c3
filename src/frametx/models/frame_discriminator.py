"""Discriminators that are the encoder half of AsymUNetMCT, with a head instead of the decoders.

A logit belongs to a patch, a band of bins times one or a few frames, but attention lets it see all
frames, and the path down the U-Net all bins.

    FrameDiscriminator            embedding -> encoders, transformers -> bridge -> head -> logits

    FrameMultiscaleDiscriminator  embedding -> encoder 1, transformer -> head -> logits of scale 1
                                               encoder 2, transformer -> head -> logits of scale 2
                                               ...   half the bins and frames at every step

Weights of a trained separator's encoder can be copied into either. Source: the original programs
of 2023 ("FrameGAN").
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.models.asym_unet_mct import AsymUNetMCT
from frametx.models.judgement import Judgement
from frametx.nn.bins import check_halving, features_last
from frametx.nn.convolutional_transformer_encoder import ConvolutionalTransformerEncoder
from frametx.nn.frame_encoder import FrameEncoderPlan, encode
from frametx.nn.multichannel_attention import ScoreScale
from frametx.nn.patch_head import BandHead
from frametx.nn.rotary import AnglePrecision

# parts of the encoder half under the names that separator and discriminators share
_SINGLE_PARTS = ("embedding",)
_NUMBERED_PARTS = ("encoders", "encoder_transformers", "bridge")


class Copied(NamedTuple):
    """What became of the parts of a discriminator's encoder.

    Attributes:
        copied: names of parts that have the generator's weights now.
        left: names of parts that keep their own, with the reason.
    """

    copied: list[str]
    left: dict[str, str]

    def __str__(self) -> str:
        """Two lines for people."""
        left = ", ".join(f"{name} ({reason})" for name, reason in self.left.items())
        return f"copied: {', '.join(self.copied)}\nleft: {left or 'nothing'}"


class FrameDiscriminator(nn.Module):
    """Magnitudes to logits of patches that see everything.

    Args:
        in_channels: maps that are shown.
        num_bins: bins that are shown.
        channels: maps of the U-Net for every unit of `widths`.
        widths: maps of each level as multiples of `channels`; the last level is the bridge, and
            every level but the first halves the bins. Those left at the bridge are the bands.
        num_plain_levels: levels, from the top, that have no transformer.
        num_attention_maps: maps of every transformer above the bridge.
        num_heads: of every attention.
        expansion: hidden features of the transformers' feed-forward.
        num_bridge_layers: convolutional transformers at the bridge; their memory grows with the
            square of frames times bins left there.
        dropout: probability on the branches of the transformers above the bridge.
        bridge_dropout: at the bridge.
        kernel_sizes: of the transformers' second branch and wide convolution.
        embedding_widths: maps of the embedding's levels below the first, as multiples of
            `in_channels`; empty for a single level.
        embedding_kernel_size: of the convolutions that read the embedding's levels.
        bridge_kernel_size: of the projections of the bridge's attention.
        score_scale: see `MultichannelMultiheadAttention`.
        angle_precision: see `Rotary`.
        restarts_bridge_residual: see `AsymUNetMCT`.
        out_channels: maps of logits; None is one for every map that is shown.
        make_head: makes the head, from `in_channels`, `out_channels` and `num_features`, see
            `PatchHead`.

    Raises:
        ValueError: if the bins cannot be halved as often as there are levels, or cannot be split
            into the heads, or no level is left for a transformer.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_bins: int,
        channels: int,
        widths: Sequence[int],
        num_plain_levels: int,
        num_attention_maps: int,
        num_heads: int,
        expansion: int,
        num_bridge_layers: int,
        dropout: float,
        bridge_dropout: float,
        kernel_sizes: Sequence[int],
        embedding_widths: Sequence[int],
        embedding_kernel_size: int,
        bridge_kernel_size: int,
        score_scale: ScoreScale,
        angle_precision: AnglePrecision,
        restarts_bridge_residual: bool,
        out_channels: int | None,
        make_head: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        _check_levels(num_bins, widths=widths, embedding_widths=embedding_widths)
        if not 0 <= num_plain_levels < len(widths) - 1:
            raise ValueError(
                f"num_plain_levels ({num_plain_levels}) must leave a level with a transformer "
                f"between the top and the bridge: {len(widths)} widths allow 0 to {len(widths) - 2}"
            )
        plan = FrameEncoderPlan(
            in_channels=in_channels,
            num_bins=num_bins,
            channels=channels,
            widths=widths,
            transformer_levels=range(num_plain_levels, len(widths) - 1),
            num_attention_maps=num_attention_maps,
            expansion=expansion,
            kernel_sizes=kernel_sizes,
            dropout=dropout,
            embedding_widths=embedding_widths,
            embedding_kernel_size=embedding_kernel_size,
            score_scale=score_scale,
            angle_precision=angle_precision,
        )
        self.num_bins = num_bins
        self.embedding = plan.embedding()
        self.encoders = plan.encoders()
        self.encoder_transformers = plan.transformers(
            [num_heads] * len(plan.transformer_levels), needs_matrix=False
        )
        self.bridge = nn.ModuleList(
            ConvolutionalTransformerEncoder(
                num_channels=plan.num_maps[-1],
                num_heads=num_heads,
                dropout=bridge_dropout,
                restarts_residual=restarts_bridge_residual,
                attention_kernel_size=bridge_kernel_size,
            )
            for _ in range(num_bridge_layers)
        )
        self.head = make_head(
            in_channels=plan.num_maps[-1],
            out_channels=in_channels if out_channels is None else out_channels,
            num_features=plan.num_features[-1],
        )

    def forward(self, shown: Float[Tensor, "B C F T"]) -> Judgement:
        """Logits of every patch, and the maps of every level and of the bridge."""
        encoded = encode(
            features_last(shown, num_bins=self.num_bins),
            embedding=self.embedding,
            encoders=self.encoders,
            transformers=self.encoder_transformers,
            bridge=self.bridge,
        )
        logits = self.head(encoded.bridge).transpose(2, 3)
        return Judgement([logits], [*encoded.streams, encoded.bridge])

    def from_generator(self, generator: nn.Module) -> Copied:
        """Start from the weights of a separator's encoder; see `copy_encoder`."""
        return copy_encoder(generator=generator, discriminator=self)


class FrameMultiscaleDiscriminator(nn.Module):
    """Magnitudes to logits at every level of the encoder, from the finest to the coarsest.

    Levels halve frames as well as bins, and every level has a transformer, the deepest too. Scores
    are not handed on, because the frames of the levels differ.

    Args:
        in_channels: maps that are shown.
        num_bins: bins that are shown.
        channels: maps of the U-Net for every unit of `widths`.
        widths: maps of each level as multiples of `channels`.
        num_attention_maps: maps of every transformer.
        num_heads: of the attention of every level.
        expansion: hidden features of the transformers' feed-forward.
        dropout: probability on the branches of the transformers.
        kernel_sizes: of the transformers' second branch and wide convolution.
        embedding_widths: maps of the embedding's levels below the first, as multiples of
            `in_channels`; empty for a single level.
        embedding_kernel_size: of the convolutions that read the embedding's levels.
        score_scale: see `MultichannelMultiheadAttention`.
        angle_precision: see `Rotary`.
        num_bands: logits of a frame at every level.

    Raises:
        ValueError: if the bins cannot be halved as often as there are levels, or cannot be split
            into the heads, or the levels and the numbers of heads are not as many.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_bins: int,
        channels: int,
        widths: Sequence[int],
        num_attention_maps: int,
        num_heads: Sequence[int],
        expansion: int,
        dropout: float,
        kernel_sizes: Sequence[int],
        embedding_widths: Sequence[int],
        embedding_kernel_size: int,
        score_scale: ScoreScale,
        angle_precision: AnglePrecision,
        num_bands: int,
    ) -> None:
        super().__init__()
        _check_levels(num_bins, widths=widths, embedding_widths=embedding_widths)
        if len(num_heads) != len(widths):
            raise ValueError(
                f"num_heads has {len(num_heads)} numbers for the {len(widths)} levels of widths: "
                "give one for every level"
            )
        plan = FrameEncoderPlan(
            in_channels=in_channels,
            num_bins=num_bins,
            channels=channels,
            widths=widths,
            transformer_levels=range(len(widths)),
            num_attention_maps=num_attention_maps,
            expansion=expansion,
            kernel_sizes=kernel_sizes,
            dropout=dropout,
            embedding_widths=embedding_widths,
            embedding_kernel_size=embedding_kernel_size,
            score_scale=score_scale,
            angle_precision=angle_precision,
            stride=(2, 2),
        )
        self.num_bins = num_bins
        self.embedding = plan.embedding()
        self.encoders = plan.encoders()
        self.encoder_transformers = plan.transformers(num_heads, needs_matrix=False)
        self.heads = nn.ModuleList(
            BandHead(in_channels=maps, num_bands=num_bands) for maps in plan.num_stream_maps
        )

    def forward(self, shown: Float[Tensor, "B C F T"]) -> Judgement:
        """Logits and maps of every level."""
        x = features_last(shown, num_bins=self.num_bins)
        h = torch.cat([x, self.embedding(x)], 1)
        logits: list[Tensor] = []
        features: list[Tensor] = []
        for encoder, transformer, head in zip(
            self.encoders, self.encoder_transformers, self.heads, strict=True
        ):
            h = transformer(encoder(h)).stream
            logits.append(head(h).transpose(2, 3))
            features.append(h)
        return Judgement(logits, features)

    def from_generator(self, generator: nn.Module) -> Copied:
        """Start from the weights of a separator's encoder; see `copy_encoder`."""
        return copy_encoder(generator=generator, discriminator=self)


@torch.no_grad()
def copy_encoder(*, generator: nn.Module, discriminator: nn.Module) -> Copied:
    """Give a discriminator the weights of a separator's encoder, as copies that nobody shares.

    A part is copied as a whole or not at all: a discriminator that is shown more channels than the
    separator hears keeps its own embedding and first encoder, as in the originals.

    Args:
        generator: an `AsymUNetMCT`.
        discriminator: a `FrameDiscriminator` or a `FrameMultiscaleDiscriminator`.

    Raises:
        ValueError: if the generator is another network, or no part fits.
    """
    if not isinstance(generator, AsymUNetMCT):
        raise ValueError(
            f"a discriminator can start from the encoder of an AsymUNetMCT, not of a "
            f"{type(generator).__name__}: train with model=asym_unet_mct, or start from nothing"
        )
    theirs = _parts(generator)
    copied: list[str] = []
    left: dict[str, str] = {}
    for name, part in _parts(discriminator).items():
        if name not in theirs:
            left[name] = "the generator has none"
            continue
        source, target = theirs[name].state_dict(), part.state_dict()
        differing = [
            key
            for key in source.keys() | target.keys()
            if key not in source or key not in target or source[key].shape != target[key].shape
        ]
        if differing:
            left[name] = f"{len(differing)} of {len(target)} weights differ in shape"
            continue
        part.load_state_dict(source)
        copied.append(name)
    if not copied:
        raise ValueError(
            "no part of the discriminator's encoder fits the generator's: give both the same "
            f"channels, widths, num_attention_maps, expansion and kernel sizes; {left}"
        )
    return Copied(copied, left)


def _parts(network: nn.Module) -> dict[str, nn.Module]:
    parts = {name: network.get_submodule(name) for name in _SINGLE_PARTS}
    for name in _NUMBERED_PARTS:
        for number, part in enumerate(getattr(network, name, ())):
            parts[f"{name}.{number}"] = part
    return parts


def _check_levels(num_bins: int, *, widths: Sequence[int], embedding_widths: Sequence[int]) -> None:
    check_halving(2 * num_bins, num_levels=len(widths), name="widths")
    check_halving(2 * num_bins, num_levels=1 + len(embedding_widths), name="embedding_widths")
