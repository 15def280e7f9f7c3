"""V3: transformers over all bins, one after another; nothing is made smaller on the way.

    embedding -> layer 1 -> layer 2 -> ... -> layer n -> out
                      scores ->   scores ->

Every map attends between its frames on its own. The maps meet where a projection mixes them, and in
the convolutions that stand where other transformers have a linear feed-forward. Scores are summed
from layer to layer. Only rotary positions say where a frame stands.

Inside, the layout is B C T F: C feature maps, F features of a frame, last.
"""

from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.bins import check_halving, features_last
from frametx.nn.convolve import convolve
from frametx.nn.feed_forward import ConvolutionalFeedForward
from frametx.nn.frame_projection import FrameProjection
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention, ScoreScale
from frametx.nn.norm import MultichannelLayerNorm
from frametx.nn.pointwise_conv import PointwiseConv
from frametx.nn.rotary import AnglePrecision
from frametx.nn.squared_relu import squared_relu
from frametx.nn.transformer_layer import TransformerLayer


class V3(nn.Module):
    """Magnitudes in [0, 1] to logits of a mask, or to magnitudes, for any number of frames.

    Memory grows with channels times bins at full size, and where scores are written down with the
    square of the frames for every channel and head.

    Args:
        in_channels: audio channels of the magnitudes.
        out_channels: channels that go out: stems times audio channels.
        n_fft: of the STFT; the network takes the `n_fft // 2` bins below the Nyquist bin.
        channels: maps of every layer.
        num_layers: how many transformers.
        num_heads: of every attention.
        expansion: maps in between the two convolutions of a layer, in units of `channels`.
        kernel_size: of these convolutions, over frames and over bins; odd.
        embedding_kernel_size: of the convolution from the audio channels to the maps; odd.
        dropout: probability on both branches of every layer.
        head: what goes out. `mask`: logits, whose sigmoid is a mask. `magnitude`: the estimated
            magnitude itself, unbounded, as the original was first trained. The numbers are the
            same; whoever separates with the network reads it.
        score_scale: see `MultichannelMultiheadAttention`; the original divides by all `features`.
        angle_precision: see `Rotary`.
        normalizes_output: normalise the maps that the output is made of. The original does not.

    Attributes:
        num_bins: bins that `forward` takes and returns.
        head: as given.

    Raises:
        ValueError: if the bins cannot be split into the heads, n_fft is odd, or there is no such
            head.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        n_fft: int,
        channels: int,
        num_layers: int,
        num_heads: int,
        expansion: int,
        kernel_size: int,
        embedding_kernel_size: int,
        dropout: float,
        head: Literal["mask", "magnitude"],
        score_scale: ScoreScale,
        angle_precision: AnglePrecision,
        normalizes_output: bool,
    ) -> None:
        super().__init__()
        check_halving(n_fft, num_levels=1, name="n_fft")
        if head not in ("mask", "magnitude"):
            raise ValueError(f"head={head} must be mask or magnitude")
        self.num_bins = n_fft // 2
        self.head = head
        norm = partial(
            MultichannelLayerNorm, num_channels=channels, num_features=self.num_bins, eps=1e-5
        )
        self.embed = nn.Conv2d(
            in_channels,
            channels,
            embedding_kernel_size,
            padding=embedding_kernel_size // 2,
            bias=False,
        )
        self.layers = nn.ModuleList(
            TransformerLayer(
                attention=MultichannelMultiheadAttention(
                    num_channels=channels,
                    num_features=self.num_bins,
                    num_heads=num_heads,
                    # one tap: the maps are mixed, frame by frame
                    project=partial(FrameProjection, num_taps=1, has_bias=False),
                    mixes_output=True,
                    score_scale=score_scale,
                    angle_precision=angle_precision,
                ),
                feed_forward=ConvolutionalFeedForward(
                    in_channels=channels,
                    hidden_channels=expansion * channels,
                    out_channels=channels,
                    activation=squared_relu,
                    has_bias=False,
                    kernel_size=kernel_size,
                ),
                norm=norm,
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.norm_out = norm() if normalizes_output else nn.Identity()
        self.out = PointwiseConv(in_channels=channels, out_channels=out_channels, bias=False)

    def forward(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B C_out F T"]:
        """Logits of the mask, or the estimated magnitude, as `head` says."""
        h = convolve(features_last(magnitude, num_bins=self.num_bins), self.embed)
        scores = None
        for layer in self.layers:
            h, scores, _ = layer(h, scores=scores)
        return self.out(self.norm_out(h)).transpose(2, 3)
