"""HTDemucs: two U-Nets, over samples and over bins, that meet in a transformer at the bottom.

    waveform --+--> convolutions over samples --+             +--> convolutions --+--> stems
               |                                '-> attention '                   |
               '--> STFT -> convolutions over bins -+ across -+-> inverse STFT ---'

The network is that of the `demucs` package; here it gets our contract and any length. Several of
them, each heard for what it does best, are one by `BagOfHtdemucs`.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Htdemucs(nn.Module):
    """Waveforms to waveforms of stems, of any length.

    Args:
        stems: names of the separator's stems: each but the `complement` comes from the network.
        complement: the stem that the separator makes of the others; None is none.
        sources: the stems in the order in which the package's network gives them, for weights that
            have one of their own; None is the order of `stems`.
        num_channels: audio channels.
        n_fft: of its STFT, samples; its hop is a quarter.
        num_maps: of the outermost convolutions; every level has twice as many.
        num_levels: of both U-Nets; every level has a quarter of the samples, or bins, of the last.
        bottom_features: of the transformer; 0 takes the maps of the lowest level.
        num_layers: of the transformer, every second one between the two branches.
        num_heads: of its attentions.
        expansion: hidden features of its feed-forwards, in units of its features.
        dropout: probability in the transformer.
        residual_branches: where the convolutions have a branch of dilated ones: `encoder`, as in
            the package, or `both`, as published.
        min_seconds: of a mixture outside training; zeros fill up a shorter one. The published
            weights know nothing but stretches as long as in their training.
        sample_rate: Hz.
        options: other arguments of the package's class, as stored with weights.

    Attributes:
        num_stems: S of what `forward` returns.

    Raises:
        ValueError: if the sources are not the stems, an option is out of its range, or the package
            is missing.

    Source: Rouard et al., "Hybrid Transformers for Music Source Separation", 2023,
        arXiv:2211.08553; package demucs.
    """

    def __init__(
        self,
        *,
        stems: Sequence[str],
        complement: str | None,
        sources: Sequence[str] | None,
        num_channels: int,
        n_fft: int,
        num_maps: int,
        num_levels: int,
        bottom_features: int,
        num_layers: int,
        num_heads: int,
        expansion: float,
        dropout: float,
        residual_branches: str,
        min_seconds: float,
        sample_rate: int,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        given = [stem for stem in stems if stem != complement]
        sources = given if sources is None else list(sources)
        if not given or sorted(sources) != sorted(given):
            raise ValueError(
                f"sources={sources} must be the stems but the complement, {given}, in any order"
            )
        if residual_branches not in ("encoder", "both"):
            raise ValueError(f"residual_branches={residual_branches} must be encoder or both")
        quarter = 4**num_levels
        if n_fft % (2 * quarter) or n_fft < 6 * quarter:
            raise ValueError(
                f"n_fft={n_fft} must be a multiple of {2 * quarter}, and at least {6 * quarter}, "
                f"for num_levels={num_levels}: every level has a quarter of the last one's bins"
            )
        features = bottom_features or num_maps * 2 ** (num_levels - 1)
        if num_layers and (features % num_heads or features % 4):
            raise ValueError(
                f"{features} features at the bottom must be a multiple of 4 and of "
                f"num_heads={num_heads}: change bottom_features or num_maps"
            )
        self.num_stems = len(given)
        self.n_fft = n_fft
        self.min_samples = int(min_seconds * sample_rate)
        self.order = [sources.index(stem) for stem in given]
        self.demucs = demucs_class()(
            sources,
            audio_channels=num_channels,
            channels=num_maps,
            nfft=n_fft,
            depth=num_levels,
            bottom_channels=bottom_features,
            t_layers=num_layers,
            t_heads=num_heads,
            t_hidden_scale=expansion,
            t_dropout=dropout,
            dconv_mode=3 if residual_branches == "both" else 1,
            samplerate=sample_rate,
            use_train_segment=False,  # it would change with every batch, and refuse what is longer
            **({} if options is None else options),
        )

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """The stems but the complement.

        Raises:
            ValueError: if the mixture is empty.
        """
        num_samples = mixture.shape[-1]
        if not num_samples:
            raise ValueError("an empty mixture has no stems: give at least one sample")
        least = max(self.n_fft, 0 if self.training else self.min_samples)
        filled = F.pad(mixture, (0, max(0, least - num_samples)))
        estimates = cast(Tensor, self.demucs(filled))[..., :num_samples]
        return estimates[:, self.order].to(mixture.dtype)


class BagOfHtdemucs(nn.Module):
    """Several networks of the same stems; of each stem, the weighted mean of what they say.

    Args:
        networks: each gives the same stems.
        weights: of every network, for every stem that it gives; a stem's weights need not sum to 1.

    Attributes:
        num_stems: S of what `forward` returns.

    Raises:
        ValueError: if the weights do not fit the networks, or leave a stem without any.
    """

    def __init__(
        self, *, networks: Sequence[nn.Module], weights: Sequence[Sequence[float]]
    ) -> None:
        super().__init__()
        self.num_stems = int(cast(Any, networks[0]).num_stems)
        shares = torch.tensor(weights, dtype=torch.float32)
        if shares.shape != (len(networks), self.num_stems) or not (shares.sum(0) > 0).all():
            raise ValueError(
                f"weights={[list(row) for row in weights]} must have a row for each of the "
                f"{len(networks)} networks with a number for each of the {self.num_stems} stems, "
                "and no stem without one above 0"
            )
        self.networks = nn.ModuleList(networks)
        # they are part of the config, so not of the weights
        self.register_buffer("shares", shares / shares.sum(0), persistent=False)

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """The stems that the networks give; a network that counts for none of them is not run."""
        total: Tensor | int = 0
        for network, share in zip(self.networks, cast(Tensor, self.shares), strict=True):
            if share.any():
                total = total + share[:, None, None] * network(mixture)
        assert isinstance(total, Tensor)
        return total


def demucs_class() -> Any:
    """The class of the `demucs` package; only this network needs it.

    Raises:
        ValueError: if it is not installed.
    """
    try:
        from demucs.htdemucs import HTDemucs
    except ImportError as error:
        raise ValueError(
            "HTDemucs needs the demucs package: pip install 'frametx[demucs]'"
        ) from error
    return HTDemucs
