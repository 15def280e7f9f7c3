"""One song on disk becomes one file per stem: read ahead, separate, write behind.

read_blocks (a thread) -> pipeline -> StemFiles (a thread) -> final names, when all is whole
"""

import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from frametx.audio.io import AudioInfo, probe, read_blocks
from frametx.audio.side_threads import Ahead, Behind
from frametx.audio.stem_files import (
    StemFiles,
    choose_format,
    copy_as_stem,
    find_finished,
    with_suffix,
)
from frametx.audio.tags import Tags, read_tags
from frametx.audio.video import still_video
from frametx.pipeline import Pipeline
from frametx.songs import Job, refuse_what_is_no_song

BLOCK_SAMPLES = 1 << 16  # read at once

LEAST_BYTES_PER_SECOND = 500  # of audio in a file: below it, its header is not believed
CYCLES = 3  # of chunks, after which the work for one more is known well enough

Show = Callable[[float, float | None, float], None]


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """What to write; the names of conf/separate.yaml."""

    stems: tuple[str, ...]
    format: str = "same"
    clipping: str = "float"
    tags: bool = True
    video: bool = False
    skip_existing: bool = False


@dataclass(kw_only=True)
class FileReport:
    """What became of one song. `real_time_factor` is seconds of work per second of audio."""

    input: str
    status: Literal["done", "copied", "skipped", "failed", "interrupted"]
    reason: str | None = None
    outputs: dict[str, str] = field(default_factory=dict)
    audio_seconds: float | None = None
    seconds: float | None = None
    real_time_factor: float | None = None
    clipped_samples: dict[str, int] = field(default_factory=dict)
    gain_db: float = 0.0
    notes: list[str] = field(default_factory=list)


def separate_song(
    pipeline: Pipeline, job: Job, options: FileOptions, show: Show = lambda *_: None
) -> FileReport:
    """Separate one song into one file per stem, or copy it, if it is one stem already.

    Args:
        pipeline: takes it apart.
        job: the song, and how its stems are named.
        options: what to write.
        show: is called after each block: seconds of audio done, in all (None where the header is
            not believed), and seconds spent.

    Raises:
        FileNotFoundError: if there is no such song.
        ValueError: if it is bad, a file cannot hold its stems, or the model returns samples that
            are not finite.
        OSError: if a stem cannot be written.
    """
    if job.is_stem:
        return _copied(job, job.stem or pipeline.background, options)
    info = probe_song(job.source)
    paths = {stem: job.path(stem) for stem in options.stems}
    total_s = plausible_seconds(info)
    report = FileReport(
        input=str(job.source),
        status="skipped",
        audio_seconds=info.num_samples / info.sample_rate,
    )
    finished = find_finished(paths, choose_format(info, options.format))
    if options.skip_existing and finished is not None:
        report.outputs = {stem: str(path) for stem, path in finished.items()}
        return report
    # Nothing else uses them here, and a song may have a bad one to be told about.
    tags = read_tags(job.source) if options.tags or options.video else Tags()
    files = StemFiles(
        paths=paths,
        info=info,
        stems=pipeline.stems,
        format=options.format,
        clipping=options.clipping,
        remainder=pipeline.remainder,
        tags=tags if options.tags else None,
    )
    started = time.perf_counter()
    show(0.0, total_s, 0.0)
    done_s = 0.0
    with files:
        for done_s in write_stems(pipeline, info, files):
            at_least_s = None if total_s is None else max(done_s, total_s)
            show(done_s, at_least_s, time.perf_counter() - started)
    report.outputs = {stem: str(path) for stem, path in files.outputs.items()}
    report.audio_seconds = done_s
    report.notes = [*tags.notes, *files.notes] if options.tags else files.notes
    if options.video:
        report.outputs |= _videos(files.outputs, tags)
    report.status = "done"
    report.seconds = time.perf_counter() - started
    report.real_time_factor = report.seconds / report.audio_seconds
    report.clipped_samples = files.clipped
    report.gain_db = files.gain_db
    return report


