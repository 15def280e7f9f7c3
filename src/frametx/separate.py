"""Take songs apart: `python -m frametx.separate ckpt=runs/x/last.ckpt input=song.flac`.

For every song a folder below `output` with one file per stem, in the song's own format, sample
rate, channels, bit depth and length (conf/separate.yaml has the naming and all options). A bad file
is reported and the others go on. Stems are written under a temporary name and renamed when whole:
whatever stops a run, a file with a final name is finished.

The stems of integer formats add up to the song's own samples: all but the remainder are rounded to
the format's steps, and the remainder is what is left (32-bit integers: to the 24 bits of a float).
Only where a stem had to be clipped (counted in the report), or in mp3 and ogg, they do not.
"""

import json
import os
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal, cast

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from frametx.audio.chunking import hop_samples
from frametx.audio.io import INTEGER_BITS, AudioInfo, AudioWriter, is_writable, probe, read_blocks
from frametx.checkpoint import load_separator
from frametx.config import hydra_main, one_line
from frametx.execution import Execution, choose_device
from frametx.separator import Separator
from frametx.songs import Job, find_songs, plan
from frametx.streaming import remainder_index, separate_blocks

BLOCK_SAMPLES = 1 << 16  # read at once
WAV_BYTES = (1 << 32) - (1 << 16)  # a wav counts its bytes in 32 bits


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to separate; the names of conf/separate.yaml, checked against the separator."""

    stems: tuple[str, ...]
    overlap: float
    batch_size: int
    chunk_samples: int
    device: torch.device
    skip_existing: bool


@dataclass(kw_only=True)
class FileReport:
    """What became of one song. `real_time_factor` is seconds of work per second of audio."""

    input: str
    status: Literal["done", "skipped", "failed", "interrupted"]
    reason: str | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    audio_seconds: float | None = None
    seconds: float | None = None
    real_time_factor: float | None = None
    clipped_samples: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Report:
    """What became of a run."""

    ckpt: str
    model: str
    num_parameters: int
    stems: tuple[str, ...]
    sample_rate: int
    num_channels: int
    device: str
    overlap: float
    chunk_seconds: float
    batch_size: int
    stopped_by: int | None = None  # number of the signal
    files: list[FileReport] = field(default_factory=list)

    def count(self, status: str) -> int:
        """How many files have this status."""
        return sum(file.status == status for file in self.files)

    @property
    def exit_code(self) -> int:
        """0 when every file is done or skipped, 1 when some failed, 128 + signal when stopped."""
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return 1 if self.count("failed") else 0

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        part.write_text(json.dumps(asdict(self), indent=2, allow_nan=False) + "\n")
        part.replace(path)


def separate(cfg: DictConfig) -> Report:
    """Separate all that `cfg.input` names, as conf/separate.yaml says.

    Raises:
        ValueError: if nothing can be started: no input, an option out of range, a bad checkpoint.
        FileNotFoundError: if there is no checkpoint.
    """
    console = Console(highlight=False, soft_wrap=True)
    device = choose_device(str(cfg.device))
    output = Path(str(cfg.output)).expanduser()
    jobs = plan(find_songs(str(cfg.input), output), output)
    separator = load_separator(Path(str(cfg.ckpt)).expanduser(), device=device)
    options = choose_options(cfg, separator, device)
    report = describe(str(cfg.ckpt), separator, options)
    console.print(
        f"{report.model}: {', '.join(report.stems)} at {report.sample_rate} Hz, "
        f"{report.num_channels} channel(s), {report.num_parameters / 1e6:.1f} M parameters, "
        f"on {report.device}",
        markup=False,
    )
    separate_all(separator, jobs, options, report, console)
    statuses = ("done", "skipped", "failed", "interrupted")
    console.print(", ".join(f"{report.count(s)} {s}" for s in statuses if report.count(s)))
    if cfg.report is not None:
        report.write(Path(str(cfg.report)).expanduser())
        console.print(f"report: {cfg.report}", markup=False)
    return report


def separate_all(
    separator: Separator, jobs: Sequence[Job], options: Options, report: Report, console: Console
) -> None:
    """Separate song after song with a progress bar, adding to `report`; errors end up in it too."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[speed]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        try:
            for number, job in enumerate(jobs, start=1):
                name = f"{number}/{len(jobs)} {job.source.name}"
                task = progress.add_task(name, total=None, speed="")

                def show(done_s: float, total_s: float, spent_s: float, task=task) -> None:
                    speed = f"real-time factor {spent_s / done_s:.2f}" if done_s else ""
                    progress.update(task, completed=done_s, total=total_s, speed=speed)

                file = try_to_separate(separator, job, options, show)
                report.files.append(file)
                progress.remove_task(task)
                console.print(one_file(file), markup=False)
        except KeyboardInterrupt as stop:
            report.stopped_by = int(stop.args[0]) if stop.args else int(signal.SIGINT)
            for job in jobs[len(report.files) :]:
                report.files.append(FileReport(input=str(job.source), status="interrupted"))


