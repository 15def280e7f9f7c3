"""Positionwise: a U-Net without a convolution over frequency, with a transformer at every level.

Every step up or down is a linear layer over the features of each map's frames and a matrix over the
maps. Levels have transformers on all of their maps, with frames as tokens; those of the decoder
also attend to what the encoder's transformer of the same level gave.

    encoder 1, transformer ------- skip and memory ------> decoder 1, transformer -> logits
    encoder 2, transformer ------- skip and memory ------> decoder 2, transformer
      ...   (half the features at every step)                ...
    encoder n, transformer ------------------------------------^

Inside, the layout is B C T F: C feature maps, F features of a frame, last.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import check_halving, features_last
from frametx.nn.block import Block
from frametx.nn.feed_forward import LinearFeedForward
from frametx.nn.frame_projection import FrameProjection
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention, ScoreScale
from frametx.nn.multichannel_linear import MultichannelLinear
from frametx.nn.norm import FrameNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.rotary import AnglePrecision
from frametx.nn.squared_relu import squared_relu
from frametx.nn.transformer_layer import TransformerLayer


class Positionwise(nn.Module):
    """Magnitudes in `input_range` to logits of a mask, for any number of frames.

    Args:
        in_channels: audio channels of the magnitudes.
        out_channels: channels of logits: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        channels: maps for every unit of `widths`.
        widths: maps of each level as multiples of `channels`; every level but the first halves the
            bins.
        num_heads: of the attentions: one number for all levels, or one per level.
        expansion_factor: hidden features of the transformers' feed-forward for every feature.
        num_taps: frames that every query, key and value is made of; odd.
        dropout: probability on the branches of the U-Net and of all transformers.
        input_range: smallest and largest value of the magnitudes it is given. The separator maps
            its [0, 1] to it; the network only says so.
        score_scale: see `MultichannelMultiheadAttention`; the original divides by all `features`.
        angle_precision: see `Rotary`.
        skips_join_dropout: no dropout where a decoder has joined the encoder's maps: the original
            makes it and forgets to call it.
        has_unused_norms: hold the norm of hidden features that every encoder transformer of the
            original has and never calls; frozen.

    Attributes:
        num_bins: bins that `forward` takes and returns.
        input_range: as given, for the separator.

    Raises:
        ValueError: if the bins cannot be halved as often as there are levels or split into the
            heads, or there are not as many numbers of heads as levels, or the range is empty.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        n_fft: int,
        channels: int,
        widths: Sequence[int],
        num_heads: int | Sequence[int],
        expansion_factor: int,
        num_taps: int,
        dropout: float,
        input_range: Sequence[float],
        score_scale: ScoreScale,
        angle_precision: AnglePrecision,
        skips_join_dropout: bool,
        has_unused_norms: bool,
    ) -> None:
        super().__init__()
        num_levels = len(widths)
        check_halving(n_fft, num_levels=num_levels, name="widths")
        heads = [num_heads] * num_levels if isinstance(num_heads, int) else list(num_heads)
        if len(heads) != num_levels:
            raise ValueError(
                f"num_heads ({heads}) must be one number, or one for each of the {num_levels} "
                "levels of widths"
            )
        low, high = input_range
        if low >= high:
            raise ValueError(f"input_range ({low}, {high}) must go up: take [0, 1] or [-1, 1]")
        self.num_bins = n_fft // 2
        self.input_range = (float(low), float(high))
        num_maps = [channels * width for width in widths]
        num_features = [self.num_bins >> level for level in range(num_levels)]
        transformer = partial(
            _transformer,
            expansion_factor=expansion_factor,
            num_taps=num_taps,
            dropout=dropout,
            score_scale=score_scale,
            angle_precision=angle_precision,
        )
        levels = list(zip(num_maps, num_features, heads, strict=True))
        self.encoders = nn.ModuleList(
            PositionwiseBlock(
                in_channels=above,
                out_channels=maps,
                in_features=features_above,
                out_features=features,
                dropout=dropout,
            )
            for above, maps, features_above, features in zip(
                [in_channels, *num_maps],
                num_maps,
                [self.num_bins, *num_features],
                num_features,
                strict=False,
            )
        )
        self.encoder_transformers = nn.ModuleList(
            transformer(maps, features, heads, attends_memory=False)
            for maps, features, heads in levels
        )
        # by level, as the encoders: the last decoder is the deepest
        self.decoders = nn.ModuleList(
            PositionwiseDecoder(
                in_channels=below,
                out_channels=maps,
                out_features=features,
                dropout=dropout,
                skips_join_dropout=skips_join_dropout,
            )
            for below, maps, features in zip(num_maps[1:], num_maps, num_features, strict=False)
        )
        self.decoder_transformers = nn.ModuleList(
            transformer(maps, features, heads, attends_memory=True)
            for maps, features, heads in levels[:-1]
        )
        self.out = PointwiseConv(in_channels=num_maps[0], out_channels=out_channels, bias=False)
        self.unused_norms = nn.ModuleList(
            FrameNorm(num_channels=maps, num_features=expansion_factor * features)
            for maps, features in zip(num_maps, num_features, strict=True)
            if has_unused_norms
        ).requires_grad_(False)

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask."""
        h = features_last(magnitude, num_bins=self.num_bins)
        encoded: list[Tensor] = []
        for encoder, transformer in zip(self.encoders, self.encoder_transformers, strict=True):
            h = transformer(encoder(h)).maps
            encoded.append(h)
        for level in reversed(range(len(self.decoders))):
            skip = encoded[level]
            h = self.decoders[level](h, skip)
            h = self.decoder_transformers[level](h, memory=skip).maps
        return self.out(h).transpose(2, 3)


class PositionwiseBlock(Block):
    """One step of the U-Net: linear layers over features and over maps, and a linear shortcut.

    Twice the features of the larger side are hidden in between.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        in_features: int,
        out_features: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.branch = _Branch(
            in_channels=in_channels,
            out_channels=out_channels,
            in_features=in_features,
            hidden_features=2 * max(in_features, out_features),
            out_features=out_features,
        )
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.shortcut = (
            PointwiseConv(in_channels=in_channels, out_channels=out_channels, bias=False)
            if in_features == out_features
            else MultichannelLinear(
                num_channels=in_channels,
                in_features=in_features,
                out_features=out_features,
                out_channels=out_channels,
                mix_channels=True,
            )
        )

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T F_out"]:
        """Branch and shortcut, summed."""
        return self.shortcut(x) + self.dropout(self.branch(x))


