"""What is in the files of a library, measured in one pass over each, in bounded memory.

What was measured is kept by path, size and modification time, so that a second look costs nothing.
What counts as a fault is decided elsewhere (`findings.py`): facts do not change with an opinion.
"""

import contextlib
import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from frametx.data.fingerprint import FRAMES_PER_SECOND, Fingerprint, FingerprintBuilder
from frametx.data.index import AudioFile, Progress
from frametx.data.stored_text import to_sql
from frametx.data.unusable_cache import no_cache

VERSION = 1
"""Of the stored facts: raised when they mean something else, so that older ones are dropped."""
BLOCK_SECONDS = 8
BAND_HZ = 100.0
LOWEST_DB = -200.0
FULL_SCALE = 0.9995
SHORTEST_RUN = 3
SILENT_SECOND_DB = -50.0
END_SECONDS = 0.05
CLIFF_FROM_HZ = 3000.0
CLIFF_UP_TO = 0.92
"""Of the Nyquist frequency: closer to it, every converter's own filter is a cliff."""
SAVE_EVERY_SECONDS = 20.0


@dataclass(frozen=True)
class Facts:
    """What one file holds; levels in dB re full scale unless said otherwise."""

    num_samples: int
    sample_rate: int
    num_channels: int
    peak: float
    rms_db: float
    loudest_second_db: float
    silent_share: float
    """Of the seconds, those below `SILENT_SECOND_DB`."""
    clipped_share: float
    """Of the samples, those that stand at full scale three or more in a row."""
    side_db: float
    """Energy of left minus right, re all; `LOWEST_DB` for equal channels, 0 for one channel."""
    end_db: float
    """Level of the last 50 ms, re that of the whole file."""
    highest_hz: float
    """Where the cliff is if it is steep, else the highest frequency within 80 dB of the loudest."""
    cliff_db: float
    """The steepest fall of the spectrum from which nothing rises again."""
    content: str
    """Digest of all samples; equal for equal audio in any lossless format."""
    spectrum_db: Float32[np.ndarray, " bands"] = field(repr=False, compare=False)
    """Long-term level in bands of `BAND_HZ`."""
    fingerprint: Fingerprint = field(repr=False, compare=False)

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.num_samples / self.sample_rate


def examine(file: AudioFile) -> Facts:
    """Decode a file once, in blocks, and measure all of `Facts`.

    Raises:
        ValueError: with one line that says why it cannot be decoded, without its path.
    """
    meter = Meter(sample_rate=file.sample_rate, num_channels=file.num_channels)
    for block in blocks_of(file, block_samples=BLOCK_SECONDS * file.sample_rate):
        meter.push(block)
    return meter.finish()


def blocks_of(file: AudioFile, *, block_samples: int) -> Iterator[Float[Tensor, "C L"]]:
    """All samples of a library's file, wherever it lies, in blocks; the last may be shorter.

    Raises:
        ValueError: with one line that says why it cannot be decoded, without its path.
    """
    at = 0
    try:
        with file.open() as reader:
            while len(samples := reader.read(block_samples, dtype="float32", always_2d=True)):
                if not np.isfinite(samples).all():
                    seconds = at / file.sample_rate
                    raise ValueError(f"a sample after {seconds:.0f} s is nan or infinite")
                at += len(samples)
                yield torch.from_numpy(samples).T.contiguous()
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(str(error).removeprefix(f"{file.path}: ")) from error
    if at == 0:
        raise ValueError("holds no samples")


