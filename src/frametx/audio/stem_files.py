"""All stems of one song on disk: in the format asked for, whole, together, and adding up.

Integer formats hold steps. The stems are rounded to them so that their sum is the song's own
samples to the last step: all but the remainder are rounded, and the remainder is what is left.
What lies beyond full scale fits no such format; `clipping` says what becomes of it.
"""

import math
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import soundfile as sf
import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.io import (
    INTEGER_BITS,
    LOSSY,
    WAV_BYTES,
    WRITE_SAMPLES,
    AudioInfo,
    AudioWriter,
    is_writable,
    part_beside,
    read_blocks,
)
from frametx.audio.tags import LIBSNDFILE_FORMATS, Tags, libsndfile_tags, tags_for_stem, write_tags

FORMATS = ("same", "wav", "flac", "mp3", "ogg")
CLIPPINGS = ("float", "scale", "clip")
FLOATS = ("FLOAT", "DOUBLE")
DEEP = ("DWVW_24", "DWVW_N", "ALAC_20", "ALAC_24")  # codings of more than 16 bits
LOSSY_PEAK = 0.98  # of a scaled lossy stem: what an encoder leaves out lets peaks grow a little
SUFFIXES = {
    "WAV": (".wav",),
    "WAVEX": (".wav",),
    "RF64": (".wav", ".rf64"),
    "W64": (".w64",),
    "FLAC": (".flac",),
    "OGG": (".ogg", ".oga", ".opus"),
    "MP3": (".mp3",),
    "AIFF": (".aiff", ".aif", ".aifc"),
    "CAF": (".caf",),
    "AU": (".au", ".snd"),
}


@dataclass(frozen=True, kw_only=True)
class StemFormat:
    """How stems are written: container and samples in libsndfile's words, suffix, what to know."""

    container: str
    subtype: str
    suffix: str
    notes: tuple[str, ...] = ()


def choose_format(info: AudioInfo, format: str = "same") -> StemFormat:
    """The format of a song's stems; asked before any work, as a song may not fit the one wanted.

    Args:
        info: of the song.
        format: `same` keeps its container and its samples. It becomes plain integers for codings
            that would not keep the length or the sum of the stems (ADPCM, mu-law ...), and WAV in
            32-bit floats where its samples cannot be written. The others keep the bit depth, where
            they have it.

    Raises:
        ValueError: if the format wanted cannot hold the song's sample rate or channels.
    """
    if format not in FORMATS:
        raise ValueError(f"format={format} must be one of {', '.join(FORMATS)}")
    if format == "same":
        if _is_of_blocks(info):
            return _as_integers(info)
        if _holds(info, info.format, info.subtype):
            suffixes = SUFFIXES.get(info.format, (info.path.suffix.lower(),))
            suffix = info.path.suffix if info.path.suffix.lower() in suffixes else suffixes[0]
            return StemFormat(container=info.format, subtype=info.subtype, suffix=suffix)
        container = _wav_container(info, "FLOAT")
        said = f"{info.format}/{info.subtype} cannot be written here: "
        note = said + f"the stems are {container}/FLOAT"
        return StemFormat(container=container, subtype="FLOAT", suffix=".wav", notes=(note,))
    subtype, notes = _subtype(info, format)
    container = _wav_container(info, subtype) if format == "wav" else format.upper()
    if not _holds(info, container, subtype):
        ways = [way for way in ("flac", "wav") if _holds(info, way.upper(), _subtype(info, way)[0])]
        raise ValueError(
            f"{info.path}: format={format} cannot hold {info.sample_rate} Hz with "
            f"{info.num_channels} channel(s): use format={' or format='.join(ways) or 'same'}"
        )
    return StemFormat(container=container, subtype=subtype, suffix=f".{format}", notes=notes)


def _is_of_blocks(info: AudioInfo) -> bool:
    """Whether the samples are in a coding of libsndfile's that is neither exact nor perceptual."""
    is_kept = info.subtype in (*INTEGER_BITS, *FLOATS, *LOSSY) or info.subtype.startswith("MPEG")
    return info.subtype in sf.available_subtypes() and not is_kept


