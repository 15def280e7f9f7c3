"""python -m frametx.check: what is in the libraries, before days of training on them.

data -> parts (train <stem>, validation <stem> ...) -> facts of every file -> findings
     -> table, report.json, exclude.txt, pictures
A separator may listen to every file as well. With preview=8, training samples are written instead.
"""

import dataclasses
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from frametx import __version__
from frametx.checkpoint import load_separator
from frametx.config import hydra_main
from frametx.data.drawn_mixtures import DrawnMixtures
from frametx.data.exclusion import list_line, write_list
from frametx.data.files import AudioFile
from frametx.data.findings import (
    KINDS,
    SPEAKERS,
    TRAIN,
    Finding,
    Limits,
    Part,
    find_all,
    group_of,
)
from frametx.data.library import Library
from frametx.data.listed_mixtures import ListedMixtures
from frametx.data.preview import write_preview
from frametx.data.speakers import AnyOrder, DrawnSpeakers, speaker_of
from frametx.data.survey import Facts, FactsCache, survey
from frametx.data.survey_picture import (
    hours_by_folder,
    save_hours,
    save_spectra,
    save_waveforms,
)
from frametx.data.track_files import TrackFinding, listing_tracks
from frametx.data.tracks import HELD_OUT_FOLDERS, EvaluationSet, Tracks
from frametx.execution import choose_device
from frametx.printable import printable
from frametx.screening import Verdict, screen_file, unwanted_stems
from frametx.separator import Separator
from frametx.training.datamodule import StepDataModule
from frametx.training.speakers import SpeakersDataModule
from frametx.training.tracks import TracksDataModule
from frametx.training.voxaug import VoxaugDataModule

SONGS = "songs"
"""Stands for the part of findings about songs of aligned stems as wholes."""


@dataclasses.dataclass(frozen=True)
class Screened:
    """What a separator said about one file."""

    part: str
    path: Path
    verdict: Verdict


@dataclasses.dataclass(frozen=True)
class Report:
    """What a check found.

    Args:
        parts: what was looked at.
        facts: by path; a text is the reason why there are none.
        findings: all of them, faults first.
        notes: kinds of findings that are no faults.
        screened: by a separator, worst first.
    """

    parts: Sequence[Part]
    facts: Mapping[Path, Facts | str]
    findings: Sequence[Finding]
    notes: frozenset[str]
    screened: Sequence[Screened] = ()

    @property
    def faults(self) -> list[Finding]:
        """Findings that are more than notes."""
        return [finding for finding in self.findings if finding.kind not in self.notes]

    def usable(self, part: Part) -> list[tuple[AudioFile, Facts]]:
        """The files of a part that could be measured."""
        found = [(file, self.facts[file.path]) for file in part.files]
        return [(file, facts) for file, facts in found if isinstance(facts, Facts)]


@dataclasses.dataclass(frozen=True)
class Listener:
    """A separator that is asked what in a file does not belong there, once for each file.

    Args:
        separator: in evaluation mode, on `device`.
        digest: of its checkpoint, under which answers are kept.
        batch_size: chunks separated at once.
        device: of the separator.
    """

    separator: Separator
    digest: str
    batch_size: int
    device: torch.device

    @classmethod
    def load(cls, cfg: DictConfig) -> "Listener":
        """The checkpoint that `cfg.screen` names.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is no checkpoint, or the device is not there.
        """
        device, ckpt = choose_device(cfg.device), Path(cfg.screen).expanduser()
        separator = load_separator(ckpt, device=device)
        digest = hashlib.blake2b(ckpt.read_bytes(), digest_size=8).hexdigest()
        return cls(separator, digest, cfg.batch_size, device)

    def ask(self, file: AudioFile, unwanted: Sequence[int], cache: FactsCache) -> Verdict:
        """What it says, or has said of the unchanged file."""
        key = f"screen {self.digest} {list(unwanted)}"
        note = cache.get_note(file, key)
        if note is not None:
            return Verdict(**json.loads(note))
        verdict = screen_file(
            file,
            self.separator,
            unwanted=unwanted,
            batch_size=self.batch_size,
            device=self.device,
        )
        cache.put_note(file, key, json.dumps(dataclasses.asdict(verdict)))
        cache.commit()
        return verdict


