"""Shards: a library cut into short pieces and packed into large files by the litdata package.

Object storage gives few large files faster than many small ones. Each piece is some seconds of one
song as FLAC (16 bit, full scale is the song's own peak), and litdata reads any piece by its number,
from a folder or, by the bytes wanted, from an address. Which pieces a song consists of stands in a
list beside litdata's own index, so a sharded library is drawn from as the one that it was made of.
"""

import base64
import errno
import io
import json
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

import numpy as np
import soundfile
from jaxtyping import Float32

from frametx.data.decoded import decode
from frametx.data.files import AudioFile, FileFacts, FoundFile
from frametx.data.inspection import Inspection
from frametx.data.loudness import BLOCKS_PER_SECOND, block_samples, levels
from frametx.data.remote import SHARD_LIST, file_system, is_address

SHARDS_VERSION = 1
FULL_SCALE = 32_767
CACHE_SIZE = "25GB"
"""Of whole chunks that litdata keeps; single pieces, which is all we ask for, it does not keep.
Without a number, or with a lower one, it warns."""
INSTALL = "shards need the litdata package: pip install frametx[litdata]"


@dataclass(frozen=True)
class ShardedFile:
    """One song in shards."""

    name: str
    num_samples: int
    sample_rate: int
    num_channels: int
    peak: float
    loudness: str
    """Levels as `loudness.py` keeps them, in base 64."""
    first_piece: int
    """Number of the piece with its first sample; the others follow."""
    piece_samples: int
    """Of each piece but the last."""
    size: int
    """Bytes of all its pieces."""

    @property
    def step(self) -> float:
        """What one step of the 16-bit samples stands for."""
        return self.peak / FULL_SCALE


