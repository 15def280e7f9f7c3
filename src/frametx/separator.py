"""The one object that training, evaluation, separation and export share: mixture in, stems out."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.masking import apply_mask
from frametx.audio.stft import Stft


@runtime_checkable
class Separator(Protocol):
    """Takes a mixture apart. The estimates sum to the mixture where one is the rest."""

    stems: tuple[str, ...]
    sample_rate: int  # Hz
    num_channels: int  # C of the mixtures it was made for
    chunk_samples: int  # L it likes to be given when a song is longer

    def __call__(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """The estimated stems, in the order of `stems`."""
        ...


class SpectrogramSeparator(nn.Module):
    """STFT, a network that reads the magnitude, a mask for each stem but one, inverse STFT.

    The network sees bins 0 .. num_bins - 1 of a magnitude scaled to [0, 1] and never a complex
    number; the mask is extended over the bins above. The stem named `complement` is what the other
    stems leave of the mixture, in the waveform domain, so the estimates sum to the mixture exactly.

    Args:
        stft: the transform; its `n_fft` decides F.
        network: magnitude B C F T -> logits B (S_out C) F T, S_out = the stems but the complement,
            with an attribute `num_bins`.
        stems: names, in the order of the estimates.
        complement: the stem that is mixture minus the others; null lets the network give all.
        sample_rate: Hz.
        num_channels: C.
        chunk_frames: T of a chunk at separation time.
        scale: `chunk_peak` divides the magnitude by its own largest value, as training does;
            `none` hands it over as it is.
        top_bin: mask of the bins the network does not see: `copy` repeats the highest one it does,
            `zero` gives them to the complement as the original programs did.

    Raises:
        ValueError: if `complement` is no stem, or the network takes more bins than there are.

    Source: specs/inference.md sections 1 and 9 (one bin lost, length lost, whole-file scale).
    """

    def __init__(
        self,
        *,
        stft: Stft,
        network: nn.Module,
        stems: Sequence[str],
        complement: str | None,
        sample_rate: int,
        num_channels: int,
        chunk_frames: int,
        scale: Literal["chunk_peak", "none"],
        top_bin: Literal["copy", "zero"],
    ) -> None:
        super().__init__()
        if complement is not None and complement not in stems:
            raise ValueError(f"complement={complement} must be one of the stems {list(stems)}")
        if scale not in ("chunk_peak", "none"):
            raise ValueError(f"scale={scale} must be chunk_peak or none")
        if top_bin not in ("copy", "zero"):
            raise ValueError(f"top_bin={top_bin} must be copy or zero")
        num_bins = int(getattr(network, "num_bins", stft.n_fft // 2 + 1))
        if num_bins > stft.n_fft // 2 + 1:
            raise ValueError(
                f"the network takes {num_bins} bins but n_fft={stft.n_fft} gives "
                f"{stft.n_fft // 2 + 1}: use the same n_fft for both"
            )
        self.stft = stft
        self.network = network
        self.stems = tuple(stems)
        self.complement = complement
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.chunk_samples = stft.num_samples(chunk_frames)
        self.num_bins = num_bins
        self.scale = scale
        self.top_bin = top_bin

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """Separate a batch of mixtures of any length."""
        spectrogram = self.stft(mixture)
        masked = apply_mask(spectrogram, self.mask(spectrogram.abs()))
        estimates = self.stft.inverse(masked, length=mixture.shape[-1])
        if self.complement is None:
            return estimates
        rest = mixture - estimates.sum(dim=1)
        at = self.stems.index(self.complement)
        return torch.cat([estimates[:, :at], rest.unsqueeze(1), estimates[:, at:]], dim=1)

    def mask(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B S_out C F T"]:
        """The network's mask in (0, 1), over all bins, for each stem it gives."""
        seen = magnitude[:, :, : self.num_bins]
        if self.scale == "chunk_peak":
            # A silent chunk stays silent: dividing by the smallest normal number keeps 0 at 0.
            peak = seen.amax(dim=(1, 2, 3), keepdim=True)
            seen = seen / peak.clamp_min(torch.finfo(seen.dtype).tiny)
        mask = torch.sigmoid(self.network(seen).to(magnitude.dtype))
        unseen = magnitude.shape[2] - mask.shape[2]
        if unseen and self.top_bin == "copy":
            mask = torch.cat([mask, mask[:, :, -1:].expand(-1, -1, unseen, -1)], dim=2)
        elif unseen:
            mask = F.pad(mask, (0, 0, 0, unseen))
        return rearrange(mask, "b (s c) f t -> b s c f t", c=magnitude.shape[1])
