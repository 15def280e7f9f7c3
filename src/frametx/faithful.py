"""Separation as the original programs did it, number for number, flaws included.

One magnitude scale for the whole song; crops side by side, each seen with padding around it but not
faded into its neighbours; the Nyquist bin given to the vocals; an ensemble whose instrumental is
the smallest of all, and whose vocals are those of the last network alone, so that the two do not
sum to the mixture. Where the originals crashed, this does what was meant.

Source: specs/inference.md, specs/min_ensemble.md.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

from frametx.audio.stft_stream import InverseStftStream, StftStream
from frametx.execution import Execution
from frametx.refine import RunWeights
from frametx.separator import Separator, SpectrogramSeparator
from frametx.streaming import Held, Stems, aligned, resampled
from frametx.views import ORIGINAL_CONTEXTS

STEMS = ("instrumental", "vocals")
MERGE_THRESHOLD, MERGE_FRAMES, MERGE_FADE = 0.05, 64, 32


@dataclass(frozen=True, kw_only=True)
class OriginalOptions:
    """The options of the original programs.

    Attributes:
        crop_frames: that are kept of what a network is shown.
        padding_frames: that it is shown on each side besides.
        tta: average the masks of the five pairs of crop and padding instead.
        merge_artifacts: leave long stretches without voice untouched.
    """

    crop_frames: int = 1024
    padding_frames: int = 512
    tta: bool = False
    merge_artifacts: bool = False

    @property
    def contexts(self) -> Sequence[Sequence[int]]:
        """Pairs of crop and padding."""
        return ORIGINAL_CONTEXTS if self.tta else ((self.crop_frames, self.padding_frames),)


class Answer(NamedTuple):
    """What the program makes of a stretch of a song; the two do not sum to the mixture."""

    instrumental: Complex[Tensor, "C F T"]
    vocals: Complex[Tensor, "C F T"]


class OriginalProgram:
    """One or several networks, run as the originals ran them.

    Args:
        members: in the order in which the original had them; the last decides the vocals.
        contexts: pairs of crop and padding, in frames; the masks of all are averaged.
        merges_artifacts: leave long stretches without voice untouched.
        execution: runs the networks.

    Raises:
        ValueError: if the members are nothing that an original could have run together.
    """

    def __init__(
        self,
        members: Sequence[Separator],
        *,
        contexts: Sequence[Sequence[int]],
        merges_artifacts: bool,
        execution: Execution,
    ) -> None:
        self.members = [_as_original(member) for member in members]
        first = self.members[0]
        for member in self.members[1:]:
            same = ("n_fft", "hop_length")
            if member.sample_rate != first.sample_rate or any(
                getattr(member.stft, name) != getattr(first.stft, name) for name in same
            ):
                raise ValueError(
                    "faithful=true needs checkpoints of one sample rate, n_fft and hop_length, as "
                    "the originals had them; leave it out to mix others"
                )
        for crop, padding in contexts:
            if crop < 1 or padding < 0:
                raise ValueError(
                    f"original.crop_frames={crop} must be at least 1 and "
                    f"original.padding_frames={padding} at least 0"
                )
        self.contexts = contexts
        self.merges_artifacts = merges_artifacts
        self.execution = execution

    def stream(
        self, read: Callable[[], Iterable[Float[Tensor, "C _"]]], *, sample_rate: int
    ) -> Iterator[Stems]:
        """Stems in the order of the first member, in all as many samples as came in.

        Args:
            read: starts reading the song; called twice, because its peak must be known first.
            sample_rate: of the song, Hz.

        Raises:
            ValueError: if the song has more than two channels.
        """
        inner = self.members[0].sample_rate
        peak = max(
            (float(frames.abs().amax()) for frames in self._frames(read(), sample_rate)),
            default=0.0,
        )
        held = Held()
        frames = self._frames(held.remember(read()), sample_rate)
        order = [STEMS.index(stem) for stem in self.members[0].stems]
        waves = self._waves(self.answers(frames, peak=peak))
        for block in resampled(waves, inner, sample_rate):
            mixture = held.take(block.shape[2])
            if mixture.shape[1]:
                stems = block[order, :, : mixture.shape[1]]
                yield stems if mixture.shape[0] == 2 else stems.mean(dim=1, keepdim=True)

    def answers(
        self, frames: Iterable[Complex[Tensor, "C F T"]], *, peak: float
    ) -> Iterator[Answer]:
        """Instrumental and vocals, stretch by stretch.

        Args:
            frames: consecutive stretches of a song's spectrogram.
            peak: largest magnitude of the song.
        """
        # A silent song was divided by zero.
        peak = max(peak, torch.finfo(torch.float32).tiny)
        num_copies = len(self.members) * len(self.contexts)
        copies = iter(itertools.tee(frames, 1 + num_copies))
        mixture = next(copies)
        streams = [self._masks_of(member, copies, peak) for member in self.members]
        for spectrogram, *masks in aligned([mixture, *streams]):
            num_bins = spectrogram.shape[1]
            masks = [F.pad(mask, (0, 0, 0, num_bins - mask.shape[1])) for mask in masks]
            smallest = torch.stack(masks).amin(dim=0)
            yield Answer(smallest * spectrogram, (1 - masks[-1]) * spectrogram)

    def _masks_of(
        self, member: SpectrogramSeparator, copies: Iterator[Iterator[Tensor]], peak: float
    ) -> Iterator[Float[Tensor, "C F T"]]:
        of_contexts = [
            self._windowed(member, next(copies), crop, padding, peak)
            for crop, padding in self.contexts
        ]
        masks = (torch.stack(found).mean(dim=0) for found in aligned(of_contexts))
        return _merged(masks) if self.merges_artifacts else masks

    def _windowed(
        self,
        member: SpectrogramSeparator,
        frames: Iterator[Tensor],
        crop: int,
        padding: int,
        peak: float,
    ) -> Iterator[Float[Tensor, "C F T"]]:
        """The mask, crop after crop; a network that is shown its past takes all as one crop."""
        if member.num_past_frames:
            crop, padding = crop + 2 * padding, 0
        past: list[Tensor] = []
        windows = _windows(frames, crop, padding)
        at_once = 1 if member.num_past_frames else self.execution.batch_size
        while batch := list(itertools.islice(windows, at_once)):
            shown = torch.stack([window for window, _ in batch])[:, :, : member.num_bins] / peak
            num_channels = shown.shape[1]
            if member.num_past_frames:
                num_past = 2 * member.num_past_frames // member.crop_frames
                earlier = [*past, *[torch.zeros_like(shown)] * num_past][:num_past]
                seen = torch.cat([shown, *earlier], dim=1)
            else:
                seen = shown
            mask = self.execution.whole(
                lambda given, c=num_channels: member.mask_of(given, num_channels=c), seen
            )
            if member.num_past_frames:
                past = [shown, shown * mask, *past]
            for (_, num_kept), of_window in zip(batch, mask, strict=True):
                yield of_window[..., padding : padding + num_kept]

    def _frames(self, blocks: Iterable[Tensor], sample_rate: int) -> Iterator[Tensor]:
        """The spectrogram at the networks' rate, in stereo."""
        first = self.members[0]
        stream = StftStream(first.stft)
        is_empty = True
        for block in resampled(blocks, sample_rate, first.sample_rate):
            if block.shape[0] > 2:
                raise ValueError(
                    f"faithful=true takes two channels, as the originals did, not {block.shape[0]}"
                )
            is_empty = is_empty and not block.shape[1]
            yield from _if_any(stream.push(block.expand(2, -1)))
        if not is_empty:
            yield from _if_any(stream.finish())

    def _waves(self, answers: Iterator[Answer]) -> Iterator[Float[Tensor, "2 C L"]]:
        inverse = InverseStftStream(self.members[0].stft)
        is_empty = True
        for answer in answers:
            is_empty = False
            yield inverse.push(torch.stack(answer))
        if not is_empty:
            yield inverse.finish()


