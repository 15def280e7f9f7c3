"""V7: a U-Net over frequency with a conventional transformer over frames at every level.

Convolutions halve the bins from level to level and never merge frames. At every level, the deepest
included, a transformer of a few attention maps runs beside the many maps of the U-Net, with frames
as tokens; its maps join the U-Net's. Scores of attention go on from level to level on the way down;
on the way up a level's transformer starts from the scores of the encoder's, and attends to the maps
of the encoder as well, from the scores of both.

    embedding -> encoder 1, transformer ---- maps, scores ---> decoder 1, transformer -> logits
                  encoder 2, transformer --- maps, scores --> decoder 2, transformer
                    ...  (half the bins at every step)          ...
                                 encoder n, transformer ------>

Inside, the layout is B C T F: C feature maps, F features of a frame, last.
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import check_halving, features_last
from frametx.nn.convolutional_embedding import ConvolutionalEmbedding
from frametx.nn.feed_forward import LinearFeedForward
from frametx.nn.frequency_unet import frequency_decoders, frequency_encoders
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention, ScoreScale
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.residual_block import ResBlock
from frametx.nn.rotary import AnglePrecision
from frametx.nn.transformer_layer import (
    LevelOutput,
    LevelTransformer,
    TransformerLayer,
    embed_maps,
)


class V7(nn.Module):
    """Magnitudes in [0, 1] to logits of a mask, for any number of frames.

    Args:
        in_channels: audio channels of the magnitudes.
        out_channels: channels of logits: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        channels: maps of the U-Net for every unit of `widths`.
        widths: maps of each level as multiples of `channels`; every level but the first halves the
            bins, and the last has no decoder.
        num_attention_maps: maps of every transformer.
        num_heads: of every attention but those of the last level.
        num_bottom_heads: of the attention of the last level, where few features are left.
        expansions: hidden features of the transformers' feed-forward, at each level.
        dropout: probability on the branches of all transformers.
        embedding_widths: maps of the embedding's levels below the first, as multiples of
            `in_channels`; empty for a single level.
        embedding_kernel_size: of the convolutions that read the embedding's levels.
        mixes_encoder_hidden: the feed-forward of the encoders' transformers mixes the maps of its
            hidden features, as that of the decoders' always does. The original's weights of the
            version before this one need it.
        score_scale: see `MultichannelMultiheadAttention`; the original divides by all `features`.
        angle_precision: see `Rotary`.

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
        num_bottom_heads: int,
        expansions: Sequence[int],
        dropout: float,
        embedding_widths: Sequence[int],
        embedding_kernel_size: int,
        mixes_encoder_hidden: bool,
        score_scale: ScoreScale,
        angle_precision: AnglePrecision,
    ) -> None:
        super().__init__()
        self.num_bins = n_fft // 2
        check_halving(n_fft, num_levels=len(widths), name="widths")
        check_halving(n_fft, num_levels=1 + len(embedding_widths), name="embedding_widths")
        if len(expansions) != len(widths):
            raise ValueError(
                f"{len(expansions)} expansions for {len(widths)} widths: give one for every level"
            )
        num_maps = [channels * width for width in widths]
        # a level's transformer adds its maps to those of the U-Net
        num_stream_maps = [maps + num_attention_maps for maps in num_maps]
        num_features = [self.num_bins >> level for level in range(len(widths))]
        transformer = partial(
            _level_transformer,
            num_attention_maps=num_attention_maps,
            dropout=dropout,
            attend=partial(
                MultichannelMultiheadAttention,
                num_channels=num_attention_maps,
                score_scale=score_scale,
                angle_precision=angle_precision,
            ),
        )

        self.embedding = ConvolutionalEmbedding(
            in_channels=in_channels,
            num_features=self.num_bins,
            widths=embedding_widths,
            kernel_size=embedding_kernel_size,
            activation=F.gelu,
        )
        blocks = [partial(ResBlock, activation=F.gelu)] * len(widths)
        self.encoders = frequency_encoders(
            blocks,
            in_channels=in_channels + 1,
            num_stream_maps=num_stream_maps,
            num_maps=num_maps,
            num_features=num_features,
        )
        self.decoders = frequency_decoders(
            blocks,
            num_from_below=num_stream_maps[1:],
            num_skip_maps=num_stream_maps,
            num_maps=num_maps,
            num_features=num_features,
        )
        heads = [num_heads] * (len(widths) - 1) + [num_bottom_heads]
        transformers = [
            partial(
                transformer,
                in_channels=maps,
                num_features=features,
                num_heads=level_heads,
                hidden_features=hidden,
            )
            for maps, features, level_heads, hidden in zip(
                num_maps, num_features, heads, expansions, strict=True
            )
        ]
        self.encoder_transformers = nn.ModuleList(
            make(mixes_hidden=mixes_encoder_hidden, memory_channels=None) for make in transformers
        )
        self.decoder_transformers = nn.ModuleList(
            make(mixes_hidden=True, memory_channels=skip)
            for make, skip in zip(transformers[:-1], num_stream_maps, strict=False)
        )
        self.out = PointwiseConv(
            in_channels=num_stream_maps[0], out_channels=out_channels, bias=True
        )

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask."""
        x = features_last(magnitude, num_bins=self.num_bins)
        h = torch.cat([x, self.embedding(x)], 1)
        encoded: list[LevelOutput] = []
        scores = None
        for encoder, transformer in zip(
            self.encoders[:-1], self.encoder_transformers[:-1], strict=True
        ):
            encoded.append(transformer(encoder(h), scores=scores))
            h, scores = encoded[-1].stream, encoded[-1].scores
        # a chain of its own: the last level has other heads
        h = self.encoder_transformers[-1](self.encoders[-1](h)).stream

        scores, memory_scores = None, None
        for level in reversed(range(len(self.decoders))):
            skip = encoded[level]
            if scores is None or memory_scores is None:
                scores, memory_scores = skip.scores, skip.scores
            else:
                scores, memory_scores = skip.scores + scores, skip.scores + memory_scores
            h, _, scores, memory_scores = self.decoder_transformers[level](
                self.decoders[level](h, skip.stream),
                memory=skip.stream,
                scores=scores,
                memory_scores=memory_scores,
            )
        return self.out(h).transpose(2, 3)


def _level_transformer(
    *,
    in_channels: int,
    num_attention_maps: int,
    num_features: int,
    num_heads: int,
    hidden_features: int,
    mixes_hidden: bool,
    memory_channels: int | None,
    dropout: float,
    attend: partial[nn.Module],
) -> LevelTransformer:
    attend = partial(attend, num_features=num_features, num_heads=num_heads)
    has_memory = memory_channels is not None
    return LevelTransformer(
        embed=embed_maps(in_channels, num_attention_maps),
        embed_memory=PointwiseConv(
            in_channels=memory_channels, out_channels=num_attention_maps, bias=True
        )
        if memory_channels is not None
        else None,
        layer=TransformerLayer(
            attention=attend(),
            memory_attention=attend(attends_memory=True) if has_memory else None,
            feed_forward=LinearFeedForward(
                num_channels=num_attention_maps,
                num_features=num_features,
                hidden_features=hidden_features,
                activation=F.gelu,
                mixes_hidden=mixes_hidden,
            ),
            norm=partial(
                MultichannelLayerNorm, num_channels=num_attention_maps, num_features=num_features
            ),
            dropout=dropout,
            adds_own_scores=has_memory,
        ),
    )
