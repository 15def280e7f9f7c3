"""V8: a U-Net over frequency whose every transformer also attends to the magnitudes themselves.

Convolutions halve the bins from level to level and never merge frames. Behind every level stands a
transformer with frames as tokens. It attends to itself, on the way up also to the encoder's maps of
its level, and last to the magnitudes that the network was given. What an attention finds joins the
maps that the next one asks from, and one feed-forward makes of all of them a correction of the
maps. Three chains of scores run through all levels: of frames to one another and to the
magnitudes, all the way down and up; and of every encoder, into its decoder.

    magnitudes ----.-------------------------------------------.
         |         v                                           v
      encoder 1, transformer ------- maps, scores ---> decoder 1, transformer -> logits
      encoder 2, transformer ------- maps, scores ---> decoder 2, transformer
        ...  (half the bins at every step)               ...
                 encoder n, transformer ------>

Inside, the layout is B C T F: C feature maps, F features of a frame, last.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import check_halving, features_last
from frametx.nn.block import Block
from frametx.nn.feed_forward import LinearFeedForward
from frametx.nn.frame_projection import FrameProjection
from frametx.nn.frequency_unet import frequency_decoders, frequency_encoders
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention, ScoreScale
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.residual_block import ResBlock
from frametx.nn.residual_scores import ResidualScores
from frametx.nn.rotary import AnglePrecision


class V8(nn.Module):
    """Magnitudes in [0, 1] to logits of a mask, for any number of frames.

    Args:
        in_channels: audio channels of the magnitudes.
        out_channels: channels of logits: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        channels: maps of the U-Net for every unit of `widths`.
        widths: maps of each level as multiples of `channels`; every level but the first halves the
            bins, and the last has no decoder.
        num_attention_maps: maps of every attention.
        num_heads: of every attention.
        expansions: hidden features of the transformers' feed-forward, at each level.
        attention_kernel_size: of the convolutions from any number of maps to those of the
            attention, over frames and over bins; odd.
        dropout: probability on what the transformers add to the maps.
        score_scale: see `MultichannelMultiheadAttention`; the original divides by all `features`.
        angle_precision: see `Rotary`.
        rounds_upsampling: the decoders interpolate in half precision, as one published script did
            by mistake; it costs a thousandth of the logits.

    Attributes:
        num_bins: bins that `forward` takes and returns.

    Raises:
        ValueError: if the bins cannot be halved as often as there are levels, or cannot be split
            into the heads, or levels and expansions differ in number.
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
        num_heads: int,
        expansions: Sequence[int],
        attention_kernel_size: int,
        dropout: float,
        score_scale: ScoreScale,
        angle_precision: AnglePrecision,
        rounds_upsampling: bool,
    ) -> None:
        super().__init__()
        self.num_bins = n_fft // 2
        check_halving(n_fft, num_levels=len(widths), name="widths")
        if len(expansions) != len(widths):
            raise ValueError(
                f"{len(expansions)} expansions for {len(widths)} widths: give one for every level"
            )
        num_maps = [channels * width for width in widths]
        num_features = [self.num_bins >> level for level in range(len(widths))]
        transformers = [
            partial(
                SourceTransformer,
                num_channels=maps,
                num_features=features,
                num_attention_maps=num_attention_maps,
                hidden_features=hidden,
                source_channels=in_channels,
                source_features=self.num_bins,
                dropout=dropout,
                attend=partial(
                    MultichannelMultiheadAttention,
                    num_channels=num_attention_maps,
                    num_features=features,
                    num_heads=num_heads,
                    project=partial(FrameProjection, conv_kernel=attention_kernel_size, num_taps=0),
                    mixes_output=True,
                    score_scale=score_scale,
                    angle_precision=angle_precision,
                ),
            )
            for maps, features, hidden in zip(num_maps, num_features, expansions, strict=True)
        ]

        blocks = [partial(ResBlock, activation=F.gelu)] * len(widths)
        self.encoders = frequency_encoders(
            blocks,
            in_channels=in_channels,
            num_stream_maps=num_maps,
            num_maps=num_maps,
            num_features=num_features,
        )
        self.encoder_transformers = nn.ModuleList(
            transformer(attends_skip=False) for transformer in transformers
        )
        self.decoders = frequency_decoders(
            blocks,
            num_from_below=num_maps[1:],
            num_skip_maps=num_maps,
            rounds_interpolation=rounds_upsampling,
            num_maps=num_maps,
            num_features=num_features,
        )
        self.decoder_transformers = nn.ModuleList(
            transformer(attends_skip=True) for transformer in transformers[:-1]
        )
        self.out = PointwiseConv(in_channels=num_maps[0], out_channels=out_channels, bias=True)

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask."""
        h = source = features_last(magnitude, num_bins=self.num_bins)
        scores, source_scores = None, None
        encoded: list[SourceTransformerOutput] = []
        for encoder, transformer in zip(self.encoders, self.encoder_transformers, strict=True):
            encoded.append(
                transformer(encoder(h), source=source, scores=scores, source_scores=source_scores)
            )
            h, scores, source_scores = encoded[-1]

        for level in reversed(range(len(self.decoders))):
            skip = encoded[level]
            h, scores, source_scores = self.decoder_transformers[level](
                self.decoders[level](h, skip.maps),
                source=source,
                skip=skip.maps,
                scores=scores,
                skip_scores=skip.scores,
                source_scores=source_scores,
            )
        return self.out(h).transpose(2, 3)


class SourceTransformerOutput(NamedTuple):
    """What a level's transformer hands on.

    Attributes:
        maps: as many as came in.
        scores: of the attention of frames to one another.
        source_scores: of the attention to the source.
    """

    maps: Float[Tensor, "B C T F"]
    scores: ResidualScores
    source_scores: ResidualScores


class SourceTransformer(Block):
    """Attentions whose maps stand beside those that they ask from, and a feed-forward over all.

    Args:
        num_channels: maps that come in and go out.
        num_features: features of a frame, likewise.
        num_attention_maps: maps that every attention adds.
        hidden_features: of the feed-forward.
        source_channels: maps of the source.
        source_features: features of its frames.
        attends_skip: frames also attend to those of a skip connection, before the source's.
        dropout: probability on what is added to the maps.
        attend: makes an attention, see `MultichannelMultiheadAttention`.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        num_features: int,
        num_attention_maps: int,
        hidden_features: int,
        source_channels: int,
        source_features: int,
        attends_skip: bool,
        dropout: float,
        attend: Callable[..., nn.Module],
    ) -> None:
        super().__init__()
        total = num_channels + num_attention_maps
        self.norm = MultichannelLayerNorm(num_channels=num_channels, num_features=num_features)
        self.attention = attend(in_channels=num_channels)
        self.skip_attention: nn.Module | None = None
        if attends_skip:
            self.skip_attention = attend(
                in_channels=total, attends_memory=True, memory_channels=num_channels
            )
            total += num_attention_maps
        self.source_attention = attend(
            in_channels=total,
            attends_memory=True,
            memory_channels=source_channels,
            memory_features=source_features,
        )
        total += num_attention_maps
        self.feed_forward = LinearFeedForward(
            num_channels=total,
            num_features=num_features,
            hidden_features=hidden_features,
            out_channels=num_channels,
            activation=F.gelu,
            mixes_hidden=True,
            mixes_output=True,
        )
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "B C T F"],
        *,
        source: Float[Tensor, "B C_source T F_source"],
        skip: Float[Tensor, "B C T F"] | None = None,
        scores: ResidualScores | None = None,
        skip_scores: ResidualScores | None = None,
        source_scores: ResidualScores | None = None,
    ) -> SourceTransformerOutput:
        """Attend to itself, the skip connection and the source, each asked with what was found.

        Args:
            x: maps of the U-Net.
            source: what the network was given.
            skip: maps of the encoder, exactly if they are attended to.
            scores: chain that the first attention adds to.
            skip_scores: chain that the attention to `skip` adds to; it ends here.
            source_scores: chain that the attention to `source` adds to.
        """
        assert (skip is not None) == (self.skip_attention is not None)
        h = self.norm(x)
        found, own_scores = self.attention(h, scores=scores)
        h = torch.cat([h, found], 1)
        if self.skip_attention is not None:
            found, _ = self.skip_attention(h, memory=skip, scores=skip_scores)
            h = torch.cat([h, found], 1)
        found, source_sum = self.source_attention(h, memory=source, scores=source_scores)
        h = torch.cat([h, found], 1)
        return SourceTransformerOutput(
            x + self.dropout(self.feed_forward(h)), own_scores, source_sum
        )