def plausible_seconds(info: AudioInfo) -> float | None:
    """The length that a header gives; None if the file is far too small for it.

    Raises:
        OSError: if the file is gone.
    """
    seconds = info.num_samples / info.sample_rate
    return seconds if seconds * LEAST_BYTES_PER_SECOND <= info.path.stat().st_size else None


def seconds_to_judge_by(pipeline: Pipeline) -> float:
    """How much audio must be done before the time for the rest can be told.

    Samples come in bursts, one for each batch of chunks, so that less says little.
    """
    return CYCLES * pipeline.execution.batch_size * pipeline.chunk_seconds


def write_stems(
    pipeline: Pipeline,
    info: AudioInfo,
    files: StemFiles,
    *,
    on_mixture: Callable[[Float[Tensor, "C _"]], None] = lambda _: None,
    on_stems: Callable[[Float[Tensor, "S C _"]], None] = lambda _: None,
) -> Generator[float, None, None]:
    """Separate a song into open files; tells after each block how many seconds of it are done.

    Reading is a few blocks ahead, in a thread, and writing a few behind, in another; when the last
    block was told, all is written.

    Args:
        pipeline: takes it apart.
        info: of the song.
        files: of its stems.
        on_mixture: is shown each block that is read, in the reading thread.
        on_stems: is shown each block of stems.

    Raises:
        ValueError: if the song is bad, or the model returns samples that are not finite.
        OSError: if a stem cannot be written.
    """

    def read() -> Iterator[Tensor]:
        for block in read_blocks(info.path, block_samples=BLOCK_SAMPLES, note=files.note):
            on_mixture(block)
            yield block

    def write(block: Tensor) -> None:
        # Rounding a block takes several times its memory in double precision.
        for piece in block.split(BLOCK_SAMPLES, dim=2):
            files.write(piece)

    num_samples = 0
    with Behind(write, num_items=2) as writer, Ahead() as ahead:
        for block in pipeline.stream(lambda: ahead.read(read()), sample_rate=info.sample_rate):
            if not torch.isfinite(block).all():
                at_s = num_samples / info.sample_rate
                raise ValueError(
                    f"{info.path}: the model returned samples that are not finite after "
                    f"{at_s:.1f} s; try precision=fp32"
                )
            writer.give(block)
            on_stems(block)
            num_samples += block.shape[2]
            del block  # it would be kept while the network makes the next
            yield num_samples / info.sample_rate


def probe_song(path: Path) -> AudioInfo:
    """A song's header; what is a playlist or an archive says so instead.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no audio, or bad.
    """
    try:
        return probe(path)
    except ValueError:
        refuse_what_is_no_song(path, is_unreadable=True)
        raise


def _copied(job: Job, stem: str | None, options: FileOptions) -> FileReport:
    """Copy a song that is one stem already, under the name that this stem of it would have."""
    report = FileReport(input=str(job.source), status="skipped")
    if stem is None:
        report.reason = (
            "is one stem already, and this model leaves none over: say which it is, as in "
            f'"copy": {{"{options.stems[0]}": [...]}}'
        )
        return report
    report.reason = f"is {stem} already"
    if stem not in options.stems:
        return report
    probe_song(job.source)  # whatever a list calls a song, only audio is copied
    path = job.path(stem)
    target = with_suffix(path, job.source.suffix)
    report.outputs = {stem: str(target)}
    if options.skip_existing and target.is_file():
        return report
    copy_as_stem(job.source, path)
    report.status = "copied"
    return report


def _videos(outputs: dict[str, Path], tags: Tags) -> dict[str, str]:
    """An mp4 with the cover beside each stem."""
    picture = None if tags.cover is None else tags.cover.data
    videos: dict[str, str] = {}
    for stem, path in outputs.items():
        video = path.with_name(f"{path.name.removesuffix(path.suffix)}.mp4")
        still_video(path, picture, video)
        videos[f"{stem} video"] = str(video)
    return videos
