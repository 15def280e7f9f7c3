"""Part `field` of `frametx.bench`: every network with the same data, loss and learning time.

Of each published preset: parameters, and processor seconds to separate a second of audio. Of a
tiny form of it: what it scores on the demo's held-out tracks after so many processor seconds of
learning, once for each learning rate; the best rate counts. Wall-clock would punish what ran while
the machine did something else as well, so the steps that fit into the budget are counted out
beforehand.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.utils.data import default_collate

from frametx.bench_measure import Row, measured, rerun, say

WARM_UP_SHARE = 0.1  # of the steps


def field(cfg: DictConfig) -> list[Row]:
    """A row for each network of `bench.field.networks`."""
    rows: list[Row] = []
    for network in cfg.bench.field.networks:
        row: Row = {"model": network.model}
        if cfg.bench.field.costs:
            row |= cost(network)
        if cfg.bench.field.seconds:
            row |= learnt(cfg, network.tiny)
        rows.append(row)
        say(row)
    return rows


def cost(network: Any) -> Row:
    """Parameters of the published preset, and what it takes to separate a second of its audio."""
    named = ("~experiment", f"model={network.model}", f"audio={network.audio}")
    (row,) = rerun("chunk", *named)
    return {"M parameters": row["parameters"] / 1e6, "CPU s per s": row["CPU s"] / row["seconds"]}


def chunk(cfg: DictConfig) -> list[Row]:
    """One chunk of noise, as long as the preset's `separate` takes them."""
    separator = instantiate(cfg.separator).eval()
    mixture = 0.1 * torch.randn(1, separator.num_channels, separator.chunk_samples)

    def run() -> None:
        with torch.inference_mode():
            separator(mixture)

    parameters = sum(weight.numel() for weight in separator.parameters())
    seconds = separator.chunk_samples / separator.sample_rate
    return [
        {
            "parameters": parameters,
            "seconds": seconds,
            **measured(run, repeats=cfg.bench.repeats),
        }
    ]


def learnt(cfg: DictConfig, tiny: str) -> Row:
    """What the tiny form learns from the demo in the budget, at the rate that suits it best."""
    (one,) = rerun("pace", f"model={tiny}")
    num_steps = max(1, round(cfg.bench.field.seconds / one["CPU s"]))
    facts: Row = {"tiny M": one["parameters"] / 1e6, "steps": num_steps}
    tried = [facts | scores(cfg, tiny, num_steps, rate) for rate in cfg.bench.field.rates]
    for row in tried:
        say({"model": tiny, **row})
    return max(tried, key=lambda row: sum(v for k, v in row.items() if k.endswith("dB")))


def scores(cfg: DictConfig, tiny: str, num_steps: int, rate: float) -> Row:
    """Train from nothing, evaluate the averaged weights of the last step; commands as users type.

    Raises:
        ValueError: if one of them fails, with what it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        began = os.times().children_user
        command(
            "train",
            *("experiment=demo", f"model={tiny}", f"optimizer.lr={rate}"),
            *(f"trainer.max_steps={num_steps}", "trainer.max_time=null"),
            *("+trainer.limit_val_batches=0", "trainer.enable_progress_bar=false"),
            *("~callbacks.progress", f"callbacks.last.every_n_steps={num_steps}"),
            f"callbacks.ema.start_step={round(WARM_UP_SHARE * num_steps)}",
            f"scheduler.warmup_steps={round(WARM_UP_SHARE * num_steps)}",
            *("test=false", f"paths.runs_dir={folder}", "name=run"),
            f"seed={cfg.seed}",
        )
        seconds = os.times().children_user - began
        checkpoint = run / "checkpoints" / "last.ckpt"
        command("evaluate", f"ckpt={checkpoint}", "data=demo", f"output={run}", "device=cpu")
        summary = json.loads((run / "summary.json").read_text())["summary"]
    gains = {
        f"{one['stem']} dB": one["improvement"]["mean"]
        for one in summary
        if one["metric"] == "si_sdr"
    }
    return {"rate": rate, "CPU s": seconds, **gains}


def command(entry: str, *overrides: str) -> None:
    """Run one of frametx's commands to its end.

    Raises:
        ValueError: if it fails, with the last line it said.
    """
    line = [sys.executable, "-m", f"frametx.{entry}", *overrides]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        raise ValueError(f"{' '.join(line[1:])} failed: {said[-1]}")


def pace(cfg: DictConfig) -> list[Row]:
    """A whole step of training with all that belongs to it, from reading excerpts to AdamW."""
    data, module = instantiate(cfg.data), instantiate(cfg.module)
    stage = instantiate(cfg.curriculum).stage(0)
    num_samples = instantiate(cfg.stft).num_samples(stage.frames)
    optimizer = module.optimizer(list(module.parameters()))
    source, first = data.source, 0

    def run() -> None:
        nonlocal first
        for _ in range(stage.accumulate):
            numbers = range(first, first + stage.batch_size)
            stems = data.mix(default_collate([source[(n, num_samples)] for n in numbers]))
            loss = module.loss(module.separator(stems.sum(dim=1)), stems)
            (loss / stage.accumulate).backward()
            first += stage.batch_size
        torch.nn.utils.clip_grad_norm_(module.parameters(), cfg.module.clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    parameters = sum(weight.numel() for weight in module.separator.parameters())
    return [{"parameters": parameters, **measured(run, repeats=cfg.bench.field.paced_steps)}]