def check(cfg: DictConfig, data: StepDataModule, songs: Sequence[TrackFinding] = ()) -> Report:
    """Look at every file of the data, as conf/check.yaml says.

    Args:
        cfg: the whole config.
        data: what is checked.
        songs: what is wrong with songs of aligned stems; it grows while the data is opened.

    Raises:
        ValueError: if an option is out of its range, or the data cannot be opened.
    """
    limits: Limits = instantiate(cfg.limits)
    notes = kinds("notes", cfg.notes)
    # Before hours of decoding: a checkpoint that is not there.
    listener = None if cfg.screen is None else Listener.load(cfg)
    parts = all_parts(data, tested_tracks(cfg))
    files = [file for part in parts for file in part.files]
    with FactsCache(Path(cfg.paths.cache_dir).expanduser() / "survey.sqlite") as cache:
        with progress("measuring") as told:
            facts = survey(files, cache=cache, threads=cfg.threads, progress=told)
        findings = song_findings(songs) + find_all(parts, facts, limits)
        screened: list[Screened] = []
        if listener is not None:
            with progress("separating") as told:
                screened = screen(parts, facts, listener, cache, told)
            findings += unwanted_sounds(screened, cfg.screen_db)
    order = sorted(findings, key=lambda finding: finding.kind in notes)  # stable: faults first
    return Report(parts, facts, order, notes, screened)


def song_findings(songs: Sequence[TrackFinding]) -> list[Finding]:
    """What is wrong with songs as wholes; each once, although a folder may serve two purposes."""
    return list(
        dict.fromkeys(
            Finding(SONGS, song.folder, song.kind, f"{song.reason}; {song.way_out}".rstrip("; "))
            for song in songs
        )
    )


def screen(
    parts: Sequence[Part],
    facts: Mapping[Path, Facts | str],
    listener: Listener,
    cache: FactsCache,
    progress: Callable[[int, int], None],
) -> list[Screened]:
    """Ask about every file that can be decoded; worst first.

    Raises:
        ValueError: if the separator cannot tell what is wrong in a role.
    """
    roles = list(dict.fromkeys(part.role for part in parts))
    stems = listener.separator.stems
    unwanted = {role: unwanted_stems(role, roles=roles, stems=stems) for role in roles}
    wanted = [
        (file, part)
        for part in parts
        for file in part.files
        if not isinstance(facts[file.path], str)
    ]
    screened: list[Screened] = []
    for done, (file, part) in enumerate(wanted, start=1):
        verdict = listener.ask(file, unwanted[part.role], cache)
        screened.append(Screened(part.name, Path(file.path), verdict))
        progress(done, len(wanted))
    return sorted(screened, key=lambda one: -one.verdict.unwanted_db)


def unwanted_sounds(screened: Sequence[Screened], screen_db: float) -> list[Finding]:
    """A fault for each file that holds more of the unwanted than `screen_db`."""
    return [
        Finding(
            one.part,
            one.path,
            "unwanted",
            f"{one.verdict.unwanted_db:.1f} dB of it are other stems, most of it at "
            f"{one.verdict.at_seconds:.0f} s",
        )
        for one in screened
        if one.verdict.unwanted_db > screen_db
    ]


def all_parts(data: StepDataModule, test: EvaluationSet | None) -> list[Part]:
    """What is trained on, validated and tested with, each role by itself.

    A test set of the files that are validated with is not repeated.
    """
    if isinstance(data, VoxaugDataModule):
        parts = [
            Part(TRAIN, role, library.files, data.rejected(role))
            for role, library in data.libraries.items()
        ]
    elif isinstance(data, TracksDataModule):
        parts = parts_of_set(TRAIN, data.training_tracks, data)
    elif isinstance(data, SpeakersDataModule):
        parts = [Part(TRAIN, SPEAKERS, data.library.files, data.library.rejected)]
    else:
        raise ValueError(f"{type(data).__name__} is no data whose files could be checked")
    parts += parts_of_set("validation", data.validation_set, data)
    seen = {file.path for part in parts for file in part.files}
    tested = parts_of_set("test", test, data) if test is not None else []
    return parts + [part for part in tested if any(file.path not in seen for file in part.files)]


