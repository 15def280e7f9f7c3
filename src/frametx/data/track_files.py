"""The files of one song's stems, and whether they fit together.

Collections of songs are not made by machines alone: stems of one song may differ by a few samples,
one may be mono or at another rate, and a song may lack a stem. What can be mended without a guess
is mended and noted; the rest is for the user to decide.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.io import AudioInfo, probe
from frametx.audio.resample import StreamResampler, resampled_length
from frametx.data.files import SUFFIXES, is_audio
from frametx.data.left_out import kind_of_rejection
from frametx.printable import printable

MissingStem = Literal["refuse", "silent"]
ADJUSTED = "adjusted"
"""The kind of a song whose stems were made to fit."""


@dataclass(frozen=True)
class FitRules:
    """Which songs are taken although their stems do not fit together as they are.

    Raises:
        ValueError: if a rule is out of its range.
    """

    length_tolerance_seconds: float = 0.1
    """Stems that differ by at most this are padded with silence to the longest one."""
    missing_stem: MissingStem = "refuse"
    """`silent`: a stem without a file is silence, and has no score."""

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        tolerance = self.length_tolerance_seconds
        is_number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
        if not is_number or not 0 <= tolerance < float("inf"):
            raise ValueError(
                f"data.length_tolerance_seconds={tolerance} must be a number of seconds, 0 or more"
            )
        if self.missing_stem not in get_args(MissingStem):
            raise ValueError(
                f"data.missing_stem={self.missing_stem} must be one of "
                f"{', '.join(get_args(MissingStem))}"
            )


@dataclass(frozen=True)
class TrackFinding:
    """What is wrong with a song: it cannot be used, or (kind `ADJUSTED`) was made to fit."""

    name: str
    folder: Path
    kind: str
    reason: str
    apart_seconds: float = 0.0
    """By how much its stems differ in length, where that is what is wrong."""

    @property
    def way_out(self) -> str:
        """The option that accepts it, and what it does; empty if there is none."""
        return way_out([self])


class UnusableTrackError(ValueError):
    """A song whose stems do not fit together."""

    def __init__(self, kind: str, reason: str, apart_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.kind = kind
        self.apart_seconds = apart_seconds


@dataclass(frozen=True)
class TrackFiles:
    """The files that add up to each stem of a song, and the shape that all of them are given."""

    sources: list[list[AudioInfo]]
    """By stem; a stem without files is silent."""
    sample_rate: int
    num_channels: int
    num_samples: int
    adjustments: tuple[str, ...]
    """What is done to make them fit, in words."""

    def fitted(self, samples: Float[Tensor, "C L"], info: AudioInfo) -> Float[Tensor, "C_t L_t"]:
        """The samples of one file with the rate, channels and length of the song."""
        if info.sample_rate != self.sample_rate:
            resampler = StreamResampler(
                orig=info.sample_rate, new=self.sample_rate, num_channels=info.num_channels
            )
            samples = torch.cat([resampler.push(samples), resampler.finish()], dim=1)
        if samples.shape[0] != self.num_channels:
            samples = samples.expand(self.num_channels, -1)
        missing = self.num_samples - samples.shape[1]
        if missing:
            samples = torch.nn.functional.pad(samples, (0, missing))
        return samples

    def stem(self, parts: Sequence[Float[Tensor, "C_t L_t"]]) -> Float[Tensor, "C_t L_t"]:
        """The sum of a stem's fitted files; silence where there is none."""
        if not parts:
            return torch.zeros(self.num_channels, self.num_samples)
        return torch.stack(list(parts)).sum(0)


def find_track_files(folder: Path, stems: Sequence[str], rules: FitRules) -> TrackFiles:
    """The files of a song's stems.

    Args:
        folder: of the song.
        stems: the names wanted.
        rules: what may be mended.

    Raises:
        UnusableTrackError: if they do not fit together.
    """
    files = audio_by_stem(folder)
    for found in files.values():
        if len(found) > 1:
            same = ", ".join(printable(path.name) for path in found)
            raise UnusableTrackError("not_aligned", f"{same} are the same stem; keep one")
    paths = {stem: found[0] for stem, found in files.items()}
    sources: list[list[AudioInfo]] = []
    missing: list[str] = []
    for stem in stems:
        found = _paths_of(stem, paths, stems)
        if not found:
            missing.append(stem)
        sources.append([_probed(path) for path in found])
    if missing:
        _check_missing(missing, folder, paths, rules)
    infos = [info for part in sources for info in part]
    adjustments = [f"has no {' and no '.join(missing)}: silence without a score"] if missing else []
    if "instrumental" in stems and "instrumental" not in paths:
        unread = [path for found in audio_by_stem(folder, is_read=False).values() for path in found]
        if unread:
            names = ", ".join(printable(path.name) for path in unread)
            adjustments.append(f"{names} in formats that are not read: in no stem")
    return _fit(sources, infos, rules, adjustments)


