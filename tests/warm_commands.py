"""Commands of frametx from a process that has imported everything already.

`subprocess.run([python, "-m", "frametx.train", ...])` spends ten seconds of a processor on imports.
In `make test` the same call is answered by a fork of a process that did so once; in
`make test-all` it starts Python anew. What is asked for otherwise (signals, pipes, flags of Python)
always does.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

COMMANDS = ("train", "separate", "evaluate", "check", "convert", "export", "shards")
KNOWN = {"cwd", "env", "timeout", "check", "text", "capture_output"}


class WarmCommands:
    """Stands in for `subprocess.run`; starts its process at the first command."""

    def __init__(self) -> None:
        self.plain_run = subprocess.run
        self.server: subprocess.Popen[str] | None = None
        self.is_busy = threading.Lock()

    def run(self, command: Any, **options: Any) -> Any:
        """As `subprocess.run`."""
        if not is_warm(command, options) or not self.is_busy.acquire(blocking=False):
            return self.plain_run(command, **options)
        try:
            return self._run([str(part) for part in command], **options)
        finally:
            self.is_busy.release()

    def close(self) -> None:
        """End the process."""
        if self.server is not None:
            with self.server as server:
                server.kill()
            self.server = None

    def _run(
        self,
        command: list[str],
        *,
        cwd: str | Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float | None = None,
        check: bool = False,
        **_: Any,
    ) -> subprocess.CompletedProcess[str]:
        server = self.server or self._start()
        assert server.stdin is not None
        assert server.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder) / "out", Path(folder) / "err"
            request = {
                **{"module": command[2], "arguments": command[3:], "out": str(out)},
                **{"err": str(err), "cwd": str(cwd or Path.cwd()), "env": dict(env or os.environ)},
            }
            server.stdin.write(json.dumps(request) + "\n")
            server.stdin.flush()
            pid = int(server.stdout.readline())
            if not select.select([server.stdout], [], [], timeout)[0]:
                os.kill(pid, signal.SIGKILL)
                server.stdout.readline()
                raise subprocess.TimeoutExpired(command, timeout or 0, out.read_text())
            code = int(server.stdout.readline())
            done = subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())
        if check:
            done.check_returncode()
        return done

    def _start(self) -> "subprocess.Popen[str]":
        self.server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return self.server


def is_warm(command: Any, options: Mapping[str, Any]) -> bool:
    """Whether a call is a plain command of frametx whose whole output is wanted as text."""
    return (
        isinstance(command, list)
        and len(command) > 2
        and command[:2] == [sys.executable, "-m"]
        and command[2] in {f"frametx.{name}" for name in COMMANDS}
        and options.keys() <= KNOWN
        and bool(options.get("text"))
        and bool(options.get("capture_output"))
    )


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Fork for every request: reply with the process's number, then with its exit code."""
    for name in COMMANDS:
        importlib.import_module(f"frametx.{name}")
    gc.collect()
    gc.freeze()  # so that a child does not copy what it only counts
    for line in requests:
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            be_command(**request)
        print(pid, file=replies, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=replies, flush=True)


def be_command(
    *,
    module: str,
    arguments: Sequence[str],
    out: str,
    err: str,
    cwd: str,
    env: Mapping[str, str],
) -> None:
    """Become `python -m module arguments`; never returns."""
    code: int | str | None = 1
    try:
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(env)
        for number, target in ((0, os.devnull), (1, out), (2, err)):
            opened = os.open(target, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(opened, number)
            os.close(opened)
        sys.path[0] = cwd
        sys.argv = [module, *arguments]
        sys.modules.pop(module, None)  # as if it had not been imported yet
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the end of Python does
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1 if isinstance(code, str) else code or 0)


if __name__ == "__main__":
    # The replies keep this process's standard output; whatever else prints goes to its errors.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, replies)
