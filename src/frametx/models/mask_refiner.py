"""The mask refiner: a U-Net over bins whose lowest level is a transformer over frames.

    maps -> fold bins -> level 1 -> level 2 -> ... -> lowest level -> tokens, one a frame
                            |          |                   + <-------- transformer layers
              unfold <--- level 1 <- level 2 <- ... <------'

It is small, and made to correct the masks of a separator that exists already. Inside, the layout is
B C T F: C feature maps, F bins of a frame, last. Only bins are halved, never frames, so it takes
any number of frames.
"""

from collections.abc import Sequence
from functools import partial

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from frametx.nn.bins import check_halving, features_last
from frametx.nn.feed_forward import LinearFeedForward
from frametx.nn.frequency_unet import frequency_decoders, frequency_encoders
from frametx.nn.multichannel_attention import MultichannelMultiheadAttention
from frametx.nn.residual_block import ResBlock
from frametx.nn.transformer_layer import TransformerLayer


class MaskRefiner(nn.Module):
    """Maps of a mixture and of masks to corrections of the masks' logits.

    Args:
        in_channels: maps that come in.
        out_channels: maps that go out.
        n_fft: of the STFT; the network takes `n_fft // 2` bins, all but the Nyquist bin.
        fold: neighbouring bins that the first convolution makes one, and the last one parts again.
        widths: maps of each level; every level but the first has half the bins.
        token_features: features of a frame in the transformer.
        num_layers: of the transformer.
        num_heads: of its attention.
        hidden_features: of its feed-forward layers.
        dropout: probability on every branch.

    Attributes:
        num_bins: bins that `forward` takes and returns.

    Raises:
        ValueError: if the bins cannot be folded or halved so often, or the features of a token not
            be divided among the heads.

    Source: ours; the prototype's form is that of refiner.md.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        n_fft: int,
        fold: int,
        widths: Sequence[int],
        token_features: int,
        num_layers: int,
        num_heads: int,
        hidden_features: int,
        dropout: float,
    ) -> None:
        super().__init__()
        if fold < 1 or n_fft % (2 * fold):
            raise ValueError(
                f"fold={fold} must divide the {n_fft // 2} bins of n_fft={n_fft}: take 1, 2 or 4"
            )
        check_halving(n_fft // fold, num_levels=len(widths), name="widths")
        self.num_bins = n_fft // 2
        self.fold = fold
        num_features = [self.num_bins // fold >> level for level in range(len(widths))]
        block = partial(ResBlock, dropout=dropout)
        self.folded = nn.Conv2d(
            in_channels, widths[0], kernel_size=(3, fold), stride=(1, fold), padding=(1, 0)
        )
        self.encoders = frequency_encoders(
            [block] * len(widths),
            in_channels=widths[0],
            num_stream_maps=widths,
            num_maps=widths,
            num_features=num_features,
        )
        frame_features = widths[-1] * num_features[-1]
        self.to_tokens = nn.Linear(frame_features, token_features)
        self.layers = nn.ModuleList(
            TransformerLayer(
                attention=MultichannelMultiheadAttention(
                    num_channels=1,
                    num_features=token_features,
                    num_heads=num_heads,
                    score_scale="head",
                ),
                feed_forward=LinearFeedForward(
                    num_channels=1,
                    num_features=token_features,
                    hidden_features=hidden_features,
                    activation=F.gelu,
                ),
                norm=partial(nn.LayerNorm, token_features),
                dropout=dropout,
            )
            for _ in range(num_layers)
        )
        self.from_tokens = nn.Linear(token_features, frame_features)
        self.decoders = frequency_decoders(
            [block] * (len(widths) - 1),
            num_from_below=widths[1:],
            num_skip_maps=widths[:-1],
            num_maps=widths[:-1],
            num_features=num_features[:-1],
        )
        self.out = nn.Conv2d(widths[0], fold * out_channels, kernel_size=3, padding=1)

    def forward(self, maps: Float[Tensor, "B C_in F T"]) -> Float[Tensor, "B C_out F T"]:
        """Corrections, bin by bin."""
        x = self.folded(features_last(maps, num_bins=self.num_bins))
        skips: list[Tensor] = []
        for encoder in self.encoders:
            x = encoder(x)
            skips.append(x)
        lowest = skips.pop()
        x = lowest + self._over_frames(lowest)
        for decoder in reversed(self.decoders):
            x = decoder(x, skips.pop())
        return rearrange(self.out(x), "b (c r) t f -> b c (f r) t", r=self.fold)

    def _over_frames(self, x: Float[Tensor, "B C T F"]) -> Float[Tensor, "B C T F"]:
        """What the frames of all maps learn from one another."""
        tokens = self.to_tokens(rearrange(x, "b c t f -> b 1 t (c f)"))
        for layer in self.layers:
            tokens = layer(tokens).maps
        return rearrange(self.from_tokens(tokens), "b 1 t (c f) -> b c t f", c=x.shape[1])
