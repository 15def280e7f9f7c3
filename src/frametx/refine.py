"""What can be made better about estimates after the network: frame by frame, in a stream.

A stage takes the frames of the mixture and of its stems, and gives as many back, perhaps later,
when it had to see what comes. None of them can fail on silence, and all keep the sum of the stems.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from einops import rearrange
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from frametx.audio.chunking import Chunk, OverlapAdder, Splitter

WIENER_FRAMES = 300  # in which a source keeps its place between the channels, as in Open-Unmix
WIENER_OVERLAP = 0.25
HIGHEST_BAND = 0.75  # of the edge: from here up to it the shares in the band above are read


class Frames(NamedTuple):
    """A stretch of a song, and what it is taken for. The stems sum to the mixture.

    Attributes:
        mixture: its spectrogram.
        stems: theirs.
    """

    mixture: Complex[Tensor, "C F T"]
    stems: Complex[Tensor, "S C F T"]


class Stage(Protocol):
    """One step of refinement."""

    def push(self, frames: Frames) -> Frames:
        """The frames that are settled now, perhaps none."""
        ...

    def finish(self) -> Frames | None:
        """The frames that were held back; None if that is never done."""
        ...


class Aggressiveness:
    """Takes more out of a stem where others are heard too: its mask to the power `exponent`.

    What is taken from the stem goes to the others, as their shares are. 1 changes nothing, 2 halves
    (in dB, doubles) every attenuation, 0 gives the stem everything.

    Args:
        stem: its number.
        exponent: at least 0.

    Raises:
        ValueError: if the exponent is negative.
    """

    def __init__(self, *, stem: int, exponent: float) -> None:
        if exponent < 0:
            raise ValueError(f"aggressiveness ({exponent}) must be at least 0; 1 changes nothing")
        self.stem = stem
        self.exponent = exponent

    def push(self, frames: Frames) -> Frames:
        """The same frames with a sharper mask."""
        before = frames.stems[self.stem]
        wanted = mask_of(frames.mixture, before).pow(self.exponent) * _phasor(before)
        wanted = wanted * torch.maximum(frames.mixture.abs(), before.abs())
        # Where a stem is louder than the mixture its mask is cut to 1, and it stays as it is.
        return Frames(frames.mixture, hand_over(frames.stems, self.stem, wanted))

    def finish(self) -> Frames | None:
        """Nothing was held back."""
        return None


class FillBand:
    """Gives the stems a share of the band that the model does not hear.

    There the remainder has everything. Every other stem gets the part of the mixture that it has in
    the highest quarter of what the model hears, frame by frame.

    Args:
        remainder: number of the stem that has the band.
        first_bin: of the band.
    """

    def __init__(self, *, remainder: int, first_bin: int) -> None:
        self.remainder = remainder
        self.first_bin = first_bin

    def push(self, frames: Frames) -> Frames:
        """The same frames with the band shared out."""
        edge = self.first_bin
        if edge >= frames.mixture.shape[1]:
            return frames
        heard = slice(int(HIGHEST_BAND * edge), edge)
        sizes = frames.stems[:, :, heard].abs().sum(dim=2, keepdim=True)
        shares = sizes / sizes.sum(dim=0).clamp_min(torch.finfo(sizes.dtype).tiny)
        above = shares * frames.mixture[:, edge:]
        above[self.remainder] = 0
        above[self.remainder] = frames.mixture[:, edge:] - above.sum(dim=0)
        return Frames(frames.mixture, torch.cat([frames.stems[:, :, :edge], above], dim=2))

    def finish(self) -> Frames | None:
        """Nothing was held back."""
        return None


class Wiener:
    """Multichannel Wiener filtering: where a source lies between the channels, learned from itself.

    Expectation maximisation of a local Gaussian model, by Open-Unmix, in windows of a few seconds
    that fade into each other. More than two channels are taken in pairs; a channel without a
    partner has no place, and is left as it is.

    Args:
        iterations: of expectation maximisation, a whole number of at least 1.

    Raises:
        ValueError: if there is no iteration, or a part of one.

    Source: Duong, Vincent, Gribonval, "Under-determined reverberant audio source separation using a
    full-rank spatial covariance model" (2010); Stoeter et al., "Open-Unmix" (2019).
    """

    def __init__(self, *, iterations: int) -> None:
        if not isinstance(iterations, int) or iterations < 1:
            raise ValueError(f"wiener ({iterations}) must be at least 1 iteration, or 0 for none")
        self.iterations = iterations
        hop = WIENER_FRAMES - round(WIENER_FRAMES * WIENER_OVERLAP)
        self._splitter = Splitter(chunk_samples=WIENER_FRAMES, hop=hop)
        self._adder = OverlapAdder(chunk_samples=WIENER_FRAMES, hop=hop)
        self._shape: torch.Size | None = None  # 1 + S, C, F
        self._owed = 0

    def push(self, frames: Frames) -> Frames:
        """The frames of the windows that are complete."""
        together = torch.cat([frames.mixture[None], frames.stems])
        self._shape = together.shape[:3]
        self._owed += together.shape[3]
        flat = _flat(together)
        settled = [self._filtered(chunk) for chunk in self._splitter.push(flat)]
        return self._as_frames(torch.cat([flat[:, :0], *settled], dim=1))

    def finish(self) -> Frames | None:
        """The frames of the last window."""
        if not self._owed:
            return None
        settled = [self._filtered(chunk) for chunk in self._splitter.finish()]
        held = self._adder.finish()[:, : self._owed]
        return self._as_frames(torch.cat([*settled, held], dim=1))

    def _filtered(self, chunk: Chunk) -> Tensor:
        assert self._shape is not None
        mixture, stems = self._as_frames(chunk.samples)
        # Pair by pair, as the views exchange them: openunmix knows no more than two channels.
        for first in range(0, mixture.shape[0] - 1, 2):
            pair = slice(first, first + 2)
            stems[:, pair] = self._em(mixture[pair], stems[:, pair])
        settled = self._adder.add(_flat(torch.cat([mixture[None], stems])), chunk.num_settled)
        self._owed -= settled.shape[1]
        return settled

    def _em(self, mixture: Tensor, stems: Tensor) -> Tensor:
        from openunmix.filtering import wiener  # loads torchaudio, which nothing else here needs

        given = torch.view_as_real(rearrange(mixture, "c f t -> t f c").contiguous())
        sizes = rearrange(stems.abs(), "s c f t -> t f c s")
        peak = given.abs().max()
        if peak == 0:
            return stems
        # openunmix divides by a tenth of the peak and adds an absolute 1e-10: quiet windows need it
        answer = wiener(sizes / peak, given / peak, iterations=self.iterations)
        complex_answer = torch.view_as_complex(answer.movedim(4, 0).contiguous())
        found = rearrange(complex_answer, "s t f c -> s c f t")
        found = torch.where(torch.isfinite(found.abs()), found * peak, stems)
        # what the filter loses of the mixture is shared out, so that the stems still sum to it
        return found + (mixture - found.sum(dim=0)) / len(found)

    def _as_frames(self, flat: Tensor) -> Frames:
        assert self._shape is not None
        pairs = flat.reshape(*self._shape, 2, -1)
        together = torch.complex(pairs[..., 0, :], pairs[..., 1, :])
        return Frames(together[0], together[1:])


class LeaveUntouched:
    """Gives a stem back to the others in stretches that lack it: of two, the other is the mixture.

    A frame lacks the stem if the mask of all others together is above `threshold` in every bin of
    every channel that the model hears and the mixture is not silent in. Runs of more than
    `min_frames` such frames fade the stem out and in again within themselves; after a gap shorter
    than a fade the next run goes on. What the stem loses goes to the others, as their shares are.

    Args:
        absent: number of the stem.
        threshold: of the mask.
        min_frames: at least two fades.
        fade_frames: of each fade.
        num_bins: that the model hears.

    Raises:
        ValueError: if the runs are too short for their fades.

    Source: specs/min_ensemble.md section 2 (`merge_artifacts`, whose call never worked).
    """

    def __init__(
        self, *, absent: int, threshold: float, min_frames: int, fade_frames: int, num_bins: int
    ) -> None:
        if fade_frames < 1 or min_frames < 2 * fade_frames:
            raise ValueError(
                f"absent: stretches of {min_frames} frames are too short for two fades of "
                f"{fade_frames}: absent.min_seconds must be at least twice absent.fade_seconds, "
                "which must be at least one frame"
            )
        self.absent = absent
        self.threshold = threshold
        self.num_bins = num_bins
        self._weights = RunWeights(min_frames=min_frames, fade_frames=fade_frames)
        self._held: Frames | None = None

    def push(self, frames: Frames) -> Frames:
        """The frames whose run is decided."""
        heard = frames.stems[:, :, : self.num_bins]
        others = torch.cat([heard[: self.absent], heard[self.absent + 1 :]]).sum(dim=0)
        mask = mask_of(frames.mixture[:, : self.num_bins], others)
        return self._blended(frames, self._weights.push(mask.amin(dim=(0, 1)) > self.threshold))

    def finish(self) -> Frames | None:
        """The frames that were waiting."""
        if self._held is None:
            return None
        nothing = Frames(self._held.mixture[..., :0], self._held.stems[..., :0])
        return self._blended(nothing, self._weights.finish())

    def _blended(self, frames: Frames, weight: Tensor) -> Frames:
        if self._held is not None:
            frames = Frames(
                torch.cat([self._held.mixture, frames.mixture], dim=-1),
                torch.cat([self._held.stems, frames.stems], dim=-1),
            )
        settled = weight.shape[0]
        self._held = Frames(frames.mixture[..., settled:], frames.stems[..., settled:])
        mixture, stems = frames.mixture[..., :settled], frames.stems[..., :settled]
        kept = (1 - weight) * stems[self.absent]
        return Frames(mixture, hand_over(stems, self.absent, kept))


class RunWeights:
    """Weights of frames from which of them are quiet: 1 inside long runs, with a fade at each end.

    Args:
        min_frames: a run must be longer than that.
        fade_frames: of each fade, inside the run.
    """

    def __init__(self, *, min_frames: int, fade_frames: int) -> None:
        self.min_frames = min_frames
        self.fade_frames = fade_frames
        self._runs: list[tuple[int, int]] = []  # first and last frame of long runs, oldest first
        self._start: int | None = None  # of the run that has not ended
        self._now = 0
        self._given = 0

    def push(self, quiet: Bool[Tensor, " T"]) -> Float[Tensor, " T_settled"]:
        """The weights that no later frame can change."""
        for is_quiet in quiet.tolist():
            if is_quiet and self._start is None:
                self._start = self._now
            elif not is_quiet:
                self._end_run()
            self._now += 1
        # A run that becomes long by the next frame began min_frames ago; going on from one that
        # ended a fade before, it starts two fades before the end of that.
        lag = self.min_frames + 3 * self.fade_frames + 1
        return self._settle(self._now - lag)

    def finish(self) -> Float[Tensor, " T"]:
        """The weights that are still owed."""
        self._end_run()
        return self._settle(self._now)

    def _end_run(self) -> None:
        if self._start is not None and self._now - 1 - self._start > self.min_frames:
            self._runs.append((self._begin(self._start), self._now - 1))
        self._start = None

    def _begin(self, start: int) -> int:
        """Where a run counts from: one that nearly touches the last one overwrites its fade-out."""
        if self._runs and start - self._runs[-1][1] < self.fade_frames:
            return self._runs[-1][1] - 2 * self.fade_frames
        return start

    def _settle(self, until: int) -> Float[Tensor, " T"]:
        first, fade = self._given, self.fade_frames
        if until <= first:
            return torch.empty(0)
        weights = torch.zeros(until - first)
        ramp = torch.linspace(0, 1, fade)
        runs = list(self._runs)
        if self._start is not None and self._now - self._start > self.min_frames + 1:
            runs.append((self._begin(self._start), self._now + fade))  # its end is not near yet

        def paint(start: int, values: Tensor) -> None:
            low, high = max(start, first), min(start + len(values), until)
            if low < high:
                weights[low - first : high - first] = values[low - start : high - start]

        for start, end in runs:
            if start != 0:
                paint(start, ramp)
            paint(end - fade, ramp.flip(0))
            full = start + fade if start != 0 else 0
            low, high = max(full, first), min(end - fade, until)
            if low < high:
                weights[low - first : high - first] = 1
        self._given = until
        # the last run is remembered, because the next one may go on from it
        self._runs = [run for run in self._runs[:-1] if run[1] >= until] + self._runs[-1:]
        return weights


def mask_of(
    mixture: Complex[Tensor, "C F T"], part: Complex[Tensor, "C F T"]
) -> Float[Tensor, "C F T"]:
    """A part's share of the mixture's magnitude, at most 1; 1 where the mixture is silent."""
    size = mixture.abs()
    share = part.abs() / size.clamp_min(torch.finfo(size.dtype).tiny)
    return torch.where(size > 0, share, 1.0).clamp_max(1.0)


def hand_over(
    stems: Complex[Tensor, "S C F T"], stem: int, wanted: Complex[Tensor, "C F T"]
) -> Complex[Tensor, "S C F T"]:
    """The stem as it is wanted; what it loses or gains is the others', as their sizes are."""
    sizes = stems.abs()
    sizes[stem] = 0
    total = sizes.sum(dim=0)
    others = torch.full_like(sizes, 1 / max(1, len(stems) - 1))
    others[stem] = 0
    shares = torch.where(total > 0, sizes / total.clamp_min(torch.finfo(total.dtype).tiny), others)
    changed = stems + shares * (stems[stem] - wanted)
    changed[stem] = wanted
    return changed


def refined(stages: Sequence[Stage], frames: Frames | None) -> Frames | None:
    """Frames through all stages; None is the end of the stream, and gives what they held back."""
    if frames is not None:
        for stage in stages:
            frames = stage.push(frames)
        return frames
    rest: Frames | None = None
    for stage in stages:
        passed = None if rest is None else stage.push(rest)
        rest = _joined(passed, stage.finish())
    return rest


def _joined(first: Frames | None, second: Frames | None) -> Frames | None:
    if first is None or second is None:
        return second if first is None else first
    return Frames(
        torch.cat([first.mixture, second.mixture], dim=-1),
        torch.cat([first.stems, second.stems], dim=-1),
    )


def _flat(together: Complex[Tensor, "S C F T"]) -> Float[Tensor, "N T"]:
    return rearrange(torch.view_as_real(together), "s c f t part -> (s c f part) t")


def _phasor(spectrogram: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(spectrogram.abs()), spectrogram.angle())
