"""The excerpts of a library that belong to the samples of a run, read from disk.

With a cache folder each file is decoded and resampled once, by whoever needs it first, and stored
as 16-bit samples that are mapped into memory: an excerpt then costs a page read. Without one, only
the excerpt is decoded, each time anew.
"""

import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Float32, Int16

from frametx.data.decoded import UnreadableFileError, decode, decode_excerpt
from frametx.data.files import AudioFile
from frametx.data.library import Library
from frametx.data.sampling import Crop
from frametx.data.unusable_cache import no_cache
from frametx.printable import printable

FULL_SCALE = 32_767


class CropReader:
    """Reads any excerpt of the files of one library, at one rate and channel count."""

    def __init__(
        self, library: Library, *, sample_rate: int, num_channels: int, cache_dir: Path | str | None
    ) -> None:
        """Nothing is read before the first excerpt.

        Args:
            library: the files.
            sample_rate: rate of every excerpt; files at another are resampled.
            num_channels: 1 (channels are averaged) or 2 (mono files are doubled; of more than two
                channels the first two are taken).
            cache_dir: where decoded files are kept, 0.6 GB per hour of stereo at 44.1 kHz;
                None keeps nothing.
        """
        if num_channels not in (1, 2):
            raise ValueError(f"num_channels ({num_channels}) must be 1 (mono) or 2 (stereo)")
        self.library = library
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        # One flag a file, seen by all processes that were made from this one.
        self._lost = torch.zeros(len(library.files), dtype=torch.uint8).share_memory_()

    @property
    def num_lost(self) -> int:
        """Files that this run could not read any more, in any of its processes on this machine."""
        return int(self._lost.count_nonzero())

    def is_lost(self, file: int) -> bool:
        """Whether file number `file` could not be read."""
        return bool(self._lost[file])

    def lose(self, file: int, reason: str) -> None:
        """Leave a file out from now on; warns when the count of such files reaches 1, 2, 4, 8...

        Args:
            file: position of the file in the library.
            reason: why, with its name.
        """
        if self.is_lost(file):
            return
        self._lost[file] = 1
        count = self.num_lost
        if count & (count - 1) == 0:  # a power of two
            warnings.warn(
                f"{self.library.role}: {count} of {len(self.library.files)} files cannot be read "
                f"any more and others take their place; the last one: {reason}",
                stacklevel=4,
            )

    def read(self, file: int, start: int, num_samples: int) -> Float32[np.ndarray, "C L"]:
        """`num_samples` samples of file number `file` from sample `start` on.

        Args:
            file: position of the file in the library.
            start: first sample, at the reader's rate. What lies before the file's first sample
                or behind its last is silence.
            num_samples: length of the excerpt.

        Raises:
            UnreadableFileError: if the file has vanished or broken since it was indexed.
        """
        audio = self.library.files[file]
        first = max(start, 0)
        last = min(start + num_samples, audio.num_samples_at(self.sample_rate))
        excerpt = np.zeros((self.num_channels, num_samples), np.float32)
        if first < last:
            excerpt[:, first - start : last - start] = self._decoded(audio, first, last).T
        return excerpt

    def _decoded(self, file: AudioFile, first: int, last: int) -> Float32[np.ndarray, "L C"]:
        if self.cache_dir is None:
            return decode_excerpt(
                file, first, last, sample_rate=self.sample_rate, num_channels=self.num_channels
            )
        facts = (str(file.path), file.size, file.mtime_ns, self.sample_rate, self.num_channels)
        key = hashlib.blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()
        path = self.cache_dir / f"{key}.npy"
        try:
            pcm, step = _load(path)
        except (OSError, ValueError, KeyError):  # not stored yet, or damaged
            self._store(file, path)
            pcm, step = _load(path)
        return pcm[first:last] * np.float32(step)

    def _store(self, file: AudioFile, path: Path) -> None:
        """Write all of `file` as 16-bit samples, and beside it how large a step is.

        Full scale is the file's own peak, so that quiet files keep their precision. Resampling can
        overshoot the peak: then all is done again with more room, instead of clipping.
        """
        full_scale, stored = file.peak, False
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            while not stored:
                try:
                    self._write(file, path, step=full_scale / FULL_SCALE)
                    stored = True
                except OverflowError:
                    full_scale *= 1.25
        except OSError as error:
            decoded = no_cache(path, error)
            way_out = "or keep no decoded files (data.decode_once=false)"
            raise OSError(error.errno, f"{decoded.strerror}, {way_out}", str(path)) from error

    def _write(self, file: AudioFile, path: Path, *, step: float) -> None:
        length = file.num_samples_at(self.sample_rate)
        header = {"descr": "<i2", "fortran_order": False, "shape": (length, self.num_channels)}
        blocks = decode(file, sample_rate=self.sample_rate, num_channels=self.num_channels)
        with _written_beside(path) as partial:
            # Not a memory map: on a full disk that is a bus error, and this an OSError.
            with partial.open("wb") as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for block in blocks:
                    pcm = np.rint(block / step)
                    if np.abs(pcm).max(initial=0) > FULL_SCALE:
                        raise OverflowError
                    stream.write(pcm.astype("<i2").tobytes())
            # The note first: who sees the samples then finds it.
            with _written_beside(path.with_suffix(".json")) as partial_note:
                partial_note.write_text(json.dumps({"source": str(file.path), "step": step}))