def _as_integers(info: AudioInfo) -> StemFormat:
    """Plain integers instead of a coding by blocks or steps of its own."""
    subtype = (
        "PCM_24" if info.subtype in DEEP else "PCM_32" if info.subtype == "ALAC_32" else "PCM_16"
    )
    container = info.format
    if not _holds(info, container, subtype):
        container = _wav_container(info, subtype)
    suffixes = SUFFIXES.get(container, (info.path.suffix.lower(),))
    return StemFormat(
        container=container,
        subtype=subtype,
        suffix=info.path.suffix if info.path.suffix.lower() in suffixes else suffixes[0],
        notes=(
            f"in {info.subtype} the stems would not keep the song's length or add up to it: they "
            f"are {container}/{subtype}",
        ),
    )


def _subtype(info: AudioInfo, format: str) -> tuple[str, tuple[str, ...]]:
    if format in ("mp3", "ogg"):
        return {"mp3": "MPEG_LAYER_III", "ogg": "VORBIS"}[format], ()
    bits = INTEGER_BITS.get(info.subtype)
    if format == "wav":
        if bits is None:
            return (info.subtype if info.subtype in FLOATS else "FLOAT"), ()
        return ("PCM_U8" if bits == 8 else f"PCM_{bits}"), ()
    if bits is not None and bits <= 24:
        return ("PCM_S8" if bits == 8 else f"PCM_{bits}"), ()
    if bits is None and info.subtype not in FLOATS:  # lossy: there is no depth to be lost
        return "PCM_24", ()
    return "PCM_24", (f"{format} cannot hold {info.subtype}: the stems are PCM_24",)


def _holds(info: AudioInfo, container: str, subtype: str) -> bool:
    return is_writable(
        sample_rate=info.sample_rate,
        num_channels=info.num_channels,
        format=container,
        subtype=subtype,
    )


def _wav_container(info: AudioInfo, subtype: str) -> str:
    sample_bytes = 8 if subtype == "DOUBLE" else INTEGER_BITS.get(subtype, 32) // 8
    num_samples = info.num_samples * (1.05 if info.is_length_estimated else 1.0)
    return "WAV" if sample_bytes * num_samples * info.num_channels < WAV_BYTES else "RF64"


def find_finished(paths: Mapping[str, Path], format: StemFormat) -> dict[str, Path] | None:
    """The files of an earlier run, if all stems are there; any may have become a float wav."""
    found: dict[str, Path] = {}
    for stem, path in paths.items():
        for suffix in dict.fromkeys((format.suffix, ".wav")):
            if (file := with_suffix(path, suffix)).is_file():
                found[stem] = file
                break
    return found if len(found) == len(paths) else None


def with_suffix(path: Path, suffix: str) -> Path:
    """The path with a suffix behind its whole name: a dot in a song's name begins none."""
    return path.with_name(path.name + suffix)


def copy_as_stem(source: Path, path: Path) -> Path:
    """Copy a song that is one stem already, tags and all, and give the copy's path.

    Args:
        source: the song.
        path: of the copy without suffix, which is the song's.

    Raises:
        ValueError: if that is the song itself.
        OSError: if it cannot be copied.
    """
    target = with_suffix(path, source.suffix)
    _check_apart(source, [target])
    part = part_beside(target)
    missing = missing_folders(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, part)
        part.replace(target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(target)) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        remove_empty(missing)
    return target


def missing_folders(path: Path) -> list[Path]:
    """The folders above a file that are not there yet, the lowest first."""
    return [folder for folder in path.parents if not folder.exists()]


def remove_empty(folders: Iterable[Path]) -> None:
    """Take back folders, the lowest first, but for those that hold something."""
    for folder in sorted(folders, key=lambda p: -len(p.parts)):
        with suppress(OSError):
            folder.rmdir()


def _check_apart(source: Path, targets: Iterable[Path]) -> None:
    for target in targets:
        if os.path.realpath(target) == os.path.realpath(source):
            raise ValueError(f"{target} is the song itself: choose another output or name")


