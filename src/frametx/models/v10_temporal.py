"""V10: a U-Net over frames that keeps every bin, with a transformer over frames at every level.

Convolutions halve the frames from level to level and never merge bins: the deeper a level, the
longer the time that its attention compares. Attention runs in a few maps beside the many of the
U-Net, and a feed-forward of convolutions reads both. On the way up, a level attends to its own
frames and then to the encoder's, and each of the two adds the encoder's scores to its own.

    encoder 1, transformer ------- stream, maps, scores ------> decoder 1, transformer -> logits
      encoder 2, transformer ----- stream, maps, scores ----> decoder 2, transformer
        ...  (half the frames at every step)                    ...
          encoder n, transformer --------- stream ------------>

Inside, the layout is B C T F: C feature maps, F features of a frame, last.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import features_last
from frametx.nn.block import Block
from frametx.nn.feed_forward import ConvolutionalFeedForward
from frametx.nn.frame_decoder import FrameDecoder
from frametx.nn.frame_projection import FrameProjection
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention, ScoreScale
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.residual_block import ResBlock
from frametx.nn.residual_scores import ResidualScores
from frametx.nn.rotary import AnglePrecision
from frametx.nn.transformer_layer import LevelOutput

# what stands between two convolutions is read by nobody else
_leaky_relu = partial(F.leaky_relu, negative_slope=0.01, inplace=True)


class V10Temporal(nn.Module):
    """Magnitudes in [0, 1] to logits of a mask, for any number of frames.

    Args:
        in_channels: audio channels of the magnitudes.
        out_channels: channels of logits: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        channels: maps of the U-Net for every unit of `widths`.
        widths: maps of each level as multiples of `channels`; every level but the first halves the
            frames, rounding up.
        num_attention_maps: maps that attention runs in, for every unit of `map_widths`.
        map_widths: attention maps of each level as multiples of `num_attention_maps`. Every map has
            square matrices over all bins in every attention: they are most of the parameters.
        num_heads: of every attention.
        expansion: maps inside a feed-forward, as a multiple of those that enter.
        kernel_size: of the convolutions of the U-Net and of the feed-forwards; odd.
        projection_kernel_size: of the convolutions from the U-Net's maps to queries, keys and
            values; odd.
        num_taps: frames that the last step to queries, keys and values sees; odd.
        dropout: probability on what the feed-forwards add.
        spares_single_maps: an encoder level with one attention map has no dropout, as in the
            original.
        score_scale: see `MultichannelMultiheadAttention`; the original divides by all `features`.
        angle_precision: see `Rotary`.

    Attributes:
        num_bins: bins that `forward` takes and returns.

    Raises:
        ValueError: if `widths` and `map_widths` do not give the same two or more levels, or the
            bins cannot be split into the heads.

    Source: the frame transformer's tenth version, released in 2024.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        n_fft: int,
        channels: int,
        widths: Sequence[int],
        num_attention_maps: int,
        map_widths: Sequence[int],
        num_heads: int,
        expansion: int,
        kernel_size: int,
        projection_kernel_size: int,
        num_taps: int,
        dropout: float,
        spares_single_maps: bool,
        score_scale: ScoreScale,
        angle_precision: AnglePrecision,
    ) -> None:
        super().__init__()
        if len(widths) != len(map_widths) or len(widths) < 2:
            raise ValueError(
                f"widths ({len(widths)} levels) and map_widths ({len(map_widths)} levels) must "
                "name the same levels, two or more: give one number for each level in both"
            )
        self.num_bins = n_fft // 2
        num_maps = [channels * width for width in widths]
        num_attended = [num_attention_maps * width for width in map_widths]
        # what an encoder hands down and across, and what a decoder hands up
        num_encoded = [c + m for c, m in zip(num_maps, num_attended, strict=True)]
        num_decoded = [c + 3 * m for c, m in zip(num_maps, num_attended, strict=True)]
        num_from_below = [*num_decoded[1:-1], num_encoded[-1]]

        def block(num_in: int, num_out: int, *, stride: tuple[int, int] = (1, 1)) -> ResBlock:
            return ResBlock(
                in_channels=num_in,
                hidden_channels=num_in,
                out_channels=num_out,
                num_features=self.num_bins,
                kernel_size=kernel_size,
                stride=stride,
                activation=_leaky_relu,
            )

        attend = partial(
            MultichannelMultiheadAttention,
            num_features=self.num_bins,
            num_heads=num_heads,
            score_scale=score_scale,
            angle_precision=angle_precision,
        )
        project = partial(
            FrameProjection, conv_kernel=projection_kernel_size, num_taps=num_taps, has_bias=False
        )
        feed_forward = partial(
            ConvolutionalFeedForward,
            activation=_leaky_relu,
            has_bias=False,
            kernel_size=kernel_size,
        )
        norm = partial(MultichannelLayerNorm, num_features=self.num_bins)

        self.encoders = nn.ModuleList(
            block(above, maps, stride=(2, 1) if level else (1, 1))
            for level, (above, maps) in enumerate(
                zip([in_channels, *num_encoded[:-1]], num_maps, strict=True)
            )
        )
        self.encoder_transformers = nn.ModuleList(
            EncoderTransformer(
                norm_attention=norm(num_channels=maps),
                attention=attend(num_channels=attended, in_channels=maps, project=project),
                norm_feed_forward=norm(num_channels=encoded),
                feed_forward=feed_forward(
                    in_channels=encoded, hidden_channels=encoded * expansion, out_channels=maps
                ),
                dropout=0.0 if spares_single_maps and attended == 1 else dropout,
            )
            for maps, attended, encoded in zip(num_maps, num_attended, num_encoded, strict=True)
        )
        # by level, as the encoders: the last decoder is the deepest
        self.decoders = nn.ModuleList(
            FrameDecoder(body=block(skip + below, maps), skip_first=True)
            for skip, below, maps in zip(num_encoded, num_from_below, num_maps, strict=False)
        )
        self.decoder_transformers = nn.ModuleList(
            DecoderTransformer(
                norm_self=norm(num_channels=maps),
                self_attention=attend(num_channels=attended, in_channels=maps, project=project),
                norm_skip=norm(num_channels=encoded),
                skip_attention=attend(
                    num_channels=attended,
                    in_channels=encoded,
                    attends_memory=True,
                    memory_channels=encoded,
                    project=project,
                    project_memory=partial(project, num_repeated=attended),
                ),
                norm_feed_forward=norm(num_channels=decoded),
                feed_forward=feed_forward(
                    in_channels=decoded, hidden_channels=decoded * expansion, out_channels=maps
                ),
                dropout=dropout,
            )
            for maps, attended, encoded, decoded in zip(
                num_maps[:-1], num_attended, num_encoded, num_decoded, strict=False
            )
        )
        self.out = PointwiseConv(in_channels=num_decoded[0], out_channels=out_channels, bias=False)

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask."""
        h = features_last(magnitude, num_bins=self.num_bins)
        levels: list[LevelOutput] = []
        for encoder, transformer in zip(self.encoders, self.encoder_transformers, strict=True):
            levels.append(transformer(encoder(h)))
            h = levels[-1].stream
        for level in reversed(range(len(self.decoders))):
            h = self.decoders[level](h, levels[level].stream)
            h = self.decoder_transformers[level](h, encoded=levels[level])
        return self.out(h).transpose(2, 3)


class EncoderTransformer(Block):
    """Attention between frames, then a feed-forward that reads the U-Net's maps and attention's.

    Args:
        norm_attention: of the U-Net's maps.
        attention: of frames to one another, into maps of its own.
        norm_feed_forward: of both kinds of maps.
        feed_forward: from both kinds to the U-Net's.
        dropout: probability on what the feed-forward adds.
    """

    def __init__(
        self,
        *,
        norm_attention: nn.Module,
        attention: nn.Module,
        norm_feed_forward: nn.Module,
        feed_forward: nn.Module,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm_attention = norm_attention
        self.attention = attention
        self.norm_feed_forward = norm_feed_forward
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Float[Tensor, "B C T F"]) -> LevelOutput:
        """The U-Net's maps and, behind them, attention's; with the scores for the decoder."""
        attended, scores = self.attention(self.norm_attention(x))
        z = self.feed_forward(self.norm_feed_forward(torch.cat([x, attended], 1)))
        stream = torch.cat([x + self.dropout(z), attended], 1)
        return LevelOutput(stream, attended, scores, None)


class DecoderTransformer(Block):
    """Attention between frames, then to the encoder's, then a feed-forward that reads everything.

    The memory of the second attention is the encoder's stream and, once more, its attention maps,
    which already end the stream; none of it is normalised.

    Args:
        norm_self: of the U-Net's maps.
        self_attention: of frames to one another.
        norm_skip: of the U-Net's maps and those of the first attention.
        skip_attention: to the encoder's stream.
        norm_feed_forward: of the U-Net's maps and those of three attentions.
        feed_forward: from all of these to the U-Net's.
        dropout: probability on what the feed-forward adds.
    """

    def __init__(
        self,
        *,
        norm_self: nn.Module,
        self_attention: nn.Module,
        norm_skip: nn.Module,
        skip_attention: nn.Module,
        norm_feed_forward: nn.Module,
        feed_forward: nn.Module,
        dropout: float,
    ) -> None:
        super().__init__()
        self.norm_self = norm_self
        self.self_attention = self_attention
        self.norm_skip = norm_skip
        self.skip_attention = skip_attention
        self.norm_feed_forward = norm_feed_forward
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(
        self, x: Float[Tensor, "B C T F"], *, encoded: LevelOutput
    ) -> Float[Tensor, "B C_out T F"]:
        """The U-Net's maps and, behind them, those of the encoder's attention and of both here.

        Args:
            x: the U-Net's maps.
            encoded: of the encoder's transformer; its scores are added to those of both attentions.
        """
        scores: ResidualScores = encoded.scores
        own, _ = self.self_attention(self.norm_self(x), scores=scores)
        skip, _ = self.skip_attention(
            self.norm_skip(torch.cat([x, own], 1)), memory=encoded.stream, scores=scores
        )
        maps = [encoded.maps, own, skip]
        z = self.feed_forward(self.norm_feed_forward(torch.cat([x, *maps], 1)))
        return torch.cat([x + self.dropout(z), *maps], 1)
