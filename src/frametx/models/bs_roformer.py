"""BS-RoFormer: bands of a complex spectrogram as tokens, attention along frames and along bands.

    waveform -> STFT -> bands -> [frames of each band] -> [bands of each frame] -> ... -> masks
                 |                                                                          |
                 '------------------------------------ * -----------------------------------'
                                                       '-> inverse STFT -> stems

The network is that of the `bs-roformer` package; here it gets our contract, any length, and the
options that the paper has.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from frametx.nn.roformer_package import build_roformer, check_roformer, separate_any_length


class BsRoformer(nn.Module):
    """Waveforms to waveforms of stems, by complex masks.

    Its STFT is a part of it, and has nothing to do with that of the training data.

    Args:
        stems: names of the separator's stems: each but the `complement` has masks.
        complement: the stem that the separator makes of the others; None is none.
        num_channels: audio channels, 1 or 2; of two, the bands hold both.
        n_fft: of its STFT, samples.
        hop_length: of its STFT, samples.
        bins_per_band: bins of each band, from 0 Hz up; together n_fft / 2 + 1.
        num_features: of a token.
        num_layers: pairs of a transformer along frames and one along bands.
        num_frame_layers: of each transformer along frames.
        num_band_layers: of each transformer along bands.
        num_heads: of every attention.
        head_features: of one head.
        num_mask_layers: linear layers that make the masks of a band.
        dropout: probability in attentions and feed-forwards.
        num_residual_streams: hyper-connections of the package instead of plain residuals; 1 is
            plain, as published.
        has_value_residual: mix each layer's values with the first one's, as the package does; not
            in the paper.

    Attributes:
        num_stems: S of what `forward` returns.

    Raises:
        ValueError: if the bands do not cover the bins, an option is out of its range, or the
            package is missing.

    Source: Lu et al., "Music Source Separation with Band-Split RoPE Transformer", 2023,
        arXiv:2309.02612; package bs-roformer of Phil Wang.
    """

    def __init__(
        self,
        *,
        stems: Sequence[str],
        complement: str | None,
        num_channels: int,
        n_fft: int,
        hop_length: int,
        bins_per_band: Sequence[int],
        num_features: int,
        num_layers: int,
        num_frame_layers: int,
        num_band_layers: int,
        num_heads: int,
        head_features: int,
        num_mask_layers: int,
        dropout: float,
        num_residual_streams: int,
        has_value_residual: bool,
    ) -> None:
        super().__init__()
        self.num_stems = sum(stem != complement for stem in stems)
        check_roformer(
            stems=self.num_stems,
            num_channels=num_channels,
            n_fft=n_fft,
            hop_length=hop_length,
            head_features=head_features,
        )
        if len(bins_per_band) < 2 or min(bins_per_band) < 1:
            raise ValueError(
                f"bins_per_band={list(bins_per_band)} must be two bands or more, none empty"
            )
        if sum(bins_per_band) != n_fft // 2 + 1:
            raise ValueError(
                f"bins_per_band has {sum(bins_per_band)} bins in all, but n_fft={n_fft} gives "
                f"{n_fft // 2 + 1}: give bands that hold every bin"
            )
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.roformer = build_roformer(
            "BSRoformer",
            n_fft=n_fft,
            head_features=head_features,
            has_value_residual=has_value_residual,
            stft_hop_length=hop_length,
            freqs_per_bands=tuple(bins_per_band),
            dim=num_features,
            depth=num_layers,
            stereo=num_channels == 2,
            num_stems=self.num_stems,
            time_transformer_depth=num_frame_layers,
            freq_transformer_depth=num_band_layers,
            heads=num_heads,
            attn_dropout=dropout,
            ff_dropout=dropout,
            mask_estimator_depth=num_mask_layers,
            num_residual_streams=num_residual_streams,
        )

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """The stems that have masks.

        Raises:
            ValueError: if the mixture is empty.
        """
        return separate_any_length(
            self.roformer, mixture, n_fft=self.n_fft, hop_length=self.hop_length
        )