def _windows(
    frames: Iterator[Tensor], crop: int, padding: int
) -> Iterator[tuple[Float[Tensor, "C F T"], int]]:
    """Magnitudes of each crop with its padding, and how many frames of the crop are the song's."""
    held: Tensor | None = None
    length = crop + 2 * padding
    ends_with = 0  # frames of the song in `held` after those of the next crop's left padding
    for block in frames:
        magnitude = block.abs()
        if held is None:
            held = magnitude.new_zeros(*magnitude.shape[:-1], padding)
        held = torch.cat([held, magnitude], dim=-1)
        ends_with += magnitude.shape[-1]
        while held.shape[-1] >= length:
            yield held[..., :length], crop
            held = held[..., crop:]
            ends_with -= crop
    while held is not None and ends_with > 0:
        yield F.pad(held, (0, length - held.shape[-1])), min(crop, ends_with)
        held = F.pad(held, (0, max(0, crop - held.shape[-1])))[..., crop:]
        ends_with -= crop


def _merged(masks: Iterator[Float[Tensor, "C F T"]]) -> Iterator[Float[Tensor, "C F T"]]:
    """Masks with long stretches that nowhere are near zero raised to one."""
    runs = RunWeights(min_frames=MERGE_FRAMES, fade_frames=MERGE_FADE)
    held: Tensor | None = None
    for mask in masks:
        weights = runs.push(mask.amin(dim=(0, 1)) > MERGE_THRESHOLD)
        held = mask if held is None else torch.cat([held, mask], dim=-1)
        settled, held = held[..., : len(weights)], held[..., len(weights) :]
        yield settled + weights * (1 - settled)
    if held is not None:
        yield held + runs.finish() * (1 - held)


def _if_any(frames: Tensor) -> Iterator[Tensor]:
    if frames.shape[-1]:
        yield frames


def _as_original(member: Separator) -> SpectrogramSeparator:
    """The member, if its network gives the instrumental's mask of a stereo magnitude.

    Raises:
        ValueError: if it does not.
    """
    is_one = (
        isinstance(member, SpectrogramSeparator)
        and sorted(member.stems) == sorted(STEMS)
        and member.complement == "vocals"
        and member.num_channels == 2
    )
    if not is_one:
        raise ValueError(
            "faithful=true needs stereo networks that mask the instrumental, with the vocals as "
            "the rest, as the original programs had; leave it out for this checkpoint"
        )
    assert isinstance(member, SpectrogramSeparator)
    return member
