"""Weights that somebody else has trained, by name: `ckpt=spleeter:2stems`, `ckpt=demucs:htdemucs`.

    frametx:vocals                                      ours, a file of this package
    spleeter:2stems                                     files that come with a package
    demucs:htdemucs, openunmix:umxl ...                 fetched by the package, once
    demucs:FOLDER/htdemucs, openunmix:FOLDER            the package's files in a folder; no network

No file is let run code. Checkpoints of RoFormers that have no name: `frametx.pretrained.roformer`.
"""

import re
from collections.abc import Callable
from pathlib import Path

from frametx.pretrained import demucs, open_unmix, ours, spleeter
from frametx.pretrained.published import Pretrained

__all__ = ["Pretrained", "is_name", "read"]

_SOURCES: dict[str, Callable[[str], Pretrained]] = {
    "frametx": ours.read,
    "spleeter": spleeter.read,
    "demucs": demucs.read,
    "openunmix": open_unmix.read,
}
_NAME = re.compile(r"[a-z][a-z0-9_-]+:[a-z0-9_-]+")


def is_name(ckpt: str | Path) -> bool:
    """Whether this names published weights, and no file."""
    source, colon, _ = str(ckpt).partition(":")
    is_known = bool(colon) and source in _SOURCES
    is_like_one = _NAME.fullmatch(str(ckpt)) is not None
    return (is_known or is_like_one) and not Path(ckpt).exists()


def read(name: str | Path) -> Pretrained:
    """The weights of this name.

    Raises:
        ValueError: if there are none of this name, or they are of another kind.
        FileNotFoundError: if the package that has them is not installed, or a file is missing, or
            cannot be fetched.
    """
    source = str(name).partition(":")[0]
    if source == "reference":
        raise ValueError(
            f"{name} is computed from the true stems, by python -m frametx.evaluate alone, and as "
            "its only ckpt: give a checkpoint"
        )
    if source not in _SOURCES:
        raise ValueError(
            f"{name}: no published weights of this name, and no such file; there are "
            f"{ours.VOCALS}, {spleeter.SPLEETER_2STEMS}, {', '.join(demucs.NAMES)}, "
            f"{', '.join(open_unmix.NAMES)}"
        )
    return _SOURCES[source](str(name))