def parts_of_set(split: str, tracks: EvaluationSet, data: StepDataModule) -> list[Part]:
    """The files behind tracks to evaluate on, by stem."""
    if isinstance(tracks, DrawnMixtures | ListedMixtures):
        return [
            Part(split, stem, library.files, library.rejected)
            for stem, library in tracks.libraries.items()
        ]
    if isinstance(tracks, DrawnSpeakers):
        library = tracks.crops.reader.library
        return [Part(split, SPEAKERS, library.files, library.rejected)]
    if isinstance(tracks, AnyOrder):
        return [voices_of(split, parts_of_set(split, tracks.tracks, data))]
    if not isinstance(tracks, Tracks):
        raise ValueError(f"{split}: {type(tracks).__name__} has no files that could be checked")
    if not tracks.folders:  # no song of it can be used
        return [Part(split, role, ()) for role in tracks.stems]
    library = Library.open(tracks.folders, role=split, cache_dir=data.cache_dir)
    stems: dict[Path, list[str]] = {}
    names: dict[Path, str] = {}
    for name, sources in zip(tracks.names, tracks.sources, strict=True):
        for stem, part in zip(tracks.stems, sources, strict=True):
            for info in part:
                stems.setdefault(info.path.absolute(), []).append(stem)
                names[info.path.absolute()] = f"{below_part(name)}/{info.path.name}"

    def named(file: Any) -> Any:
        """By its track, so that the track's folder tells the artist."""
        return dataclasses.replace(file, name=names[file.path])

    return [
        Part(
            split,
            role,
            tuple(named(file) for file in library.files if role in stems.get(file.path, ())),
            tuple(named(file) for file in library.rejected if role in stems.get(file.path, ())),
        )
        for role in tracks.stems
    ]


def voices_of(split: str, parts: Sequence[Part]) -> Part:
    """The stems of mixtures that were made of speakers, as one library of voices.

    Their folders are mixtures and tell no speaker, so names without a folder stand for them.
    """

    def without_folder(file: Any) -> Any:
        return dataclasses.replace(file, name=file.name.replace("/", " "))

    return Part(
        split,
        SPEAKERS,
        tuple(without_folder(file) for part in parts for file in part.files),
        tuple(without_folder(file) for part in parts for file in part.rejected),
        repeats=True,
    )


def speakers_in(part: Part) -> set[object]:
    """Who is told apart in a part by its folders and names: speakers, or artists."""
    if part.role == SPEAKERS:
        return set() if part.repeats else {speaker_of(file) for file in part.files}
    return {group for file in part.files if (group := group_of(file.name)) is not None}


def below_part(track: str) -> str:
    """A track's name without train/, test/ or whatever part of the root it lies in."""
    part, _, name = track.partition("/")
    return name if name and part in (TRAIN, *HELD_OUT_FOLDERS) else track


def tested_tracks(cfg: DictConfig) -> EvaluationSet | None:
    """The tracks of `data.test`, where there are any."""
    test = cfg.data.get("test")
    return None if test is None else instantiate(test)


def kinds(key: str, names: Sequence[str]) -> frozenset[str]:
    """Kinds of findings by their names.

    Raises:
        ValueError: if there is no such kind.
    """
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise ValueError(
            f"{key}={list(names)}: {unknown[0]} is no kind; there is {', '.join(KINDS)}"
        )
    return frozenset(names)


def write_report(report: Report, output: Path, *, facts: Mapping[str, Any]) -> None:
    """Write report.json and exclude.txt.

    Args:
        report: what was found.
        output: folder, made where it is missing.
        facts: what was checked with what, for the JSON.
    """
    output.mkdir(parents=True, exist_ok=True)
    content = {
        **facts,
        "parts": [part_as_json(report, part) for part in report.parts],
        "findings": [
            {
                "part": finding.part,
                "path": str(finding.path),
                "kind": finding.kind,
                "reason": finding.reason,
                "is_fault": finding.kind not in report.notes,
            }
            for finding in report.findings
        ],
        "screened": [
            {"part": one.part, "path": str(one.path), **dataclasses.asdict(one.verdict)}
            for one in report.screened
        ],
        "files": [
            {"part": part.name, "path": str(file.path), **measured(facts)}
            for part in report.parts
            for file, facts in report.usable(part)
        ],
    }
    partial = output / ".report.json.tmp"
    partial.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    partial.replace(output / "report.json")
    lines = [
        "# Files with faults, for data.exclude=<this file>; take lines out to keep files. Below,",
        "# as comments, what was noted and is trained on; take the mark out to exclude it as well.",
    ]
    reasons: dict[Path, list[Finding]] = {}
    for finding in report.faults:
        reasons.setdefault(finding.path, []).append(finding)
    for path, found in reasons.items():
        lines.append(list_line(path, "; ".join(f"{one.kind}: {one.reason}" for one in found)))
    lines += [
        "# " + list_line(finding.path, f"{finding.kind}: {finding.reason}")
        for finding in report.findings
        if finding.kind in report.notes
    ]
    write_list(output / "exclude.txt", lines)


