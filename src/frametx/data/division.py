"""Which tracks of a folder are trained on, which are validated on, and which are tested with.

A root may be divided into train/ and test/, valid/ (or validation/). The parts of it are then

    train   train/, without what is held out of it
    valid   valid/; where there is none, what is held out of train/
    test    test/; where there is none, what is validated on

Held out are the 14 songs of MUSDB18 that everybody validates on, where some of them are there; else
a share of the songs, by a hash of their names, so that none changes sides when others come or go. A
root that is not divided is all there is to test with, and cannot be trained on.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from frametx.data.musdb18 import count, is_in_training_part, is_validation_track
from frametx.data.stem_mp4 import SUFFIX
from frametx.data.stored_text import name_bytes

Part = Literal["train", "valid", "test"]
VALIDATION_FOLDERS = ("valid", "validation")


def folder_of(root: Path, part: Part) -> Path:
    """Where the tracks of a part lie, perhaps among others.

    Raises:
        ValueError: if the root has no such part.
    """
    if part not in get_args(Part):
        raise ValueError(f"part={part} must be one of {', '.join(get_args(Part))}")
    is_divided = (root / "train").is_dir()
    if part == "test" and not is_divided:
        return root
    order = {
        "train": ("train",),
        "valid": (*VALIDATION_FOLDERS, "train"),
        "test": ("test", *VALIDATION_FOLDERS, "train"),
    }
    if not is_divided:
        raise ValueError(
            f"{root / 'train'} does not exist; put the songs to train on into it, and those to "
            f"test with into {root / 'test'}"
        )
    return next(root / name for name in order[part] if (root / name).is_dir())


def of_part(
    names: Sequence[str], *, root: Path, start: Path, part: Part, held_out: float
) -> list[str]:
    """The tracks of a part, of all in the folder `folder_of` gave.

    Args:
        names: of the tracks below `start`.
        root: of all parts.
        start: the folder.
        part: train, valid or test.
        held_out: share of train/ that is validated on where nothing else says which.

    Raises:
        ValueError: if nothing can be held out.
    """
    if start != root / "train" or (part == "train" and has_validation_folder(root)):
        return list(names)
    held = _held_out(names, start, held_out)
    return [name for name in names if (name in held) == (part != "train")]


def has_validation_folder(root: Path) -> bool:
    """Whether a folder says what is validated on."""
    return any((root / name).is_dir() for name in VALIDATION_FOLDERS)


def missing_of_musdb18(names: Sequence[str], *, root: Path, start: Path, part: Part) -> list[str]:
    """What a user should know who has but a part of MUSDB18's official tracks, in lines."""
    train = root / "train"
    if not (start.parent == root and train.is_dir() and any(map(_is_official, train.iterdir()))):
        return []
    if start == train and part != "train":
        part = "valid"
    elif start.name != part:  # a folder of their own says what is validated on
        return []
    return count(part, [title(name) for name in names])


def title(name: str) -> str:
    """The last part of a track's name."""
    return name.rpartition("/")[2]


def _is_official(path: Path) -> bool:
    return is_in_training_part(path.name.removesuffix(SUFFIX))


def _held_out(names: Sequence[str], start: Path, share: float) -> frozenset[str]:
    official = frozenset(name for name in names if is_validation_track(title(name)))
    if official and len(official) < len(names):
        return official
    if not 0 < share < 1:
        raise ValueError(f"held_out={share} must lie between 0 and 1: a share of {start}")
    if len(names) < 2:
        raise ValueError(
            f"{start} holds a single track ({names[0]}), and none can be held out of it to "
            f"validate on: add one, or put tracks to validate on into {start.parent / 'valid'}"
        )
    num_held = sum(_unit_hash(name) < share for name in names)
    by_hash = sorted(names, key=_unit_hash)
    return frozenset(by_hash[: min(max(num_held, 1), len(names) - 1)])


def _unit_hash(name: str) -> float:
    digest = hashlib.blake2b(name_bytes(name), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