class ShardFolder:
    """Sharded songs in a folder or at an address, as a source of audio files."""

    def __init__(self, address: str) -> None:
        """Nothing is read yet.

        Args:
            address: folder, or address that both fsspec and litdata can read (s3://, gs://).
        """
        self.address = address if is_address(address) else str(Path(address).resolve())
        self._files: dict[str, ShardedFile] | None = None
        self._pieces: Any = None
        self._process = -1

    def scan(self) -> list[FoundFile]:
        """The songs in its list.

        Raises:
            ValueError: if the list is damaged or of another version.
        """
        return [
            FoundFile(Path(self.address, file.name), file.name, file.size, file.first_piece)
            for file in self._listed().values()
        ]

    def inspect(self, file: FileFacts) -> Inspection:
        """What was found when the shards were written."""
        known = self._listed()[file.name]
        loudness = base64.b64decode(known.loudness)
        return Inspection(
            known.num_samples, known.sample_rate, known.num_channels, known.peak, loudness
        ).checked()

    def local_path(self, file: FileFacts) -> NoReturn:
        """There is none.

        Raises:
            OSError: always.
        """
        raise OSError(errno.ENOENT, f"{file.name} lies in shards, and is no file of its own")

    def open(self, file: FileFacts, num_samples: int | None = None) -> "ShardReader":
        """Read a song by its pieces."""
        return ShardReader(self._listed()[file.name], self._piece)

    def _listed(self) -> dict[str, ShardedFile]:
        if self._files is None:
            try:
                content = json.loads(_read(f"{self.address}/{SHARD_LIST}"))
                if content["version"] != SHARDS_VERSION:
                    raise ValueError(f"version {content['version']}")
                files = [ShardedFile(**facts) for facts in content["files"]]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{self.address}/{SHARD_LIST} cannot be used ({error}): write the shards anew"
                ) from error
            self._files = {file.name: file for file in files}
        return self._files

    def _piece(self, number: int) -> bytes:
        # litdata keeps open files and threads, which a process must not share with its parent.
        if self._process != os.getpid():
            self._pieces, self._process = _open_pieces(self.address), os.getpid()
        try:
            return self._pieces[number]
        except OSError:
            raise
        except Exception as error:  # litdata raises plain Exception and RuntimeError
            raise OSError(errno.EIO, f"piece {number} cannot be read: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        """Without what belongs to this process."""
        return self.__dict__ | {"_pieces": None, "_process": -1}


class ShardReader:
    """One sharded song as an open file; gives what `soundfile.SoundFile` would."""

    def __init__(self, file: ShardedFile, piece: Callable[[int], bytes]) -> None:
        self.file = file
        self.piece = piece
        self.at = 0

    def __enter__(self) -> Self:
        """Nothing has to be opened."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        """Nor closed."""

    def seek(self, frames: int, /) -> int:
        """Go to a sample."""
        self.at = frames
        return self.at

    def read(
        self, frames: int, /, dtype: Literal["float32"], always_2d: Literal[True]
    ) -> Float32[np.ndarray, "L C"]:
        """Samples from here on: `frames`, or what is left."""
        last, parts = min(self.at + frames, self.file.num_samples), []
        while self.at < last:
            number, first = divmod(self.at, self.file.piece_samples)
            stop = min(first + last - self.at, self.file.piece_samples)
            stored = io.BytesIO(self.piece(self.file.first_piece + number))
            pcm, _ = soundfile.read(stored, start=first, stop=stop, dtype="int16", always_2d=True)
            if len(pcm) != stop - first:
                raise OSError(errno.EIO, f"{self.file.name}: piece {number} is cut short")
            parts.append(pcm * np.float32(self.file.step))
            self.at += len(pcm)
        return np.concatenate(parts) if parts else np.zeros((0, self.file.num_channels), np.float32)


def holds_shards(folder: Path) -> bool:
    """Whether `python -m frametx.shards` wrote this folder."""
    return (folder / SHARD_LIST).is_file()


def write_shards(
    files: Iterable[tuple[str, AudioFile]],
    folder: Path,
    *,
    sample_rate: int | None,
    piece_seconds: float,
    chunk_mb: int,
    num_threads: int,
) -> Iterator[ShardedFile]:
    """Cut files into pieces and pack these; gives each song when its pieces are written.

    The list of songs is written last: a folder without it is not taken for shards.

    Args:
        files: the name each shall have, and the file.
        folder: to write to; empty or not there yet.
        sample_rate: of all songs; None keeps that of each file.
        piece_seconds: length of a piece, a multiple of a tenth of a second.
        chunk_mb: size of the files that pieces are packed into.
        num_threads: songs that are decoded and encoded at a time.

    Raises:
        ValueError: for a length that pieces cannot have.
        UnreadableFileError: if a file cannot be decoded any more.
    """
    num_blocks = round(piece_seconds * BLOCKS_PER_SECOND)
    if num_blocks < 1 or chunk_mb < 1:
        raise ValueError(
            f"piece_seconds ({piece_seconds}) must be at least 0.1, "
            f"chunk_mb ({chunk_mb}) at least 1"
        )
    try:
        # An optional part of the installation.
        from litdata.streaming.cache import Cache  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModuleNotFoundError(f"{INSTALL} ({error})") from error
    folder.mkdir(parents=True, exist_ok=True)
    cache = Cache(str(folder), chunk_bytes=chunk_mb * 1_000_000, max_cache_size=CACHE_SIZE)
    written: list[ShardedFile] = []
    num_pieces = 0
    with ThreadPoolExecutor(num_threads) as pool:
        jobs = (partial(_encoded, name, file, sample_rate, num_blocks) for name, file in files)
        for song, pieces in _in_order(pool, jobs, num_ahead=2 * num_threads):
            for piece in pieces:
                cache[num_pieces] = piece
                num_pieces += 1
            written.append(
                ShardedFile(
                    **song, first_piece=num_pieces - len(pieces), size=sum(map(len, pieces))
                )
            )
            yield written[-1]
    cache.done()
    cache.merge()
    content = {"version": SHARDS_VERSION, "files": [asdict(file) for file in written]}
    (folder / SHARD_LIST).write_text(json.dumps(content))


def _encoded(
    name: str, file: AudioFile, sample_rate: int | None, num_blocks: int
) -> tuple[dict[str, Any], list[bytes]]:
    """What is known of a song, and its pieces."""
    rate, num_channels = sample_rate or file.sample_rate, min(file.num_channels, 2)
    blocks = partial(decode, file, sample_rate=rate, num_channels=num_channels)
    peak = max(float(np.abs(block).max(initial=0)) for block in blocks())
    piece_samples = num_blocks * block_samples(rate)
    pieces, loudness = [], bytearray()
    for piece in _of_length(blocks(), piece_samples):
        loudness += levels(piece.T, rate).tobytes()
        stored = io.BytesIO()
        pcm = np.rint(piece * (FULL_SCALE / peak)).astype(np.int16)
        soundfile.write(stored, pcm, rate, format="FLAC", subtype="PCM_16")
        pieces.append(stored.getvalue())
    facts = {
        "name": name,
        "num_samples": file.num_samples_at(rate),
        "sample_rate": rate,
        "num_channels": num_channels,
        "peak": peak,
        "loudness": base64.b64encode(loudness).decode(),
        "piece_samples": piece_samples,
    }
    return facts, pieces


def _of_length(
    blocks: Iterable[Float32[np.ndarray, "L C"]], length: int
) -> Iterator[Float32[np.ndarray, "L C"]]:
    """The same samples in blocks of `length`, the last one of what is left."""
    held: list[np.ndarray] = []
    for block in blocks:
        held.append(block)
        while sum(map(len, held)) >= length:
            joined = np.concatenate(held)
            yield joined[:length]
            held = [joined[length:]]
    if sum(map(len, held)):
        yield np.concatenate(held)


def _in_order(
    pool: ThreadPoolExecutor, jobs: Iterable[Callable[[], Any]], *, num_ahead: int
) -> Iterator[Any]:
    """The jobs' results in the order of the jobs, of which only a few are under way or waiting."""
    pending: deque[Future[Any]] = deque()
    for job in jobs:
        pending.append(pool.submit(job))
        if len(pending) > num_ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _open_pieces(address: str) -> Any:
    try:
        # An optional part of the installation.
        from litdata import StreamingDataset  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ModuleNotFoundError(f"{INSTALL} ({error})") from error
    logging.getLogger("litdata").setLevel(logging.WARNING)  # every process would say how it reads
    return StreamingDataset(address, max_cache_size=CACHE_SIZE)


def _read(place: str) -> str:
    if not is_address(place):
        return Path(place).read_text()
    system, path = file_system(place)
    with system.open(path, "r") as stream:
        return stream.read()
