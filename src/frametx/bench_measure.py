"""How `frametx.bench` measures: a few runs, in a process of their own where it matters."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Row = dict[str, Any]
MEGABYTE = 1 << 20


def measured(run: Callable[[], None], *, repeats: int) -> Row:
    """Median seconds and CPU seconds of a few runs, and this process's peak memory in MB."""
    seconds, cpu_seconds = [], []
    for _ in range(1 + repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "s": statistics.median(seconds[1:]),
        "CPU s": statistics.median(cpu_seconds[1:]),
        "peak MB": peak_mb(),
    }


def peak_mb() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MEGABYTE


def resident_mb() -> float:
    """The memory this process holds now, in MB; Linux only."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def rerun(part: str, *overrides: str) -> list[Row]:
    """Run this command again for one part in a process of its own, and read the rows it prints."""
    command = [sys.executable, "-m", "frametx.bench", *sys.argv[1:], *overrides]
    return child([*command, f"bench.parts=[{part}]"])


def child(command: list[str], **options: Any) -> Any:
    """What a process prints as JSON in its last line.

    Raises:
        ValueError: if it fails, with what it said.
    """
    for name, value in options.items():
        command = [*command, f"--{name}", str(value)]
    environment = {**os.environ, "FRAMETX_BENCH_CHILD": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        reason = said[-1] if said else f"exit code {done.returncode}"
        raise ValueError(f"{' '.join(command[1:])} failed: {reason}")
    return json.loads(done.stdout.splitlines()[-1])


def say(row: Row) -> None:
    """Show a row at once: the table comes when all are measured, which may be an hour later."""
    print(", ".join(f"{name} {readable(value)}" for name, value in row.items()), file=sys.stderr)


def readable(value: Any) -> str:
    """A figure with three digits that count."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"
