"""Everything between a mixture and its stems: members, views, ensemble rule, refinement, remainder.

    blocks --+--> member 1, view 1 --+
             +--> member 1, view 2 --+--> mean of --> rule --> refinement --> stems but one
             +--> member 2, view 1 --+    views       (over frames where it needs them)
             +--> held ---------------------------------------------> the remainder = what is left

One pass, constant memory: all streams advance together, and what none of them needs is forgotten.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.io import probe, read_blocks
from frametx.audio.samples import as_mixture, checked_blocks, checked_rate
from frametx.audio.stem_order import StreamOrder
from frametx.audio.stft import Stft
from frametx.audio.stft_stream import InverseStftStream, StftStream
from frametx.ensemble import (
    Domain,
    Rule,
    check_rule,
    combine_spectrograms,
    combine_waveforms,
    minimised_stem,
    rule_of,
)
from frametx.execution import Execution
from frametx.faithful import OriginalProgram
from frametx.refine import (
    Aggressiveness,
    FillBand,
    Frames,
    LeaveUntouched,
    Stage,
    Wiener,
    refined,
)
from frametx.separation_options import SeparationOptions
from frametx.separator import (
    NO_REMAINDER,
    Separator,
    SpectrogramSeparator,
    complement_of,
    has_ordered_stems,
    sums_to_mixture,
)
from frametx.streaming import (
    BLOCK_SAMPLES,
    Held,
    Stems,
    aligned,
    check_overlap,
    remainder_index,
    with_remainder,
)
from frametx.views import View, separate_view, views

WINDOW_SECONDS = 0.0464  # of the spectrogram that refinement works on: 2048 samples at 44.1 kHz
INSTRUMENTAL = "instrumental"  # music without its voices, whichever stem is the remainder
RESAMPLED_EDGE = 0.9  # of a model's band that reaches it through a resampler undiminished
REMEMBERED_SECONDS = 1.0  # after which what told the order of two views' stems counts half


class Pipeline:
    """Separates songs, with one model or several.

    Args:
        members: separators of the same stems, in evaluation mode, on the device of `execution`.
        options: how.
        execution: runs them.

    Raises:
        ValueError: if an option is out of its range, or does not go with the members.
    """

    def __init__(
        self, members: Sequence[Separator], options: SeparationOptions, *, execution: Execution
    ) -> None:
        self.members = tuple(members)
        self.stems = self.members[0].stems
        self.execution = execution
        for member in self.members[1:]:
            if sorted(member.stems) != sorted(self.stems):
                raise ValueError(
                    f"the checkpoints separate {list(self.stems)} and {list(member.stems)}: an "
                    "ensemble needs members with the same stems"
                )
        self._original = None
        if options.faithful:
            options.check_faithful()
            self._original = OriginalProgram(
                members,
                contexts=options.original.contexts,
                merges_artifacts=options.original.merge_artifacts,
                execution=execution,
            )
        self.options = options.completed()
        assert self.options.ensemble is not None
        ensemble = self.options.ensemble
        check_rule(
            ensemble,
            self.options.domain,
            options.weights,
            num_members=len(self.members),
            stems=self.stems,
        )
        self._rules: list[Rule] = [rule_of(ensemble, stem) for stem in self.stems]
        self._minimised = minimised_stem(ensemble)
        self.rest = remainder_index(
            self.stems,
            self._remainder_wanted(),
            sums=all(map(sums_to_mixture, self.members)),
            complement=complement_of(self.members[0]),
        )
        self._check_remainder()
        # Its name; None if there is none, or the stems do not sum to the mixture.
        self.remainder = None if self.rest is None else self.stems[self.rest]
        if options.faithful:
            self.remainder = None
        self._views = [self._views_of(member) for member in self.members]
        self._stages(44_100)  # refuses now what is out of range

    @property
    def background(self) -> str | None:
        """The stem that a song is where all others are absent; None if that has no name."""
        if INSTRUMENTAL in self.stems:
            return INSTRUMENTAL
        return None if self.rest is None else self.stems[self.rest]

    @property
    def sample_rate(self) -> int:
        """The highest rate at which a member hears, Hz."""
        return max(member.sample_rate for member in self.members)

    @property
    def num_channels(self) -> int:
        """The most channels that a member takes at once."""
        return max(member.num_channels for member in self.members)

    @property
    def chunk_seconds(self) -> float:
        """The longest piece of a song that goes through a network at once."""
        return max(
            view.chunk_samples / member.sample_rate
            for member, of_member in zip(self.members, self._views, strict=True)
            for view in of_member
        )

    @property
    def num_passes(self) -> int:
        """How often each song goes through a network."""
        return sum(map(len, self._views))

    def stream(
        self, read: Callable[[], Iterable[Float[Tensor, "C _"]]], *, sample_rate: int
    ) -> Iterator[Stems]:
        """Stems of a song, block by block, on the CPU; in all as many samples as came in.

        Args:
            read: starts reading the song: consecutive blocks with the same C. It is called once,
                or twice with `faithful`, which must know the song's peak first.
            sample_rate: of the song, Hz.

        Raises:
            ValueError: if a block is not channels x samples, is not finite, or has other channels
                than the first; or if the rate is not a whole number of Hz.
        """
        rate = checked_rate(sample_rate)
        if not callable(read):
            raise ValueError("stream needs a function that starts reading: lambda: blocks")
        yield from self._streamed(lambda: checked_blocks(read()), rate)

    def _streamed(
        self, read: Callable[[], Iterator[Float[Tensor, "C _"]]], sample_rate: int
    ) -> Iterator[Stems]:
        if self._original is not None:
            yield from self._original.stream(read, sample_rate=sample_rate)
            return
        held = Held()
        blocks = held.remember(read())
        if not self._needs_frames:
            streams = self._streams(itertools.tee(blocks, self.num_passes), sample_rate)

            def finished(views_of_all: list[Tensor]) -> Iterator[Stems]:
                stems = self._combined(self._one_of_views(views_of_all))
                return self._completed(self._others(stems), held)

            # no loop, whose variable would keep a block while the network makes the next
            together = self._in_one_order(aligned(streams), sample_rate)
            yield from itertools.chain.from_iterable(map(finished, together))
            return
        # A copy that nobody reads would keep the whole song, so there is one for frames only here.
        own, *copies = itertools.tee(blocks, self.num_passes + 1)
        streams = self._streams(copies, sample_rate)
        spectral = self._spectral(sample_rate)
        together = aligned([(block[None] for block in own), *streams])
        for mixture, *views_of_all in self._in_one_order(together, sample_rate):
            others = spectral.push(mixture[0], self._one_of_views(views_of_all))
            yield from self._completed(others, held)
        if held.num_samples:
            yield from self._completed(spectral.finish(), held)

    @overload
    def separate(self, mixture: Tensor, *, sample_rate: int) -> dict[str, Tensor]: ...
    @overload
    def separate(self, mixture: np.ndarray, *, sample_rate: int) -> dict[str, np.ndarray]: ...
    @overload
    def separate(self, mixture: str | Path) -> dict[str, np.ndarray]: ...

    def separate(
        self, mixture: str | Path | np.ndarray | Tensor, *, sample_rate: int | None = None
    ) -> dict[str, np.ndarray] | dict[str, Tensor]:
        """The stems of a song that fits into memory, by name.

        Args:
            mixture: the path of an audio file; or samples, channels x samples or samples alone.
                Floats have full scale 1; uint8, int8, int16 and int32 are PCM and are divided by
                their full scale.
            sample_rate: of samples, Hz; a file says its own.

        Returns:
            Each stem in the form of the mixture: arrays for arrays and files, tensors for tensors;
            at the song's own rate, with its channels and its length.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is bad; if samples are empty, not finite, beyond 1e30, of
                another type, without a rate, or not channels x samples; or if the model returns
                samples that are not finite.
        """
        if isinstance(mixture, str | Path):
            path = Path(mixture)
            rate = probe(path).sample_rate
            stems = self._finite(
                self.estimates(lambda: read_blocks(path, block_samples=BLOCK_SAMPLES), rate)
            )
            return {name: stem.numpy() for name, stem in zip(self.stems, stems, strict=True)}
        given = as_mixture(mixture)
        samples = given.reshape(-1, given.shape[-1])
        rate = checked_rate(sample_rate)
        found = self._finite(self.estimates(lambda: samples.split(BLOCK_SAMPLES, dim=1), rate))
        found = found.reshape(len(found), *given.shape)
        if isinstance(mixture, Tensor):
            moved = found.to(mixture.device)
            return dict(zip(self.stems, moved, strict=True))
        return {name: stem.numpy() for name, stem in zip(self.stems, found, strict=True)}

    def estimates(
        self, read: Callable[[], Iterable[Tensor]], sample_rate: int
    ) -> Float[Tensor, "S C L"]:
        """All stems of a song that fits into memory; see `stream`.

        Raises:
            ValueError: if nothing is read; and as `stream` does.
        """
        blocks = list(self.stream(read, sample_rate=sample_rate))
        if not blocks:
            raise ValueError("the mixture holds no samples")
        return torch.cat(blocks, dim=2)

    @staticmethod
    def _finite(stems: Tensor) -> Tensor:
        if not torch.isfinite(stems).all():
            raise ValueError("the model returned samples that are not finite: try precision=fp32")
        return stems

    def _views_of(self, member: Separator) -> list[View]:
        options = self.options
        assert options.overlap is not None
        assert options.tta.contexts != "original"
        chunk_samples = None
        if options.chunk_seconds is not None:
            chunk_samples = round(options.chunk_seconds * member.sample_rate)
        found = views(
            member,
            chunk_samples=chunk_samples,
            overlap=options.overlap,
            swap=bool(options.tta.swap),
            polarity=self._wants_polarity(member),
            shifts=int(options.tta.shifts or 0),
            contexts=options.tta.contexts,
        )
        for view in found:
            check_overlap(member, chunk_samples=view.chunk_samples, overlap=view.overlap)
        return found

    def _wants_polarity(self, member: Separator) -> bool:
        """Magnitudes have no sign: such a model says the same twice, unless one insists."""
        if self.options.tta.polarity is not None:
            return self.options.tta.polarity
        return self.options.quality == "best" and not isinstance(member, SpectrogramSeparator)

    @property
    def _needs_frames(self) -> bool:
        options = self.options
        return (
            (len(self.members) > 1 and options.domain == "magnitude")
            or options.aggressiveness != 1
            or options.wiener > 0
            or options.fill_band
            or options.absent is not None
        )

    def _streams(
        self, copies: Sequence[Iterable[Tensor]], sample_rate: int
    ) -> list[Iterator[Stems]]:
        """One stream for each view of each member, in the order of the stems of the first."""
        streams: list[Iterator[Stems]] = []
        for member, of_member in zip(self.members, self._views, strict=True):
            order = [member.stems.index(stem) for stem in self.stems]
            for view in of_member:
                stems = separate_view(
                    member,
                    copies[len(streams)],
                    view,
                    sample_rate=sample_rate,
                    execution=self.execution,
                    remainder=NO_REMAINDER if self.rest is None else self.stems[self.rest],
                )
                streams.append(_reordered(stems, order))
        return streams

    def _in_one_order(
        self, blocks: Iterator[list[Tensor]], sample_rate: int
    ) -> Iterator[list[Tensor]]:
        """Blocks of all views, perhaps behind one of the mixture; their stems in one order."""
        if self.num_passes == 1 or all(map(has_ordered_stems, self.members)):
            yield from blocks
            return
        of_views = [
            member
            for member, of_member in zip(self.members, self._views, strict=True)
            for _ in of_member
        ]
        order = StreamOrder(
            num_channels=[member.num_channels for member in of_views],
            is_ordered=[has_ordered_stems(member) for member in of_views],
            half_life=REMEMBERED_SECONDS * sample_rate,
        )
        for together in blocks:
            before = len(together) - self.num_passes
            yield [*together[:before], *order(together[before:])]

    def _one_of_views(self, views_of_all: Sequence[Stems]) -> Float[Tensor, "N S C L"]:
        """The mean of each member's views."""
        rest = iter(views_of_all)
        return torch.stack(
            [
                torch.stack(list(itertools.islice(rest, len(of_member)))).mean(dim=0)
                for of_member in self._views
            ]
        )

    def _combined(self, estimates: Float[Tensor, "N S C L"]) -> Stems:
        if len(estimates) == 1:
            return estimates[0]
        return combined_waveforms(estimates, self._rules, self.options.weights)

    def _others(self, stems: Tensor) -> Tensor:
        """All stems but the remainder."""
        if self.rest is None:
            return stems
        return torch.cat([stems[: self.rest], stems[self.rest + 1 :]])

    def _completed(self, others: Tensor, held: Held) -> Iterator[Stems]:
        mixture = held.take(others.shape[-1])
        others = others[..., : mixture.shape[1]]  # frames end after the song does
        if not mixture.shape[1]:
            return iter(())
        return iter([others if self.rest is None else with_remainder(others, mixture, self.rest)])

    def _spectral(self, sample_rate: int) -> "_Spectral":
        return _Spectral(
            stft_for(sample_rate),
            self._stages(sample_rate),
            rules=self._rules,
            minimised=None if self._minimised is None else self.stems.index(self._minimised),
            domain=self.options.domain,
            weights=self.options.weights,
            rest=self.rest,
        )

    def _stages(self, sample_rate: int) -> list[Stage]:
        """What is to be done with the frames of a song, fresh for each."""
        options, stft = self.options, stft_for(sample_rate)
        # Without a remainder the frames have one stem more: what the others leave of the mixture.
        rest = len(self.stems) if self.rest is None else self.rest
        heard_hz = min(heard_hz_of(member, sample_rate) for member in self.members)
        num_bins = min(stft.n_fft // 2 + 1, int(heard_hz / sample_rate * stft.n_fft))
        stages: list[Stage] = []
        if options.fill_band:
            stages.append(FillBand(remainder=rest, first_bin=num_bins))
        if options.aggressiveness != 1:
            stages.append(Aggressiveness(stem=self._sharpened(), exponent=options.aggressiveness))
        if options.wiener:
            stages.append(Wiener(iterations=options.wiener))
        if (absent := options.absent) is not None:
            frames_a_second = sample_rate / stft.hop_length
            fade_frames = round(absent.fade_seconds * frames_a_second)
            # Rounded on their own, two fades may be a frame more than a run that just holds them.
            holds_both = absent.min_seconds >= 2 * absent.fade_seconds
            min_frames = round(absent.min_seconds * frames_a_second)
            stages.append(
                LeaveUntouched(
                    absent=self._number_of(absent.stem, "absent.stem"),
                    threshold=absent.threshold,
                    min_frames=max(min_frames, 2 * fade_frames) if holds_both else min_frames,
                    fade_frames=fade_frames,
                    num_bins=num_bins,
                )
            )
        return stages

    def _sharpened(self) -> int:
        """The stem whose mask `aggressiveness` raises to a power."""
        if self.options.aggressiveness_stem is not None:
            return self._number_of(self.options.aggressiveness_stem, "aggressiveness_stem")
        if INSTRUMENTAL in self.stems:
            return self.stems.index(INSTRUMENTAL)
        candidates = [number for number in range(len(self.stems)) if number != self.rest]
        if len(candidates) == 1:
            return candidates[0]
        raise ValueError(
            f"aggressiveness={self.options.aggressiveness} does not say of which stem: name one "
            f"of {list(self.stems)} with aggressiveness_stem="
        )

    def _number_of(self, stem: str, option: str) -> int:
        if stem not in self.stems:
            raise ValueError(f"{option}={stem} must be one of the stems {list(self.stems)}")
        return self.stems.index(stem)

    def _remainder_wanted(self) -> str | None:
        """The one chosen; with `min_<stem>` the other of two stems is the only one it can be."""
        others = [stem for stem in self.stems if stem != self._minimised]
        is_decided = self._minimised is not None and len(others) == 1
        return (
            others[0] if is_decided and self.options.remainder is None else self.options.remainder
        )

    def _check_remainder(self) -> None:
        """Refuse as the remainder what is to be kept clean: what is left over goes to another."""
        if self.rest is None or self.stems[self.rest] != self._minimised:
            return
        others = [stem for stem in self.stems if stem != self._minimised]
        raise ValueError(
            f"ensemble={self.options.ensemble} cannot have {self._minimised} as the remainder, "
            f"which gets what is left of the others: choose remainder={' or '.join(others)}"
        )


class _Spectral:
    """The part of a pipeline that works on frames: samples of all members in, of the stems out."""

    def __init__(
        self,
        stft: Stft,
        stages: Sequence[Stage],
        *,
        rules: Sequence[Rule],
        minimised: int | None,
        domain: Domain,
        weights: Sequence[float] | None,
        rest: int | None,
    ) -> None:
        self.stages = stages
        self.rules = tuple(rules)
        self.minimised = minimised
        self.domain = domain
        self.weights = weights
        self.rest = rest
        self._mixture, self._members = StftStream(stft), StftStream(stft)
        self._inverse = InverseStftStream(stft)

    def push(
        self, mixture: Float[Tensor, "C L"], estimates: Float[Tensor, "N S C L"]
    ) -> Float[Tensor, "S_others C _"]:
        """The samples of all stems but the remainder that are settled now, perhaps none."""
        if self.domain == "waveform" and len(estimates) > 1:
            estimates = combined_waveforms(estimates, self.rules, self.weights)[None]
        frames = self._frames(self._mixture.push(mixture), self._members.push(estimates))
        return self._samples(refined(self.stages, frames))

    def finish(self) -> Float[Tensor, "S_others C _"]:
        """The samples that are still owed, and a few beyond the end."""
        frames = self._frames(self._mixture.finish(), self._members.finish())
        parts = [self._samples(refined(self.stages, frames))]
        rest = refined(self.stages, None)
        parts += [] if rest is None else [self._samples(rest)]
        return torch.cat([*parts, self._inverse.finish()], dim=-1)

    def _frames(self, mixture: Tensor, estimates: Tensor) -> Frames:
        """One estimate of each stem; the remainder is the rest of the mixture, in every bin."""
        others = torch.stack(
            [
                of_stem[0]
                if len(of_stem) == 1
                else combine_spectrograms(
                    of_stem,
                    self.rules[number],
                    self.weights,
                    phase_of=mixture if number == self.minimised else None,
                )
                for number, of_stem in enumerate(estimates.unbind(1))
                if number != self.rest
            ]
        )
        at = len(others) if self.rest is None else self.rest
        left = mixture - others.sum(dim=0)
        return Frames(mixture, torch.cat([others[:at], left[None], others[at:]]))

    def _samples(self, frames: Frames | None) -> Tensor:
        assert frames is not None
        at = len(frames.stems) - 1 if self.rest is None else self.rest
        return self._inverse.push(torch.cat([frames.stems[:at], frames.stems[at + 1 :]]))


def combined_waveforms(
    estimates: Float[Tensor, "N S C L"], rules: Sequence[Rule], weights: Sequence[float] | None
) -> Stems:
    """One waveform of each stem, by its own rule."""
    of_stems = zip(estimates.unbind(1), rules, strict=True)
    return torch.stack([combine_waveforms(of_stem, rule, weights) for of_stem, rule in of_stems])


def _reordered(stems: Iterator[Stems], order: Sequence[int]) -> Iterator[Stems]:
    if list(order) == list(range(len(order))):
        return stems
    return map(itemgetter(list(order)), stems)


def stft_for(sample_rate: int) -> Stft:
    """The transform that refinement works on, of about the same length in seconds at any rate."""
    n_fft = 2 ** max(4, round(math.log2(WINDOW_SECONDS * sample_rate)))
    return Stft(n_fft=n_fft, hop_length=n_fft // 4)


def heard_hz_of(separator: Separator, sample_rate: int) -> float:
    """Up to which frequency a model hears a song of this rate; from there on it knows nothing."""
    edge = separator.sample_rate / 2
    if isinstance(separator, SpectrogramSeparator) and separator.top_bin == "zero":
        edge = min(edge, separator.num_bins / separator.stft.n_fft * separator.sample_rate)
    if separator.sample_rate < sample_rate:
        edge *= RESAMPLED_EDGE
    return min(edge, sample_rate / 2)
