"""One separator or several, and a network that corrects their masks.

    mixture -> STFT -> magnitude -------------------------> network -> correction
            -> each member, frozen -> its masks, as maps -/                |
                                           '-> their mean -> logits -> + --'-> mask -> estimates

The correction starts at nothing, so an ensemble that has learned nothing is the mean of its
members, and with one member alone that member.
"""

from collections.abc import Callable, Sequence
from typing import Literal, Self, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Complex, Float
from torch import Tensor, nn

from frametx.audio.masking import apply_mask, over_unseen_bins, with_rest
from frametx.audio.resample import resample
from frametx.audio.stft import Stft
from frametx.separator import (
    Separator,
    SpectrogramSeparator,
    check_rate,
    check_stems,
    has_ordered_stems,
)

Maps = Literal["magnitude", "compressed"]
_MARGIN = 1e-2  # of a mask to 0 and 1 where it is turned into logits
_COMPRESSION = 0.3  # power of magnitudes: what is 60 dB down is still an eighth
_QUIET = 1e-6  # added to magnitudes, whose power has no gradient at 0
_STEREO = 2
_BETWEEN_CHANNELS = 3  # maps: cosine and sine of a phase, and a difference of levels


class Frozen(nn.ModuleList):
    """Separators that never learn: without gradients, and always in evaluation mode."""

    def __init__(self, separators: Sequence[nn.Module]) -> None:
        super().__init__(separators)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)


