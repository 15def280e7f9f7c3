"""Several processes of one run: how they are started, and what is said when one is lost."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import lightning as L
import torch.distributed
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.strategies.launchers import subprocess_script

from frametx.checkpoint import first_line
from frametx.config import UnfinishedError, quoted
from frametx.training.stopping import MAIN_PROCESS, is_child_process

__all__ = ["announce_lost_processes", "is_child_process", "leave_process_group", "start_like_this"]

POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0
"""How long the main process may take to end by itself after another one was lost."""


def start_like_this(checkpoint: str | None) -> None:
    """Let Lightning start further processes as this job was started, from the same checkpoint."""

    def command(local_rank: int) -> tuple[list[str], str]:
        return child_command(local_rank, checkpoint)

    if not is_child_process():
        os.environ[MAIN_PROCESS] = str(os.getpid())
    # Private names of Lightning, which has no public ones for these.
    setattr(subprocess_script, "_hydra_subprocess_cmd", command)  # noqa: B010
    setattr(subprocess_script, "_launch_process_observer", lambda _: None)  # noqa: B010


def child_command(local_rank: int, checkpoint: str | None) -> tuple[list[str], str]:
    """The command that starts one more process of this job, and the folder to start it in.

    Lightning repeats the command line of the parent, which in a sweep holds all values of all jobs
    and -m itself: the child then dies on its arguments. This one repeats the overrides of the job,
    and names the checkpoint to resume, which `last` may not mean to another process.
    """
    flags = get_args_parser().parse_args(sys.argv[1:])
    command = [sys.executable, "-m", "frametx.train"]
    for flag in ("config_dir", "config_path", "config_name"):
        if getattr(flags, flag):
            command += [f"--{flag.replace('_', '-')}", getattr(flags, flag)]
    hydra = HydraConfig.get()
    command += [text for text in hydra.overrides.task if not text.startswith("ckpt_path=")]
    command += [
        f"ckpt_path={'null' if checkpoint is None else quoted(checkpoint)}",
        f"hydra.run.dir={quoted(hydra.runtime.output_dir)}",
        f"hydra.job.name=train_process_{local_rank}",
        "hydra.output_subdir=null",
    ]
    return command, hydra.runtime.cwd


@contextmanager
def announce_lost_processes(trainer: L.Trainer, last: Path) -> Iterator[None]:
    """End a run of several processes in one line when one of them is lost.

    The others would end with a traceback of the library that exchanges gradients, or wait for ever.

    Args:
        trainer: of the run.
        last: the checkpoint that the run can go on from.

    Raises:
        UnfinishedError: in the main process, naming which was lost.
    """
    if trainer.world_size == 1:
        yield
        return
    has_ended = threading.Event()
    if not is_child_process():
        threading.Thread(target=_watch, args=(trainer, last, has_ended), daemon=True).start()
    try:
        yield
    except Exception as error:
        if not _is_of_exchange(error):
            raise
        if is_child_process():
            _end_child(last)
        lost = _wait_for_lost(_processes(trainer))
        reason = f"another process of this run was lost ({first_line(error)})"
        message = f"{reason}: {_way_out(last)}" if lost is None else _message(lost, last)
        raise UnfinishedError(message) from error
    finally:
        has_ended.set()
        for process in _processes(trainer):
            if sys.exc_info()[0] is not None and process.poll() is None:
                _kill_unless_ending(process)


def _processes(trainer: L.Trainer) -> Sequence["subprocess.Popen[bytes]"]:
    return getattr(trainer.strategy.launcher, "procs", ())


def _kill_unless_ending(process: "subprocess.Popen[bytes]") -> None:
    """Wait a moment for a process that ends for the same reason as this one, then kill it."""
    try:
        process.wait(POLL_SECONDS * 10)
    except subprocess.TimeoutExpired:
        process.kill()


def _lost(processes: Sequence["subprocess.Popen[bytes]"]) -> tuple[int, int] | None:
    """Rank and return code of the first process that failed."""
    codes = [(rank, process.poll()) for rank, process in enumerate(processes, start=1)]
    return next(((rank, code) for rank, code in codes if code), None)


def _wait_for_lost(processes: Sequence["subprocess.Popen[bytes]"]) -> tuple[int, int] | None:
    """As `_lost`, for an error that may be the first sign of it."""
    deadline = time.monotonic() + 10 * POLL_SECONDS
    found = _lost(processes)
    while processes and found is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 10)
        found = _lost(processes)
    return found


def _watch(trainer: L.Trainer, last: Path, has_ended: threading.Event) -> None:
    """End a main process that waits for a process that is no more."""
    while not has_ended.wait(POLL_SECONDS):
        lost = _lost(_processes(trainer))
        if lost is not None and not has_ended.wait(GRACE_SECONDS):
            print(f"error: {_message(lost, last)}", file=sys.stderr, flush=True)
            for process in _processes(trainer):
                process.kill()
            os._exit(1)


def _message(lost: tuple[int, int], last: Path) -> str:
    rank, code = lost
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"process {rank} of this run {how}, and so the others end too: {_way_out(last)}"


def _way_out(last: Path) -> str:
    return f"ckpt_path={last} goes on from what was saved" if last.is_file() else "start it anew"


def _is_of_exchange(error: Exception) -> bool:
    """Whether an error is about the connection between processes."""
    is_one = isinstance(error, RuntimeError | torch.distributed.DistError)
    words = ("gloo", "NCCL", "Connection", "connection", "TCPStore", "Broken pipe")
    return is_one and any(word in str(error) for word in words)


def _end_child(last: Path) -> NoReturn:
    """End a further process; without a word where the main process can speak for all."""
    if (
        os.getppid() != int(os.environ.get(MAIN_PROCESS, os.getppid()))
        and os.environ.get("LOCAL_RANK") == "1"
    ):
        message = f"the main process of this run was killed: {_way_out(last)}"
        print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(1)


def leave_process_group() -> None:
    """Forget the process group and the environment of a job, so that a sweep's next one starts."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
