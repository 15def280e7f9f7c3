"""The one object that training, evaluation, separation and export share: mixture in, stems out."""

import unicodedata
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, cast, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from frametx.audio.masking import apply_mask, over_unseen_bins, with_rest
from frametx.audio.stft import Stft
from frametx.songs import file_key

TopBin = Literal["copy", "average", "zero"]
NO_REMAINDER = "none"  # where the name of a stem could stand: no stem is what the others leave
LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz
MAX_STEM_LETTERS = 100
_SILENCE = 1e-8  # of the largest magnitude: below it a bin has no phase worth a factor


@runtime_checkable
class Separator(Protocol):
    """Takes a mixture apart.

    What else there is to know it says by attributes, all of which it may lack:

        sums_to_mixture  the estimates sum to what it hears of the mixture; true
        ordered_stems    each estimate is always the same stem; true. False: they may change places
                         from one mixture to the next, as speakers do
    """

    stems: tuple[str, ...]
    sample_rate: int  # Hz
    num_channels: int  # C of the mixtures it was made for
    chunk_samples: int  # L it likes to be given when a song is longer

    def __call__(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """The estimated stems, in the order of `stems`."""
        ...


def sums_to_mixture(separator: object) -> bool:
    """Whether the estimates sum to what the separator hears of the mixture, by construction."""
    return bool(getattr(separator, "sums_to_mixture", True))


def complement_of(separator: object) -> str | None:
    """The stem that is the mixture minus the others; None if there is no such stem."""
    return getattr(separator, "complement", None)


def has_ordered_stems(separator: object) -> bool:
    """Whether each estimate is always the same stem."""
    return bool(getattr(separator, "ordered_stems", True))


def check_stems(stems: Sequence[str], complement: str | None) -> None:
    """Refuse names that mean something else or make no file, and a complement that is no stem.

    Raises:
        ValueError: naming them.
    """
    if not stems:
        raise ValueError("stems=[]: give at least one stem")
    for stem in stems:
        _check_stem(stem)
    files: dict[str, str] = {}
    for stem in stems:
        other = files.setdefault(file_key(stem), stem)
        if other is not stem or list(stems).count(stem) > 1:
            raise ValueError(
                f"stems={list(stems)}: {other} and {stem} would be written into the same file; "
                "give every stem another name"
            )
    if NO_REMAINDER in stems:
        raise ValueError(
            f"stems={list(stems)}: a stem cannot be called {NO_REMAINDER}, because "
            f"remainder={NO_REMAINDER} means that no stem is the rest: give it another name"
        )
    if complement is not None and complement not in stems:
        raise ValueError(f"complement={complement} must be one of the stems {list(stems)}")


def _check_stem(stem: object) -> None:
    """Refuse what cannot name a stem on a page, on a command line and in a file."""
    if not isinstance(stem, str) or not stem.strip() or len(stem) > MAX_STEM_LETTERS:
        raise ValueError(
            f"stems: {ascii(stem)[:80]} must be a name of 1 to {MAX_STEM_LETTERS} letters"
        )
    if any(unicodedata.category(letter)[0] == "C" for letter in stem):
        raise ValueError(f"stems: {stem!a} holds characters that cannot be seen; leave them out")


def check_rate(sample_rate: object, num_channels: object) -> None:
    """Refuse a rate or a number of channels that no audio has.

    Raises:
        ValueError: naming the value and the rule.
    """
    is_whole = isinstance(sample_rate, int) and not isinstance(sample_rate, bool)
    if not (is_whole and LOWEST_RATE <= cast(int, sample_rate) <= HIGHEST_RATE):
        raise ValueError(
            f"sample_rate={sample_rate} must be a whole number of Hz between {LOWEST_RATE} and "
            f"{HIGHEST_RATE}"
        )
    if not isinstance(num_channels, int) or isinstance(num_channels, bool) or num_channels < 1:
        raise ValueError(f"num_channels={num_channels} must be a whole number of at least 1")


class _SaysWhereSomebodySings(Protocol):
    """A network with a second output."""

    def forward_with_vocal_bands(
        self, magnitude: Float[Tensor, "B C_in F T"]
    ) -> tuple[Float[Tensor, "B C_out F T"], Float[Tensor, "B C_out F_bridge T"]]:
        """Logits of the mask, and of singing."""
        ...


class Past(NamedTuple):
    """Magnitudes before a certain moment, for a network that is shown what it did there.

    Attributes:
        mixture: what was separated, oldest frame first; zeros before the start of a song.
        estimate: what the network took it for.
    """

    mixture: Float[Tensor, "B C F T"]
    estimate: Float[Tensor, "B C F T"]

    def until(self, num_frames: int) -> "Past":
        """Forget the newest frames, so that `num_frames` are left."""
        return Past(self.mixture[..., :num_frames], self.estimate[..., :num_frames])


class SpectrogramSeparator(nn.Module):
    """STFT, a network that reads the magnitude, a mask for each stem but one, inverse STFT.

    The network sees bins 0 .. num_bins - 1 of a magnitude scaled to [0, 1] and never a complex
    number; the mask is extended over the bins above. The stem named `complement` is what the other
    stems leave of the mixture, in the waveform domain, so the estimates sum to the mixture exactly.
    Without one they do so where the network's masks sum to one.

    What a network wants beyond that it says by attributes, all of which it may lack:

        num_bins         bins it takes and returns; all of them
        input_range      what the scaled magnitude is mapped to; (0, 1)
        head             what it returns: logits of a `mask`, or the `magnitude` of the stem; mask
        masks_sum_to_one in evaluation, those of all stems do, in every bin it takes; false
        frame_multiple   its number of frames must be a multiple of this, zeros fill up; 1
        num_past_crops   earlier crops that it is shown, mixture and own estimate; 0
        crop_frames      T of a crop, if it is shown earlier ones

    Args:
        stft: the transform; its `n_fft` decides F.
        network: magnitude B C F T -> logits B (S_out C) F T, S_out = the stems but the complement.
        stems: names, in the order of the estimates.
        complement: the stem that is mixture minus the others; null lets the network give all.
        sample_rate: Hz.
        num_channels: C.
        chunk_frames: T of a chunk at separation time.
        scale: `chunk_peak` divides the magnitude by its own largest value, as training does;
            `none` hands it over as it is.
        top_bin: mask of the bins the network does not see: `copy` repeats the highest one it does,
            `average` is the mean over all that it does, `zero` gives them to the complement as the
            original programs did.
        ordered_stems: False for stems that a network may give in any order, as speakers.

    Attributes:
        sums_to_mixture: the estimates do, as far as the network sees the mixture.

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
        top_bin: TopBin,
        ordered_stems: bool = True,
    ) -> None:
        super().__init__()
        check_stems(stems, complement)
        check_rate(sample_rate, num_channels)
        if scale not in ("chunk_peak", "none"):
            raise ValueError(f"scale={scale} must be chunk_peak or none")
        if top_bin not in get_args(TopBin):
            raise ValueError(f"top_bin={top_bin} must be {' or '.join(get_args(TopBin))}")
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
        self.ordered_stems = ordered_stems
        sums = getattr(network, "masks_sum_to_one", False)
        self.sums_to_mixture = complement is not None or bool(sums)
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.chunk_samples = stft.num_samples(chunk_frames)
        self.num_bins = num_bins
        self.scale = scale
        self.top_bin = top_bin
        self.input_range = tuple(getattr(network, "input_range", (0.0, 1.0)))
        self.head = str(getattr(network, "head", "mask"))
        self.frame_multiple = int(getattr(network, "frame_multiple", 1))
        self.crop_frames = int(getattr(network, "crop_frames", 0))
        self._keeps_vocal_bands = False
        self._vocal_bands: Tensor | None = None
        self.num_past_frames = int(getattr(network, "num_past_crops", 0)) * self.crop_frames
        if self.num_past_frames and len(stems) - (complement is not None) != 1:
            raise ValueError(
                f"a network that is shown its earlier estimates gives one stem, not those of "
                f"{list(stems)} but {complement}: take two stems and a complement"
            )

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """Separate a batch of mixtures of any length."""
        return self.separate_after(mixture, past=None)[0]

    def separate_after(
        self, mixture: Float[Tensor, "B C L"], *, past: Past | None
    ) -> tuple[Float[Tensor, "B S C L"], Past | None]:
        """Separate what follows on `past`; returns the estimates, and all that is past then.

        Args:
            mixture: of any length.
            past: what came before; None is the start of a song, and all that there is for a network
                that is shown no earlier crops.
        """
        spectrogram = self.stft(mixture)
        mask, past = self._mask_after(spectrogram.abs(), past)
        estimates = self.stft.inverse(apply_mask(spectrogram, mask), length=mixture.shape[-1])
        if self.complement is None:
            return estimates, past
        return with_rest(estimates, mixture, self.stems.index(self.complement)), past

    def mask(self, magnitude: Float[Tensor, "B C F T"]) -> Float[Tensor, "B S_out C F T"]:
        """What each stem the network gives is of the mixture, in every bin; from a song's start."""
        return self._mask_after(magnitude, None)[0]

    def _mask_after(
        self, magnitude: Float[Tensor, "B C F T"], past: Past | None
    ) -> tuple[Float[Tensor, "B S_out C F T"], Past | None]:
        seen = magnitude[:, :, : self.num_bins]
        if self.num_past_frames:
            mask, past = self._mask_crops(seen, past)
        else:
            mask = self.mask_of(seen / self._peak(seen))
        mask = over_unseen_bins(mask, magnitude.shape[2], self.top_bin)
        return rearrange(mask, "b (s c) f t -> b s c f t", c=magnitude.shape[1]), past

    def _mask_crops(
        self, seen: Float[Tensor, "B C F T"], past: Past | None
    ) -> tuple[Float[Tensor, "B C F T"], Past]:
        """Crop after crop, each with those before it, newest first; no gradient into the past."""
        if past is None:
            past = Past(seen[..., :0], seen[..., :0])
        lacking = max(0, self.num_past_frames - past.mixture.shape[-1])
        mixture, estimate = (F.pad(x, (lacking, 0)) for x in past)
        peak = self._peak(torch.cat([mixture[..., -self.num_past_frames :], seen], -1))
        masks: list[Tensor] = []
        for crop in seen.split(self.crop_frames, dim=-1):
            num_frames, now = crop.shape[-1], mixture.shape[-1]
            shown = [crop]
            for age in range(1, 1 + self.num_past_frames // self.crop_frames):
                frames = slice(now - age * num_frames, now - (age - 1) * num_frames)
                shown += [mixture[..., frames], estimate[..., frames]]
            masks.append(self.mask_of(torch.cat(shown, 1) / peak, num_channels=crop.shape[1]))
            mixture = torch.cat([mixture, crop], -1)
            estimate = torch.cat([estimate, (masks[-1] * crop).detach()], -1)
        return torch.cat(masks, -1), Past(mixture, estimate)

    def _peak(self, seen: Float[Tensor, "B C F T"]) -> Float[Tensor, "B 1 1 1"]:
        if self.scale == "none":
            return seen.new_ones(seen.shape[0], 1, 1, 1)
        # A silent chunk stays silent: dividing by the smallest normal number keeps 0 at 0.
        return seen.amax(dim=(1, 2, 3), keepdim=True).clamp_min(torch.finfo(seen.dtype).tiny)

    def mask_of(
        self, scaled: Float[Tensor, "B C_in F T"], *, num_channels: int | None = None
    ) -> Float[Tensor, "B C_out F T"]:
        """The network's answer as a mask; of `scaled`, the first maps are the mixture."""
        num_frames = scaled.shape[-1]
        low, high = self.input_range
        given = scaled if (low, high) == (0, 1) else low + (high - low) * scaled
        given = F.pad(given, (0, -num_frames % self.frame_multiple), value=low)
        answer = self._answer(given, num_frames=num_frames).to(scaled.dtype)
        if self.head == "mask":
            return torch.sigmoid(answer)
        # as a factor, because the estimate takes the phase of the mixture
        mixture = scaled[:, :num_channels]
        num_stems = answer.shape[1] // mixture.shape[1]
        return answer / mixture.clamp_min(_SILENCE).repeat(1, num_stems, 1, 1)

    def keep_vocal_bands(self) -> None:
        """From now on keep in training what the network's side output says, for a loss to take.

        Raises:
            ValueError: if the network has no such output.
        """
        if getattr(self.network, "vocal_bands", None) is None:
            raise ValueError(
                f"{type(self.network).__name__} has no side output that says where somebody sings: "
                "take model=asym_unet_mct_generator, or model.has_vocal_bands=true, or a loss "
                "without the vocal-band term"
            )
        self._keeps_vocal_bands = True

    def take_vocal_bands(self) -> Float[Tensor, "B C_out F_bridge T"]:
        """Logits of singing in the last mixtures seen in training, handed over once."""
        kept, self._vocal_bands = self._vocal_bands, None
        if kept is None:
            raise ValueError(
                "there are no vocal bands: keep_vocal_bands, and a forward pass in training mode, "
                "come before each time that they are taken"
            )
        return kept

    def _answer(
        self, given: Float[Tensor, "B C_in F T_filled"], *, num_frames: int
    ) -> Float[Tensor, "B C_out F T"]:
        """The network's first output; its second one stays here where it is kept."""
        if not (self._keeps_vocal_bands and self.training):
            return self.network(given)[..., :num_frames]
        answer, bands = cast(_SaysWhereSomebodySings, self.network).forward_with_vocal_bands(given)
        self._vocal_bands = bands[..., :num_frames]
        return answer[..., :num_frames]