class Meter:
    """Measures a stream of blocks.

    Args:
        sample_rate: Hz.
        num_channels: C of the blocks.
    """

    def __init__(self, *, sample_rate: int, num_channels: int) -> None:
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.hop_length = max(1, round(sample_rate / FRAMES_PER_SECOND))
        self._window = torch.hann_window(2 * self.hop_length)
        self._pending = torch.zeros(min(num_channels, 2), 0)
        self._power = torch.zeros(self.hop_length + 1, dtype=torch.float64)
        self._num_frames = 0
        self._fingerprint = FingerprintBuilder(bin_hz=sample_rate / (2 * self.hop_length))
        self._digest = hashlib.blake2b(f"{sample_rate} {num_channels}".encode(), digest_size=16)
        self._num_samples = 0
        self._peak = self._energy = self._mid = self._side = 0.0
        self._seconds: list[float] = []
        self._num_clipped = 0
        self._full = torch.zeros(num_channels, SHORTEST_RUN - 1, dtype=torch.bool)
        self._in_run = torch.zeros(num_channels, 1, dtype=torch.bool)
        self._end = torch.zeros(num_channels, 0)

    def push(self, block: Float[Tensor, "C L"]) -> None:
        """Measure the next samples."""
        self._num_samples += block.shape[1]
        # Adding zero makes -0.0 the 0.0 that another format would decode to.
        self._digest.update((block.T.contiguous() + 0.0).numpy().tobytes())
        square = block.double().square()
        self._energy += float(square.sum())
        peak = float(block.abs().max())
        self._peak = max(self._peak, peak)
        self._seconds += [
            float(part.mean()) for part in square.split(self.sample_rate, dim=1) if part.numel()
        ]
        if self.num_channels > 1:
            left, right = block[0].double(), block[1].double()
            self._mid += float((left + right).square().sum())
            self._side += float((left - right).square().sum())
        self._count_clipped(block, peak)
        end = max(1, round(END_SECONDS * self.sample_rate))
        self._end = torch.cat([self._end, block[:, -end:]], dim=1)[:, -end:]
        self._pending = torch.cat([self._pending, block[:2]], dim=1)
        self._transform()

    def finish(self) -> Facts:
        """All facts; nothing may be pushed after it."""
        if self._num_frames == 0:
            lacking = 2 * self.hop_length - self._pending.shape[1]
            self._pending = torch.nn.functional.pad(self._pending, (0, max(0, lacking)))
            self._transform()
        spectrum_db = self._spectrum_db()
        cliff_hz, cliff_db = steepest_fall(spectrum_db, nyquist_hz=self.sample_rate / 2)
        if cliff_db < STEEP_DB:
            loud = np.flatnonzero(spectrum_db > spectrum_db.max() - 80)
            cliff_hz = min(float(loud[-1] + 1) * BAND_HZ, self.sample_rate / 2)
        count = self._num_samples * self.num_channels
        rms_db = decibels(self._energy / count)
        seconds_db = np.array([decibels(mean) for mean in self._seconds])
        return Facts(
            num_samples=self._num_samples,
            sample_rate=self.sample_rate,
            num_channels=self.num_channels,
            peak=self._peak,
            rms_db=rms_db,
            loudest_second_db=float(seconds_db.max()),
            silent_share=float((seconds_db < SILENT_SECOND_DB).mean()),
            clipped_share=self._num_clipped / count,
            side_db=decibels(self._side / max(self._mid + self._side, 1e-300))
            if self.num_channels > 1
            else 0.0,
            end_db=decibels(float(self._end.double().square().mean())) - rms_db,
            highest_hz=cliff_hz,
            cliff_db=cliff_db,
            content=self._digest.hexdigest(),
            spectrum_db=spectrum_db,
            fingerprint=self._fingerprint.finish(),
        )

    def _count_clipped(self, block: Float[Tensor, "C L"], peak: float) -> None:
        """A run of n >= 3 has n - 2 places where three in a row are full, and one beginning."""
        if peak < FULL_SCALE and block.shape[1] >= SHORTEST_RUN:  # nearly every block
            self._full = torch.zeros_like(self._full)
            self._in_run = torch.zeros_like(self._in_run)
            return
        full = torch.cat([self._full, block.abs() >= FULL_SCALE], dim=1)
        self._full = full[:, -(SHORTEST_RUN - 1) :]
        three = full.unfold(1, SHORTEST_RUN, 1).all(dim=2)
        begins = three & ~torch.cat([self._in_run, three[:, :-1]], dim=1)
        self._in_run = three[:, -1:]
        self._num_clipped += int(three.sum()) + (SHORTEST_RUN - 1) * int(begins.sum())

    def _transform(self) -> None:
        n_fft = 2 * self.hop_length
        num_frames = (self._pending.shape[1] - n_fft) // self.hop_length + 1
        if num_frames < 1:
            return
        frames = self._pending.unfold(1, n_fft, self.hop_length)
        spectra = torch.fft.rfft(frames * self._window)
        power = (spectra.real.square() + spectra.imag.square()).mean(dim=0)
        self._power += power.double().sum(dim=0)
        self._num_frames += num_frames
        self._fingerprint.push(power.T)
        self._pending = self._pending[:, num_frames * self.hop_length :]

    def _spectrum_db(self) -> Float32[np.ndarray, " bands"]:
        """Mean level of a bin in each band; a sine of full scale has 0 dB in its own bin."""
        power = (self._power / self._num_frames).numpy() / (self.hop_length / 2) ** 2
        bin_hz = self.sample_rate / (2 * self.hop_length)
        band = (np.arange(len(power)) * bin_hz // BAND_HZ).astype(int)
        sums, counts = np.bincount(band, power), np.bincount(band)
        # Very low rates have bands without a bin; they take the level of the one below.
        mean = sums / np.maximum(counts, 1)
        return np.array([decibels(value) for value in mean], np.float32)


STEEP_DB = 25.0
"""No voice or instrument falls so far within 400 Hz; a converter's or an encoder's filter does."""


def steepest_fall(
    spectrum_db: Float32[np.ndarray, " bands"], *, nyquist_hz: float
) -> tuple[float, float]:
    """Where the level falls most within 400 Hz, for good, and by how many dB.

    The level of 500 Hz below is compared with the highest band that lies 400 Hz and more above.
    """
    highest_above = np.maximum.accumulate(spectrum_db[::-1])[::-1]
    best = (nyquist_hz, 0.0)
    first, last = int(CLIFF_FROM_HZ / BAND_HZ), int(CLIFF_UP_TO * nyquist_hz / BAND_HZ)
    for band in range(first, min(last, len(spectrum_db) - 5) + 1):
        fall = float(spectrum_db[band - 5 : band].mean() - highest_above[band + 4])
        if fall > best[1]:
            best = (band * BAND_HZ, fall)
    return best


def decibels(power: float) -> float:
    """Power as a level, never below `LOWEST_DB`."""
    return max(10 * math.log10(power), LOWEST_DB) if power > 0 else LOWEST_DB


class FactsCache:
    """Facts of files between runs, in one SQLite file; a damaged one is thrown away.

    Args:
        path: of the file; its folder is made.

    Raises:
        OSError: if it can be neither opened nor made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._database = self._opened()
            except sqlite3.DatabaseError:  # no database, or half of one: measured anew
                path.unlink(missing_ok=True)
                self._database = self._opened()
        except OSError as error:
            raise no_cache(path, error) from error
        except sqlite3.Error as error:
            raise no_cache(path, OSError(0, str(error))) from error

    def __enter__(self) -> "FactsCache":
        """The cache itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep what was learnt, also when the run was stopped."""
        self.commit()
        self._database.close()

    def get(self, file: AudioFile) -> Facts | None:
        """What is known about a file that has not changed since."""
        row = self._database.execute(
            "SELECT facts, spectrum, words, frames FROM facts"
            " WHERE path = ? AND size = ? AND mtime_ns = ? AND version = ?",
            (to_sql(str(file.path)), file.size, file.mtime_ns, VERSION),
        ).fetchone()
        if row is None:
            return None
        return Facts(
            **json.loads(row[0]),
            spectrum_db=np.frombuffer(row[1], np.float32),
            fingerprint=Fingerprint(
                np.frombuffer(row[2], np.uint32), np.frombuffer(row[3], np.int32)
            ),
        )

    def put(self, file: AudioFile, facts: Facts) -> None:
        """Remember."""
        plain = asdict(facts)
        for name in ("spectrum_db", "fingerprint"):
            del plain[name]
        arrays = (facts.spectrum_db, facts.fingerprint.words, facts.fingerprint.frames)
        with self._writing():
            self._database.execute(
                "INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(to_sql(str(file.path)), file.size, file.mtime_ns, VERSION, json.dumps(plain)),
                    *(array.tobytes() for array in arrays),
                ),
            )

    def get_note(self, file: AudioFile, key: str) -> str | None:
        """What another program remembered about an unchanged file, e.g. a separator's verdict."""
        row = self._database.execute(
            "SELECT note FROM notes WHERE path = ? AND size = ? AND mtime_ns = ? AND key = ?",
            (to_sql(str(file.path)), file.size, file.mtime_ns, key),
        ).fetchone()
        return None if row is None else row[0]

    def put_note(self, file: AudioFile, key: str, note: str) -> None:
        """Remember a verdict under a key that says whose it is."""
        with self._writing():
            self._database.execute(
                "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?, ?)",
                (to_sql(str(file.path)), file.size, file.mtime_ns, key, note),
            )

    def commit(self) -> None:
        """Write to disk."""
        with self._writing():
            self._database.commit()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:  # a lock, a full disk, or one that is read only
            raise no_cache(self.path, OSError(0, str(error))) from error

    def _opened(self) -> sqlite3.Connection:
        # Two checks at once wait for each other's few milliseconds of writing.
        database = sqlite3.connect(self.path, timeout=60)
        try:
            database.execute(
                "CREATE TABLE IF NOT EXISTS facts (path TEXT PRIMARY KEY, size INTEGER,"
                " mtime_ns INTEGER, version INTEGER, facts TEXT, spectrum BLOB, words BLOB,"
                " frames BLOB)"
            )
            database.execute(
                "CREATE TABLE IF NOT EXISTS notes (path TEXT, size INTEGER, mtime_ns INTEGER,"
                " key TEXT, note TEXT, PRIMARY KEY (path, key))"
            )
            database.execute("SELECT count(*), max(words) FROM facts").fetchone()
        except sqlite3.DatabaseError:
            database.close()
            raise
        return database


def survey(
    files: Sequence[AudioFile],
    *,
    cache: FactsCache,
    threads: int | None = None,
    progress: Progress | None = None,
) -> dict[Path, Facts | str]:
    """The facts of every file, or the reason why there are none.

    Args:
        files: of any libraries; the same file twice is measured once.
        cache: what is known already, and is kept for the next time.
        threads: files measured at once; None is the number of processors, at most 8.
        progress: called with (files measured, files to measure).
    """
    known: dict[Path, Facts | str] = {}
    missing: dict[Path, AudioFile] = {}
    for file in files:
        facts = cache.get(file)
        if facts is None:
            missing[file.path] = file
        else:
            known[file.path] = facts
    with _pool(threads) as pool:
        saved_at = time.monotonic()
        pending = {pool.submit(_examined, file): file for file in missing.values()}
        for done, future in enumerate(as_completed(pending), start=1):
            file, facts = pending.pop(future), future.result()
            known[file.path] = facts
            if isinstance(facts, Facts):
                cache.put(file, facts)
            if time.monotonic() - saved_at > SAVE_EVERY_SECONDS:
                cache.commit()
                saved_at = time.monotonic()
            if progress is not None:
                progress(done, len(missing))
    cache.commit()
    return known


def _examined(file: AudioFile) -> Facts | str:
    try:
        return examine(file)
    except ValueError as error:
        return str(error)


@contextlib.contextmanager
def _pool(threads: int | None) -> Iterator[ThreadPoolExecutor]:
    """Threads, because decoding, hashing and transforming all leave Python's lock alone."""
    pool = ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