def measured(facts: Facts) -> dict[str, Any]:
    """The facts that fit into a line of JSON."""
    named = {field.name: getattr(facts, field.name) for field in dataclasses.fields(facts)}
    del named["spectrum_db"], named["fingerprint"]
    return {"seconds": facts.seconds, **named}


def part_as_json(report: Report, part: Part) -> dict[str, Any]:
    """The sums of one part."""
    usable = report.usable(part)
    found = Counter(finding.kind for finding in report.findings if finding.part == part.name)
    return {
        "split": part.split,
        "role": part.role,
        "files": len(part.files),
        "hours": sum(file.seconds for file in part.files) / 3600,
        "sample_rates": dict(Counter(str(file.sample_rate) for file in part.files)),
        "channels": dict(Counter(str(file.num_channels) for file in part.files)),
        "speakers_or_artists": len(speakers_in(part)),
        "rejected": len(part.rejected),
        "silent_share": weighted(usable, lambda facts: facts.silent_share),
        "clipped_share": weighted(usable, lambda facts: facts.clipped_share),
        "hours_by_folder": hours_by_folder(part),
        "findings": {kind: found[kind] for kind in KINDS if found[kind]},
    }


def weighted(
    usable: Sequence[tuple[AudioFile, Facts]], value: Callable[[Facts], float]
) -> float | None:
    """A mean over files by their durations; none without files."""
    seconds = sum(facts.seconds for _, facts in usable)
    return sum(value(facts) * facts.seconds for _, facts in usable) / seconds if seconds else None


def print_report(report: Report, console: Console, *, shown: int) -> None:
    """The table of the parts, then the findings, faults first."""
    table = Table()
    has_speakers = any(part.role == SPEAKERS for part in report.parts)
    for heading in ("part", "speakers", "files", "hours", "rates / kHz", "channels", "silent"):
        if heading != "speakers" or has_speakers:
            is_number = heading in ("speakers", "files", "hours")
            table.add_column(heading, justify="right" if is_number else "left")
    table.add_column("findings")
    for part in report.parts:
        told = part_as_json(report, part)
        rates = sorted(told["sample_rates"].items(), key=lambda rate: -rate[1])
        silent = told["silent_share"]
        table.add_row(
            part.name,
            *([str(told["speakers_or_artists"] or "")] if has_speakers else []),
            f"{told['files']}" + (f" +{told['rejected']} bad" if told["rejected"] else ""),
            f"{told['hours']:.2f}",
            ", ".join(f"{int(rate) / 1000:g}: {count}" for rate, count in rates),
            ", ".join(f"{number}: {count}" for number, count in sorted(told["channels"].items())),
            "" if silent is None else f"{silent:.0%}",
            ", ".join(f"{kind} {count}" for kind, count in told["findings"].items()) or "none",
        )
    console.print(table)
    if songs := Counter(finding.kind for finding in report.findings if finding.part == SONGS):
        console.print(f"songs: {', '.join(f'{kind} {count}' for kind, count in songs.items())}")
    for finding in report.findings[:shown]:
        mark = "note " if finding.kind in report.notes else "fault"
        console.print(
            f"{mark} {finding.kind}: {escape(printable(finding.path))} ({finding.part}): "
            f"{escape(printable(finding.reason))}",
            soft_wrap=True,
            highlight=False,
        )
    if len(report.findings) > shown:
        console.print(f"and {len(report.findings) - shown} more in report.json")
    if report.screened:
        console.print("energy of what does not belong there, re all, worst first:")
        for one in report.screened[:shown]:
            console.print(
                f"  {one.verdict.unwanted_db:6.1f} dB, {one.verdict.loudest_db:6.1f} dB at "
                f"{one.verdict.at_seconds:.0f} s: {escape(printable(one.path))} ({one.part})",
                soft_wrap=True,
                highlight=False,
            )


