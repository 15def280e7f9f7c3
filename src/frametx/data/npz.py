"""The original programs' libraries of spectrogram chunks, as folders of audio.

They hold songs as files `{song}_p{j}.npz` of 2048 frames each:

    X   complex64, 2 channels, F bins, T frames: the spectrogram, or the mixture's if there is a Y
    Y   the instrumental's, in pairs only; the vocals are then X - Y
    c   the level that the original normalised by; not needed here

in a folder whose name says how they were made, e.g. `cs2048_sr44100_hl1024_nf2048_of0_VOCALS`:
frames of a chunk, sample rate, hop, window, and how many frames at either end of a chunk belong to
its neighbours. Chunks of silent vocals were not kept; they come back as silence, in their place.

Each song is turned into one wav file in the cache, by the inverse of librosa's transform, and is
an ordinary file of a library from then on: crops of any length, the index, `check`. A song whose
chunks have changed is made again. Source: specs/voxaug.md section 2.
"""

import hashlib
import json
import re
import sys
import warnings
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from jaxtyping import Complex, Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from frametx.audio.io import AudioWriter
from frametx.data.index import RejectedFile
from frametx.data.stored_text import name_bytes
from frametx.data.tracks import Tracks
from frametx.data.unusable_cache import no_cache

CHUNK_NAME = re.compile(r"(?P<song>.+)_p(?P<number>\d+)(?P<suffix>\.\d+)?\.npz")
FOLDER_NAME = re.compile(
    r"cs(?P<chunk_frames>\d+)_sr(?P<sample_rate>\d+)_hl(?P<hop_length>\d+)_nf(?P<n_fft>\d+)"
    r"_of(?P<offset>\d+)"
)
FRAMES_AT_ONCE = 256
"""Of a chunk, that are inverted together: bounds what is in memory beside the chunk."""
MANIFEST = ".frametx-npz.json"
VERSION = 1
OF_A_PAIR = " of a pair"


@dataclass(frozen=True)
class ChunkFormat:
    """How a library of chunks was made.

    Args:
        sample_rate: Hz.
        n_fft: samples of a window, a Hann window.
        hop_length: samples.
        offset: frames at each end of a chunk that its neighbours hold too.
    """

    sample_rate: int
    n_fft: int
    hop_length: int
    offset: int