def on_steps(
    stems: Float[Tensor, "S C L"],
    remainder: int | None,
    subtype: str,
    *,
    is_clipped: bool = True,
) -> Float[Tensor, "S C L"]:
    """Stems that keep their sum when an integer format rounds them.

    All but the remainder are rounded first, and the remainder is what they then leave.

    Args:
        stems: full scale is 1.
        remainder: index of the stem that makes up for the others; None leaves the stems as given.
        subtype: of the file; the stems of other than integer formats are left as given.
        is_clipped: whether the format clips the others, so that the remainder gets what they lose.
            If not, what is beyond full scale goes into 32-bit floats; these hold every step of 24
            bits up to twice full scale, and the sum may miss by a step or two beyond that.
    """
    if subtype not in INTEGER_BITS or remainder is None:
        return stems
    scale = 2.0 ** (INTEGER_BITS[subtype] - 1)
    steps = stems.double() * scale
    mixture = steps.sum(dim=0).round()
    steps = steps.round()
    if is_clipped:
        written = steps.clamp(-scale, scale - 1)
    else:
        steps = written = torch.where(steps.abs() < scale, steps, steps.float().double())
    steps[remainder] = mixture - (written.sum(dim=0) - written[remainder])
    return steps / scale


class StemFiles:
    """Writes the stems of one song, block by block, in constant memory.

    Used as a context manager. All stems get their final names at the end, tags and all, or none
    does: leaving by an exception deletes what was written and keeps the files of an earlier run.

    Args:
        paths: stem -> path of its file without suffix; the stems that are wanted.
        info: of the song.
        stems: all stems of the model, in the order of the blocks.
        format: see `choose_format`.
        clipping: what becomes of samples beyond full scale, where the format has one.
            `float`: that stem becomes a WAV in 32-bit floats.
            `scale`: all stems get one common gain, just below full scale.
            `clip`: they are clipped and counted.
            Lossy formats are encoded at the end with the first two, from floats on the disk.
        remainder: the stem that makes up for the rounding of the others; None: each is rounded
            by itself.
        tags: of the song; None writes none.

    Attributes:
        outputs: stem -> path of its file, as far as it is known; certain after the with block.
        clipped: stem -> number of clipped samples, where there are any.
        gain_db: the common gain, 0 unless scaled.
        notes: what the user should know.

    Raises:
        ValueError: if an argument names what is not there, or the format cannot hold the song.
    """

    def __init__(
        self,
        *,
        paths: Mapping[str, Path],
        info: AudioInfo,
        stems: Sequence[str],
        format: str = "same",
        clipping: str = "float",
        remainder: str | None = None,
        tags: Tags | None = None,
    ) -> None:
        unknown = [stem for stem in paths if stem not in stems]
        if unknown or not paths:
            raise ValueError(f"stems={unknown}: this model separates {list(stems)}")
        if remainder is not None and remainder not in stems:
            raise ValueError(f"remainder={remainder} must be one of the stems {list(stems)}")
        if clipping not in CLIPPINGS:
            raise ValueError(f"clipping={clipping} must be one of {', '.join(CLIPPINGS)}")
        self.format = choose_format(info, format)
        suffixes = (self.format.suffix, ".wav")
        _check_apart(info.path, [with_suffix(p, s) for p in paths.values() for s in suffixes])
        self.clipped: dict[str, int] = {}
        self.gain_db = 0.0
        self.notes = [*info.notes, *self.format.notes]
        self._paths = dict(paths)
        self._info = info
        self._stems = tuple(stems)
        self._clipping = clipping
        self._remainder = None if remainder is None else self._stems.index(remainder)
        self._tags = tags
        self._writers: dict[str, AudioWriter] = {}
        self._replaced: list[AudioWriter] = []  # temporaries that are not needed any more
        self._floats: set[str] = set()  # stems whose file is in floats, other than wanted
        self._loud: set[str] = set()
        self._peaks = dict.fromkeys(paths, 0.0)
        self._new_folders: list[Path] = []

    def note(self, line: str) -> None:
        """Keep what the user should know, once."""
        if line not in self.notes:
            self.notes.append(line)

    @property
    def outputs(self) -> dict[str, Path]:
        """Stem -> path of its file."""
        if not self._writers:
            return {s: with_suffix(path, self.format.suffix) for s, path in self._paths.items()}
        return {stem: writer.path for stem, writer in self._writers.items()}

    def __enter__(self) -> "StemFiles":
        """Open a temporary file for each stem.

        Raises:
            OSError: if a folder takes no files.
        """
        try:
            for path in self._paths.values():
                missing = missing_folders(path)
                self._new_folders += [p for p in missing if p not in self._new_folders]
                path.parent.mkdir(parents=True, exist_ok=True)
            for stem in self._paths:
                if self._is_encoded_later:
                    self._floats.add(stem)
                    self._open(stem, *self._float_wav)
                else:
                    self._open(stem, *self._wanted)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, block: Float[Tensor, "S C L"]) -> None:
        """Append samples of all stems of the model, in its order.

        Raises:
            OSError: if the disk does not take them.
        """
        if block.shape[2] == 0:
            return
        block = on_steps(
            block.detach().cpu(),
            self._remainder,
            self.format.subtype,
            is_clipped=self._clipping == "clip",
        )
        rows = {stem: block[self._stems.index(stem)] for stem in self._paths}
        loud = [stem for stem, samples in rows.items() if self._is_beyond(samples)]
        self._loud |= set(loud)
        if self._clipping != "clip" and loud:
            self._spill(list(self._paths) if self._clipping == "scale" else loud)
        for stem, samples in rows.items():
            if self._clipping == "clip" and self.format.subtype not in INTEGER_BITS:
                samples = self._clamped(stem, samples)
            self._peaks[stem] = max(self._peaks[stem], float(samples.abs().max()))
            self._writers[stem].write(samples)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put all stems in place, or delete what there is of them.

        Raises:
            OSError: if the disk does not take them.
        """
        try:
            if kind is None:
                self._finish()
        except BaseException:
            kind = BaseException
            raise
        finally:
            self._discard(with_folders=kind is not None)

    @property
    def _wanted(self) -> tuple[str, str, str]:
        return self.format.container, self.format.subtype, self.format.suffix

    @property
    def _float_wav(self) -> tuple[str, str, str]:
        return _wav_container(self._info, "FLOAT"), "FLOAT", ".wav"

    @property
    def _is_bounded(self) -> bool:
        """Whether what is beyond full scale is lost: for all but floats, by a decoder at last."""
        return self.format.subtype not in FLOATS

    @property
    def _is_encoded_later(self) -> bool:
        """A lossy file cannot be taken back once a sample clips, so floats are kept until then."""
        is_exact = self.format.subtype in INTEGER_BITS
        return self._is_bounded and not is_exact and self._clipping != "clip"

    def _open(self, stem: str, container: str, subtype: str, suffix: str) -> AudioWriter:
        """Begin a stem's file, in place of another one that is to be discarded."""
        tags = self._tags_of(stem)
        writer = AudioWriter(
            with_suffix(self._paths[stem], suffix),
            sample_rate=self._info.sample_rate,
            num_channels=self._info.num_channels,
            format=container,
            subtype=subtype,
            tags=libsndfile_tags(tags) if tags and container in LIBSNDFILE_FORMATS else None,
        )
        if stem in self._writers:
            self._replaced.append(self._writers[stem])
        self._writers[stem] = writer  # before there is a file, so that none can be forgotten
        return writer.__enter__()

    def _tags_of(self, stem: str) -> Tags | None:
        return None if self._tags is None else tags_for_stem(self._tags, stem)

    def _is_beyond(self, samples: Tensor) -> bool:
        if not self._is_bounded:
            return False
        bits = INTEGER_BITS.get(self.format.subtype)
        if bits is None:
            return bool(samples.abs().max() > 1.0)
        steps = (samples.double() * 2.0 ** (bits - 1)).round()
        return bool(((steps < -(2.0 ** (bits - 1))) | (steps > 2.0 ** (bits - 1) - 1)).any())

    def _clamped(self, stem: str, samples: Tensor) -> Tensor:
        if not self._is_bounded:
            return samples
        count = int((samples.abs() > 1.0).sum())
        if count:
            self.clipped[stem] = self.clipped.get(stem, 0) + count
        return samples.clamp(-1.0, 1.0)

    def _spill(self, stems: Sequence[str]) -> None:
        """Go on in floats with these stems, after copying what is written of them."""
        for stem in stems:
            if stem in self._floats:
                continue
            before = self._writers[stem]
            before.close()
            self._open(stem, *self._float_wav)
            self._floats.add(stem)
            if before.num_samples:  # a flac of none is no file that can be read
                for block in read_blocks(before.part, block_samples=WRITE_SAMPLES):
                    self._writers[stem].write(block)
            before.discard()

    def _finish(self) -> None:
        for writer in self._writers.values():
            writer.close()
        if self._clipping == "clip":
            counts = {stem: writer.num_clipped for stem, writer in self._writers.items()}
            self.clipped |= {stem: count for stem, count in counts.items() if count}
        loud = [stem for stem in self._paths if stem in self._loud & self._floats]
        if self._clipping == "scale" and loud:
            gain = self._full_scale / max(self._peaks.values())
            self.gain_db = 20 * math.log10(gain)
            self.notes.append(
                f"{', '.join(loud)} would clip: all stems have a gain of {self.gain_db:.2f} dB"
            )
            self._encode(list(self._paths), gain)
        else:
            self.notes += [f"{stem} would clip: written as 32-bit float" for stem in loud]
            self._encode([stem for stem in self._floats if stem not in loud], 1.0)
        for stem, writer in self._writers.items():
            self._write_tags(stem, writer)
        self._place()

    @property
    def _full_scale(self) -> float:
        bits = INTEGER_BITS.get(self.format.subtype)
        if bits is None:
            return LOSSY_PEAK
        # A step for each stem is left, as the remainder makes up for the rounding of the others.
        return (2.0 ** (bits - 1) - 1 - len(self._stems)) / 2.0 ** (bits - 1)

    def _encode(self, stems: Sequence[str], gain: float) -> None:
        """Write these stems from their floats into the format wanted."""
        if not stems:
            return
        floats = [self._writers[stem] for stem in stems]
        for stem in stems:
            self._open(stem, *self._wanted)
            self._floats.discard(stem)
        # The remainder can make up for the others only where all of them are there.
        is_whole = len(stems) == len(self._stems) and self._remainder is not None
        remainder = list(stems).index(self._stems[self._remainder or 0]) if is_whole else None
        sources = [read_blocks(source.part, block_samples=WRITE_SAMPLES) for source in floats]
        for blocks in zip(*sources, strict=True):
            scaled = on_steps(torch.stack(blocks).double() * gain, remainder, self.format.subtype)
            for stem, samples in zip(stems, scaled, strict=True):
                self._writers[stem].write(samples)
        for stem, source in zip(stems, floats, strict=True):
            self._writers[stem].close()
            source.discard()

    def _write_tags(self, stem: str, writer: AudioWriter) -> None:
        tags = self._tags_of(stem)
        container = self._float_wav[0] if stem in self._floats else self.format.container
        if tags is None or container in LIBSNDFILE_FORMATS:
            return
        try:
            write_tags(writer.part, tags)
        except ValueError as error:
            reason = str(error).removeprefix(f"{writer.part}: ")
            self.note(f"tags of the stems: {reason}")
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(writer.path)) from error

    def _place(self) -> None:
        writers = list(self._writers.values())
        for writer in writers:
            if writer.path.is_dir():
                raise IsADirectoryError(21, "a folder is in the way", str(writer.path))
        was_there = {writer.path for writer in writers if writer.path.exists()}
        try:
            for writer in writers:
                writer.place()
        except KeyboardInterrupt:  # all are whole, so the song is finished first
            for writer in writers:
                with suppress(FileNotFoundError):
                    writer.place()
            raise
        except OSError:
            for writer in writers:
                if writer.path not in was_there and not writer.part.exists():
                    writer.path.unlink(missing_ok=True)
            raise

    def _discard(self, *, with_folders: bool = True) -> None:
        for writer in [*self._writers.values(), *self._replaced]:
            writer.discard()
        if with_folders:
            remove_empty(self._new_folders)
