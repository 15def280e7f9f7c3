"""Lists of mixtures: JSON files that fix an evaluation set down to the noise of its rooms.

A list names, for every mixture, two files of `make data` and where in them the excerpts begin, the
level of the voice, and its room. Reading a list draws nothing. `python -m frametx.data.lists` draws
a new one.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

from frametx.data.lists.room import Room

SHIPPED = ("benchmark", "development")
"""Names of the lists beside this file."""
SINGING = "synthetic_singing_"
"""How names of files begin that `make data` sings with pyworld."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One mixture; files are paths below the folder of `make data`, with forward slashes."""

    name: str
    """Unique within the list."""
    kind: str
    """What is heard, e.g. spoken, sung or sung_in_a_room."""
    voice: str
    voice_start_seconds: float
    music: str
    music_start_seconds: float
    level_db: float
    """RMS of the vocals above that of the instrumental, over the excerpt."""
    room: Room | None = None
    """The room in which the voice sounds; None leaves it dry."""

    def __post_init__(self) -> None:
        """Refuse what is not of its type, or out of its range."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is str and not (isinstance(value, str) and value):
                raise ValueError(f"{field.name}={value!r} must be a text")
            if field.type is float and not is_number(value):
                raise ValueError(f"{field.name}={value!r} must be a number")
        if min(self.voice_start_seconds, self.music_start_seconds) < 0:
            raise ValueError("an excerpt must not begin before its file does")

    @classmethod
    def from_stored(cls, stored: Any) -> Self:
        """An entry of plain values.

        Raises:
            ValueError: if a value is missing, unknown or wrong.
        """
        if not isinstance(stored, Mapping):
            raise ValueError("it must be a mapping")
        room = stored.get("room")
        try:
            return cls(**{**stored, "room": None if room is None else Room(**room)})
        except TypeError as error:  # of a constructor: a wrong or missing key
            raise ValueError(str(error).split(".__init__() ")[-1]) from error

    @property
    def level(self) -> str:
        """The level in words, e.g. `-6 dB`."""
        return f"{self.level_db:z.6g} dB"


@dataclass(frozen=True, kw_only=True)
class MixtureList:
    """Mixtures of one length, and what was known of their files when they were chosen."""

    about: str
    seed: int
    """Of the draw that made the list; reading it needs no seed."""
    seconds: float
    """Length of every mixture."""
    mixtures: tuple[Entry, ...]
    contents: Mapping[str, str]
    """By file, the key of its content (see `frametx.data.trained_on`) in hexadecimal digits."""

    def __post_init__(self) -> None:
        """Refuse a list without mixtures, or with two of the same name."""
        if not self.mixtures or not is_number(self.seconds) or self.seconds <= 0:
            raise ValueError(f"seconds={self.seconds!r} must be above 0, and mixtures not empty")
        names = [entry.name for entry in self.mixtures]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"mixture {twice} is there twice")

    @property
    def files(self) -> list[str]:
        """Paths of all files, each once, in the order of the mixtures."""
        return list(dict.fromkeys(f for e in self.mixtures for f in (e.voice, e.music)))


def read_list(source: Path | str) -> MixtureList:
    """A list that ships, by its name, or a file.

    Raises:
        ValueError: if there is no such list, or it is damaged.
    """
    if str(source) in SHIPPED:
        place: Any = files("frametx.data.lists") / f"{source}.json"
    else:
        place = Path(source).expanduser()
        if not place.is_file():
            raise ValueError(
                f"{source}: no list of this name, and no such file; there is {', '.join(SHIPPED)}"
            )
    try:
        stored = json.loads(place.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{source}: damaged, no JSON: {error}; draw or fetch it again") from error
    try:
        return _of_stored(stored)
    except ValueError as error:
        raise ValueError(f"{source}: no list of mixtures: {error}") from error


def write_list(mixtures: MixtureList, path: Path | str) -> None:
    """Write a list, one line a mixture, so that a difference between two lists can be read."""
    head = {key: getattr(mixtures, key) for key in ("about", "seed", "seconds")}
    lines = [json.dumps(_stored(entry), ensure_ascii=False) for entry in mixtures.mixtures]
    body = ",\n    ".join(lines)
    text = json.dumps({**head, "contents": mixtures.contents}, indent=2, ensure_ascii=False)
    text = text.removesuffix("\n}") + f',\n  "mixtures": [\n    {body}\n  ]\n}}\n'
    Path(path).write_text(text, encoding="utf-8")


def is_sung(file: str) -> bool:
    """Whether a file of `make data` is singing that was synthesised from speech."""
    return Path(file).name.startswith(SINGING)


def speaker_in(file: str) -> str:
    """Whose voice a file of `make data` holds, e.g. tuxpaint_be."""
    return Path(file).stem.removeprefix(SINGING).rpartition("_")[0]


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def _stored(entry: Entry) -> dict[str, Any]:
    values = asdict(entry)
    if entry.room is None:
        del values["room"]
    return values


def _of_stored(stored: Any) -> MixtureList:
    wanted = [field.name for field in fields(MixtureList)]
    if not isinstance(stored, dict) or set(stored) != set(wanted):
        raise ValueError(f"it must hold {', '.join(wanted)} and nothing else")
    if not isinstance(stored["mixtures"], list) or not isinstance(stored["contents"], dict):
        raise ValueError("mixtures must be a list, and contents a mapping")
    entries: list[Entry] = []
    for number, entry in enumerate(stored["mixtures"]):
        try:
            entries.append(Entry.from_stored(entry))
        except ValueError as error:
            raise ValueError(f"mixture number {number}: {error}") from error
    return MixtureList(**{**stored, "mixtures": tuple(entries)})
