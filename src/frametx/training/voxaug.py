"""Voxaug as training data: libraries of single stems, mixed anew for every sample."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.data.drawn_mixtures import DrawnMixtures
from frametx.data.files import RejectedFile
from frametx.data.left_out import left_out_line
from frametx.data.library import Library, Root, Weighting
from frametx.data.library_rules import LibraryRules
from frametx.data.npz import rejected_songs
from frametx.data.remote import is_address
from frametx.data.tracks import EvaluationSet
from frametx.data.trained_on import TrainedOn
from frametx.data.voxaug import Voxaug, VoxaugDataset
from frametx.training.curriculum import ContextCurriculum
from frametx.training.datamodule import Crops, SampleSource, StepDataModule


class VoxaugDataModule(StepDataModule):
    """Random excerpts of every stem over each other, a new mixture for every sample of every step.

    Args:
        stems: their names, in order, two at least.
        weighting: what is equally likely: seconds, files, folder or library (see `DrawRules`).
        min_loudness_db: excerpts with a lower RMS (dB relative to full scale) are not drawn; null
            draws all.
        pool: segments and uses of a `SegmentPool`; null reads an excerpt for every sample.
        remote_cache_gb: how much is kept of what is fetched from addresses.
        exclude: shell patterns of files to leave out, or lists of them that `check` wrote (.txt).
        validation: tracks to validate on; null holds out a share of the files and mixes those.
        test: evaluated when training has ended; by `train.py`, not here.
        held_out: share of the files of each library to hold out where `validation` is null.
        held_out_mixtures: how many mixtures are drawn of them.
        held_out_seconds: length of each.
        augment: how these stems are made of crops.
        libraries: a keyword for each stem, its isolated sound: a folder or an address, or several;
            {root: ..., weight: 2} makes one of several likelier (see `Library.open`). None is not
            given.
        The rest as for `StepDataModule`.

    Raises:
        ValueError: if there are not as many libraries as stems, each under the name of one.
    """

    def __init__(
        self,
        *,
        stems: Sequence[str],
        weighting: Weighting,
        min_loudness_db: float | None,
        pool: Mapping[str, int] | None,
        remote_cache_gb: float,
        exclude: Sequence[str] | str,
        validation: EvaluationSet | None,
        test: EvaluationSet | None,
        held_out: float,
        held_out_mixtures: int,
        held_out_seconds: float,
        augment: Voxaug,
        sample_rate: int,
        num_channels: int,
        seed: int,
        cache_dir: str,
        decode_once: bool,
        curriculum: ContextCurriculum,
        stft: Stft,
        num_workers: int,
        repeat_first_step: bool,
        **libraries: Root | Sequence[Root] | None,
    ) -> None:
        super().__init__(
            curriculum=curriculum,
            stft=stft,
            num_workers=num_workers,
            repeat_first_step=repeat_first_step,
            sample_rate=sample_rate,
            num_channels=num_channels,
            seed=seed,
            cache_dir=cache_dir,
            decode_once=decode_once,
        )
        self.stems = tuple(stems)
        _check_names(self.stems)
        self.roots = _libraries_of(self.stems, libraries)
        # Without an augmentation, as `evaluate` builds the data, nothing is trained on.
        if augment is not None and augment.stems != self.stems:
            raise ValueError(
                f"augment.stems ({list(augment.stems)}) must be the data's {list(self.stems)}, in "
                "this order: leave both to stems=..."
            )
        self.rules = LibraryRules(
            cache_dir=self.cache_dir,
            weighting=weighting,
            min_loudness_db=min_loudness_db,
            remote_cache_gb=remote_cache_gb,
            exclude=exclude,
            pool=pool,
        )
        self.validation = validation
        self.held_out = held_out
        self.held_out_mixtures = held_out_mixtures
        self.held_out_seconds = held_out_seconds
        self.augment = augment

    @classmethod
    def of_folder(cls, *, root: str, stems: Sequence[str], **settings: Any) -> "VoxaugDataModule":
        """A folder or an address that holds a library for each stem, under its name.

        Args:
            root: holds `root`/<stem> for every stem.
            stems: their names, in order.
            settings: all else as for the class. A library in it, under a stem's name, is taken
                instead of the one in the folder.

        Raises:
            ValueError: as the class, or if the folder lacks a stem.
        """
        _check_names(stems)
        inside = [stem for stem in stems if settings.get(stem) is None]
        _check_folder(root, inside, stems)
        found = {stem: f"{root.rstrip('/')}/{stem}" for stem in inside}
        return cls(stems=stems, **{**settings, **found})

    @property
    def fingerprint(self) -> str:
        """Of all libraries."""
        return "-".join(library.fingerprint for library in self.libraries.values())

    @cached_property
    def libraries(self) -> dict[str, Library]:
        """What is trained on: all files, or those that are not held out."""
        return {stem: parts[0] for stem, parts in self._parts.items()}

    def open_validation(self) -> EvaluationSet:
        """The tracks given, else mixtures of the files held out."""
        if self.validation is not None:
            return self.validation
        return DrawnMixtures(
            libraries={stem: parts[1] for stem, parts in self._parts.items()},
            count=self.held_out_mixtures,
            seconds=self.held_out_seconds,
            seed=self.seed,
            sample_rate=self.sample_rate,
            num_channels=self.num_channels,
        )

    @property
    def notes(self) -> list[str]:
        """What the libraries leave out."""
        lines: list[str] = []
        for stem, library in self._whole.items():
            lines += left_out_line(f"data.{stem}", len(library.files), self.rejected(stem))
        return lines + super().notes

    def rejected(self, stem: str) -> tuple[RejectedFile, ...]:
        """The files of a library that cannot be used, and songs that could not be made audio."""
        roots = self.roots[stem]
        listed = [roots] if isinstance(roots, str | Path) else list(roots)
        folders = [root for root in listed if isinstance(root, str | Path)]
        chunks = (song for folder in folders for song in rejected_songs(folder))
        return (*self._whole[stem].rejected, *chunks)

    @cached_property
    def _whole(self) -> dict[str, Library]:
        return {stem: self.rules.open(stem, roots) for stem, roots in self.roots.items()}

    @cached_property
    def _parts(self) -> dict[str, tuple[Library, Library]]:
        """By stem, what is trained on and what is held out (all of it where tracks are given)."""
        hold = self.validation is None
        return {
            stem: library.split(self.held_out) if hold else (library, library)
            for stem, library in self._whole.items()
        }

    @property
    def trained_on(self) -> TrainedOn:
        """All files but those that are held out."""
        return TrainedOn.of_libraries(self.libraries.values())

    @property
    def num_lost_files(self) -> int:
        """Of all libraries, in all processes of this machine."""
        source = cast(VoxaugDataset, self.source)
        return sum(reader.num_lost for reader in source.readers.values())

    def open_source(self) -> SampleSource:
        """The crops of all libraries."""
        return VoxaugDataset(
            libraries=self.libraries,
            seed=self.seed,
            sample_rate=self.sample_rate,
            num_channels=self.num_channels,
            voxaug=self.augment,
            decode_cache_dir=self.cache_dir / "decoded" if self.decode_once else None,
        )

    def mix(self, crops: Crops) -> Float[Tensor, "B S C L"]:
        """Transform each stem by itself, on the device."""
        return self.augment(crops)


def _check_names(stems: Sequence[str]) -> None:
    """Refuse stems whose library would have the keyword of a setting."""
    settings = {"root", *signature(VoxaugDataModule.__init__).parameters}
    for stem in stems:
        if stem in settings:
            raise ValueError(
                f"stems={list(stems)}: {stem} cannot be a stem here, because data.{stem} is "
                "something else; choose another name"
            )


def _libraries_of(
    stems: Sequence[str], libraries: Mapping[str, Root | Sequence[Root] | None]
) -> dict[str, Root | Sequence[Root]]:
    """Those that were given, in the order of the stems.

    Raises:
        ValueError: naming those that are missing, or are of no stem, and how to give them.
    """
    given = {name: roots for name, roots in libraries.items() if roots is not None}
    missing = [stem for stem in stems if stem not in given]
    superfluous = [f"data.{name}" for name in given if name not in stems]
    if not missing and not superfluous:
        return {stem: given[stem] for stem in stems}
    told = []
    if missing:
        names = ", ".join(f"data.{stem}" for stem in missing)
        plus = "" if missing[0] in libraries else "+"
        told.append(f"{names} must be given: add {plus}data.{missing[0]}=/my/{missing[0]}")
    if superfluous:
        told.append(f"{', '.join(superfluous)} must be one of the stems: take it out")
    raise ValueError(f"{'; '.join(told)} (stems={list(stems)})")


def _check_folder(root: str, wanted: Sequence[str], stems: Sequence[str]) -> None:
    """See that a folder of libraries holds what is wanted; what lies at an address is not asked.

    Raises:
        ValueError: naming what it lacks and what it has.
    """
    folder = Path(root).expanduser()
    if is_address(root):
        return
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise ValueError(
            f"data.root={root} {problem}; give a folder that holds {', '.join(wanted)}"
        )
    missing = [stem for stem in wanted if not (folder / stem).is_dir()]
    if missing:
        found = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
        raise ValueError(
            f"data.root={root} has no folder {', '.join(missing)} for stems={list(stems)}; it "
            f"holds {', '.join(found) or 'none'}: name its folders in stems=[...], or give another "
            f"place by data.{missing[0]}=..."
        )
