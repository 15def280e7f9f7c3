"""Take songs apart: `python -m frametx.separate ckpt=runs/x/last.ckpt input=song.flac`.

For every song a folder below `output` with one file per stem, in the song's own format, sample
rate, channels, bit depth and length (conf/separate.yaml has the naming and all options). A bad file
is reported and the others go on. Stems are written under a temporary name and renamed when whole:
whatever stops a run, a file with a final name is finished.

The stems of integer formats add up to the song's own samples (32-bit integers: to the 24 bits of a
float). They do not without a remainder (`remainder` in the report is null), with faithful=true,
with clipping=clip where a stem is clipped (counted in the report), scaled with clipping=scale, or
in mp3 and ogg.
"""

import io
import json
import os
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from frametx.allocator import return_memory
from frametx.audio.io import probe
from frametx.audio.stem_files import CLIPPINGS, FORMATS, missing_folders, remove_empty
from frametx.audio.tags import read_tags
from frametx.config import hydra_main, one_line, plain
from frametx.loading import (
    CONFIG_KEYS,
    describe_device,
    load_configured,
    model_names,
    num_parameters,
)
from frametx.pipeline import Pipeline
from frametx.pretrained import ours
from frametx.printable import printable
from frametx.songs import (
    Job,
    Song,
    at_home,
    find_songs,
    plan,
    read_album,
    refuse_what_is_no_song,
    spool,
)
from frametx.to_files import (
    FileOptions,
    FileReport,
    plausible_seconds,
    seconds_to_judge_by,
    separate_song,
)
from frametx.unfinished import clear_folders, clear_parts, part_beside, temporary_folder

DEFECT_CHARACTERS = 300  # of the reason when it is a defect of ours: some messages are pages
SHIPPED = (
    f"{ours.VOCALS}, the model that ships (MIT, as Spleeter's weights, which it corrects); "
    "another: ckpt=spleeter:2stems, ckpt=runs/x/checkpoints/best.ckpt"
)
NOT_ADDING_UP = (
    "the stems do not add up to the song: each is what the model gives of it "
    "(remainder=<stem> makes that one the rest)"
)
SECONDS_BEFORE_ESTIMATE = 5.0  # of work, before the time of all is worth a guess