class NeuralEnsemble(nn.Module):
    """Members, their masks, a network that corrects the mean of the masks, inverse STFT.

    A mask is what a member leaves of the mixture's magnitude, in the STFT of the ensemble, so
    members may differ in sample rate, STFT and architecture. A mono member hears every channel by
    itself; a stereo member in a mono ensemble hears the channel twice. A member of the ensemble's
    own rate and STFT is asked for its mask directly.

    The network reads maps of magnitude and masks, and its answer is added to the logits of the mean
    mask. Its last layer is 0 at first: on the demo's loss that moved sooner than a gain of every
    map that starts at 0, and after a hundred steps there was no difference. Estimates take the
    mixture's phase, and `complement` is the mixture minus the others, so they sum to the mixture.

    Args:
        members: separators of the same stems; frozen from now on.
        network: maps B C_in F T -> corrections B S_out*C F T, where S_out is the stems but the
            complement. C_in is what `num_maps` gives. Its last layer is called `out`.
        stft: the transform in which masks are compared and corrected.
        stems: names, in the order of the estimates.
        complement: the stem that is mixture minus the others.
        sample_rate: Hz.
        num_channels: C.
        chunk_frames: T of a chunk at separation time.
        scale: `chunk_peak` divides the magnitude that the network reads by its own largest value,
            `chunk_rms` by the root of its mean square; `none` hands it over as it is.
        top_bin: correction of the bins the network does not see: `copy` repeats that of the highest
            one it does, `zero` leaves them the mean.
        ordered_stems: True; masks of stems without an order cannot be compared.
        maps: what the network reads. `magnitude` is the channels of the mixture, then of each
            member all stems with their channels. `compressed` is magnitude^0.3 of the channels,
            the masks, their logits / 4 and, of a stereo mixture, cosine and sine of the phase
            between its channels and their difference in level.
        correction_scale: factor of what the network returns.
        extends_masks: in the bins that a member of our STFT does not see, its mask is that of the
            highest bin it does; False takes what it would apply there itself.

    Raises:
        ValueError: if there is no member, one does not fit, or the network cannot be used so.

    Source: announced as "mutation transformer" by the author of the family, and never written;
    this design is ours.
    """

    def __init__(
        self,
        *,
        members: Sequence[nn.Module],
        network: nn.Module,
        stft: Stft,
        stems: Sequence[str],
        complement: str | None,
        sample_rate: int,
        num_channels: int,
        chunk_frames: int,
        scale: Literal["chunk_peak", "chunk_rms", "none"],
        top_bin: Literal["copy", "zero"],
        ordered_stems: bool = True,
        maps: Maps = "magnitude",
        correction_scale: float = 1.0,
        extends_masks: bool = False,
    ) -> None:
        super().__init__()
        check_stems(stems, complement)
        check_rate(sample_rate, num_channels)
        if not ordered_stems:
            raise ValueError(
                f"ordered_stems=false: the masks of {list(stems)} cannot be compared without an "
                "order; separate with ckpt=[a.ckpt,b.ckpt], which finds it as it goes along"
            )
        if complement not in stems or len(stems) < 2:
            raise ValueError(
                f"complement={complement} must be one of the stems {list(stems)}, and not the only "
                "one: in an ensemble one stem is what the others leave"
            )
        if scale not in ("chunk_peak", "chunk_rms", "none"):
            raise ValueError(f"scale={scale} must be chunk_peak, chunk_rms or none")
        if maps not in ("magnitude", "compressed"):
            raise ValueError(f"maps={maps} must be magnitude or compressed")
        if top_bin not in ("copy", "zero"):
            raise ValueError(f"top_bin={top_bin} must be copy or zero")
        if not members:
            raise ValueError("an ensemble has at least one member: members=[a.ckpt]")
        for number, member in enumerate(members, 1):
            _check_member(member, number, stems=stems, num_channels=num_channels)
        self.num_bins = _usable_bins(network, stft)
        self.members = Frozen(list(members))
        self.network = network
        self.stft = stft
        self.stems = tuple(stems)
        self.complement = complement
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.chunk_samples = stft.num_samples(chunk_frames)
        self.scale = scale
        self.maps: Maps = maps
        self.correction_scale = correction_scale
        self.extends_masks = extends_masks
        self.top_bin = top_bin
        self.input_range = tuple(getattr(network, "input_range", (0.0, 1.0)))
        self.frame_multiple = int(getattr(network, "frame_multiple", 1))
        self.given_stems = tuple(stem for stem in stems if stem != complement)
        with torch.no_grad():
            for parameter in _last_layer(network).parameters():
                parameter.zero_()

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """Separate a batch of mixtures of any length."""
        spectrogram = self.stft(mixture)
        magnitude = spectrogram.abs()
        masks = self.member_masks(mixture, magnitude)
        mask = corrected(masks.mean(dim=1), self._correction(spectrogram, masks))
        estimates = self.stft.inverse(apply_mask(spectrogram, mask), length=mixture.shape[-1])
        return with_rest(estimates, mixture, self.stems.index(self.complement))

    @torch.no_grad()
    def member_masks(
        self, mixture: Float[Tensor, "B C L"], magnitude: Float[Tensor, "B C F T"]
    ) -> Float[Tensor, "B N S_out C F T"]:
        """What each member takes each stem but the complement for, in [0, 1].

        Args:
            mixture: of any length.
            magnitude: of its spectrogram.
        """
        masks = [
            self._own_mask(member, magnitude)
            if isinstance(member, SpectrogramSeparator) and self._shares_stft(member)
            else self._seen_mask(cast(Separator, member), mixture, magnitude)
            for member in self.members
        ]
        return torch.stack(masks, dim=1).clamp(0, 1)

    def _shares_stft(self, member: SpectrogramSeparator) -> bool:
        ours, theirs = (
            (separator.sample_rate, separator.stft.n_fft, separator.stft.hop_length)
            for separator in (self, member)
        )
        return ours == theirs

    def _own_mask(
        self, member: SpectrogramSeparator, magnitude: Float[Tensor, "B C F T"]
    ) -> Float[Tensor, "B S_out C F T"]:
        """Of a member with our STFT: the mask it would apply itself."""
        mask = _over_channels(member.mask, magnitude, num_channels=member.num_channels)
        if self.extends_masks:
            stems, num_bins = mask.shape[1], member.num_bins
            seen = rearrange(mask[..., :num_bins, :], "b s c f t -> b (s c) f t")
            mask = over_unseen_bins(seen, magnitude.shape[2], "copy")
            mask = rearrange(mask, "b (s c) f t -> b s c f t", s=stems)
        given = [stem for stem in member.stems if stem != member.complement]
        of_stem = {stem: mask[:, i] for i, stem in enumerate(given)}
        if member.complement is not None:
            of_stem[member.complement] = 1 - mask.sum(dim=1)
        return torch.stack([of_stem[stem] for stem in self.given_stems], dim=1)

    def _seen_mask(
        self,
        member: Separator,
        mixture: Float[Tensor, "B C L"],
        magnitude: Float[Tensor, "B C F T"],
    ) -> Float[Tensor, "B S_out C F T"]:
        """Of any other member: what is left of the magnitude in its estimates."""
        given = resample(mixture, self.sample_rate, member.sample_rate)
        estimates = _over_channels(member, given, num_channels=member.num_channels)
        estimates = resample(estimates, member.sample_rate, self.sample_rate)
        estimates = estimates[..., : mixture.shape[-1]]  # rounded up twice
        of_stem = dict(zip(member.stems, estimates.unbind(1), strict=True))
        complement = getattr(member, "complement", None)
        if complement is not None:
            # at our rate: what a member of a lower one cannot hear is in its rest, as in `separate`
            others = [of_stem[stem] for stem in member.stems if stem != complement]
            of_stem[complement] = mixture - torch.stack(others).sum(dim=0)
        wanted = torch.stack([of_stem[stem] for stem in self.given_stems], dim=1)
        tiny = torch.finfo(magnitude.dtype).tiny
        return self.stft(wanted).abs() / magnitude.clamp_min(tiny).unsqueeze(1)

    def _correction(
        self, spectrogram: Complex[Tensor, "B C F T"], masks: Float[Tensor, "B N S_out C F T"]
    ) -> Float[Tensor, "B S_out C F T"]:
        """What is added to the logits of the mean mask."""
        seen, masks = spectrogram[:, :, : self.num_bins], masks[..., : self.num_bins, :]
        magnitude = _scaled(seen.abs(), self.scale)
        parts = (
            [magnitude, _flat(masks)]
            if self.maps == "magnitude"
            else compressed_maps(seen, magnitude, masks)
        )
        low, high = self.input_range
        given = low + (high - low) * torch.cat(parts, dim=1)
        num_frames = given.shape[-1]
        given = F.pad(given, (0, -num_frames % self.frame_multiple), value=low)
        answer = self.network(given)[..., :num_frames].to(magnitude.dtype)
        answer = over_unseen_bins(answer, spectrogram.shape[2], self.top_bin)
        channels = spectrogram.shape[1]
        return self.correction_scale * rearrange(answer, "b (s c) f t -> b s c f t", c=channels)


