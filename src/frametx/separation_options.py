"""How songs are taken apart: what separate, evaluate, the page and Python callers can choose.

conf/separation/default.yaml has the same names and the same defaults, and says what each is for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from frametx.ensemble import Domain
from frametx.faithful import OriginalOptions
from frametx.views import ORIGINAL_CONTEXTS

Quality = Literal["fast", "balanced", "best"]


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Views to average over besides the plain one; None is as `quality` says.

    Attributes:
        swap: exchanged channels.
        polarity: inverted.
        shifts: number of other places for the chunks to begin at.
        contexts: pairs of crop and padding in frames, or `original`, instead of the plain view.
    """

    swap: bool | None = None
    polarity: bool | None = None
    shifts: int | None = None
    contexts: Sequence[Sequence[int]] | Literal["original"] = ()


@dataclass(frozen=True, kw_only=True)
class Absent:
    """A stem, and how long and how clearly it must be absent for the others to be left untouched.

    Attributes:
        stem: its name.
        threshold: the mask of all others together must be above it everywhere.
        min_seconds: of the stretch.
        fade_seconds: at each of its ends, inside it.

    Source: specs/inference.md section 4 (64 and 32 frames of 1024 samples).
    """

    stem: str
    threshold: float = 0.05
    min_seconds: float = 1.486
    fade_seconds: float = 0.743


@dataclass(frozen=True, kw_only=True)
class SeparationOptions:
    """How to separate; conf/separation/default.yaml explains each, and has the same defaults."""

    quality: Quality = "balanced"
    overlap: float | None = None
    chunk_seconds: float | None = None
    tta: Augmentation = field(default_factory=Augmentation)
    ensemble: str | None = None
    domain: Domain = "magnitude"
    weights: Sequence[float] | None = None
    remainder: str | None = None
    aggressiveness: float = 1.0
    aggressiveness_stem: str | None = None
    wiener: int = 0
    fill_band: bool = False
    absent: Absent | None = None
    faithful: bool = False
    original: OriginalOptions = field(default_factory=OriginalOptions)

    def completed(self) -> "SeparationOptions":
        """The same with `quality` and `ensemble` spelt out.

        Raises:
            ValueError: if there is no such quality, or a number is none or out of its range.
        """
        self._check_numbers()
        presets = {"fast": (0.0, False, 0), "balanced": (0.25, False, 0), "best": (0.5, True, 1)}
        if self.quality not in presets:
            raise ValueError(f"quality={self.quality} must be one of {', '.join(presets)}")
        overlap, mirrored, shifts = presets[self.quality]
        tta = self.tta
        return replace(
            self,
            overlap=overlap if self.overlap is None else self.overlap,
            ensemble="mean" if self.ensemble is None else self.ensemble,
            tta=replace(
                tta,
                swap=mirrored if tta.swap is None else tta.swap,
                shifts=shifts if tta.shifts is None else tta.shifts,
                contexts=ORIGINAL_CONTEXTS if tta.contexts == "original" else tta.contexts,
            ),
        )

    def _check_numbers(self) -> None:
        """Refuse what is no number; most ranges are known to the parts that use the number."""
        absent = {} if self.absent is None else vars(self.absent)
        given = {
            "overlap": self.overlap,
            "chunk_seconds": self.chunk_seconds,
            "aggressiveness": self.aggressiveness,
            "wiener": self.wiener,
            "tta.shifts": self.tta.shifts,
            **{f"weights[{n}]": weight for n, weight in enumerate(self.weights or ())},
            **{f"absent.{name}": value for name, value in absent.items() if name != "stem"},
        }
        for name, value in given.items():
            if value is None:
                continue
            if not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"{name}={value} must be a number")
        if self.chunk_seconds is not None and self.chunk_seconds <= 0:
            raise ValueError(
                f"chunk_seconds={self.chunk_seconds} must be above 0: a chunk must hold at least "
                "1 sample"
            )
        if self.absent is not None and not 0 <= self.absent.threshold <= 1:
            raise ValueError(
                f"absent.threshold={self.absent.threshold} must be between 0 and 1, as masks are"
            )
        if self.aggressiveness == 1 and self.aggressiveness_stem is not None:
            raise ValueError(
                f"aggressiveness_stem={self.aggressiveness_stem} does nothing with "
                "aggressiveness=1: give another aggressiveness, or leave it out"
            )
        contexts = self.tta.contexts
        if contexts != "original" and (
            isinstance(contexts, str)
            or not all(
                isinstance(pair, Sequence) and all(isinstance(n, int) for n in pair)
                for pair in contexts
            )
        ):
            raise ValueError(
                f"tta.contexts={contexts} must be pairs of numbers of frames, or original"
            )

    def check_faithful(self) -> None:
        """Refuse what the original programs had nothing like.

        Raises:
            ValueError: naming the options.
        """
        defaults = SeparationOptions()
        free = ("faithful", "original", "ensemble")
        differing = [
            field.name
            for field in fields(self)
            if field.name not in free and getattr(self, field.name) != getattr(defaults, field.name)
        ]
        if self.ensemble not in (None, "min_instrumental"):
            differing.append("ensemble")
        if differing:
            raise ValueError(
                f"faithful=true does what the original programs did, which had no such "
                f"{', '.join(differing)}: leave that out; original.* are their options"
            )