class PositionwiseDecoder(Block):
    """One step up: to the skip's maps and features, then a branch that reads both."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        out_features: int,
        dropout: float,
        skips_join_dropout: bool,
    ) -> None:
        super().__init__()
        self.body = PositionwiseBlock(
            in_channels=in_channels,
            out_channels=out_channels,
            in_features=out_features // 2,
            out_features=out_features,
            dropout=dropout,
        )
        self.join = _Branch(
            in_channels=2 * out_channels,
            out_channels=out_channels,
            in_features=out_features,
            hidden_features=out_features,
            out_features=out_features,
        )
        drops = dropout and not skips_join_dropout
        self.dropout = nn.Dropout(dropout) if drops else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B C T F_in"], skip: Float[Tensor, "B C_out T F"]
    ) -> Float[Tensor, "B C_out T F"]:
        """Grow, then add what the joined maps give."""
        x = self.body(x)
        return x + self.dropout(self.join(torch.cat([x, skip], 1)))


class _Branch(nn.Module):
    """Norm, linear layer, activation, linear layer; both layers mix the maps."""

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        in_features: int,
        hidden_features: int,
        out_features: int,
    ) -> None:
        super().__init__()
        linear = partial(MultichannelLinear, out_channels=out_channels, mix_channels=True)
        self.norm = FrameNorm(num_channels=in_channels, num_features=in_features)
        self.expand = linear(
            num_channels=in_channels, in_features=in_features, out_features=hidden_features
        )
        self.contract = linear(
            num_channels=out_channels, in_features=hidden_features, out_features=out_features
        )

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T F_out"]:
        return self.contract(F.gelu(self.expand(self.norm(x))))


def _transformer(
    num_channels: int,
    num_features: int,
    num_heads: int,
    *,
    attends_memory: bool,
    expansion_factor: int,
    num_taps: int,
    dropout: float,
    score_scale: ScoreScale,
    angle_precision: AnglePrecision,
) -> TransformerLayer:
    attend = partial(
        MultichannelMultiheadAttention,
        num_channels=num_channels,
        num_features=num_features,
        num_heads=num_heads,
        project=partial(FrameProjection, num_taps=num_taps, has_bias=False),
        rotary_features=num_features // num_heads // 2,  # the upper half of every head stays
        angle_precision=angle_precision,
        score_scale=score_scale,
        normalizes_heads=True,
    )
    return TransformerLayer(
        attention=attend(),
        memory_attention=attend(attends_memory=True) if attends_memory else None,
        feed_forward=LinearFeedForward(
            num_channels=num_channels,
            num_features=num_features,
            hidden_features=expansion_factor * num_features,
            activation=squared_relu,
            mixes_hidden=True,
            mixes_output=True,
        ),
        norm=partial(FrameNorm, num_channels=num_channels, num_features=num_features),
        dropout=dropout,
    )
