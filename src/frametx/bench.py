"""python -m frametx.bench: seconds, memory and throughput of what frametx spends its time on.

    plain      a network written down plainly from its spec, and ours with the same weights
    step       one optimiser step of the composed run: forward, loss, backward, AdamW
    separate   a minute of noise through the composed separator, chunk by chunk

Every row is the median of a few runs after one that is not counted, and is measured in a process of
its own, so that the peak memory is its own too.
"""

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

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from frametx.config import hydra_main
from frametx.streaming import separate_waveform

Row = dict[str, Any]
PARTS = ("plain", "step", "separate")


def plain_and_ours(cfg: DictConfig) -> list[Row]:
    """Forward and backward of both networks at the size where the original was measured.

    Raises:
        FileNotFoundError: outside a checkout, where there are no plain forms.
    """
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "plain_asym_unet_mct.py"
    if not script.is_file():
        raise FileNotFoundError(
            f"bench.parts=plain needs {script}: run it in a checkout of frametx, "
            "or leave it out with bench.parts=[step,separate]"
        )
    rows: list[Row] = []
    for network in ("plain", "ours"):
        command = [sys.executable, str(script), "--network", network]
        for option in ("frames", "threads", "repeats"):
            command += [f"--{option}", str(cfg.bench[option])]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        measured = json.loads(done.stdout)
        rows.append(
            {
                "what": f"{network}: {cfg.bench.frames} frames",
                "seconds": measured["seconds"],
                "cpu_seconds": measured["cpu_seconds"],
                "peak_mb": measured["peak_mb"],
            }
        )
    for quantity in ("seconds", "cpu_seconds", "peak_mb"):
        rows[1][f"{quantity}_ratio"] = rows[0][quantity] / rows[1][quantity]
    return rows


def step(cfg: DictConfig) -> list[Row]:
    """One optimiser step of the first stage, on noise that is already on the device."""
    module = instantiate(cfg.module)
    stage = instantiate(cfg.curriculum).stage(0)
    separator = module.separator
    length = separator.stft.num_samples(stage.frames)
    stems = 0.1 * torch.randn(
        stage.batch_size, len(separator.stems), separator.num_channels, length
    )
    optimizer = module.optimizer(list(module.parameters()))

    def run() -> None:
        for _ in range(stage.accumulate):
            estimates = separator(stems.sum(dim=1))
            (module.loss(estimates, stems) / stage.accumulate).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    row = measured(run, repeats=cfg.bench.repeats)
    audio_seconds = stage.samples_per_step * length / separator.sample_rate
    what = f"step: {stage.samples_per_step} x {stage.frames} frames"
    return [{"what": what, **row, "audio_s_per_s": audio_seconds / row["seconds"]}]


def separate(cfg: DictConfig) -> list[Row]:
    """Noise through the separator as `separate` would send it, at its own rate."""
    separator = instantiate(cfg.separator).eval()
    length = cfg.bench.seconds * separator.sample_rate
    mixture = 0.1 * torch.randn(separator.num_channels, length)

    def run() -> None:
        with torch.inference_mode():
            separate_waveform(separator, mixture, sample_rate=separator.sample_rate)

    row = measured(run, repeats=cfg.bench.repeats)
    what = f"separate {cfg.bench.seconds} s at {separator.sample_rate} Hz"
    return [{"what": what, **row, "audio_s_per_s": cfg.bench.seconds / row["seconds"]}]


def measured(run: Callable[[], None], *, repeats: int) -> Row:
    """Median seconds and CPU seconds of a few runs, and this process's peak memory in MB."""
    seconds, cpu_seconds = [], []
    for _ in range(1 + repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "seconds": statistics.median(seconds[1:]),
        "cpu_seconds": statistics.median(cpu_seconds[1:]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def in_a_process_of_its_own(part: str) -> list[Row]:
    """Run this command again for one part, and read the rows it prints."""
    command = [sys.executable, "-m", "frametx.bench", *sys.argv[1:], f"bench.parts=[{part}]"]
    child = {**os.environ, "FRAMETX_BENCH_CHILD": "1"}
    done = subprocess.run(command, env=child, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"bench.parts={part} failed: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[Row]) -> Table:
    """All rows; a ratio stands behind the figure it belongs to."""
    shown = Table()
    for heading in ("what", "s", "CPU s", "peak MB", "audio s per s"):
        shown.add_column(heading, no_wrap=True)
    for row in rows:
        cells: list[str] = []
        for quantity, digits in (("seconds", 3), ("cpu_seconds", 3), ("peak_mb", 0)):
            ratio = row.get(f"{quantity}_ratio")
            cells.append(f"{row[quantity]:.{digits}f}" + (f" (1/{ratio:.1f})" if ratio else ""))
        audio = f"{row['audio_s_per_s']:.1f}" if "audio_s_per_s" in row else ""
        shown.add_row(row["what"], *cells, audio)
    return shown


@hydra_main("bench")
def main(cfg: DictConfig) -> None:
    """Measure the parts asked for, print a table, write a JSON."""
    unknown = [part for part in cfg.bench.parts if part not in PARTS]
    if unknown:
        raise ValueError(f"bench.parts={unknown}: there is {', '.join(PARTS)}")
    measure = {"plain": plain_and_ours, "step": step, "separate": separate}
    if os.environ.get("FRAMETX_BENCH_CHILD"):
        torch.set_num_threads(cfg.bench.threads)
        print(json.dumps(measure[cfg.bench.parts[0]](cfg)))
        return
    rows = [row for part in cfg.bench.parts for row in in_a_process_of_its_own(part)]
    Console(width=max(Console().width, 100)).print(table(rows))
    output = Path(cfg.bench.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    machine = {"threads": cfg.bench.threads, "torch": str(torch.__version__)}
    output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print(f"written: {output}")


if __name__ == "__main__":
    main()
