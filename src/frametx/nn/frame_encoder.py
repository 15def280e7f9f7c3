"""The encoder half of a U-Net over frequency with a transformer over frames beside its levels.

A network builds the parts of one plan, keeps them under names of its own, and runs them by
`encode`. A separator and the discriminator that judges it share the half in this way.

    input, embedding -> encoder 1, transformer -> encoder 2, transformer -> ... encoder n -> bridge
                             |                        |
                          stream 1                 stream 2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.convolutional_embedding import ConvolutionalEmbedding
from frametx.nn.frame_transformer_encoder import FrameTransformerEncoder
from frametx.nn.frequency_unet import frequency_encoders
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention, ScoreScale
from frametx.nn.residual_block import ResBlock
from frametx.nn.rotary import AnglePrecision
from frametx.nn.transformer_layer import LevelOutput


@dataclass(frozen=True, kw_only=True)
class FrameEncoderPlan:
    """What the parts of the encoder half look like.

    Attributes:
        in_channels: maps that come in.
        num_bins: features of a frame that comes in.
        channels: maps of the U-Net for every unit of `widths`.
        widths: maps of each level as multiples of `channels`.
        transformer_levels: which levels have a transformer; its maps join those of the level.
        num_attention_maps: maps of every transformer.
        expansion: hidden features of the transformers' feed-forward.
        kernel_sizes: of the transformers' second branch and wide convolution.
        dropout: probability on the branches of the transformers.
        embedding_widths: maps of the embedding's levels below the first, as multiples of
            `in_channels`.
        embedding_kernel_size: of the convolutions that read the embedding's levels.
        score_scale: see `MultichannelMultiheadAttention`.
        angle_precision: see `Rotary`.
        stride: frames and bins that become one from level to level.
    """

    in_channels: int
    num_bins: int
    channels: int
    widths: Sequence[int]
    transformer_levels: range
    num_attention_maps: int
    expansion: int
    kernel_sizes: Sequence[int]
    dropout: float
    embedding_widths: Sequence[int]
    embedding_kernel_size: int
    score_scale: ScoreScale
    angle_precision: AnglePrecision
    stride: tuple[int, int] = (1, 2)

    @property
    def num_maps(self) -> list[int]:
        """Maps of the U-Net at each level."""
        return [self.channels * width for width in self.widths]

    @property
    def num_features(self) -> list[int]:
        """Features of a frame at each level."""
        return [self.num_bins >> level for level in range(len(self.widths))]

    @property
    def num_stream_maps(self) -> list[int]:
        """Maps that leave each level: those of the U-Net, and behind them the transformer's."""
        return [
            maps + self.num_attention_maps * (level in self.transformer_levels)
            for level, maps in enumerate(self.num_maps)
        ]

    def embedding(self) -> ConvolutionalEmbedding:
        """What stands beside the input as one more map."""
        return ConvolutionalEmbedding(
            in_channels=self.in_channels,
            num_features=self.num_bins,
            widths=self.embedding_widths,
            kernel_size=self.embedding_kernel_size,
        )

    def encoders(self) -> nn.ModuleList:
        """The residual block of every level."""
        return frequency_encoders(
            [ResBlock] * len(self.widths),
            in_channels=self.in_channels + 1,
            num_stream_maps=self.num_stream_maps,
            num_maps=self.num_maps,
            num_features=self.num_features,
            stride=self.stride,
        )

    def transformers(self, num_heads: Sequence[int], *, needs_matrix: bool) -> nn.ModuleList:
        """The transformers of all levels that have one.

        Args:
            num_heads: of each.
            needs_matrix: see `MultichannelMultiheadAttention`.
        """
        return nn.ModuleList(
            FrameTransformerEncoder(
                in_channels=self.num_maps[level],
                num_attention_maps=self.num_attention_maps,
                num_features=self.num_features[level],
                expansion=self.expansion,
                kernel_sizes=self.kernel_sizes,
                dropout=self.dropout,
                attend=partial(
                    MultichannelMultiheadAttention,
                    num_heads=heads,
                    score_scale=self.score_scale,
                    angle_precision=self.angle_precision,
                    needs_matrix=needs_matrix,
                ),
            )
            for level, heads in zip(self.transformer_levels, num_heads, strict=True)
        )


class Encoded(NamedTuple):
    """What the encoder half hands on.

    Attributes:
        bridge: maps behind the bridge.
        streams: maps that left each level above it, those of its transformer included.
        levels: what the transformer of each of them gave; None where there is none.
    """

    bridge: Float[Tensor, "B C T F"]
    streams: list[Tensor]
    levels: list[LevelOutput | None]


def encode(
    x: Float[Tensor, "B C T F"],
    *,
    embedding: nn.Module,
    encoders: nn.ModuleList,
    transformers: nn.ModuleList,
    bridge: nn.ModuleList,
) -> Encoded:
    """Go down, and hand the scores of every transformer to the next.

    Args:
        x: what comes in.
        embedding: gives one map to stand beside it.
        encoders: the block of every level.
        transformers: of the last levels above the bridge, as many as there are.
        bridge: convolutional transformers behind the last block, with a chain of their own.
    """
    num_plain_levels = len(encoders) - 1 - len(transformers)
    h = encoders[0](torch.cat([x, embedding(x)], 1))
    streams: list[Tensor] = []
    levels: list[LevelOutput | None] = []
    scores = None
    for level, encoder in enumerate(encoders[1:]):
        levels.append(None)
        if level >= num_plain_levels:
            transformer = transformers[level - num_plain_levels]
            h, _, scores, _ = levels[level] = transformer(h, scores=scores)
        streams.append(h)
        h = encoder(h)
    scores = None
    for layer in bridge:
        h, scores = layer(h, scores=scores)
    return Encoded(h, streams, levels)