@dataclass(kw_only=True)
class Report:
    """What became of a run."""

    ckpt: list[str]
    models: list[str]
    num_parameters: int
    stems: tuple[str, ...]
    sample_rates: list[int]
    remainder: str | None  # the stem that is the song minus the others; None: they do not add up
    device: str
    precision: str
    num_passes: int
    options: dict[str, object]
    stopped_by: int | None = None  # number of the signal
    notes: list[str] = field(default_factory=list)
    files: list[FileReport] = field(default_factory=list)
    lost: str | None = None  # why the report itself could not be written

    def count(self, status: str) -> int:
        """How many files have this status."""
        return sum(file.status == status for file in self.files)

    @property
    def exit_code(self) -> int:
        """0 when nothing failed, 1 when some files failed, 128 + signal when stopped."""
        if self.stopped_by is not None:
            return 128 + self.stopped_by
        return 1 if self.count("failed") or self.lost is not None else 0

    def stop(self, by: KeyboardInterrupt, jobs: Sequence[Job]) -> None:
        """Take down what ended the run, and the songs that were not finished by then."""
        self.stopped_by = signal_of(by)
        for job in jobs[len(self.files) :]:
            self.files.append(FileReport(input=str(job.source), status="interrupted"))

    def write(self, path: Path) -> None:
        """Write the report as JSON that any parser takes.

        Raises:
            OSError: if the disk does not take it.
        """
        values = asdict(self)
        del values["lost"]
        text = json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False)
        # Python keeps bytes that are no UTF-8 as halves of pairs, which many parsers refuse.
        text = re.sub("[\ud800-\udfff]", lambda half: f"\\\\u{ord(half[0]):x}", text)
        part = part_beside(path)
        missing = missing_folders(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(text + "\n", encoding="utf-8")
            part.replace(path)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            remove_empty(missing)


def separate(cfg: DictConfig) -> Report:
    """Separate all that `cfg.input` names, as conf/separate.yaml says.

    Raises:
        ValueError: if nothing can be started: no input, an option out of range, a bad checkpoint.
        FileNotFoundError: if there is no checkpoint.
    """
    values = plain(cfg, CONFIG_KEYS)
    to_stdout = str(cfg.output) == "-"
    console = Console(highlight=False, soft_wrap=True, emoji=False, stderr=to_stdout)
    path = None if cfg.report is None else at_home(str(cfg.report))
    with found_songs(cfg) as (songs, output):
        if str(cfg.report) == f"{cfg.output}/report.json":
            path = output / "report.json"  # an album's list may name another output
        jobs = plan(songs, output, name=cfg.name, model=model_of(cfg.ckpt), tags_of=text_of)
        notes: list[str] = []
        pipeline = load_configured(values, note=lambda said: tell(said, notes, console))
        if checkpoints(cfg.ckpt) == [ours.VOCALS]:
            say(SHIPPED, console)
        options = file_options(cfg, pipeline)
        check_copies(jobs, pipeline)
        if pipeline.remainder is None and len(pipeline.stems) > 1 and not cfg.faithful:
            tell(NOT_ADDING_UP, notes, console)
        if to_stdout and (len(jobs) != 1 or len(options.stems) != 1):
            raise ValueError(
                f"output=- writes one stem of one song, not {len(options.stems)} of {len(jobs)}: "
                f"choose with stems=[{options.stems[0]}]"
            )
        report = describe(cfg, pipeline)
        report.notes = notes
        clear_unfinished(jobs, options, path)
        try:
            say(in_words(report, jobs, pipeline), console)
            separate_all(pipeline, jobs, options, report, console)
        except KeyboardInterrupt as stop:
            report.stop(stop, jobs)
        if to_stdout and report.exit_code == 0:
            send(Path(next(iter(report.files[0].outputs.values()))))
    if path is not None and not to_stdout:
        save(report, path)
    statuses = ("done", "copied", "skipped", "failed", "interrupted")
    say(", ".join(f"{report.count(s)} {s}" for s in statuses if report.count(s)), console)
    if path is not None and not to_stdout:
        say(f"report: {path if report.lost is None else report.lost}", console)
    return report


def save(report: Report, path: Path) -> None:
    """Write the report; a disk that does not take it costs the exit code 0, not the songs."""
    try:
        try:
            report.write(path)
        except KeyboardInterrupt as stop:
            report.stopped_by = signal_of(stop)
            report.write(path)
    except OSError as error:
        report.lost = one_line(error)


def clear_unfinished(jobs: Sequence[Job], options: FileOptions, report: Path | None) -> None:
    """Delete what runs that were killed left where this one is going to write."""
    folders = set() if report is None else {report.parent}
    for job in jobs:
        for stem in options.stems:
            with suppress(ValueError):  # a link leads out of the output: reported with its song
                folders.add(job.path(stem).parent)
    clear_parts(folders)
    clear_folders()


@contextmanager
def found_songs(cfg: DictConfig) -> Iterator[tuple[Sequence[Song], Path]]:
    """The songs of the input and the folder of the output, while the context lasts.

    Raises:
        ValueError: if there is no song.
    """
    wanted, output = str(cfg.input), at_home(str(cfg.output))
    with temporary_folder() as folder:
        if str(output) == "-":
            output = Path(folder) / "stdout"
        if wanted == "-":
            if sys.stdin is None:
                raise ValueError("input=-: the standard input is closed: pipe a song into it")
            with spool(sys.stdin.buffer) as song:
                refuse_what_is_no_song(song)
                yield [Song(song, Path(song.name))], output
        elif wanted.lower().endswith(".json") and at_home(wanted).is_file():
            album = read_album(wanted)
            is_chosen = cfg.output != "separated"  # a folder on the command line comes first
            output = output if is_chosen or album.output is None else album.output
            check_output(output)
            yield album.songs, output
        else:
            check_output(output)
            yield find_songs(wanted, output), output


def check_output(output: Path) -> None:
    """Refuse what can never become a folder, before the model is loaded.

    Raises:
        ValueError: if there is a file, or a link that leads nowhere.
    """
    if os.path.lexists(output) and not output.is_dir():
        raise ValueError(f"output={output} is no folder: choose another, or delete what is there")


def separate_all(
    pipeline: Pipeline,
    jobs: Sequence[Job],
    options: FileOptions,
    report: Report,
    console: Console,
) -> None:
    """Separate song after song with a progress bar, adding to `report`; errors end up in it too."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[speed]}"),
    )
    estimate = Estimate(jobs, least_s=seconds_to_judge_by(pipeline))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for number, job in enumerate(jobs, start=1):
            name = printable(f"{number}/{len(jobs)} {job.source.name}")
            task = progress.add_task(name, total=None, speed="", left="")

            def show(done_s: float, total_s: float | None, spent_s: float, task=task) -> None:
                speed = f"real-time factor {spent_s / done_s:.2f}" if done_s else ""
                pace = estimate.pace(done_s, spent_s)
                left = ""
                if pace is not None and total_s is not None:
                    left = f"about {in_minutes((total_s - done_s) * pace)} left"
                progress.update(task, completed=done_s, total=total_s, speed=speed, left=left)
                if (said := estimate.once(pace)) is not None:
                    say(said, console)

            file = try_to_separate(pipeline, job, options, show)
            report.files.append(file)
            progress.remove_task(task)
            say(one_file(file), console)


class Estimate:
    """Measures the work for a second of audio, and estimates once how long all songs will take.

    The first blocks come late, because whole chunks are separated ahead of them: time is taken
    from the first block on.

    Args:
        jobs: all songs.
        least_s: seconds of a song that must be done before its pace is known.
    """

    def __init__(self, jobs: Sequence[Job], *, least_s: float = 0.0) -> None:
        self._jobs = jobs
        self._least_s = least_s
        self._first: tuple[float, float] | None = None
        self._said = False

    def pace(self, done_s: float, spent_s: float) -> float | None:
        """Seconds of work for one of audio, after so much of both; None while it is not known."""
        if not done_s:  # the next song
            self._first = None
            return None
        if self._first is None:
            self._first = (done_s, spent_s)
            return None
        seen_s, took_s = done_s - self._first[0], spent_s - self._first[1]
        if took_s < SECONDS_BEFORE_ESTIMATE or not seen_s or seen_s < self._least_s:
            return None
        return took_s / seen_s

    def once(self, pace: float | None) -> str | None:
        """The estimate for all songs, the first time that there is a pace; else None."""
        if self._said or pace is None:
            return None
        self._said = True
        lengths_s = [length for length in map(audio_seconds, self._jobs) if length is not None]
        if not lengths_s:
            return None
        total_s = sum(lengths_s)
        return (
            f"about {in_minutes(total_s * pace)} for {in_minutes(total_s)} of audio in "
            f"{len(lengths_s)} file(s)"
        )


def audio_seconds(job: Job) -> float | None:
    """Length of a song that is to be separated; None if it is not known or not believed."""
    if job.is_stem:
        return None
    with suppress(ValueError, OSError):
        return plausible_seconds(probe(job.source))
    return None


def try_to_separate(pipeline: Pipeline, job: Job, options: FileOptions, show) -> FileReport:
    """Separate one song; whatever goes wrong with it becomes the reason in its report.

    Raises:
        KeyboardInterrupt: if the run was stopped, also where cleaning up failed over that.
    """
    try:
        return separate_song(pipeline, job, options, show)
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        raise_if_stopped(error)
        reason = reason_of(error, job.source)
    except Exception as error:
        raise_if_stopped(error)
        # A defect of ours, which must not cost the user the other songs of a night's run.
        reason = f"{type(error).__name__}: {reason_of(error, job.source)}"[:DEFECT_CHARACTERS]
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
    return FileReport(input=str(job.source), status="failed", reason=reason)


def raise_if_stopped(error: BaseException) -> None:
    """Stop after all, if an error came up only while a stop was being carried out.

    Ctrl-C comes between any two lines, between closing a file and noting that it is closed too.
    """
    before: BaseException | None = error
    while before is not None:
        if isinstance(before, KeyboardInterrupt):
            raise before
        before = before.__context__


def reason_of(error: Exception, source: Path) -> str:
    """What went wrong, in one line; the song itself is named beside it already."""
    message = str(error)
    if isinstance(error, OSError) and error.filename is not None:
        message = f"{os.fsdecode(error.filename)}: {error.strerror}"
    return printable(" ".join(message.removeprefix(f"{source}: ").split()))


def file_options(cfg: DictConfig, pipeline: Pipeline) -> FileOptions:
    """What to write, checked before the first song is opened.

    Raises:
        ValueError: if a value is none of its choices.
    """
    wanted = [cfg.stems] if isinstance(cfg.stems, str) else list(cfg.stems or pipeline.stems)
    unknown = [stem for stem in wanted if stem not in pipeline.stems]
    if unknown:
        raise ValueError(f"stems={unknown}: this model separates {list(pipeline.stems)}")
    for key, choices in (("format", FORMATS), ("clipping", CLIPPINGS)):
        if cfg[key] not in choices:
            raise ValueError(f"{key}={cfg[key]} must be one of {', '.join(choices)}")
    return FileOptions(
        stems=tuple(dict.fromkeys(wanted)),
        format=cfg.format,
        clipping=cfg.clipping,
        tags=bool(cfg.tags),
        video=bool(cfg.video),
        skip_existing=bool(cfg.skip_existing),
    )


def check_copies(jobs: Sequence[Job], pipeline: Pipeline) -> None:
    """Refuse songs to be copied as a stem that the others have none of.

    Raises:
        ValueError: naming the first.
    """
    for job in jobs:
        if job.stem is not None and job.stem not in pipeline.stems:
            raise ValueError(
                f"{job.source} is to be copied as {job.stem}: this model separates "
                f"{list(pipeline.stems)}"
            )


def describe(cfg: DictConfig, pipeline: Pipeline) -> Report:
    """A report without files."""
    return Report(
        ckpt=checkpoints(cfg.ckpt),
        models=model_names(pipeline),
        num_parameters=num_parameters(pipeline),
        stems=pipeline.stems,
        sample_rates=[member.sample_rate for member in pipeline.members],
        remainder=pipeline.remainder,
        device=str(pipeline.execution.device),
        precision=pipeline.execution.precision,
        num_passes=pipeline.num_passes,
        options=asdict(pipeline.options),
    )


def in_words(report: Report, jobs: Sequence[Job], pipeline: Pipeline) -> str:
    """What is going to happen."""
    rates = " and ".join(str(rate) for rate in dict.fromkeys(report.sample_rates))
    passes = f", {report.num_passes} passes" if report.num_passes > 1 else ""
    return (
        f"{' + '.join(report.models)}: {', '.join(report.stems)} at {rates} Hz, "
        f"{report.num_parameters / 1e6:.1f} M parameters, "
        f"on {describe_device(pipeline.execution)}{passes}, {len(jobs)} file(s)"
    )


def checkpoints(ckpt: object) -> list[str]:
    """The paths, of one or of several."""
    return [ckpt] if isinstance(ckpt, str) else [str(path) for path in ckpt]  # pyright: ignore[reportGeneralTypeIssues]


def model_of(ckpt: object) -> str:
    """What `{model}` stands for in names: the checkpoints' own names."""
    return "+".join(Path(path).stem for path in checkpoints(ckpt))


def text_of(song: Path) -> dict[str, str]:
    """The text tags of a song."""
    return dict(read_tags(song).text)


def send(stem: Path) -> None:
    """Copy a finished file to the standard output."""
    with stem.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def tell(said: str, notes: list[str], console: Console) -> None:
    """Keep for the report, and say at once."""
    notes.append(said)
    say(said, console)


def say(said: str, console: Console) -> None:
    """One line on the terminal, whatever the names in it hold."""
    console.print(printable(said), markup=False)


def signal_of(stop: KeyboardInterrupt) -> int:
    """The number of the signal that ended the run."""
    return int(stop.args[0]) if stop.args else int(signal.SIGINT)


def in_minutes(seconds: float) -> str:
    """A duration in the unit that fits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5_400 else f"{seconds / 3_600:.1f} h"


def one_file(file: FileReport) -> str:
    """A file's line on the terminal."""
    clipped = [f"{count} samples of {stem} clipped" for stem, count in file.clipped_samples.items()]
    speed = (
        "" if file.real_time_factor is None else f" (real-time factor {file.real_time_factor:.2f})"
    )
    notes = [note.removeprefix(f"{file.input}: ") for note in file.notes]
    said = "; ".join([*([file.reason] if file.reason else []), *notes, *clipped])
    return f"{file.status}: {file.input}{speed}{': ' if said else ''}{said}"


def stop(number: int, frame: FrameType | None) -> None:
    """Signal handler: end as Ctrl-C does, so that temporary files are deleted."""
    raise KeyboardInterrupt(number)


@hydra_main("separate")
def main(cfg: DictConfig) -> int:
    """One run; the exit code is the report's."""
    signal.signal(signal.SIGTERM, stop)
    return_memory()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack a name's letters
    try:
        return separate(cfg).exit_code
    except KeyboardInterrupt as by:
        return 128 + signal_of(by)


if __name__ == "__main__":
    main()