def try_to_separate(
    separator: Separator, job: Job, options: Options, show: Callable[[float, float, float], None]
) -> FileReport:
    """Separate one song; whatever goes wrong with it becomes the reason in its report."""
    try:
        return separate_file(separator, job, options, show)
    except torch.OutOfMemoryError:
        reason = f"out of memory on {options.device}: lower batch_size ({options.batch_size}) "
        reason += "or chunk_seconds"
    except (ValueError, OSError) as error:
        reason = one_line(error)
    except Exception as error:
        # A defect of ours, which must not cost the user the other songs of a night's run.
        reason = f"{type(error).__name__}: {one_line(error)}"
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
    with suppress(OSError):
        job.folder.rmdir()  # if it was made for nothing
    return FileReport(input=str(job.source), status="failed", reason=reason)


def separate_file(
    separator: Separator, job: Job, options: Options, show: Callable[[float, float, float], None]
) -> FileReport:
    """Separate one song into one file per stem.

    Args:
        separator: in evaluation mode, on `options.device`.
        job: the song and its folder.
        options: how.
        show: is told after each block: seconds of audio done, in all, and seconds spent.

    Raises:
        ValueError: if the song is bad or the separator returns samples that are not finite.
        OSError: if a stem cannot be written.
    """
    info = probe(job.source)
    format, subtype, suffix, notes = choose_format(info)
    outputs = {stem: job.folder / f"{stem}{suffix}" for stem in options.stems}
    file = FileReport(
        input=str(job.source),
        status="skipped",
        outputs={stem: str(path) for stem, path in outputs.items()},
        audio_seconds=info.num_samples / info.sample_rate,
        notes=notes,
    )
    if options.skip_existing and all(path.is_file() for path in outputs.values()):
        return file
    started = time.perf_counter()
    num_done = 0
    show(0.0, info.num_samples / info.sample_rate, 0.0)
    with ExitStack() as stack:
        writers = {
            stem: stack.enter_context(
                AudioWriter(
                    path,
                    sample_rate=info.sample_rate,
                    num_channels=info.num_channels,
                    format=format,
                    subtype=subtype,
                    tags=info.tags,
                )
            )
            for stem, path in outputs.items()
        }
        blocks = separate_blocks(
            separator,
            read_blocks(job.source, block_samples=BLOCK_SAMPLES),
            sample_rate=info.sample_rate,
            overlap=options.overlap,
            execution=Execution(device=options.device, batch_size=options.batch_size),
            chunk_samples=options.chunk_samples,
        )
        for block in blocks:
            if not torch.isfinite(block).all():
                at_s = num_done / info.sample_rate
                raise ValueError(
                    f"the model returned samples that are not finite after {at_s:.1f} s"
                )
            exact = on_steps(block, remainder_index(separator.stems, None), subtype)
            for stem, writer in writers.items():
                writer.write(exact[separator.stems.index(stem)])
            num_done += block.shape[2]
            spent_s = time.perf_counter() - started
            show(num_done / info.sample_rate, info.num_samples / info.sample_rate, spent_s)
    file.status = "done"
    file.audio_seconds = num_done / info.sample_rate
    file.seconds = time.perf_counter() - started
    file.real_time_factor = file.seconds / file.audio_seconds
    file.clipped_samples = {s: w.num_clipped for s, w in writers.items() if w.num_clipped}
    return file


