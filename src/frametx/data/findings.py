"""What speaks against a file of a library, given the facts: which kinds there are, and the rules.

Every rule is a number in `Limits`, so that an opinion can be changed without measuring again.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from frametx.data.fingerprint import find_matches
from frametx.data.index import AudioFile, RejectedFile
from frametx.data.left_out import kind_of_rejection
from frametx.data.survey import Facts

KINDS = {
    "unreadable": "cannot be read as audio",
    "empty": "holds no samples",
    "truncated": "is cut short",
    "non_finite": "holds NaN or infinity",
    "absurd": "has samples far too large for audio",
    "short": "holds less than a millisecond",
    "missing_stem": "is a song without one of the stems",
    "not_aligned": "is a song whose stems do not fit together",
    "silent": "is never loud enough to learn from",
    "clipped": "stands at full scale too often",
    "duplicate": "is the same recording as another of its role",
    "shared": "is trained on and validated or tested with",
    "both_roles": "is in two roles at once",
    "unwanted": "holds what its role must not, says a separator",
    "adjusted": "is a song whose stems were made to fit together",
    "not_read": "is audio or video in a format that libraries do not read",
    "mono": "has equal channels",
    "band_limited": "ends far below half its sample rate",
    "abrupt_end": "ends in the middle of a sound",
    "shared_folder": "has its speaker, artist or folder in training and in validation or test",
    "shared_speaker": "has its speaker, who is what is learned, on both sides of the split",
}
"""Every kind of finding, and what it means."""
TRAIN = "train"
SPEAKERS = "speakers"
"""The role of single voices that are mixed with each other."""


@dataclass(frozen=True)
class Limits:
    """Where facts become findings.

    Args:
        silent_db: a file whose loudest second is below is silent.
        clipped_share: of a file's samples, in runs at full scale.
        mono_db: energy of left minus right, re all, below which stereo is mono.
        cliff_db: a fall of the spectrum within 400 Hz that is a filter's work.
        end_db: level of the last 50 ms, re the whole file, above which a sound was cut.
    """

    silent_db: float = -50.0
    clipped_share: float = 1e-3
    mono_db: float = -60.0
    cliff_db: float = 25.0
    end_db: float = -6.0


@dataclass(frozen=True)
class Part:
    """The files of one role on one side of the split.

    Args:
        split: train, validation or test.
        role: vocals, instrumental, or another stem.
        files: that can be decoded.
        rejected: that the index refuses.
        repeats: a recording may stand in several files, and that is no fault: the stems of mixtures
            that were made of a few voices.
    """

    split: str
    role: str
    files: tuple[AudioFile, ...]
    rejected: tuple[RejectedFile, ...] = ()
    repeats: bool = False

    @property
    def name(self) -> str:
        """For tables: train vocals."""
        return f"{self.split} {self.role}"


@dataclass(frozen=True)
class Finding:
    """One thing that speaks against one file."""

    part: str
    path: Path
    kind: str
    reason: str


def find_all(
    parts: Sequence[Part], facts: Mapping[Path, Facts | str], limits: Limits
) -> list[Finding]:
    """All findings, in the order of the parts and their files, those about several files last."""
    found: list[Finding] = []
    for part in parts:
        found += [
            Finding(part.name, Path(file.path), kind_of_rejection(file.reason), file.reason)
            for file in part.rejected
        ]
        for file in part.files:
            measured = facts[file.path]
            if isinstance(measured, str):  # it has broken since it was indexed
                kind = kind_of_rejection(measured)
                found.append(Finding(part.name, Path(file.path), kind, measured))
            else:
                found += [
                    Finding(part.name, Path(file.path), kind, reason)
                    for kind, reason in findings_in(measured, limits)
                ]
    found += repeated_recordings(parts, facts)
    return found + shared_folders(parts)


def findings_in(facts: Facts, limits: Limits) -> Iterable[tuple[str, str]]:
    """Kind and reason of all that a file's own facts say against it."""
    if facts.loudest_second_db < limits.silent_db:
        yield (
            "silent",
            f"its loudest second has {facts.loudest_second_db:.1f} dB, below {limits.silent_db:g}",
        )
        return  # of silence, the rest says nothing
    if facts.clipped_share > limits.clipped_share:
        yield "clipped", f"{facts.clipped_share:.3%} of its samples stand in runs at full scale"
    if facts.num_channels > 1 and facts.side_db < limits.mono_db:
        apart = "equal" if facts.side_db <= -200 else f"{-facts.side_db:.0f} dB from equal"
        yield "mono", f"{facts.num_channels} channels, left and right {apart}"
    if facts.cliff_db > limits.cliff_db:
        yield (
            "band_limited",
            f"nothing above {facts.highest_hz / 1000:.1f} kHz at a rate of "
            f"{facts.sample_rate / 1000:g} kHz: a fall by {facts.cliff_db:.0f} dB",
        )
    if facts.end_db > limits.end_db:
        yield "abrupt_end", f"its last 50 ms have {facts.end_db:+.1f} dB re the whole file"


