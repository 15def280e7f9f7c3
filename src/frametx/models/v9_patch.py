"""V9: a shallow U-Net over bins and frames; at its bottom a transformer whose tokens are patches.

Convolutions halve bins and frames. What is left at the bottom is cut into square patches, and in
every map each patch attends to all others. With the crop to be separated the network reads the
crops before it, the mixture and what was made of it, so that it can go on as it began.

    encoder 1 -------------------------------------------> decoder 1 -> logits
    encoder 2 ----------------------------------> decoder 2
      ...   (half the bins and frames at every step)   ...
    encoder n -> patches -> transformers -> bins and frames

Inside, the layout is B C T F: C feature maps, F features of a frame, last. N counts the patches of
all items of a batch, L those of one item; a patch has s frames and s features.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import features_last
from frametx.nn.block import Block
from frametx.nn.feed_forward import LinearFeedForward
from frametx.nn.frame_decoder import FrameDecoder
from frametx.nn.frame_projection import FrameProjection
from frametx.nn.multichannel_linear import MultichannelLinear
from frametx.nn.norm import InstanceNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.residual_block import ResBlock
from frametx.nn.residual_scores import Backend, ResidualScores, residual_attention
from frametx.nn.rotary import AnglePrecision, Rotary

PatchScoreScale = Literal["chunk", "head"]


class V9Patch(nn.Module):
    """Magnitudes of a crop and of the crops before it to logits of the crop's mask.

    The maps of a magnitude are the mixture of the current crop, then, from the latest on, mixture
    and estimate of every past crop; silence where a song begins.

    Args:
        in_channels: audio channels of one crop.
        num_past_crops: crops before the current one that are read; 0 makes it a network without
            memory.
        crop_frames: frames of a crop: the separator cuts what is longer, and shows as many frames
            of every past crop as the current one has.
        out_channels: channels of logits: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        channels: maps for every unit of `widths`.
        widths: maps of each level as multiples of `channels`; every level but the first halves bins
            and frames, and the last is cut into patches.
        num_layers: transformers at the bottom.
        chunk_size: frames and features of a patch.
        num_heads: bands of features that a patch is split into.
        expansion: hidden features of the transformers' feed-forward.
        kernel_size: of the convolutions to queries, keys and values, inside a patch; odd.
        dropout: probability that a transformer leaves a map of a patch as it is.
        score_scale: scores are divided by the square root of the frames of a patch (`chunk`), as in
            the original, or of all numbers of a patch that a head sees (`head`).
        angle_precision: see `Rotary`.

    Attributes:
        num_bins: bins that the separator gives; `forward` takes any multiple of `frame_multiple`.
        num_past_crops: as given, for the separator.
        crop_frames: likewise.
        frame_multiple: `forward` takes any multiple of so many frames.

    Raises:
        ValueError: if the bins cannot be cut into patches, or these not into heads, or there is no
            such scale.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        num_past_crops: int,
        crop_frames: int,
        out_channels: int,
        n_fft: int,
        channels: int,
        widths: Sequence[int],
        num_layers: int,
        chunk_size: int,
        num_heads: int,
        expansion: int,
        kernel_size: int,
        dropout: float,
        score_scale: PatchScoreScale,
        angle_precision: AnglePrecision,
    ) -> None:
        super().__init__()
        self.num_bins = n_fft // 2
        self.num_past_crops = num_past_crops
        self.crop_frames = crop_frames
        self.chunk_size = chunk_size
        # a patch reaches over as many frames as bins
        self.frame_multiple = chunk_size << (len(widths) - 1)
        if self.num_bins % self.frame_multiple:
            raise ValueError(
                f"n_fft ({n_fft}) gives {self.num_bins} bins, which {len(widths)} levels of widths "
                f"and chunk_size {chunk_size} cannot cut into patches: take an n_fft divisible by "
                f"{2 * self.frame_multiple}, or a smaller chunk_size"
            )
        num_maps = [channels * width for width in widths]
        self.crop_channels = in_channels * (1 + 2 * num_past_crops)
        self.encoders = nn.ModuleList(
            _res_block(above, maps, stride=(2, 2) if level else (1, 1))
            for level, (above, maps) in enumerate(pairwise([self.crop_channels, *num_maps]))
        )
        self.transformers = nn.ModuleList(
            PatchTransformer(
                num_channels=num_maps[-1],
                num_heads=num_heads,
                chunk_size=chunk_size,
                expansion=expansion,
                kernel_size=kernel_size,
                dropout=dropout,
                score_scale=score_scale,
                angle_precision=angle_precision,
            )
            for _ in range(num_layers)
        )
        # by level, as the encoders: the last decoder is the deepest
        self.decoders = nn.ModuleList(
            FrameDecoder(body=_res_block(skip + below, skip), skip_first=True)
            for skip, below in pairwise(num_maps)
        )
        self.out = PointwiseConv(in_channels=num_maps[0], out_channels=out_channels, bias=True)

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits whose sigmoid is the mask of the current crop.

        Raises:
            ValueError: if the frames cannot be cut into patches, or past crops are missing.
        """
        num_channels, num_frames = magnitude.shape[1], magnitude.shape[3]
        if num_channels != self.crop_channels:
            raise ValueError(
                f"magnitude has {num_channels} channels, the network reads {self.crop_channels}: "
                f"the mixture, and mixture and estimate of {self.num_past_crops} crops before it"
            )
        if num_frames == 0 or num_frames % self.frame_multiple:
            raise ValueError(
                f"magnitude has {num_frames} frames, the network takes multiples of "
                f"{self.frame_multiple}: pad them with zeros"
            )
        # no weight depends on the bins: any number that can be cut into patches will do
        whole = magnitude.shape[2] // self.frame_multiple * self.frame_multiple
        h = features_last(magnitude, num_bins=whole or self.num_bins)
        streams: list[Tensor] = []
        for encoder in self.encoders:
            h = encoder(h)
            streams.append(h)
        h = self._transformed(streams.pop())
        for decoder, skip in zip(reversed(self.decoders), reversed(streams), strict=True):
            h = decoder(h, skip)
        return self.out(h).transpose(2, 3)

    def _transformed(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C T F"]:
        """All maps through the transformers, patch by patch; patches of one band are neighbours."""
        side = self.chunk_size
        num_patches = x.shape[2] * x.shape[3] // side**2
        patches = rearrange(x, "b c (l t) (m f) -> (b m l) c t f", t=side, f=side)
        scores = None
        for transformer in self.transformers:
            patches, scores = transformer(patches, num_patches=num_patches, scores=scores)
        return rearrange(
            patches, "(b m l) c t f -> b c (l t) (m f)", b=x.shape[0], l=x.shape[2] // side
        )


class PatchTransformer(Block):
    """Attention between patches, then a feed-forward over their features that reads both."""

    def __init__(
        self,
        *,
        num_channels: int,
        num_heads: int,
        chunk_size: int,
        expansion: int,
        kernel_size: int,
        dropout: float,
        score_scale: PatchScoreScale,
        angle_precision: AnglePrecision,
    ) -> None:
        super().__init__()
        norm = partial(InstanceNorm, num_features=chunk_size)
        self.norm_attention = norm(num_channels=num_channels)
        self.attention = PatchAttention(
            num_channels=num_channels,
            num_heads=num_heads,
            chunk_size=chunk_size,
            kernel_size=kernel_size,
            score_scale=score_scale,
            angle_precision=angle_precision,
        )
        self.norm_feed_forward = norm(num_channels=2 * num_channels)
        self.feed_forward = LinearFeedForward(
            num_channels=2 * num_channels,
            num_features=chunk_size,
            hidden_features=expansion,
            out_channels=num_channels,
            activation=F.leaky_relu,
            keeps_hidden=False,
        )
        self.dropout = nn.Dropout2d(dropout) if dropout else nn.Identity()

    def forward(
        self,
        x: Float[Tensor, "N C s s"],
        *,
        num_patches: int,
        scores: ResidualScores | None,
    ) -> tuple[Float[Tensor, "N C s s"], ResidualScores]:
        """Run the layer; the scores are for the next one.

        Args:
            x: patches, those of one item of the batch behind one another.
            num_patches: of one item.
            scores: of the layer before.
        """
        z, total = self.attention(self.norm_attention(x), num_patches=num_patches, scores=scores)
        z = self.feed_forward(self.norm_feed_forward(torch.cat([x, z], 1)))
        return x + self.dropout(z), total


class PatchAttention(nn.Module):
    """Attention of the patches of an item to one another, in every map.

    A head is a band of features over all frames of the patch. The number of the patch turns only
    the first `chunk_size // num_heads` frames of the band's lowest feature, as in the original.
    """

    def __init__(
        self,
        *,
        num_channels: int,
        num_heads: int,
        chunk_size: int,
        kernel_size: int,
        score_scale: PatchScoreScale,
        angle_precision: AnglePrecision,
    ) -> None:
        super().__init__()
        if chunk_size % num_heads:
            raise ValueError(
                f"chunk_size ({chunk_size}): features of a patch cannot be split into {num_heads} "
                "heads of equal width: take another num_heads or chunk_size"
            )
        if score_scale not in get_args(PatchScoreScale):
            raise ValueError(f"score_scale={score_scale} must be chunk or head")
        head_features = chunk_size // num_heads
        self.num_heads = num_heads
        self.scale = (chunk_size * (head_features if score_scale == "head" else 1)) ** -0.5
        self.rotary = Rotary(num_features=head_features, angle_precision=angle_precision)
        self.to_qkv = FrameProjection(
            num_channels=num_channels,
            num_features=chunk_size,
            num_projections=3,
            conv_kernel=kernel_size,
            num_taps=0,
            has_bias=False,
        )
        self.to_out = MultichannelLinear(
            num_channels=num_channels, in_features=chunk_size, out_features=chunk_size
        )
        self.attention_backend: Backend = "auto"

    def forward(
        self, x: Float[Tensor, "N C s s"], *, num_patches: int, scores: ResidualScores | None
    ) -> tuple[Float[Tensor, "N C s s"], ResidualScores]:
        """Patches made of all patches of the item, and the scores for the next layer."""
        heads = rearrange(
            self.to_qkv(x),
            "(b l) p c t (h f) -> p b c h l (f t)",
            l=num_patches,
            h=self.num_heads,
        )
        qk, v = heads.split([2, 1])
        q, k = self.rotary(qk)
        attended, total = residual_attention(
            q, k, v.squeeze(0), scale=self.scale, scores=scores, backend=self.attention_backend
        )
        # maps outermost in memory: the linear layer of each map reads them as they lie
        merged = rearrange(attended, "b c h l (f t) -> c (b l) t (h f)", t=x.shape[2])
        return self.to_out(merged.transpose(0, 1)), total


def _res_block(in_channels: int, out_channels: int, stride: tuple[int, int] = (1, 1)) -> ResBlock:
    return ResBlock(
        in_channels=in_channels,
        hidden_channels=in_channels,
        out_channels=out_channels,
        num_features=0,
        stride=stride,
        activation=F.leaky_relu,
        norm=InstanceNorm,
    )
