"""The folder of a run: whose it is, and which checkpoint a run goes on from."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from frametx.checkpoint import read_checkpoint
from frametx.files import remove_parts
from frametx.runs.initial_weights import own_targets
from frametx.runs.processes import is_child_process

FINISHED = "finished"
"""A file in the folder of a stage, or of a job of a sweep, that need not be run again."""
LOCK = ".lock"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a run's folder for this process; the system gives it back when the process ends.

    Processes of further devices share it with the one that started them. Unfinished files that a
    killed process left among the checkpoints are removed. Where a network disk knows no locks,
    nothing is kept.

    Raises:
        ValueError: if a process that is alive, here or on another machine, has it.
    """
    if is_child_process():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+") as file:
        try:
            _lock(file)
        except (BlockingIOError, PermissionError) as error:
            file.seek(0)
            holder = " ".join(file.read().split()) or "another process"
            raise ValueError(
                f"{folder} is in use by {holder}: name=... starts another run; when that one has "
                "ended, ckpt_path=last goes on with it"
            ) from error
        except OSError:  # a disk without locks
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        remove_parts(folder / "checkpoints")
        yield


def check_folder(cfg: DictConfig) -> None:
    """See that a run may have its folder, before its config is written there.

    Args:
        cfg: of the run, with Hydra's own part.

    Raises:
        ValueError: if another process has it.
    """
    folder = Path(str(OmegaConf.select(cfg, "hydra.run.dir")))
    if (folder / LOCK).is_file():
        with locked(folder):
            pass


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[str]) -> None:
        file.seek(1 << 20)  # behind the text, which others may then read
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _lock(file: IO[str]) -> None:
        # POSIX locks, not flock: readers that were forked must not keep it when their run is killed
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def has_own_folder(cfg: DictConfig) -> bool:
    """Whether the user chose the run's folder: by name, or as a stage or a job of a sweep has one.

    Otherwise it is named after the time, and cannot hold an earlier run.
    """
    if cfg.stage_of is not None or is_sweep():
        return True
    chosen = ("name", "hydra.run.dir", "paths.output_dir")
    if HydraConfig.initialized():
        overrides = [
            text.lstrip("+").partition("=")[0] for text in HydraConfig.get().overrides.task
        ]
        overrides += [text.partition("=")[0] for text in HydraConfig.get().overrides.hydra]
        if any(key in chosen for key in overrides):
            return True
    raw = str(cfg._get_node("name")._value())  # pyright: ignore[reportOptionalMemberAccess]
    return "${now:" not in raw  # a name out of the user's own files


def is_sweep() -> bool:
    """Whether this is a job of a sweep."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def checkpoint_to_resume(cfg: DictConfig) -> str | None:
    """The checkpoint that ckpt_path names.

    `last` is this run's own where the run has a name; of a job of a sweep that has not begun it is
    none; without a name it is the newest of all runs.

    Raises:
        ValueError: if there is none, or if this run's folder holds one that would be overwritten.
    """
    own = Path(cfg.paths.output_dir) / "checkpoints" / "last.ckpt"
    if cfg.ckpt_path is None:
        if own.exists() and not is_child_process():
            raise ValueError(
                f"{own.parent.parent} already holds a run: ckpt_path=last resumes it, "
                "name=... starts another"
            )
        return None
    if cfg.ckpt_path != "last":
        read_checkpoint(cfg.ckpt_path, also=own_targets(cfg))
        return str(cfg.ckpt_path)
    if not own.exists() and is_sweep():
        return None
    chosen = own if own.exists() or has_own_folder(cfg) else newest_checkpoint(cfg)
    if not chosen.exists():
        raise ValueError(f"ckpt_path=last: {missing_checkpoint(cfg, own)}")
    print(f"resuming {chosen}", flush=True)
    return str(chosen)


def newest_checkpoint(cfg: DictConfig) -> Path:
    """The newest last.ckpt of all runs.

    Raises:
        ValueError: if there is none.
    """
    found = all_checkpoints(cfg)
    if not found:
        raise ValueError(f"ckpt_path=last: no run under {cfg.paths.runs_dir} has a last.ckpt")
    return found[-1]


def all_checkpoints(cfg: DictConfig) -> list[Path]:
    """The last.ckpt of every run, the newest at the end."""
    found = Path(cfg.paths.runs_dir).glob("**/last.ckpt")
    return sorted(found, key=lambda path: path.stat().st_mtime)


def missing_checkpoint(cfg: DictConfig, own: Path) -> str:
    """Why a named run cannot go on, and what could."""
    others = [path for path in own.parent.glob("*.ckpt") if path.name != "last.ckpt"]
    if others:
        return f"no {own}, but there is {others[0]}: ckpt_path={others[0]} goes on from it"
    runs = [str(path.parent.parent) for path in reversed(all_checkpoints(cfg))]
    newest = f"; the newest run that has one is {runs[0]}" if runs else ""
    return f"no run under {own.parent.parent} has a last.ckpt{newest}; leave out ckpt_path to start"


def keep_metrics(run: Path) -> None:
    """Give the metrics of a run that is resumed a name that Lightning's logger does not delete."""
    metrics = run / "metrics.csv"
    if metrics.is_file() and not is_child_process():
        number = len(list(run.glob("metrics.part*.csv"))) + 1
        metrics.rename(run / f"metrics.part{number}.csv")


def best_checkpoint(cfg: DictConfig) -> Path | None:
    """The best checkpoint of a finished run where there was validation, else its last one."""
    folder = Path(cfg.paths.output_dir) / "checkpoints"
    return next((p for n in ("best", "last") if (p := folder / f"{n}.ckpt").is_file()), None)
