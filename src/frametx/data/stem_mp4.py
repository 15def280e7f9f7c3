"""Songs of MUSDB18 as it is distributed: .stem.mp4 files with five AAC streams.

Each is decoded once into a folder of wav files in the cache, and is a track like any other from
then on. The first stream, the mixture, was encoded by itself and is not the sum of the others to
the sample; nothing here needs it, so it is not decoded.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import soundfile

from frametx.audio.container import Stream, num_audio_streams, probe_container, read_container
from frametx.audio.io import AudioWriter
from frametx.data.progress import progress_bar
from frametx.data.stored_text import name_bytes
from frametx.data.unusable_cache import no_cache

SUFFIX = ".stem.mp4"
STREAMS = ("mixture", "drums", "bass", "other", "vocals")
"""In the order in which MUSDB18 has them."""
BLOCK_SAMPLES = 1 << 18
MOST_PADDING = 4096
"""Samples by which the streams of a song may differ: an encoder fills up its last frames."""
NOTE = ".frametx-stem-mp4.json"
VERSION = 1


def find_stem_files(root: Path) -> dict[str, Path]:
    """The .stem.mp4 files below a folder, by their paths in it without the suffix, in order."""
    return {
        path.relative_to(root).as_posix()[: -len(SUFFIX)]: path
        for path in sorted(root.rglob(f"*{SUFFIX}"))
        if not path.name.startswith(".") and path.is_file()
    }


def decoded_folder(root: Path, cache_dir: Path | str) -> Path:
    """Where the songs of a folder are decoded to: below it they have the names they have there."""
    key = hashlib.blake2b(name_bytes(str(root.resolve())), digest_size=8).hexdigest()
    return Path(cache_dir).expanduser() / "stem_mp4" / key


def decode_all(files: Mapping[str, Path], folder: Path) -> None:
    """Make a folder of wav files of each song that has none yet, or has changed since.

    They take 1.3 GB an hour of stereo: 16 bit, four stems.

    Args:
        files: the songs by name.
        folder: where to; `decoded_folder`.

    Raises:
        ValueError: if a file is damaged or has other streams.
        OSError: if the folder cannot be made.
    """
    wanted = {name: path for name, path in files.items() if not _is_current(path, folder / name)}
    if wanted:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise no_cache(folder, error) from error
    with progress_bar("decoding") as report:
        for number, (name, path) in enumerate(wanted.items(), start=1):
            _decode(path, folder / name)
            report(number, len(wanted))


def _decode(path: Path, folder: Path) -> None:
    num_streams = num_audio_streams(path)
    if num_streams != len(STREAMS):
        raise ValueError(
            f"{path}: has {num_streams} audio stream(s), and MUSDB18's files have "
            f"{len(STREAMS)}: {', '.join(STREAMS)}"
        )
    info = probe_container(path)
    note = folder / NOTE
    note.unlink(missing_ok=True)  # from here on the folder is not whole
    lengths: dict[Path, int] = {}
    for stream, stem in enumerate(STREAMS):
        if stem == "mixture":
            continue
        target = folder / f"{stem}.wav"
        with AudioWriter(
            target,
            sample_rate=info.sample_rate,
            num_channels=info.num_channels,
            format="WAV",
            subtype="PCM_16",
        ) as writer:
            for block in read_container(Stream(path, number=stream), block_samples=BLOCK_SAMPLES):
                writer.write(block)
        lengths[target] = writer.num_samples
    shortest = min(lengths.values())
    if max(lengths.values()) - shortest > MOST_PADDING:
        told = ", ".join(f"{target.stem} {length}" for target, length in lengths.items())
        raise ValueError(f"{path}: its streams differ in length (samples): {told}")
    for target, length in lengths.items():
        if length > shortest:
            _shorten(target, shortest)
    partial = note.with_name(f"{NOTE}.{uuid4().hex}.tmp")
    partial.write_text(json.dumps(_state(path)))
    partial.replace(note)


def _shorten(path: Path, num_samples: int) -> None:
    samples, sample_rate = soundfile.read(path, frames=num_samples, dtype="int16", always_2d=True)
    partial = path.with_name(f"{path.name}.{uuid4().hex}.tmp")
    soundfile.write(partial, samples, sample_rate, subtype="PCM_16", format="WAV")
    partial.replace(path)


def _is_current(path: Path, folder: Path) -> bool:
    try:
        stored = json.loads((folder / NOTE).read_text())
    except (OSError, ValueError):
        return False
    stems = (folder / f"{stem}.wav" for stem in STREAMS[1:])
    return stored == _state(path) and all(stem.is_file() for stem in stems)


def _state(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"version": VERSION, "size": status.st_size, "mtime_ns": status.st_mtime_ns}