@dataclass(frozen=True)
class _Place:
    part: Part
    file: AudioFile
    facts: Facts


def repeated_recordings(parts: Sequence[Part], facts: Mapping[Path, Facts | str]) -> list[Finding]:
    """Files whose recording is there twice: in a role, on both sides of the split, in two roles.

    Within a role the copy of the highest rate, the most channels and a lossless format is kept and
    the others are named; of a recording that is validated or tested with, the copies in training.
    Across roles only equal samples count, because stems of one song sound alike for good reason.
    """
    places = [
        _Place(part, file, measured)
        for part in parts
        for file in part.files
        if isinstance(measured := facts[file.path], Facts) and measured.peak > 0
    ]
    sounds = _groups(places)
    found: list[Finding] = []
    for group in sounds:
        by_role = defaultdict(list)
        for place in group:
            by_role[place.part.role].append(place)
        for same_role in by_role.values():
            found += _within_role(same_role)
    return found + _across_roles(places)


def _groups(places: Sequence[_Place]) -> list[list[_Place]]:
    """Places that hold the same recording; only groups of two and more."""
    leader = list(range(len(places)))

    def lead(number: int) -> int:
        while leader[number] != number:
            leader[number] = leader[leader[number]]
            number = leader[number]
        return number

    first_with: dict[str, int] = {}
    for number, place in enumerate(places):
        leader[lead(number)] = lead(first_with.setdefault(place.facts.content, number))
    for match in find_matches([place.facts.fingerprint for place in places]):
        if places[match.first].part.role == places[match.second].part.role:
            leader[lead(match.second)] = lead(match.first)
    groups = defaultdict(list)
    for number, place in enumerate(places):
        groups[lead(number)].append(place)
    return [group for group in groups.values() if len(group) > 1]


def _within_role(group: Sequence[_Place]) -> list[Finding]:
    held_out = [place for place in group if place.part.split != TRAIN]
    trained = [place for place in group if place.part.split == TRAIN]
    found: list[Finding] = []
    if held_out:
        found += [_finding(place, "shared", held_out[0]) for place in trained]
    for split in dict.fromkeys(place.part.split for place in group):
        same = sorted(
            (p for p in group if p.part.split == split and not p.part.repeats), key=_worth
        )
        is_told = split == TRAIN and held_out
        for place in [] if is_told else same[1:]:
            found.append(_finding(place, "duplicate", same[0]))
    return found


def _across_roles(places: Sequence[_Place]) -> list[Finding]:
    by_content = defaultdict(list)
    for place in places:
        by_content[place.facts.content].append(place)
    found: list[Finding] = []
    for group in by_content.values():
        for place in group:
            other = next((p for p in group if p.part.role != place.part.role), None)
            if other is not None:
                found.append(_finding(place, "both_roles", other))
    return found


def _finding(place: _Place, kind: str, other: _Place) -> Finding:
    how = "the same samples" if place.facts.content == other.facts.content else "the same sound"
    reason = f"{how} as {other.file.path} ({other.part.name})"
    return Finding(place.part.name, Path(place.file.path), kind, reason)


def _worth(place: _Place) -> tuple[float, float, bool, float, str]:
    """Sorts the copy to keep first; of equals the first by name."""
    facts = place.facts
    is_lossy = place.file.name.lower().endswith((".mp3", ".ogg", ".oga", ".opus"))
    return (-facts.sample_rate, -facts.num_channels, is_lossy, -facts.seconds, place.file.name)


def shared_folders(parts: Sequence[Part]) -> list[Finding]:
    """Training files whose speaker, artist or folder is also validated or tested with.

    A network that is to tell voices apart learns the voices, so there a speaker is a fault.
    """
    held_out: dict[tuple[str, str], Part] = {}
    for part in parts:
        if part.split != TRAIN:
            for file in part.files:
                if (group := group_of(file.name)) is not None:
                    held_out.setdefault((part.role, group.casefold()), part)
    found: list[Finding] = []
    for part in parts:
        for file in part.files if part.split == TRAIN else ():
            group = group_of(file.name)
            other = held_out.get((part.role, group.casefold())) if group is not None else None
            if other is not None:
                reason = f"{group} is also in {other.name}: hold out whole folders"
                kind = "shared_speaker" if part.role == SPEAKERS else "shared_folder"
                found.append(Finding(part.name, Path(file.path), kind, reason))
    return found


def group_of(name: str) -> str | None:
    """Speaker or artist of a file: its first folder, of `Artist - Title` only the artist.

    None if the name says nothing of the kind.
    """
    path = PurePosixPath(name)
    if len(path.parts) > 1:
        return path.parts[0].split(" - ")[0].strip()
    artist, dash, _ = path.stem.partition(" - ")
    return artist.strip() if dash else None
