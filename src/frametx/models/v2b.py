"""V2b: a U-Net over frequency whose transformers add up their scores through all levels.

Residual blocks halve the bins from level to level and never merge frames: convolutions at the top,
linear layers at the deepest levels, where few bins are left. At every level, and before the first,
a conventional transformer of a few attention maps runs beside the U-Net, with frames as tokens, and
its maps join the others. Its scores are added to those of the level before, down one side and up
the other, in one chain. On the way up each transformer also attends to the maps of the encoder's,
with the scores that the chain had there.

    embedding -> transformer -> encoder 1, transformer -- maps, scores -> decoder 1, transformer
                       scores >  encoder 2, transformer - maps, scores > decoder 2, transformer
                                   ...                                    ...   ^ scores
                                     scores > encoder n, transformer -> scores -'

Inside, the layout is B C T F: C feature maps, F features of a frame, last.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import check_halving, features_last
from frametx.nn.block import Block
from frametx.nn.convolutional_embedding import ConvolutionalEmbedding
from frametx.nn.feed_forward import ConvolutionalFeedForward
from frametx.nn.frame_projection import FrameProjection
from frametx.nn.frequency_unet import frequency_decoders, frequency_encoders
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention, ScoreScale
from frametx.nn.multichannel_linear import MultichannelLinear
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.residual_block import ResBlock
from frametx.nn.rotary import AnglePrecision
from frametx.nn.squared_relu import squared_relu
from frametx.nn.transformer_layer import LevelTransformer, TransformerLayer


class V2b(nn.Module):
    """Magnitudes in [0, 1] to logits of a mask, for any number of frames.

    Args:
        in_channels: audio channels of the magnitudes.
        out_channels: channels of logits: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        channels: maps of the U-Net for every unit of `widths`.
        widths: maps of each level as multiples of `channels`; every level but the first halves the
            bins.
        num_linear_levels: levels, from the deepest up, whose residual blocks are linear layers.
        num_attention_maps: maps of every transformer; one number, because one chain of scores runs
            through them all.
        num_heads: of every attention.
        expansion: hidden maps of a transformer's feed-forward for every attention map.
        dropout: probability on the branches of all transformers.
        attention_kernel_size: of the convolution of each map before queries, keys and values; odd.
        feed_forward_kernel_size: of the transformers' two convolutions; odd.
        embedding_widths: maps of the embedding's levels below the first, as multiples of
            `in_channels`; empty for a single level.
        embedding_kernel_size: of the convolutions that read the embedding's levels.
        has_sinusoids: sines and cosines of the frame's number enter the embedding beside the
            magnitudes. The original was trained with and without.
        score_scale: see `MultichannelMultiheadAttention`; the original divides by all `features`.
        angle_precision: see `Rotary`.

    Attributes:
        num_bins: bins that `forward` takes and returns.

    Raises:
        ValueError: if the bins cannot be halved as often as there are levels, or cannot be split
            into the heads, or there are not so many levels that could be linear.

    Source: the frame transformer "v2b" of March 2023. He et al., "RealFormer: Transformer Likes
    Residual Attention", 2021, for the chain of scores.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        n_fft: int,
        channels: int,
        widths: Sequence[int],
        num_linear_levels: int,
        num_attention_maps: int,
        num_heads: int,
        expansion: int,
        dropout: float,
        attention_kernel_size: int,
        feed_forward_kernel_size: int,
        embedding_widths: Sequence[int],
        embedding_kernel_size: int,
        has_sinusoids: bool,
        score_scale: ScoreScale,
        angle_precision: AnglePrecision,
    ) -> None:
        super().__init__()
        self.num_bins = n_fft // 2
        check_halving(n_fft, num_levels=len(widths), name="widths")
        check_halving(n_fft, num_levels=1 + len(embedding_widths), name="embedding_widths")
        if not 0 <= num_linear_levels <= len(widths):
            raise ValueError(
                f"num_linear_levels ({num_linear_levels}) must be 0 to {len(widths)}: "
                f"there are {len(widths)} widths"
            )
        num_maps = [channels * width for width in widths]
        num_features = [self.num_bins >> level for level in range(len(widths))]
        # every transformer adds its maps to those of the U-Net
        num_stream_maps = [maps + num_attention_maps for maps in num_maps]
        num_embedded = in_channels + 1
        blocks = [
            LinearResBlock
            if level >= len(widths) - num_linear_levels
            else partial(ResBlock, has_shortcut_conv=True)
            for level in range(len(widths))
        ]
        transformer = partial(
            _transformer,
            num_attention_maps=num_attention_maps,
            num_heads=num_heads,
            expansion=expansion,
            dropout=dropout,
            attention_kernel_size=attention_kernel_size,
            feed_forward_kernel_size=feed_forward_kernel_size,
            score_scale=score_scale,
            angle_precision=angle_precision,
        )

        self.embedding = ConvolutionalEmbedding(
            in_channels=in_channels,
            num_features=self.num_bins,
            widths=embedding_widths,
            kernel_size=embedding_kernel_size,
            has_sinusoids=has_sinusoids,
        )
        self.input_transformer = transformer(num_embedded, self.num_bins, attends_memory=False)
        self.encoders = frequency_encoders(
            blocks,
            in_channels=num_embedded + num_attention_maps,
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
        x = features_last(magnitude, num_bins=self.num_bins)
        h, _, scores, _ = self.input_transformer(torch.cat([x, self.embedding(x)], 1))
        encoded = []
        for encoder, transformer in zip(self.encoders, self.encoder_transformers, strict=True):
            level = transformer(encoder(h), scores=scores)
            h, _, scores, _ = level
            encoded.append(level)

        for decoder, transformer, level in zip(
            reversed(self.decoders),
            reversed(self.decoder_transformers),
            reversed(encoded[:-1]),
            strict=True,
        ):
            h, _, scores, _ = transformer(
                decoder(h, level.stream),
                memory=level.maps,
                scores=scores,
                memory_scores=level.scores,
            )
        return self.out(h).transpose(2, 3)


class LinearResBlock(Block):
    """Norm, linear layer per map, activation, linear layer per map, beside a shortcut.

    The first layer changes the number of maps, the second the number of features. The shortcut is
    a 1x1 convolution, of every n-th bin where the features become n times fewer.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        num_features: features of a frame that come in.
        stride: (frames, bins) by which both become fewer; frames must stay.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        num_features: int,
        stride: tuple[int, int] = (1, 1),
    ) -> None:
        super().__init__()
        frames, self.bins = stride
        assert frames == 1, "a layer over the features of a frame merges no frames"
        self.norm = MultichannelLayerNorm(num_channels=in_channels, num_features=num_features)
        self.linear_in = MultichannelLinear(
            num_channels=in_channels,
            in_features=num_features,
            out_features=num_features,
            out_channels=out_channels,
        )
        self.linear_out = MultichannelLinear(
            num_channels=out_channels,
            in_features=num_features,
            out_features=num_features // self.bins,
        )
        self.shortcut = PointwiseConv(
            in_channels=in_channels, out_channels=out_channels, bias=False
        )

    def forward(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C_out T F_out"]:
        """Branch and shortcut, summed."""
        branch = self.linear_out(squared_relu(self.linear_in(self.norm(x))))
        return self.shortcut(x[..., :: self.bins]) + branch


def _transformer(
    in_channels: int,
    num_features: int,
    *,
    attends_memory: bool,
    num_attention_maps: int,
    num_heads: int,
    expansion: int,
    dropout: float,
    attention_kernel_size: int,
    feed_forward_kernel_size: int,
    score_scale: ScoreScale,
    angle_precision: AnglePrecision,
) -> LevelTransformer:
    """The transformer of a level, on maps that are made of all."""
    attend = partial(
        MultichannelMultiheadAttention,
        num_channels=num_attention_maps,
        num_features=num_features,
        num_heads=num_heads,
        project=partial(
            FrameProjection,
            conv_kernel=attention_kernel_size,
            is_depthwise=True,
            num_taps=0,
            has_bias=False,
        ),
        score_scale=score_scale,
        angle_precision=angle_precision,
    )
    return LevelTransformer(
        embed=PointwiseConv(in_channels=in_channels, out_channels=num_attention_maps, bias=True),
        layer=TransformerLayer(
            attention=attend(),
            memory_attention=attend(attends_memory=True) if attends_memory else None,
            feed_forward=ConvolutionalFeedForward(
                in_channels=num_attention_maps,
                hidden_channels=expansion * num_attention_maps,
                out_channels=num_attention_maps,
                activation=squared_relu,
                has_bias=True,
                kernel_size=feed_forward_kernel_size,
            ),
            norm=partial(
                MultichannelLayerNorm, num_channels=num_attention_maps, num_features=num_features
            ),
            dropout=dropout,
        ),
    )