def num_maps(*, num_members: int, num_given_stems: int, num_channels: int, maps: Maps) -> int:
    """How many maps the network of an ensemble reads.

    Args:
        num_members: N.
        num_given_stems: S_out, the stems but the complement.
        num_channels: C.
        maps: as of `NeuralEnsemble`.
    """
    of_masks = num_members * num_given_stems * num_channels
    if maps == "magnitude":
        return num_channels + of_masks
    return num_channels + 2 * of_masks + (_BETWEEN_CHANNELS if num_channels == _STEREO else 0)


def compressed_maps(
    spectrogram: Complex[Tensor, "B C F T"],
    magnitude: Float[Tensor, "B C F T"],
    masks: Float[Tensor, "B N S_out C F T"],
) -> list[Float[Tensor, "B C_some F T"]]:
    """What tells a small network most: quiet bins and saturated masks as numbers of middle size.

    Args:
        spectrogram: of the mixture.
        magnitude: of it, scaled.
        masks: of the members.
    """
    parts = [(magnitude + _QUIET).pow(_COMPRESSION), _flat(masks), _flat(_logits(masks)) / 4]
    if spectrogram.shape[1] == _STEREO:
        left, right = spectrogram.unbind(dim=1)
        across = left * right.conj()
        tiny = torch.finfo(magnitude.dtype).tiny ** 0.5
        length = across.abs().clamp_min(tiny)
        levels = magnitude.square().clamp_min(_QUIET**2)
        difference = (levels[:, :1] - levels[:, 1:]) / levels.sum(dim=1, keepdim=True)
        between = torch.stack([across.real / length, across.imag / length], dim=1)
        parts += [between.to(magnitude.dtype), difference]
    return parts