def audio_by_stem(folder: Path, *, is_read: bool = True) -> dict[str, list[Path]]:
    """The audio files of a folder by their names without suffix, in small letters.

    Args:
        folder: whose files are meant, not those of folders in it.
        is_read: whether those are wanted that can be read, or the others.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        is_wanted = (path.suffix.lower() in SUFFIXES) == is_read
        if is_wanted and is_audio(path.name) and path.is_file():
            files.setdefault(path.stem.lower(), []).append(path)
    return files


def way_out(findings: Sequence[TrackFinding]) -> str:
    """The options that accept all of these songs which can be accepted; empty if none can."""
    ways: list[str] = []
    apart_seconds = max((one.apart_seconds for one in findings), default=0.0)
    if apart_seconds:
        tolerance = math.ceil(apart_seconds * 100) / 100
        ways.append(f"data.length_tolerance_seconds={tolerance:g} pads shorter stems")
    if any(one.kind == "missing_stem" for one in findings):
        ways.append("data.missing_stem=silent takes a missing stem as silence, without a score")
    return ", ".join(ways)


@contextmanager
def listing_tracks() -> Iterator[list[TrackFinding]]:
    """Within it, `Tracks` lists here what is wrong with songs, and leaves out those it cannot use.

    Elsewhere it refuses a folder that holds such songs: nothing shall be trained on or scored
    without the songs that a user believes are in it.
    """
    found: list[TrackFinding] = []
    token = _LISTED.set(found)
    try:
        yield found
    finally:
        _LISTED.reset(token)


def listed_tracks() -> list[TrackFinding] | None:
    """The list of the innermost `listing_tracks`; None outside."""
    return _LISTED.get()


_LISTED: ContextVar[list[TrackFinding] | None] = ContextVar("listed tracks", default=None)


def _probed(path: Path) -> AudioInfo:
    try:
        return probe(path)
    except (ValueError, OSError) as error:
        text = str(error).removeprefix(f"{path}: ")
        reason = error.strerror or text if isinstance(error, OSError) else text
        raise UnusableTrackError(
            kind_of_rejection(reason), f"{printable(path.name)}: {printable(reason)}"
        ) from error


def _paths_of(stem: str, paths: Mapping[str, Path], stems: Sequence[str]) -> list[Path]:
    """The files that add up to a stem: its own, or of an instrumental all that are no voice."""
    if stem in paths:
        return [paths[stem]]
    named = {"vocals", "mixture", *stems}
    if stem == "instrumental":
        return [paths[other] for other in sorted(paths) if other not in named]
    return []


def _check_missing(
    missing: Sequence[str], folder: Path, paths: Mapping[str, Path], rules: FitRules
) -> None:
    """Refuse stems that are missing, unless that is accepted and they are indeed not there."""
    unread = audio_by_stem(folder, is_read=False)
    for stem in missing:
        for path in unread.get(stem, ()):
            name = printable(path.name)
            raise UnusableTrackError("not_read", f"{name} is in a format that tracks do not read")
    if rules.missing_stem == "silent":
        return
    there = ", ".join(printable(path.name) for path in paths.values())
    raise UnusableTrackError(
        "missing_stem",
        f"has no {' and no '.join(missing)} file (there is {there})",
    )


def _fit(
    sources: list[list[AudioInfo]],
    infos: Sequence[AudioInfo],
    rules: FitRules,
    adjustments: Sequence[str],
) -> TrackFiles:
    """The shape that most files of a song have, or can be given."""
    rate = Counter(info.sample_rate for info in infos).most_common(1)[0][0]
    channels = max(info.num_channels for info in infos)
    lengths = [resampled_length(info.num_samples, info.sample_rate, rate) for info in infos]
    apart_seconds = (max(lengths) - min(lengths)) / rate
    notes = list(adjustments)
    if odd := [info for info in infos if info.num_channels not in (1, channels)]:
        names = ", ".join(f"{info.path.name} {info.num_channels}" for info in odd)
        raise UnusableTrackError(
            "not_aligned", f"its stems are not aligned: {channels} channels and {printable(names)}"
        )
    if apart_seconds > rules.length_tolerance_seconds:
        shapes = ", ".join(
            f"{printable(info.path.name)} {length} samples ({length / rate:.3f} s)"
            for info, length in zip(infos, lengths, strict=True)
        )
        raise UnusableTrackError(
            "not_aligned",
            f"its stems are not aligned: {shapes}",
            apart_seconds,
        )
    if max(lengths) > min(lengths):
        apart = max(lengths) - min(lengths)
        notes.append(
            f"stems differ by {apart} sample(s) ({apart_seconds:.3f} s): padded with silence"
        )
    if others := [info for info in infos if info.sample_rate != rate]:
        names = ", ".join(f"{info.path.name} has {info.sample_rate} Hz" for info in others)
        notes.append(f"{printable(names)}: resampled to {rate} Hz")
    if single := [info.path.name for info in infos if info.num_channels != channels]:
        notes.append(f"{printable(', '.join(single))}: mono, copied to {channels} channels")
    return TrackFiles(sources, rate, channels, max(lengths), tuple(notes))