def on_steps(stems: Tensor, remainder: int | None, subtype: str) -> Tensor:
    """Stems S C L that keep their sum when an integer format rounds and clips them.

    All but the remainder are rounded first, and the remainder is what they then leave.
    """
    if subtype not in INTEGER_BITS or remainder is None:
        return stems
    scale = 2.0 ** (INTEGER_BITS[subtype] - 1)
    steps = stems.double() * scale
    mixture = steps.sum(dim=0).round()
    steps = steps.round()
    written = steps.clamp(-scale, scale - 1)
    steps[remainder] = mixture - (written.sum(dim=0) - written[remainder])
    return steps / scale


def choose_format(info: AudioInfo) -> tuple[str, str, str, list[str]]:
    """Format, subtype, suffix and notes of the stems: the song's own where that can be written."""
    if is_writable(
        sample_rate=info.sample_rate,
        num_channels=info.num_channels,
        format=info.format,
        subtype=info.subtype,
    ):
        return info.format, info.subtype, info.path.suffix, []
    num_bytes = 4 * info.num_samples * info.num_channels
    container = "WAV" if num_bytes < WAV_BYTES else "RF64"
    note = f"{info.format}/{info.subtype} cannot be written here: the stems are {container}/FLOAT"
    return container, "FLOAT", ".wav", [note]


def choose_options(cfg: DictConfig, separator: Separator, device: torch.device) -> Options:
    """The options, checked before the first song is opened.

    Raises:
        ValueError: if one is out of its range.
    """
    wanted = [cfg.stems] if isinstance(cfg.stems, str) else list(cfg.stems or separator.stems)
    unknown = [stem for stem in wanted if stem not in separator.stems]
    if unknown:
        raise ValueError(f"stems={unknown}: this model separates {list(separator.stems)}")
    if int(cfg.batch_size) < 1:
        raise ValueError(f"batch_size ({cfg.batch_size}) must be at least 1")
    chunk_samples = separator.chunk_samples
    if cfg.chunk_seconds is not None:
        chunk_samples = round(float(cfg.chunk_seconds) * separator.sample_rate)
    hop_samples(chunk_samples, float(cfg.overlap))
    return Options(
        stems=tuple(wanted),
        overlap=float(cfg.overlap),
        batch_size=int(cfg.batch_size),
        chunk_samples=chunk_samples,
        device=device,
        skip_existing=bool(cfg.skip_existing),
    )


def describe(ckpt: str, separator: Separator, options: Options) -> Report:
    """A report without files."""
    module = cast(nn.Module, separator)
    return Report(
        ckpt=ckpt,
        model=type(getattr(separator, "network", separator)).__name__,
        num_parameters=sum(weight.numel() for weight in module.parameters()),
        stems=separator.stems,
        sample_rate=separator.sample_rate,
        num_channels=separator.num_channels,
        device=str(options.device),
        overlap=options.overlap,
        chunk_seconds=options.chunk_samples / separator.sample_rate,
        batch_size=options.batch_size,
    )


def one_file(file: FileReport) -> str:
    """A file's line on the terminal."""
    clipped = [f"{count} samples of {stem} clipped" for stem, count in file.clipped_samples.items()]
    speed = (
        "" if file.real_time_factor is None else f" (real-time factor {file.real_time_factor:.2f})"
    )
    said = "; ".join([*([file.reason] if file.reason else []), *file.notes, *clipped])
    return f"{file.status}: {file.input}{speed}{': ' if said else ''}{said}"


def stop(number: int, frame: FrameType | None) -> None:
    """Signal handler: end as Ctrl-C does, so that temporary files are deleted."""
    raise KeyboardInterrupt(number)


@hydra_main("separate")
def main(cfg: DictConfig) -> int:
    """One run; the exit code is the report's."""
    signal.signal(signal.SIGTERM, stop)
    try:
        return separate(cfg).exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    main()
