"""Seconds and memory of one plain network, or of ours with the same weights.

    python benchmarks/measure.py --variant v7 --network plain --mode train --frames 1024 --threads 1

prints one line of JSON: medians over the repeats after one run that is not counted.

    seconds, cpu_seconds   of one run; where others work too, compare CPU seconds at one thread
    peak_mb                resident memory at its highest from the first run on; the heap decides by
                           some 10 % of it, differently every time
    rest_mb                resident memory before the first run: the weights, and torch itself
    mean_square_of_logits  of the last run: both networks must agree on it

`train` is forward and backward of the mean square of the logits, with the gradient of every weight,
also of those that the original freezes. `infer` is forward alone. Linux only: memory is read from
/proc.
"""

import argparse
import ctypes
import gc
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.plain import CASES, PLAIN

BACKENDS = ("auto", "fused", "materialised")


def built(variant: str, network: str, backend: str | None) -> nn.Module:
    """The network with the weights that seed 0 gives the plain one.

    Args:
        variant: a key of `CASES`.
        network: "plain" or "ours".
        backend: of ours' attention; None leaves what the network chooses.
    """
    torch.manual_seed(0)
    plain = PLAIN[variant](**CASES[variant])
    if network == "plain":
        return plain
    from frametx.legacy import build

    # dropout and, without rotary tables, the heads leave no trace in weights
    heads = CASES[variant]["num_heads"] if variant == "bert" else None
    ours = build(plain.state_dict(), num_heads=heads, options={"dropout": 0.0})
    if backend is not None:
        from frametx.nn.residual_scores import use_backend

        use_backend(ours, backend)
    return ours


def run(model: nn.Module, magnitude: Tensor, mode: str) -> Tensor:
    """One run; returns the mean square of the logits."""
    if mode == "infer":
        with torch.inference_mode():
            return model(magnitude).square().mean()
    power = model(magnitude).square().mean()
    power.backward()
    return power.detach()


def measure(
    variant: str,
    network: str,
    *,
    mode: str,
    frames: int,
    threads: int,
    repeats: int,
    backend: str | None = None,
) -> dict[str, float]:
    """What one network takes, in this process."""
    torch.set_num_threads(threads)
    model = built(variant, network, backend)
    model.requires_grad_(mode == "train").train(mode == "train")
    torch.manual_seed(1)  # the same input, however many numbers the weights took
    case = CASES[variant]
    magnitude = torch.rand(1, case.get("in_channels", 2), case["n_fft"] // 2, frames)
    forget_building()
    rest_mb = resident_mb("VmRSS")
    power, seconds, cpu_seconds = torch.zeros(()), [], []
    for _ in range(1 + repeats):
        model.zero_grad(set_to_none=True)
        start, cpu_start = time.perf_counter(), time.process_time()
        power = run(model, magnitude, mode)
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "seconds": statistics.median(seconds[1:]),
        "cpu_seconds": statistics.median(cpu_seconds[1:]),
        "peak_mb": resident_mb("VmHWM"),
        "rest_mb": rest_mb,
        "mean_square_of_logits": power.item(),
    }


def forget_building() -> None:
    """Give back what building took and start the peak anew.

    Ours is made from the plain network's weights; without this its peak would be that of both.
    """
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM


def resident_mb(entry: str) -> float:
    """VmRSS (now) or VmHWM (the highest) of this process."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(f"{entry}:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one network.")
    parser.add_argument("--variant", choices=sorted(CASES), default="asym_unet_mct")
    parser.add_argument("--network", choices=["plain", "ours"], required=True)
    parser.add_argument("--mode", choices=["train", "infer"], default="train")
    parser.add_argument("--frames", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--backend", choices=BACKENDS, help="of ours' attention")
    options = vars(parser.parse_args())
    if options["network"] == "plain" and options["backend"] is not None:
        parser.error("--backend: the plain network has one form; leave it out with --network plain")
    for count in ("frames", "threads", "repeats"):
        if options[count] < 1:
            parser.error(f"--{count} ({options[count]}) must be at least 1")
    print(json.dumps(measure(options.pop("variant"), options.pop("network"), **options)))


if __name__ == "__main__":
    main()
