"""What the page does, without the page: find checkpoints, say what they are, take a song apart."""

import math
import shutil
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from frametx.app_picture import Spectrogram, save_spectrograms
from frametx.audio.io import AudioInfo, AudioWriter, probe, read_blocks
from frametx.audio.stem_files import StemFiles
from frametx.audio.tags import read_tags
from frametx.checkpoint import load_separator
from frametx.config import one_line
from frametx.loading import choose_execution, describe_device, model_names
from frametx.pipeline import Pipeline
from frametx.separation_options import SeparationOptions
from frametx.separator import Separator
from frametx.streaming import BLOCK_SAMPLES
from frametx.to_files import plausible_seconds, probe_song, seconds_to_judge_by, write_stems

CHECKPOINT_SUFFIXES = (".ckpt", ".safetensors", ".pth")
PLAYED_BY_BROWSERS = (".wav", ".flac", ".mp3", ".ogg", ".oga", ".opus")
MOST_LOADED = 4  # models in memory, unless one ensemble has more members
SECONDS_BETWEEN_LOOKS = 0.1  # whether it is a song's turn
CHANNELS = {1: "mono", 2: "stereo"}


class StoppedError(Exception):
    """A person pressed stop, or left."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What a person picked.

    Attributes:
        song: the file as it was uploaded.
        names: of the checkpoints, see `find_checkpoints`.
        format: of the stems, see `frametx.audio.stem_files.choose_format`.
        stems: to be kept; None is all.
        options: how to separate.
    """

    song: Path
    names: Sequence[str]
    format: str = "same"
    stems: Sequence[str] | None = None
    options: SeparationOptions = field(default_factory=SeparationOptions)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a song is: seconds of it, and of work.

    Attributes:
        least_s: how much must be done before the time for the rest is worth a guess.
    """

    done_s: float
    total_s: float
    spent_s: float
    least_s: float = 0.0

    @property
    def fraction(self) -> float:
        """From 0 to 1; some containers only estimate how long they are."""
        return min(1.0, self.done_s / self.total_s)

    @property
    def left_s(self) -> float | None:
        """How long it will take from here on; None before there is enough to judge by."""
        if self.fraction == 1:
            return 0.0
        if not self.done_s or self.done_s < self.least_s:
            return None
        return max(0.0, self.total_s - self.done_s) * self.spent_s / self.done_s


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """How many songs come before it."""

    num_before: int


@dataclass(frozen=True, kw_only=True)
class Separated:
    """A song that was taken apart.

    Attributes:
        song: name of its file.
        stems: the files, by stem.
        played: what a browser can play of each; the same files wherever it can.
        picture: PNG of the spectrograms of mixture and stems.
        summary: model, device, precision, speed.
        notes: what else the person should know.
    """

    song: str
    stems: Mapping[str, Path]
    played: Mapping[str, Path]
    picture: Path
    summary: str
    notes: Sequence[str]


class Studio:
    """Takes songs apart, one at a time, and keeps the models for the next one.

    Args:
        sources: checkpoints, and folders with such, see `find_checkpoints`.
        device: of the networks.
        output: folder for the stems; made if missing.

    Raises:
        FileNotFoundError: if a source is not there.
        ValueError: if there is no checkpoint in any.
    """

    def __init__(self, *, sources: Sequence[Path], device: torch.device, output: Path) -> None:
        self.sources = tuple(sources)
        self.checkpoints = find_checkpoints(sources)
        self.device = device
        self.output = output
        self._loaded: OrderedDict[tuple[Path, int, int], Separator] = OrderedDict()
        self._loading = threading.Lock()
        self._turns: list[object] = []  # of the songs, the first being worked on

    def look_again(self) -> None:
        """Find the checkpoints that were written in the meantime."""
        with suppress(FileNotFoundError, ValueError):  # all are gone: what was there is refused
            self.checkpoints = find_checkpoints(self.sources)

    def describe(self, names: Sequence[str]) -> list[str]:
        """A line for each checkpoint: what it separates, at which rate, with which network.

        Raises:
            FileNotFoundError: if one is gone.
            ValueError: if one is bad.
        """
        lines: list[str] = []
        for name, member in zip(names, self._members(names), strict=True):
            network = type(getattr(member, "network", member)).__name__
            weights = cast(torch.nn.Module, member).parameters()
            channels = CHANNELS.get(member.num_channels, f"{member.num_channels} channels")
            lines.append(
                f"{name}: {', '.join(member.stems)} at {member.sample_rate} Hz, {channels}; "
                f"{network}, {sum(weight.numel() for weight in weights) / 1e6:.1f} M parameters"
            )
        return lines

    def stems(self, names: Sequence[str]) -> tuple[str, ...]:
        """What checkpoints take a song apart into, if they fit each other.

        Raises:
            FileNotFoundError: if one is gone.
            ValueError: if one is bad, or has other stems than the first.
        """
        return self._pipeline(self._members(names), SeparationOptions(), []).stems

    def separate(
        self, choice: Choice, stop: threading.Event
    ) -> Generator[Waiting | Progress | Separated, None, None]:
        """Take a song apart when those before it are done; what became of it is given last.

        Args:
            choice: song, checkpoints and options.
            stop: ends the work at the next block, before which nothing of it is kept.

        Raises:
            StoppedError: if it was stopped.
            FileNotFoundError: if the song or a checkpoint is gone.
            ValueError: if the song or a checkpoint is bad, an option is out of its range, or a
                model returns what is not finite.
            OSError: if the stems cannot be written.
        """
        if not choice.names:
            raise ValueError("no model is picked: pick at least one")
        turn = object()
        self._turns.append(turn)
        try:
            while self._turns[0] is not turn:
                if stop.is_set():
                    raise StoppedError
                yield Waiting(num_before=self._turns.index(turn))
                time.sleep(SECONDS_BETWEEN_LOOKS)
            info = probe_song(choice.song)
            notes: list[str] = []
            pipeline = self._pipeline(self._members(choice.names), choice.options, notes)
            if choice.stems is not None and not choice.stems:
                raise ValueError("no stem is picked: pick at least one")
            folder = made_for(self.output, choice.song.stem)
            try:
                with closing(self._stems(choice, info, pipeline, folder, notes, stop)) as steps:
                    yield from steps
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        finally:
            self._turns.remove(turn)

    def close(self, *, timeout_s: float) -> None:
        """Wait for the songs that are being worked on, whose `stop` was set."""
        deadline = time.monotonic() + timeout_s
        while self._turns and time.monotonic() < deadline:
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _stems(
        self,
        choice: Choice,
        info: AudioInfo,
        pipeline: Pipeline,
        folder: Path,
        notes: list[str],
        stop: threading.Event,
    ) -> Generator[Progress | Separated, None, None]:
        wanted = pipeline.stems if choice.stems is None else choice.stems
        total_s = info.num_samples / info.sample_rate
        # Nothing is told of the rest where the header is not believed.
        least_s = math.inf if plausible_seconds(info) is None else seconds_to_judge_by(pipeline)
        started = time.perf_counter()
        yield Progress(done_s=0.0, total_s=total_s, spent_s=0.0)
        drawn = {
            name: Spectrogram(sample_rate=info.sample_rate, num_samples=info.num_samples)
            for name in ("mixture", *wanted)
        }

        def draw_mixture(block: Tensor) -> None:
            if stop.is_set():
                raise StoppedError
            drawn["mixture"].push(block)

        def draw_stems(block: Tensor) -> None:
            for stem, samples in zip(pipeline.stems, block, strict=True):
                if stem in drawn:
                    drawn[stem].push(samples)

        tags = read_tags(choice.song)
        done_s = 0.0
        with StemFiles(
            paths={stem: folder / f"{choice.song.stem} - {stem}" for stem in wanted},
            info=info,
            stems=pipeline.stems,
            format=choice.format,
            remainder=pipeline.remainder,
            tags=tags,
        ) as files:
            for done_s in write_stems(
                pipeline, info, files, on_mixture=draw_mixture, on_stems=draw_stems
            ):
                if stop.is_set():
                    raise StoppedError
                spent_s = time.perf_counter() - started
                yield Progress(done_s=done_s, total_s=total_s, spent_s=spent_s, least_s=least_s)
        if not done_s:
            raise ValueError(f"{choice.song}: holds no samples")
        spent_s = time.perf_counter() - started
        yield Progress(done_s=done_s, total_s=done_s, spent_s=spent_s)
        picture = folder / "spectrograms.png"
        save_spectrograms(picture, drawn)
        with_rule = f" ({pipeline.options.ensemble})" if len(pipeline.members) > 1 else ""
        yield Separated(
            song=choice.song.name,
            stems=files.outputs,
            played={stem: playable(path) for stem, path in files.outputs.items()},
            picture=picture,
            summary=(
                f"{', '.join(choice.names)}: {' + '.join(model_names(pipeline))}{with_rule} on "
                f"{describe_device(pipeline.execution)}; {done_s:.1f} s of music in {spent_s:.1f} "
                f"s (real-time factor {spent_s / done_s:.2f})"
            ),
            notes=[*notes, *tags.notes, *files.notes],
        )

    def _pipeline(
        self, members: Sequence[Separator], options: SeparationOptions, notes: list[str]
    ) -> Pipeline:
        execution = choose_execution(self.device, "auto", options, note=notes.append)
        return Pipeline(members, options, execution=execution)

    def _members(self, names: Sequence[str]) -> list[Separator]:
        with self._loading:
            members: list[Separator] = []
            for name in names:
                if name not in self.checkpoints:
                    raise ValueError(f"{name} is not there any more: load the page again")
                path = self.checkpoints[name]
                stat = path.stat()
                key = (path, stat.st_mtime_ns, stat.st_size)  # training may write it anew
                if key not in self._loaded:
                    self._loaded[key] = load_separator(path, device=self.device)
                self._loaded.move_to_end(key)
                members.append(self._loaded[key])
            while len(self._loaded) > max(MOST_LOADED, len(names)):
                self._loaded.popitem(last=False)
            return members


def find_checkpoints(sources: Sequence[Path]) -> dict[str, Path]:
    """Checkpoints by a name to show: the path below the folder that they were found in.

    Args:
        sources: files, and folders that are searched to the bottom.

    Raises:
        FileNotFoundError: if one is not there.
        ValueError: if there is no checkpoint in any, or a file is none by its name.
    """
    found: dict[Path, str] = {}
    for source in sources:
        if source.is_dir():
            paths = sorted(path for path in source.rglob("*") if path.is_file())
            inside = [path for path in paths if path.suffix in CHECKPOINT_SUFFIXES]
            found |= {path: path.relative_to(source).as_posix() for path in inside}
        elif not source.exists():
            raise FileNotFoundError(
                2, "no such file or folder: give ckpts=, a checkpoint or a folder", str(source)
            )
        elif source.suffix in CHECKPOINT_SUFFIXES:
            found[source] = source.name
        else:
            raise ValueError(f"{source} must end in {', '.join(CHECKPOINT_SUFFIXES)}")
    if not found:
        where = ", ".join(map(str, sources)) or "[]"
        raise ValueError(
            f"ckpts={where}: there is no {', '.join(CHECKPOINT_SUFFIXES)}; train a model, or give "
            "the folder of one"
        )
    names = list(found.values())
    return {
        name if names.count(name) == 1 else path.as_posix(): path for path, name in found.items()
    }


def made_for(output: Path, song: str) -> Path:
    """A folder of its own for a song, which earlier ones of the same name do not share.

    Raises:
        OSError: if it cannot be made.
    """
    output.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = output / (song if number == 1 else f"{song} ({number})")
        with suppress(FileExistsError):
            folder.mkdir()
            return folder
        number += 1


def playable(path: Path) -> Path:
    """The file, or a 16-bit WAV of it beside it, where browsers cannot play such files."""
    if path.suffix.lower() in PLAYED_BY_BROWSERS:
        return path
    info = probe(path)
    copy = path.with_name(f"{path.name} (to listen).wav")
    with AudioWriter(
        copy,
        sample_rate=info.sample_rate,
        num_channels=info.num_channels,
        format="WAV",
        subtype="PCM_16",
    ) as writer:
        for block in read_blocks(path, block_samples=BLOCK_SAMPLES):
            writer.write(block)
    return copy


def message(error: BaseException, song: Path | None = None) -> str:
    """What went wrong, in a line for the person, who knows the song by its name, not its path."""
    if isinstance(error, StoppedError):
        return "stopped"
    if isinstance(error, torch.OutOfMemoryError):
        said = f"not enough memory: {one_line(error)}"
    elif isinstance(error, ValueError | OSError):
        said = one_line(error)
    else:
        # A defect of ours: the terminal gets the trace, the page stays usable.
        traceback.print_exception(error)
        said = f"{type(error).__name__}: {one_line(error)}"
    return said if song is None else said.replace(str(song), song.name)
