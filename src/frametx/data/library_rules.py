"""How a data module opens its libraries: one set of rules for all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from frametx.data.library import Library, Root, Weighting
from frametx.data.progress import progress_bar
from frametx.data.sampling import SegmentPool


@dataclass(frozen=True)
class LibraryRules:
    """What `Library.open` is told beside the folders."""

    cache_dir: Path
    """Where indices are kept, and files fetched from addresses."""
    weighting: Weighting
    """What is equally likely: seconds, files, folder or library (see `DrawRules`)."""
    min_loudness_db: float | None
    """Excerpts with a lower RMS (dB relative to full scale) are not drawn; None draws all."""
    remote_cache_gb: float
    """How much is kept of what is fetched from addresses."""
    exclude: Sequence[str] | str
    """Shell patterns of files to leave out, or lists of them that `check` wrote (.txt)."""
    pool: Mapping[str, int] | None = None
    """Segments and uses of a `SegmentPool`; None reads an excerpt for every sample."""

    def open(self, role: str, roots: Root | Sequence[Root]) -> Library:
        """All files of one role; shows how far checking them is.

        Raises:
            ValueError: if a folder is missing, or no file in it can be used.
        """
        with progress_bar(f"checking {role}") as progress:
            return Library.open(
                roots,
                role=role,
                cache_dir=self.cache_dir,
                exclude=self.exclude if isinstance(self.exclude, str) else tuple(self.exclude),
                weighting=self.weighting,
                min_loudness_db=self.min_loudness_db,
                pool=None if self.pool is None else SegmentPool(**self.pool),
                remote_cache_gb=self.remote_cache_gb,
                progress=progress,
            )
