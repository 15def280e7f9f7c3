"""FrameTransformerV1: a thin U-Net over frequency with a conventional transformer at every level.

Residual blocks of convolutions halve the bins from level to level and never merge frames. At every
level, and before the first, all maps are embedded into a single one, a transformer layer runs over
its frames, and the map joins the others. On the way up the transformer also attends to the map that
the encoder's transformer of that level made.

    transformer -> encoder 1, transformer -- maps, memory -> decoder 1, transformer -> logits
                    encoder 2, transformer - maps, memory -> decoder 2, transformer
                      ...  (half the bins at every step)       ...
                                     encoder n, transformer -->

Inside, the layout is B C T F: C feature maps, F features of a frame, last.
"""

from collections.abc import Sequence
from functools import partial

from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import check_halving, features_last
from frametx.nn.feed_forward import LinearFeedForward
from frametx.nn.frame_projection import FrameProjection
from frametx.nn.frequency_unet import frequency_decoders, frequency_encoders
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention, ScoreScale
from frametx.nn.norm import FrameNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.residual_block import ResBlock
from frametx.nn.rotary import AnglePrecision
from frametx.nn.squared_relu import squared_relu
from frametx.nn.transformer_layer import LevelTransformer, TransformerLayer


class FrameTransformerV1(nn.Module):
    """Magnitudes in [0, 1] to logits of a mask, for any number of frames.

    Args:
        in_channels: audio channels of the magnitudes.
        out_channels: channels of logits: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        channels: maps of the U-Net for every unit of `widths`.
        widths: maps of each level as multiples of `channels`; every level but the first halves the
            bins.
        num_heads: of every attention.
        expansion: hidden features of a transformer's feed-forward for every feature of its level.
        dropout: probability on the branches of all transformers.
        score_scale: see `MultichannelMultiheadAttention`; the original divides by all `features`.
        angle_precision: see `Rotary`.
        shares_attention_norm: a decoder's transformer normalises before both attentions with the
            norm of the first, a slip of the original that its weights need. The norm meant for the
            second is then there, because it is in the files, and takes no part.

    Attributes:
        num_bins: bins that `forward` takes and returns.

    Raises:
        ValueError: if the bins cannot be halved as often as there are levels, or cannot be split
            into the heads.

    Source: the "thin" frame transformer of February 2023, the first of the family.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        n_fft: int,
        channels: int,
        widths: Sequence[int],
        num_heads: int,
        expansion: int,
        dropout: float,
        score_scale: ScoreScale,
        angle_precision: AnglePrecision,
        shares_attention_norm: bool,
    ) -> None:
        super().__init__()
        self.num_bins = n_fft // 2
        check_halving(n_fft, num_levels=len(widths), name="widths")
        num_maps = [channels * width for width in widths]
        num_features = [self.num_bins >> level for level in range(len(widths))]
        num_stream_maps = [maps + 1 for maps in num_maps]  # every transformer adds its one map
        transformer = partial(
            _transformer,
            num_heads=num_heads,
            expansion=expansion,
            dropout=dropout,
            score_scale=score_scale,
            angle_precision=angle_precision,
            shares_attention_norm=shares_attention_norm,
        )

        self.input_transformer = transformer(in_channels, self.num_bins, attends_memory=False)
        blocks = [partial(ResBlock, norm=FrameNorm)] * len(widths)
        self.encoders = frequency_encoders(
            blocks,
            in_channels=in_channels + 1,
            num_stream_maps=num_stream_maps,
            num_maps=num_maps,
            num_features=num_features,
        )
        self.encoder_transformers = nn.ModuleList(
            transformer(maps, features, attends_memory=False)
            for maps, features in zip(num_maps, num_features, strict=True)
        )
        self.decoders = frequency_decoders(
            blocks,
            num_from_below=num_stream_maps[1:],
            num_skip_maps=num_stream_maps,
            num_maps=num_maps,
            num_features=num_features,
        )
        self.decoder_transformers = nn.ModuleList(
            transformer(maps, features, attends_memory=True)
            for maps, features in zip(num_maps[:-1], num_features, strict=False)
        )
        self.out = PointwiseConv(
            in_channels=num_stream_maps[0], out_channels=out_channels, bias=False
        )

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask."""
        h = self.input_transformer(features_last(magnitude, num_bins=self.num_bins)).stream
        encoded = []
        for encoder, transformer in zip(self.encoders, self.encoder_transformers, strict=True):
            level = transformer(encoder(h))
            h = level.stream
            encoded.append(level)

        for decoder, transformer, level in zip(
            reversed(self.decoders),
            reversed(self.decoder_transformers),
            reversed(encoded[:-1]),
            strict=True,
        ):
            h = transformer(decoder(h, level.stream), memory=level.maps).stream
        return self.out(h).transpose(2, 3)


def _transformer(
    in_channels: int,
    num_features: int,
    *,
    attends_memory: bool,
    num_heads: int,
    expansion: int,
    dropout: float,
    score_scale: ScoreScale,
    angle_precision: AnglePrecision,
    shares_attention_norm: bool,
) -> LevelTransformer:
    """The transformer of a level, on one map that is made of all."""
    attend = partial(
        MultichannelMultiheadAttention,
        num_channels=1,
        num_features=num_features,
        num_heads=num_heads,
        project=partial(FrameProjection, num_taps=0),
        score_scale=score_scale,
        angle_precision=angle_precision,
    )
    return LevelTransformer(
        embed=PointwiseConv(in_channels=in_channels, out_channels=1, bias=True),
        layer=TransformerLayer(
            attention=attend(),
            memory_attention=attend(attends_memory=True) if attends_memory else None,
            feed_forward=LinearFeedForward(
                num_channels=1,
                num_features=num_features,
                hidden_features=expansion * num_features,
                activation=squared_relu,
            ),
            norm=partial(FrameNorm, num_channels=1, num_features=num_features),
            dropout=dropout,
            shares_attention_norm=shares_attention_norm,
        ),
    )
