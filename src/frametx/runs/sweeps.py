"""A sweep that goes on by the same command: which folder it has, and which jobs are left."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from frametx.config import conf_dir, overrides_in, quoted
from frametx.runs.folder import FINISHED

CHOICES = ("ckpt_path", "name")  # what two commands of one sweep may differ in
MULTIRUN = ("-m", "--multirun")


def continued(arguments: Sequence[str]) -> list[str]:
    """A command line of which a sweep with ckpt_path=last gets the folder it had before.

    That is the one it names, or else the newest in which a sweep over the same values began. Every
    job finds its own checkpoint there.

    Raises:
        ValueError: if no such sweep has begun, or its jobs had other values.
    """
    texts = overrides_in(arguments)
    if not any(flag in arguments for flag in MULTIRUN) or "ckpt_path=last" not in texts:
        return list(arguments)
    jobs = jobs_of(texts)
    if jobs is None:
        return list(arguments)
    runs, named = _folders(texts)
    if named is not None:
        _check_values(named, swept_values(texts), jobs)
        return list(arguments)
    begun = sorted(runs.glob("*/multirun.yaml"), key=lambda path: path.stat().st_mtime)
    same = [path.parent for path in begun if _began_as(path) == _without_choices(texts)]
    if not same:
        raise ValueError(
            f"ckpt_path=last: no sweep with these overrides has begun under {runs}; leave out "
            "ckpt_path to start it, or name the one to go on with by name=..."
        )
    return [*arguments, f"hydra.sweep.dir={quoted(same[-1])}"]


def jobs_of(texts: Sequence[str]) -> list[list[str]] | None:
    """The overrides of each job, in order; None if they cannot be read, which is said elsewhere."""
    try:
        overrides = OverridesParser.create().parse_overrides(list(texts))
        return BasicSweeper.split_arguments(overrides, None)[0]
    except HydraException:
        return None


def swept_values(texts: Sequence[str]) -> set[str]:
    """The keys that have several values."""
    overrides = OverridesParser.create().parse_overrides(list(texts))
    return {o.get_key_element() for o in overrides if o.is_sweep_override()}


def num_jobs(arguments: Sequence[str]) -> int:
    """How many runs a command line asks for."""
    if not any(flag in arguments for flag in MULTIRUN):
        return 1
    return len(jobs_of(overrides_in(arguments)) or [[]])


def is_finished(cfg: DictConfig) -> bool:
    """Whether a job of a sweep need not be run again: it has ended, and as long as it shall be."""
    mark = Path(cfg.paths.output_dir) / FINISHED
    if cfg.ckpt_path != "last" or not mark.is_file():
        return False
    steps = mark.read_text().strip()
    return not steps.isdigit() or int(steps) >= cfg.trainer.max_steps


def mark_finished(cfg: DictConfig) -> None:
    """Note that a job has ended, and after how many steps."""
    (Path(cfg.paths.output_dir) / FINISHED).write_text(f"{cfg.trainer.max_steps}\n")


def _folders(texts: Sequence[str]) -> tuple[Path, Path | None]:
    """Where all runs lie, and the folder of this sweep if the command line names it."""
    chosen = [text for text in texts if text.partition("=")[0] in ("name", "paths.runs_dir")]
    chosen += [text for text in texts if text.startswith("hydra.sweep.dir=")]
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            cfg = hydra.compose("train", overrides=chosen, return_hydra_config=True)
            folder = Path(str(OmegaConf.select(cfg, "hydra.sweep.dir")))
            runs = Path(str(cfg.paths.runs_dir))
    except (HydraException, OmegaConfBaseException):
        return Path("runs"), None
    finally:
        GlobalHydra.instance().clear()
    is_named = any(text.startswith(("name=", "hydra.sweep.dir=")) for text in chosen)
    return runs, folder if is_named else None


def _before(folder: Path) -> list[str]:
    path = folder / "multirun.yaml"
    if not path.is_file():
        return []
    stored = OmegaConf.load(path)
    return [str(text) for text in OmegaConf.select(stored, "hydra.overrides.task") or ()]


def _began_as(multirun: Path) -> list[str]:
    return _without_choices(_before(multirun.parent))


def _without_choices(texts: Sequence[str]) -> list[str]:
    kept = (t for t in texts if t.partition("=")[0] not in CHOICES and not t.startswith("hydra."))
    return sorted(kept)


def _check_values(folder: Path, swept: set[str], jobs: list[list[str]]) -> None:
    """See that the jobs of a named sweep have the values they had.

    Raises:
        ValueError: naming the first job that has others.
    """
    before = _before(folder)
    old_jobs = jobs_of(before) if before else None
    if not old_jobs:
        raise ValueError(
            f"ckpt_path=last: no sweep has begun in {folder}; leave out ckpt_path to start it"
        )
    swept = swept | swept_values(before)
    for number, (old, new) in enumerate(zip(old_jobs, jobs, strict=False)):
        values = [{t for t in job if t.partition("=")[0] in swept} for job in (old, new)]
        if values[0] != values[1] and (folder / str(number)).is_dir():
            old_text, new_text = (" ".join(sorted(v)) for v in values)
            raise ValueError(
                f"ckpt_path=last: job {number} of {folder} was {old_text}, and would be "
                f"{new_text}: give the values in their old order, and new ones at the end"
            )


def describe_rest(number: int) -> str:
    """How many jobs of a sweep have not begun, behind the one with this number."""
    total = num_jobs(sys.argv[1:])
    left = total - number - 1
    return f" (job {number}; {left} of {total} jobs have not begun)" if left > 0 else ""


def job_number() -> int:
    """Of the running job of a sweep."""
    return int(cast(int, HydraConfig.get().job.num))
