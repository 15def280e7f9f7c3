"""AsymUNetMCT: a U-Net over frequency with a transformer over frames at every level.

Convolutions halve the bins from level to level and never merge frames. At every level an evolved
transformer of a few attention maps runs beside the many maps of the U-Net, with frames as tokens;
its maps join the U-Net's, and its attention scores go on to the next level. At the bottom, the
bridge, convolutional transformers attend between all bins of all frames. On the way up each level's
transformer also attends to the maps of the encoder's transformer, through gates that choose between
two chains of scores.

    embedding -> encoder 1, transformer ---- maps, scores ---> decoder 1, transformer -> logits
                  encoder 2, transformer --- maps, scores --> decoder 2, transformer
                    ...  (half the bins at every step)          ...
                                 encoder n ---> bridge -------->

Inside, the layout is B C T F: C feature maps, F features of a frame, last.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import check_halving, features_last
from frametx.nn.convolutional_transformer_encoder import ConvolutionalTransformerEncoder
from frametx.nn.frame_encoder import FrameEncoderPlan, encode
from frametx.nn.frame_transformer_decoder import FrameTransformerDecoder
from frametx.nn.frequency_unet import frequency_decoders
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention, ScoreScale
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.query_gate import QueryGate
from frametx.nn.residual_block import ResBlock
from frametx.nn.rotary import AnglePrecision
from frametx.nn.score_gate import ScoreGate
from frametx.nn.vocal_band_head import VocalBandHead


class AsymUNetMCT(nn.Module):
    """Magnitudes in [0, 1] to logits of a mask, for any number of frames.

    Args:
        in_channels: audio channels of the magnitudes.
        out_channels: channels of logits: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        channels: maps of the U-Net for every unit of `widths`.
        widths: maps of each level as multiples of `channels`; the last level is the bridge, and
            every level but the first halves the bins.
        num_plain_levels: levels, from the top, that have no transformer: their many bins are what
            transformers pay most for. The original has none.
        num_attention_maps: maps of every transformer above the bridge.
        num_heads: of every attention.
        expansion: hidden features of the transformers' feed-forward.
        num_bridge_layers: convolutional transformers at the bridge; their memory grows with the
            square of frames times bins left there, so take none with few levels.
        dropout: probability on the branches of all transformers.
        encoder_kernel_sizes: of the encoder transformers' second branch and wide convolution.
        decoder_kernel_sizes: of the decoder transformers' two branches and joining convolution.
        embedding_widths: maps of the embedding's levels below the first, as multiples of
            `in_channels`; empty for a single level.
        embedding_kernel_size: of the convolutions that read the embedding's levels.
        decoder_dropout: probability inside the residual blocks of the deepest decoders.
        num_decoder_dropout_levels: how many decoders, from the deepest up, have that dropout.
        gate: what chooses between two chains of scores. `conv3d` is the original's, convolutions
            over the scores, which need them all in memory; `query` decides for each head and
            query frame by the queries, and leaves the attention to fused kernels.
        score_scale: see `MultichannelMultiheadAttention`; the original divides by all `features`.
        angle_precision: see `Rotary`.
        restarts_bridge_residual: the bridge's attention is added to the block's input instead of
            the running stream: a slip of the original that its weights need.
        has_vocal_bands: add a side output at the bridge that says when and in which band somebody
            sings, and let the decoder read it.
        normalizes_vocal_bands: that output reads the normalised bridge; False leaves the norm's
            parameters unused, as the original's weights need.
        normalizes_output: normalise what the logits are made of. The original does not, and its
            logits can grow, within a few steps at a high learning rate, to where the sigmoid is
            flat and nothing is learned any more.

    Attributes:
        num_bins: bins that `forward` takes and returns.

    Raises:
        ValueError: if the bins cannot be halved as often as there are levels, or cannot be split
            into the heads, or no level is left for a transformer, or there is no such gate.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        n_fft: int,
        channels: int,
        widths: Sequence[int],
        num_plain_levels: int,
        num_attention_maps: int,
        num_heads: int,
        expansion: int,
        num_bridge_layers: int,
        dropout: float,
        encoder_kernel_sizes: Sequence[int],
        decoder_kernel_sizes: Sequence[int],
        embedding_widths: Sequence[int],
        embedding_kernel_size: int,
        decoder_dropout: float,
        num_decoder_dropout_levels: int,
        gate: Literal["conv3d", "query"],
        score_scale: ScoreScale,
        angle_precision: AnglePrecision,
        restarts_bridge_residual: bool,
        has_vocal_bands: bool,
        normalizes_vocal_bands: bool,
        normalizes_output: bool,
    ) -> None:
        super().__init__()
        self.num_bins = n_fft // 2
        check_halving(n_fft, num_levels=len(widths), name="widths")
        check_halving(n_fft, num_levels=1 + len(embedding_widths), name="embedding_widths")
        if not 0 <= num_plain_levels < len(widths) - 1:
            raise ValueError(
                f"num_plain_levels ({num_plain_levels}) must leave a level with a transformer "
                f"between the top and the bridge: {len(widths)} widths allow 0 to {len(widths) - 2}"
            )
        if gate not in ("conv3d", "query"):
            raise ValueError(f"gate={gate} must be conv3d or query")
        self.num_plain_levels = num_plain_levels
        plan = FrameEncoderPlan(
            in_channels=in_channels,
            num_bins=self.num_bins,
            channels=channels,
            widths=widths,
            transformer_levels=range(num_plain_levels, len(widths) - 1),
            num_attention_maps=num_attention_maps,
            expansion=expansion,
            kernel_sizes=encoder_kernel_sizes,
            dropout=dropout,
            embedding_widths=embedding_widths,
            embedding_kernel_size=embedding_kernel_size,
            score_scale=score_scale,
            angle_precision=angle_precision,
        )
        num_maps, num_features = plan.num_maps, plan.num_features
        num_stream_maps = plan.num_stream_maps[:-1]
        transformer = {
            "num_attention_maps": num_attention_maps,
            "expansion": expansion,
            "dropout": dropout,
        }
        attend = partial(
            MultichannelMultiheadAttention,
            num_heads=num_heads,
            score_scale=score_scale,
            angle_precision=angle_precision,
        )
        gates_scores = gate == "conv3d"
        bridge = {
            "num_channels": num_maps[-1],
            "num_heads": num_heads,
            "dropout": dropout,
            "restarts_residual": restarts_bridge_residual,
        }

        self.embedding = plan.embedding()
        self.encoders = plan.encoders()
        num_undropped = len(num_stream_maps) - num_decoder_dropout_levels
        self.decoders = frequency_decoders(
            [
                partial(ResBlock, dropout=decoder_dropout * (level >= num_undropped))
                for level in range(len(num_stream_maps))
            ],
            num_from_below=[*num_stream_maps[1:], num_maps[-1] + out_channels * has_vocal_bands],
            num_skip_maps=num_stream_maps,
            num_maps=num_maps,
            num_features=num_features,
        )
        self.encoder_transformers = plan.transformers(
            [num_heads] * len(plan.transformer_levels), needs_matrix=gates_scores
        )
        self.decoder_transformers = nn.ModuleList(
            FrameTransformerDecoder(
                in_channels=num_maps[level],
                num_features=num_features[level],
                kernel_sizes=decoder_kernel_sizes,
                is_deepest=level == plan.transformer_levels[-1],
                attend=attend,
                make_gate=partial(
                    _make_gate,
                    gate,
                    num_channels=num_attention_maps,
                    num_heads=num_heads,
                    skip_features=num_features[level],
                ),
                gates_scores=gates_scores,
                **transformer,
            )
            for level in plan.transformer_levels
        )
        self.bridge = nn.ModuleList(
            ConvolutionalTransformerEncoder(**bridge) for _ in range(num_bridge_layers)
        )
        self.vocal_bands = (
            VocalBandHead(**bridge, out_channels=out_channels, normalizes=normalizes_vocal_bands)
            if has_vocal_bands
            else None
        )
        self.norm_out = (
            MultichannelLayerNorm(num_channels=num_stream_maps[0], num_features=self.num_bins)
            if normalizes_output
            else nn.Identity()
        )
        self.out = PointwiseConv(
            in_channels=num_stream_maps[0], out_channels=out_channels, bias=True
        )

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask."""
        return self.forward_with_vocal_bands(magnitude)[0]

    def forward_with_vocal_bands(
        self, magnitude: Float[Tensor, "B C F T"]
    ) -> tuple[Float[Tensor, "B C_out F T"], Float[Tensor, "B C_out F_bridge T"] | None]:
        """Logits of the mask, and of singing per band of the bridge if the network has them."""
        x = features_last(magnitude, num_bins=self.num_bins)
        h, streams, encoded = encode(
            x,
            embedding=self.embedding,
            encoders=self.encoders,
            transformers=self.encoder_transformers,
            bridge=self.bridge,
        )
        bands = None
        if self.vocal_bands is not None:
            bands = self.vocal_bands(h)
            h = torch.cat([h, bands], 1)

        self_scores, skip_scores = None, None
        for level in reversed(range(len(self.decoders))):
            h = self.decoders[level](h, streams[level])
            skip = encoded[level]
            if skip is None:
                continue
            h, self_scores, skip_scores = self.decoder_transformers[level - self.num_plain_levels](
                h,
                skip=skip.maps,
                skip_scores=skip.scores,
                previous_self_scores=self_scores,
                previous_skip_scores=skip_scores,
            )
        logits = self.out(self.norm_out(h)).transpose(2, 3)
        return logits, None if bands is None else bands.transpose(2, 3)


def _make_gate(
    kind: str, *, num_channels: int, num_heads: int, previous_features: int, skip_features: int
) -> nn.Module:
    if kind == "conv3d":
        return ScoreGate(num_channels=num_channels)
    return QueryGate(
        num_channels=num_channels,
        num_heads=num_heads,
        previous_features=previous_features // num_heads,
        skip_features=skip_features // num_heads,
    )
