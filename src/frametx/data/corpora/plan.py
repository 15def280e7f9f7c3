"""What a run has to do, how much it downloads, and whether the disk has room for it."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from frametx.data.corpora.build import built_version
from frametx.data.corpora.catalogue import Entry, Music, Noise, Voices, speakers_of
from frametx.data.corpora.packages import download_bytes, package_folder
from frametx.data.corpora.prompts import have_ffmpeg
from frametx.data.corpora.singers import singing_mb
from frametx.data.corpora.singing import have_world


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Packages to build with the bytes each has to download, and those that cannot be built."""

    downloads: dict[Entry, int]
    finished: tuple[Entry, ...]
    mute: tuple[Entry, ...]  # need ffmpeg, which is not here
    failures: tuple[str, ...]
    singing_mb: float = 0.0  # of synthetic singing that is missing

    @classmethod
    def make(cls, entries: Sequence[Entry], *, output: Path, cache: Path) -> "Plan":
        """Look at what is finished, what is unpacked, and what the package index says."""
        finished = [entry for entry in entries if built_version(entry.package, output) is not None]
        to_build = [entry for entry in entries if entry not in finished]
        mute = [entry for entry in to_build if _needs_ffmpeg(entry) and not have_ffmpeg()]
        can_build = [entry for entry in to_build if entry not in mute]
        unpacked = {entry for entry in can_build if package_folder(entry.package, cache).is_dir()}
        sizes, failures = download_bytes(
            [entry.package for entry in can_build if entry not in unpacked]
        )
        downloads = {
            entry: 0 if entry in unpacked else sizes[entry.package]
            for entry in can_build
            if entry in unpacked or entry.package in sizes
        }
        return cls(
            downloads=downloads,
            finished=tuple(finished),
            mute=tuple(mute),
            failures=tuple(map(str, failures.values())),
            singing_mb=sum(
                singing_mb(speaker, output)
                for speaker in speakers_of((*finished, *downloads))
                if have_world()
            ),
        )

    @property
    def disk_mb(self) -> int:
        """Room that everything to be built takes, unpacked and built."""
        return sum(entry.disk_mb for entry in self.downloads) + round(self.singing_mb)

    def table(self) -> Table:
        """One row a package, and the sums."""
        table = Table("package", "holds", "download MB", "disk MB", box=None)
        for entry, size in self.downloads.items():
            table.add_row(entry.package, _kind(entry), f"{size / 1e6:.0f}", str(entry.disk_mb))
        for entry in self.finished:
            table.add_row(entry.package, _kind(entry), "finished", "")
        for entry in self.mute:
            table.add_row(entry.package, _kind(entry), "skipped: no ffmpeg to decode it", "")
        if self.singing_mb:
            table.add_row("synthetic singing", "voices", "", f"{self.singing_mb:.0f}")
        total_mb = sum(self.downloads.values()) / 1e6
        table.add_row("total", "", f"{total_mb:.0f}", str(self.disk_mb))
        return table


def check_space(needed_mb: float, folders: Sequence[Path]) -> None:
    """Make the folders and check that each one's disk has room.

    Raises:
        ValueError: if one has too little.
    """
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        free_mb = shutil.disk_usage(folder).free / 1e6
        if free_mb < needed_mb:
            raise ValueError(
                f"{folder}: {free_mb:.0f} MB free, {needed_mb:.0f} MB needed; "
                "choose fewer packages with only=, or another disk with output= and cache="
            )


def _kind(entry: Entry) -> str:
    if isinstance(entry, Noise):
        return "noise"
    return "music" if isinstance(entry, Music) else "voices"


def _needs_ffmpeg(entry: Entry) -> bool:
    return isinstance(entry, Voices) and entry.needs_ffmpeg