def save_pictures(report: Report, output: Path) -> None:
    """hours.png, spectra.png, and waveforms.png of the files with findings, else of the first."""
    save_hours(output / "hours.png", {part.name: hours_by_folder(part) for part in report.parts})
    save_spectra(
        output / "spectra.png",
        {part.name: [facts for _, facts in report.usable(part)] for part in report.parts},
    )
    files = {file.path: file for part in report.parts for file, _ in report.usable(part)}
    told: dict[Path, str] = {}
    for finding in report.findings:
        if finding.path in files:
            title = f"{named(finding.path)}: {finding.kind}: {finding.reason}"
            told.setdefault(finding.path, title)
    for path in files:
        told.setdefault(path, named(path))
    save_waveforms(output / "waveforms.png", [(files[path], text) for path, text in told.items()])


def draw(report: Report, output: Path) -> bool:
    """Save the pictures, or say why they cannot be had: the report is written by then."""
    try:
        save_pictures(report, output)
    except Exception as error:  # whatever a drawing package raises
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"note: no pictures: {printable(reason)}", file=sys.stderr, flush=True)
        return False
    return True


def named(path: Path) -> str:
    """A file and the folder it lies in."""
    return f"{path.parent.name}/{path.name}"


def preview(cfg: DictConfig, data: StepDataModule) -> list[dict[str, Any]]:
    """Write samples as training makes them, at the length of the first stage.

    Raises:
        ValueError: if `cfg.preview` is no number of samples, or the data cannot be opened.
    """
    if isinstance(data, VoxaugDataModule):
        stems, drawn = data.augment.stems, data.augment.describe
    elif isinstance(data, TracksDataModule):
        stems = data.stems

        def drawn(sample: int) -> dict[str, object]:
            return data.transforms.describe(sample, stems)

    elif isinstance(data, SpeakersDataModule):
        stems = [f"speaker_{number}" for number in range(1, data.num_speakers + 1)]

        def drawn(sample: int) -> dict[str, object]:
            return data.speaker_mix.describe(sample, stems)

    else:
        raise ValueError(f"{type(data).__name__} is no data that could be previewed")
    with progress("mixing") as told:
        return write_preview(
            Path(cfg.output).expanduser() / "preview",
            source=data.source,
            mix=data.mix,
            drawn=drawn,
            stems=tuple(stems),
            count=cfg.preview,
            num_samples=data.stft.num_samples(data.curriculum.stage(0).frames),
            sample_rate=data.sample_rate,
            on_sample=lambda number: told(number + 1, cfg.preview),
        )


@contextmanager
def progress(description: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing in a pipe; called with (done, of how many)."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@hydra_main("check")
def main(cfg: DictConfig) -> int:
    """Check the data, or write a preview of it; 1 if it is strict and there are faults."""
    torch.set_grad_enabled(False)
    for key in ("preview", "shown"):
        if not isinstance(cfg[key], int) or isinstance(cfg[key], bool) or cfg[key] < 0:
            raise ValueError(f"{key}={cfg[key]} must be a whole number, 0 or more")
    if cfg.threads is not None and (not isinstance(cfg.threads, int) or cfg.threads < 1):
        raise ValueError(f"threads={cfg.threads} must be at least 1, or null")
    output = Path(cfg.output).expanduser()
    with listing_tracks() as songs:
        return run(cfg, output, songs)


def run(cfg: DictConfig, output: Path, songs: Sequence[TrackFinding]) -> int:
    """Check or preview, write and print; the exit code."""
    data = instantiate(cfg.data)
    console = Console() if sys.stdout.isatty() else Console(width=160)
    if cfg.preview:
        told = preview(cfg, data)
        for sample in told:
            console.print(escape(sample["files"]), soft_wrap=True, highlight=False)
        console.print(f"written: {output / 'preview'}", soft_wrap=True, highlight=False)
        return 0
    report = check(cfg, data, songs)
    facts = {
        "data": HydraConfig.get().runtime.choices["data"],
        "version": __version__,
        "screen": None if cfg.screen is None else str(cfg.screen),
        "screen_db": cfg.screen_db,
        "limits": dataclasses.asdict(instantiate(cfg.limits)),
        "notes": sorted(report.notes),
    }
    write_report(report, output, facts=facts)
    print_report(report, console, shown=cfg.shown)
    is_drawn = not cfg.plot or draw(report, output)
    faulty = len({finding.path for finding in report.faults})
    console.print(
        f"{faulty} file(s) with faults; written: {output}", soft_wrap=True, highlight=False
    )
    return int(bool(cfg.strict and faulty) or not is_drawn)


if __name__ == "__main__":
    main()
