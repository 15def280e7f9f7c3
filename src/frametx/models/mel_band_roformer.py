"""Mel-Band RoFormer: the BS-RoFormer with bands of the mel scale, which overlap.

A bin that lies in several bands has a mask from each of them, and gets their mean.

The network is that of the `bs-roformer` package; here it gets our contract, any length, and the
options that the paper has.
"""

import warnings
from collections.abc import Sequence

from jaxtyping import Float
from librosa.filters import mel
from torch import Tensor, nn

from frametx.nn.roformer_package import build_roformer, check_roformer, separate_any_length


class MelBandRoformer(nn.Module):
    """Waveforms to waveforms of stems, by complex masks.

    Its STFT is a part of it, and has nothing to do with that of the training data.

    Args:
        stems: names of the separator's stems: each but the `complement` has masks.
        complement: the stem that the separator makes of the others; None is none.
        num_channels: audio channels, 1 or 2; of two, the bands hold both.
        sample_rate: Hz; says which bins a band of the mel scale holds.
        n_fft: of its STFT, samples.
        hop_length: of its STFT, samples.
        num_bands: of the mel scale, from 0 Hz to half the sample rate.
        num_features: of a token.
        num_layers: pairs of a transformer along frames and one along bands.
        num_frame_layers: of each transformer along frames.
        num_band_layers: of each transformer along bands.
        num_joint_layers: of linear attention over all frames and bands at once, before each pair;
            0 as published, the package has 1.
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
        ValueError: if a band holds no bin, a bin is in no band, an option is out of its range, or
            the package is missing.

    Source: Wang et al., "Mel-Band RoFormer for Music Source Separation", 2023, arXiv:2310.01809;
        Wang et al., "Mel-RoFormer for Vocal Separation and Vocal Melody Transcription", ISMIR 2024;
        package bs-roformer of Phil Wang.
    """

    def __init__(
        self,
        *,
        stems: Sequence[str],
        complement: str | None,
        num_channels: int,
        sample_rate: int,
        n_fft: int,
        hop_length: int,
        num_bands: int,
        num_features: int,
        num_layers: int,
        num_frame_layers: int,
        num_band_layers: int,
        num_joint_layers: int,
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
        if num_mask_layers < 2:
            raise ValueError(f"num_mask_layers={num_mask_layers} must be at least 2")
        _check_bands(num_bands, sample_rate=sample_rate, n_fft=n_fft)
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.roformer = build_roformer(
            "MelBandRoformer",
            n_fft=n_fft,
            head_features=head_features,
            has_value_residual=has_value_residual,
            stft_hop_length=hop_length,
            sample_rate=sample_rate,
            num_bands=num_bands,
            dim=num_features,
            depth=num_layers,
            stereo=num_channels == 2,
            num_stems=self.num_stems,
            linear_transformer_depth=num_joint_layers,
            time_transformer_depth=num_frame_layers,
            freq_transformer_depth=num_band_layers,
            heads=num_heads,
            attn_dropout=dropout,
            ff_dropout=dropout,
            mask_estimator_depth=num_mask_layers - 1,  # it counts the hidden ones
            num_residual_streams=num_residual_streams,
            add_value_residual=has_value_residual,
        )

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """The stems that have masks.

        Raises:
            ValueError: if the mixture is empty.
        """
        return separate_any_length(
            self.roformer, mixture, n_fft=self.n_fft, hop_length=self.hop_length
        )


def _check_bands(num_bands: int, *, sample_rate: int, n_fft: int) -> None:
    """Refuse bands of the mel scale that are narrower than a bin, or wider apart.

    Raises:
        ValueError: naming the numbers.
    """
    if num_bands < 2:
        raise ValueError(f"num_bands={num_bands} must be at least 2")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # librosa warns of empty bands, which end here
        held = mel(sr=sample_rate, n_fft=n_fft, n_mels=num_bands) > 0
    # the lowest and the highest bin lie on the edges of the scale; the package adds them
    held[0, 0] = held[-1, -1] = True
    if not held.any(axis=1).all() or not held.any(axis=0).all():
        raise ValueError(
            f"num_bands={num_bands} does not fit n_fft={n_fft} at {sample_rate} Hz: a band of the "
            "mel scale holds no bin, or a bin is in no band; take fewer bands or a larger n_fft"
        )