@dataclass(frozen=True)
class ChunkSong:
    """The chunks of one song by their numbers; there may be gaps."""

    name: str
    """Path below the root, without number and suffix."""
    chunks: tuple[tuple[int, Path], ...]
    format: ChunkFormat

    @property
    def state(self) -> str:
        """Changes when a chunk does."""
        facts = [
            (number, path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for number, path in self.chunks
        ]
        told = json.dumps([VERSION, facts, vars(self.format)])
        return hashlib.blake2b(told.encode(), digest_size=12).hexdigest()


def decoded_library(
    roots: Sequence[Path | str] | Path | str,
    *,
    role: str,
    cache_dir: Path | str,
    sample_rate: int | None = None,
    hop_length: int | None = None,
    offset: int | None = None,
) -> Path:
    """A folder of wav files, one for each song of one or more folders of chunks.

    It holds 1.3 GB for each hour at 44.1 kHz in stereo, half of what the chunks take. Songs that
    cannot be read are left out with a warning, and stand in `rejected_songs`.

    Args:
        roots: folders of chunks, searched to any depth.
        role: vocals or instrumental: which of a pair is wanted.
        cache_dir: where the folder is made.
        sample_rate: Hz; None reads it from the folder's name, else it is 44100.
        hop_length: samples; None reads it from the folder's name, else it is half of `n_fft`.
        offset: frames; None reads it from the folder's name, else it is 0.

    Raises:
        ValueError: if a folder is missing, holds no chunks, or none that can be read.
    """
    if role not in ("vocals", "instrumental"):
        raise ValueError(f"role={role} must be vocals or instrumental: chunks hold nothing else")
    songs = find_songs(roots, sample_rate=sample_rate, hop_length=hop_length, offset=offset)
    folder = Path(cache_dir).expanduser() / "npz" / _key(roots, role)
    parts = {song.name: {f"{song.name}.wav": role} for song in songs}
    _decode_all(songs, parts, folder)
    return folder


def decoded_tracks(
    roots: Sequence[Path | str] | Path | str,
    *,
    stems: Sequence[str],
    cache_dir: Path | str,
    sample_rate: int | None = None,
    hop_length: int | None = None,
    offset: int | None = None,
) -> Tracks:
    """Tracks to validate on, of a library of pairs: X the mixture, Y the instrumental.

    Args:
        roots: as for `decoded_library`, e.g. the original's `..._VALIDATION`.
        stems: vocals and instrumental, in the order wanted.
        cache_dir: where they are made.
        sample_rate: as for `decoded_library`.
        hop_length: as for `decoded_library`.
        offset: as for `decoded_library`.

    Raises:
        ValueError: as `decoded_library`, or if a file is no pair, or other stems are asked for.
    """
    if set(stems) != {"vocals", "instrumental"}:
        raise ValueError(f"stems={list(stems)} must be vocals and instrumental: pairs hold no more")
    songs = find_songs(roots, sample_rate=sample_rate, hop_length=hop_length, offset=offset)
    folder = Path(cache_dir).expanduser() / "npz" / _key(roots, "pairs")
    parts = {
        song.name: {f"{song.name}/{stem}.wav": f"{stem}{OF_A_PAIR}" for stem in stems}
        for song in songs
    }
    _decode_all(songs, parts, folder)
    return Tracks(folder, stems=stems)


def rejected_songs(folder: Path | str) -> tuple[RejectedFile, ...]:
    """The songs that `decoded_library` left out of the folder it made; none of any other folder."""
    stored = _manifest(Path(folder))
    return tuple(
        RejectedFile(Path(entry["path"]), name, entry["reason"])
        for name, entry in stored.items()
        if "reason" in entry
    )


def find_songs(
    roots: Sequence[Path | str] | Path | str,
    *,
    sample_rate: int | None = None,
    hop_length: int | None = None,
    offset: int | None = None,
) -> list[ChunkSong]:
    """The songs below some folders, sorted by name.

    Of songs of one name in several folders, all are kept: the later ones get their folder's number.

    Raises:
        ValueError: if a folder is missing or there is no chunk.
    """
    folders = [Path(root).expanduser() for root in _as_list(roots)]
    if not folders:
        raise ValueError("no folder of npz chunks was given: name at least one")
    songs: dict[str, ChunkSong] = {}
    for number_of_root, root in enumerate(folders, start=1):
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise ValueError(f"{root} {problem}; give a folder of the originals' npz chunks")
        chunks: dict[str, list[tuple[int, Path]]] = defaultdict(list)
        for path in sorted(root.rglob("*.npz")):
            below = path.relative_to(root)
            named = CHUNK_NAME.fullmatch(path.name)
            song = named["song"] + (named["suffix"] or "") if named else path.stem
            number = int(named["number"]) if named else 0
            chunks[(below.parent / song).as_posix()].append((number, path))
        for name, found in chunks.items():
            taken = name if name not in songs else f"{name} ({number_of_root})"
            told = _format_of(found[0][1].parent, sample_rate, hop_length, offset)
            songs[taken] = ChunkSong(taken, tuple(sorted(found)), told)
    if not songs:
        where = ", ".join(str(folder) for folder in folders)
        raise ValueError(f"no .npz file in {where}; give a folder of the originals' chunks")
    return [songs[name] for name in sorted(songs)]


def song_blocks(song: ChunkSong, part: str) -> Iterator[Float[Tensor, "C L"]]:
    """The waveform of one part of a song, in blocks; the silence behind its end is left out.

    Args:
        song: the chunks.
        part: vocals or instrumental; with ` of a pair`, a chunk without Y is an error.

    Raises:
        ValueError: with the path and the reason, if a chunk is bad.
    """
    inverter: StreamInverter | None = None
    next_number, roi = 0, 0
    for number, path in song.chunks:
        spectrogram = read_chunk(path, part)
        num_channels, num_bins, num_frames = spectrogram.shape
        n_fft = song.format.n_fft or 2 * (num_bins - 1)
        hop_length = song.format.hop_length or n_fft // 2
        if num_bins != n_fft // 2 + 1:
            raise ValueError(
                f"{path}: has {num_bins} bins, and a window of {n_fft} samples gives "
                f"{n_fft // 2 + 1}; its folder's name does not fit"
            )
        if num_frames <= 2 * song.format.offset:
            raise ValueError(
                f"{path}: has {num_frames} frames, of which {song.format.offset} at each end "
                "belong to its neighbours; offset must be smaller"
            )
        if inverter is None:
            inverter = StreamInverter(n_fft=n_fft, hop_length=hop_length, num_channels=num_channels)
            roi = num_frames - 2 * song.format.offset
        if num_channels != inverter.num_channels or num_frames - 2 * song.format.offset != roi:
            raise ValueError(f"{path}: has another shape than the song's other chunks")
        inverter.push_silence((number - next_number) * roi)
        start = song.format.offset
        for frames in spectrogram[:, :, start : start + roi].split(FRAMES_AT_ONCE, dim=2):
            yield from inverter.push(frames)
        next_number = number + 1
    assert inverter is not None, "a song has at least one chunk"
    yield inverter.finish()


def read_chunk(path: Path, part: str) -> Complex[Tensor, "C F T"]:
    """One part of the spectrogram that a file holds.

    Raises:
        ValueError: with the path and the reason, if it is damaged or no such file.
    """
    try:
        with path.open("rb") as file:  # numpy would leave a damaged one open
            stored = np.load(file, allow_pickle=False)
            if not isinstance(stored, np.lib.npyio.NpzFile):
                raise ValueError("is a single array and no npz file")
            spectrogram = _part_of(stored, part)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ValueError(f"{path}: is damaged or no npz file: {error}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {_without_pickles(error)}") from error
    if spectrogram.ndim != 3 or not np.iscomplexobj(spectrogram) or spectrogram.shape[1] < 3:
        raise ValueError(
            f"{path}: its spectrogram is {spectrogram.dtype} of shape {spectrogram.shape}; "
            "complex numbers of channels, bins and frames are wanted"
        )
    if not np.isfinite(spectrogram).all():
        raise ValueError(f"{path}: holds NaN or infinity")
    return torch.from_numpy(np.ascontiguousarray(spectrogram, np.complex64))


def _part_of(stored: Mapping[str, np.ndarray], part: str) -> np.ndarray:
    if "X" not in stored:
        held = ", ".join(sorted(stored)) or "nothing"
        raise ValueError(f"holds {held} and no X: no chunk of the originals")
    if "Y" not in stored:
        if part.endswith(OF_A_PAIR):
            raise ValueError("holds no Y: no pair of a mixture and its instrumental")
        return stored["X"]
    if not part.startswith("vocals"):
        return stored["Y"]
    mixture, music = stored["X"], stored["Y"]
    if mixture.shape != music.shape:
        raise ValueError(f"its X has shape {mixture.shape} and its Y {music.shape}")
    return mixture - music


class StreamInverter:
    """Turns the frames of one centred spectrogram, in pieces, into its waveform.

    Frames are windowed again, added up and divided by the sum of the squared windows. What lies
    behind the last frame that is not zero is left out: chunks are filled up with such frames.

    Args:
        n_fft: samples of a window, a periodic Hann window.
        hop_length: samples, at most half of `n_fft`.
        num_channels: C.
    """

    def __init__(self, *, n_fft: int, hop_length: int, num_channels: int) -> None:
        if not 1 <= hop_length <= n_fft // 2:
            raise ValueError(
                f"hop_length ({hop_length}) must be between 1 and half of n_fft ({n_fft}): "
                "frames that overlap less cannot be turned back"
            )
        self.num_channels = num_channels
        self._n_fft = n_fft
        self._hop_length = hop_length
        self._window = torch.hann_window(n_fft)
        self._sum = torch.zeros(num_channels, n_fft - hop_length)
        self._weight = torch.zeros(n_fft - hop_length)
        self._skip = n_fft // 2  # the first frame is centred on the first sample
        self._silence_owed = 0
        self._has_begun = False

    def push(self, frames: Complex[Tensor, "C F T"]) -> Iterator[Float[Tensor, "C L"]]:
        """The samples that no later frame changes; silence waits until sound follows it."""
        heard = frames.abs().amax(dim=(0, 1)).nonzero()
        if not len(heard):
            self._silence_owed += frames.shape[2]
            return
        num_heard = int(heard[-1]) + 1
        while self._silence_owed:
            now = min(self._silence_owed, FRAMES_AT_ONCE)
            yield self._add(torch.zeros(*frames.shape[:2], now, dtype=frames.dtype))
            self._silence_owed -= now
        yield self._add(frames[:, :, :num_heard])
        self._silence_owed = frames.shape[2] - num_heard

    def push_silence(self, num_frames: int) -> None:
        """As many frames of zeros."""
        self._silence_owed += num_frames

    def finish(self) -> Float[Tensor, "C L"]:
        """What the last frame still reaches, up to its centre."""
        if not self._has_begun:
            return self._sum[:, :0]
        # A spectrogram of T frames is one of (T - 1) hops: behind the last centre was padding.
        left = max(0, self._n_fft // 2 - self._hop_length)
        return self._taken(left)

    def _add(self, frames: Complex[Tensor, "C F T"]) -> Float[Tensor, "C L"]:
        self._has_begun = True
        waves = torch.fft.irfft(frames, n=self._n_fft, dim=1) * self._window[:, None]
        num_frames = frames.shape[2]
        length = (num_frames - 1) * self._hop_length + self._n_fft
        fold = {
            "output_size": (1, length),
            "kernel_size": (1, self._n_fft),
            "stride": (1, self._hop_length),
        }
        added = torch.nn.functional.fold(waves, **fold)[:, 0, 0]
        squares = self._window.square()[None, :, None].expand(1, -1, num_frames)
        weight = torch.nn.functional.fold(squares, **fold)[0, 0, 0]
        carried = self._weight.shape[0]
        added[:, :carried] += self._sum
        weight[:carried] += self._weight
        self._sum, self._weight = added, weight
        return self._taken(num_frames * self._hop_length)

    def _taken(self, count: int) -> Float[Tensor, "C L"]:
        done = self._sum[:, :count] / self._weight[:count].clamp_min(1e-8)
        self._sum, self._weight = self._sum[:, count:], self._weight[count:]
        skipped = min(self._skip, done.shape[1])
        self._skip -= skipped
        return done[:, skipped:]


def _decode_all(
    songs: Sequence[ChunkSong],
    parts: Mapping[str, Mapping[str, str]],
    folder: Path,
) -> None:
    """Bring a folder of wav files up to date with the chunks.

    Raises:
        ValueError: if no song can be read.
    """
    known = _manifest(folder)
    states = {song.name: song.state for song in songs}
    for name in [name for name in known if name not in states]:  # made here, its chunks are gone
        for file in known.pop(name).get("files", []):
            (folder / file).unlink(missing_ok=True)
    stale = [song for song in songs if not _is_current(known.get(song.name), states, song, folder)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _save_manifest(folder, known)
    except OSError as error:
        raise no_cache(folder, error) from error
    for song in track(
        stale,
        description="spectrograms to audio",
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    ):
        entry: dict[str, Any] = {"state": states[song.name], "path": str(song.chunks[0][1])}
        try:
            for file, part in parts[song.name].items():
                _write_song(song, part, folder / file)
            entry["files"] = list(parts[song.name])
        except ValueError as error:
            for file in parts[song.name]:  # half a track is none
                (folder / file).unlink(missing_ok=True)
            entry["reason"] = str(error)
        known[song.name] = entry
        _save_manifest(folder, known)
    _save_manifest(folder, known)
    reasons = [entry["reason"] for entry in known.values() if "reason" in entry]
    if len(reasons) == len(known):
        raise ValueError(f"none of the {len(known)} songs can be read: {reasons[0]}")
    if reasons:
        warnings.warn(
            f"{len(reasons)} of {len(known)} songs are left out: {reasons[0]}", stacklevel=3
        )


def _is_current(
    entry: Mapping | None, states: Mapping[str, str], song: ChunkSong, folder: Path
) -> bool:
    if entry is None or entry["state"] != states[song.name]:
        return False
    return "reason" in entry or all((folder / file).is_file() for file in entry["files"])


def _write_song(song: ChunkSong, part: str, path: Path) -> None:
    blocks = song_blocks(song, part)
    first = next(blocks)  # before a file is opened: a bad chunk shows here
    with AudioWriter(
        path,
        sample_rate=song.format.sample_rate,
        num_channels=first.shape[0],
        format="WAV",
        subtype="FLOAT",
    ) as writer:
        writer.write(first)
        for block in blocks:
            writer.write(block)


def _format_of(
    folder: Path, sample_rate: int | None, hop_length: int | None, offset: int | None
) -> ChunkFormat:
    """What is said, else what the folder or one above it is called, else the originals' custom."""
    told: dict[str, int] = {}
    for candidate in (folder, *folder.parents):
        named = FOLDER_NAME.search(candidate.name)
        if named:
            told = {key: int(value) for key, value in named.groupdict().items()}
            break
    return ChunkFormat(
        sample_rate=sample_rate or told.get("sample_rate", 44_100),
        n_fft=told.get("n_fft", 0),
        hop_length=hop_length or told.get("hop_length", 0),
        offset=told.get("offset", 0) if offset is None else offset,
    )


def _manifest(folder: Path) -> dict[str, dict]:
    try:
        stored = json.loads((folder / MANIFEST).read_text())
        if stored["version"] == VERSION:
            return stored["songs"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # made anew from the chunks
    return {}


def _save_manifest(folder: Path, songs: Mapping[str, Mapping]) -> None:
    partial = folder / f"{MANIFEST}.{uuid4().hex}.tmp"
    partial.write_text(json.dumps({"version": VERSION, "songs": songs}))
    partial.replace(folder / MANIFEST)


def _key(roots: Sequence[Path | str] | Path | str, kind: str) -> str:
    told = [kind, *(str(Path(root).expanduser().resolve()) for root in _as_list(roots))]
    return hashlib.blake2b(name_bytes("\n".join(told)), digest_size=8).hexdigest()


def _as_list(value: Sequence[Path | str] | Path | str) -> list[Path | str]:
    return [value] if isinstance(value, str | Path) else list(value)


def _without_pickles(error: ValueError) -> str:
    """Leave out the advice of numpy to unpickle a stranger's file."""
    text = str(error)
    if "pickle" in text.casefold():
        return "holds Python objects, which could run code, or is no npz file: refused"
    return text