def _scaled(magnitude: Float[Tensor, "B C F T"], scale: str) -> Float[Tensor, "B C F T"]:
    if scale == "none":
        return magnitude
    axes = (1, 2, 3)
    level = (
        magnitude.amax(dim=axes, keepdim=True)
        if scale == "chunk_peak"
        else magnitude.square().mean(dim=axes, keepdim=True).sqrt()
    )
    return magnitude / level.clamp_min(torch.finfo(magnitude.dtype).tiny)


def _flat(masks: Float[Tensor, "B N S_out C F T"]) -> Float[Tensor, "B C_masks F T"]:
    return rearrange(masks, "b n s c f t -> b (n s c) f t")


def corrected(
    mask: Float[Tensor, "*any F T"], correction: Float[Tensor, "*any F T"]
) -> Float[Tensor, "*any F T"]:
    """Move a mask by adding to its logits; a correction of 0 leaves every value as it is.

    A mask of 0 or 1 has no finite logit, and one near them hardly a gradient. So [0, 1] is drawn
    together a little before the logits are taken, and apart again afterwards. A large correction
    may therefore leave [0, 1] by a hundredth.
    """
    logits = _logits(mask)
    moved = torch.sigmoid(logits + correction)
    # a difference of two sigmoids, so that it is exactly 0 for a correction of 0
    return mask + (moved - torch.sigmoid(logits)) / (1 - 2 * _MARGIN)


def _logits(mask: Float[Tensor, "*any F T"]) -> Float[Tensor, "*any F T"]:
    return torch.logit(_MARGIN + (1 - 2 * _MARGIN) * mask)


def _over_channels(
    separate: Callable[[Tensor], Tensor], x: Float[Tensor, "B C *any"], *, num_channels: int
) -> Float[Tensor, "B S C *any"]:
    """What takes `num_channels`, over more channels in groups, or over fewer by doubling them."""
    batch, channels = x.shape[:2]
    if channels % num_channels:
        return separate(x.expand(-1, num_channels, *x.shape[2:])).mean(dim=2, keepdim=True)
    items = x.reshape(-1, num_channels, *x.shape[2:])
    return rearrange(separate(items), "(b g) s c ... -> b s (g c) ...", b=batch).contiguous()


def _check_member(
    member: nn.Module, number: int, *, stems: Sequence[str], num_channels: int
) -> None:
    if not isinstance(member, Separator):
        raise ValueError(f"member {number} is a {type(member).__name__}, which separates nothing")
    if set(member.stems) != set(stems):
        raise ValueError(
            f"member {number} separates {list(member.stems)}, the ensemble {list(stems)}: "
            "all must have the same stems, in any order"
        )
    if num_channels % member.num_channels and num_channels != 1:
        raise ValueError(
            f"member {number} takes {member.num_channels} channels, the ensemble {num_channels}: "
            "give the ensemble as many, or a multiple, by audio.num_channels"
        )
    if not has_ordered_stems(member):
        raise ValueError(
            f"member {number} gives its stems in any order, so its masks cannot be compared: "
            "separate with ckpt=[a.ckpt,b.ckpt], which finds the order as it goes along"
        )
    if getattr(member, "num_past_frames", 0):
        raise ValueError(
            f"member {number} is shown what it did earlier in the song, which an ensemble does not "
            "keep for it: leave it out"
        )


def _usable_bins(network: nn.Module, stft: Stft) -> int:
    """How many bins the network takes."""
    available = stft.n_fft // 2 + 1
    num_bins = int(getattr(network, "num_bins", available))
    if num_bins > available:
        raise ValueError(
            f"the network takes {num_bins} bins but n_fft={stft.n_fft} gives {available}: "
            "use the same n_fft for both"
        )
    if getattr(network, "num_past_crops", 0) or getattr(network, "head", "mask") != "mask":
        raise ValueError(
            f"{type(network).__name__} cannot be the network of an ensemble: it reads its own "
            "past or gives a magnitude; take one that gives logits of a mask"
        )
    return num_bins


def _last_layer(network: nn.Module) -> nn.Module:
    layer = getattr(network, "out", None)
    if not isinstance(layer, nn.Module):
        raise ValueError(
            f"{type(network).__name__} cannot be the network of an ensemble: it has no last layer "
            "`out` that could start at 0; take one of frametx.models"
        )
    return layer