class Crops:
    """Which excerpt of a library each sample of a run hears, read from disk."""

    def __init__(self, reader: CropReader, *, seed: int, stream: str) -> None:
        """`stream` names the part the library plays, so that two parts draw differently."""
        library = reader.library
        self.reader = reader
        self.sampler = library.sampler(sample_rate=reader.sample_rate, seed=seed, stream=stream)
        self.pool = library.rules.pool
        self._recent = RecentSegments(0 if self.pool is None else self.pool.segments)

    def read(self, sample: int, num_samples: int) -> Float32[np.ndarray, "C L"]:
        """The excerpt of sample number `sample`.

        A file that has vanished or broken during the run is replaced by the next one that can be
        read, with a warning when their count reaches 1, 2, 4, 8...

        Raises:
            ValueError: when no file is left.
        """
        if self.pool is None:
            return self._read(sample, num_samples)
        segment = self._segment(sample)
        return self._recent.get((segment, num_samples), lambda: self._read(segment, num_samples))

    def describe(self, sample: int, num_samples: int) -> str:
        """File and offset of sample number `sample`, for messages."""
        crop = self._crop(sample, num_samples)
        if crop is None:
            return "no readable file"
        name = printable(self.reader.library.files[crop.file].name)
        return f"{name} at {crop.start / self.reader.sample_rate:.3f} s"

    def file(self, sample: int, num_samples: int) -> AudioFile | None:
        """The file that sample number `sample` is an excerpt of; None if none can be read."""
        crop = self._crop(sample, num_samples)
        return None if crop is None else self.reader.library.files[crop.file]

    def _crop(self, sample: int, num_samples: int) -> Crop | None:
        for skip in range(len(self.reader.library.files)):
            crop = self.sampler.draw(self._segment(sample), num_samples, skip=skip)
            if not self.reader.is_lost(crop.file):
                return crop
        return None

    def _segment(self, sample: int) -> int:
        if self.pool is None:
            return sample
        return self.pool.segment(self.sampler.seed, sample, self.sampler.stream)

    def _read(self, segment: int, num_samples: int) -> Float32[np.ndarray, "C L"]:
        files = self.reader.library.files
        reason = "they were lost in another process"
        for skip in range(len(files)):
            crop = self.sampler.draw(segment, num_samples, skip=skip)
            if self.reader.is_lost(crop.file):
                continue
            try:
                return self.reader.read(crop.file, crop.start, num_samples)
            except UnreadableFileError as error:
                reason = str(error)
                self.reader.lose(crop.file, reason)
        role = self.reader.library.role
        raise ValueError(f"{role}: none of the {len(files)} files can be read any more: {reason}")


class RecentSegments:
    """Excerpts read lately, in 16 bit, the one unused for longest going first.

    What is given has always been through 16 bit (full scale is the excerpt's own peak), so that a
    sample does not depend on whether its excerpt was still held.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.num_read = 0
        """Excerpts that had to be read."""
        self._held: OrderedDict[tuple[int, int], tuple[Int16[np.ndarray, "C L"], float]] = (
            OrderedDict()
        )

    def get(
        self, key: tuple[int, int], read: Callable[[], Float32[np.ndarray, "C L"]]
    ) -> Float32[np.ndarray, "C L"]:
        """The excerpt `key` (its number and length), by `read` if it is not held."""
        if key in self._held:
            self._held.move_to_end(key)
        else:
            excerpt = read()
            step = max(float(np.abs(excerpt).max(initial=0)), 1e-30) / FULL_SCALE
            self._held[key] = np.rint(excerpt / np.float32(step)).astype(np.int16), step
            self.num_read += 1
            if len(self._held) > self.capacity:
                self._held.popitem(last=False)
        pcm, step = self._held[key]
        return pcm * np.float32(step)


def _load(path: Path) -> tuple[Int16[np.ndarray, "L C"], float]:
    step = json.loads(path.with_suffix(".json").read_text())["step"]
    return np.load(path, mmap_mode="r"), step


@contextmanager
def _written_beside(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` at the end: no reader ever sees half a file."""
    partial = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def drawn_samples(*, count: int, seconds: float, sample_rate: int) -> int:
    """How many samples each excerpt of a drawn set has, at least one.

    Raises:
        ValueError: if the set would be empty.
    """
    if count < 1 or seconds <= 0:
        raise ValueError(f"count ({count}) and seconds ({seconds}) must be more than 0")
    return max(1, round(seconds * sample_rate))
