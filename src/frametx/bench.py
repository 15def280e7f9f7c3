"""python -m frametx.bench: seconds, memory and throughput of what frametx spends its time on.

    plain      every network written down plainly from its spec, and ours with the same weights
    family     parameters, work and memory of the presets of conf/model
    data       reading and mixing, from each kind of file to a batch that is ready on the device
    attention  a chain of two layers of V10, scores in memory or in a fused kernel
    step       one optimiser step of the composed run: forward, loss, backward, AdamW
    separate   a minute of noise through the composed separator, chunk by chunk
    loop       a song taken apart, file to files: the originals' loop around a plain network, and
               ours around ours, with the same weights, crop and padding
    field      every network of conf/model: size and cost as published, and what a tiny form of it
               learns from the demo's audio in so many processor seconds

Every figure is the median of a few runs after one that is not counted, and is measured in a process
of its own, so that the peak memory is its own too. Where others use the machine as well, believe
the CPU seconds of one thread.
"""

import gc
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import soundfile
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from frametx.bench_field import chunk, field, pace
from frametx.bench_measure import (
    MEGABYTE,
    Row,
    child,
    measured,
    peak_mb,
    readable,
    rerun,
    resident_mb,
    say,
)
from frametx.config import hydra_main
from frametx.nn.residual_scores import residual_attention
from frametx.streaming import separate_waveform

FLOAT_BYTES = 4
ADAMW_BYTES = 8  # two moments of every parameter
SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


def plain(cfg: DictConfig) -> list[Row]:
    """Training step and inference of every network, plain and ours with the same weights.

    Raises:
        FileNotFoundError: outside a checkout, where there are no plain forms.
    """
    script = script_of("plain", "measure.py")
    rows: list[Row] = []
    for variant in cfg.bench.variants:
        for mode in cfg.bench.modes:
            for frames in cfg.bench.frames:
                options = {"variant": variant, "mode": mode, "frames": frames}
                options |= {"threads": cfg.bench.threads, "repeats": cfg.bench.repeats}
                theirs, ours = (
                    child([sys.executable, str(script)], **options, network=network)
                    for network in ("plain", "ours")
                )
                rows.append(
                    {
                        "network": variant,
                        "mode": mode,
                        "frames": frames,
                        "plain CPU s": theirs["cpu_seconds"],
                        "ours CPU s": ours["cpu_seconds"],
                        "times faster": theirs["cpu_seconds"] / ours["cpu_seconds"],
                        "plain MB": theirs["peak_mb"] - theirs["rest_mb"],
                        "ours MB": ours["peak_mb"] - ours["rest_mb"],
                    }
                )
                say(rows[-1])
    return rows


def loop(cfg: DictConfig) -> list[Row]:
    """A song into files, by the originals' loop and by ours; `faithful` gives the former's numbers.

    Raises:
        FileNotFoundError: outside a checkout, where there are no plain forms.
    """
    script = script_of("loop", "separation.py")
    rows: list[Row] = []
    for variant in cfg.bench.songs.variants:
        options = {"variant": variant, "song-seconds": cfg.bench.songs.seconds}
        options |= {"crop": cfg.bench.songs.crop_frames, "padding": cfg.bench.songs.padding_frames}
        options |= {"threads": cfg.bench.threads, "repeats": cfg.bench.repeats}
        plain_row: Row = {}
        for name in ("plain", *cfg.bench.songs.loops):
            found = child([sys.executable, str(script)], **options, loop=name)
            plain_row = plain_row or found
            rows.append(
                {
                    "network": variant,
                    "loop": name,
                    "CPU s": found["cpu_seconds"],
                    "windows": found["windows"],
                    "MB": found["peak_mb"] - found["rest_mb"],
                    "CPU s per s": found["cpu_seconds"] / cfg.bench.songs.seconds,
                    "times faster": plain_row["cpu_seconds"] / found["cpu_seconds"],
                }
            )
            say(rows[-1])
    return rows


def script_of(part: str, name: str) -> Path:
    """A script of a checkout.

    Raises:
        FileNotFoundError: if it is not there.
    """
    script = SCRIPTS / name
    if not script.is_file():
        raise FileNotFoundError(
            f"bench.parts={part} needs {script}: run it in a checkout of frametx, "
            "or leave it out with bench.parts=[attention,step,separate]"
        )
    return script


def family(cfg: DictConfig) -> list[Row]:
    """Parameters, work and memory of every preset that `bench.models` names, one item at a time.

    A length that this machine has no memory for ends the process that measures it: no figure.
    """
    rows: list[Row] = []
    for model in cfg.bench.models:
        row: Row = {"model": model}
        for frames in cfg.bench.memory_frames:
            try:
                measured = rerun("memory", f"model={model}", f"+bench.of={frames}")[0]
            except ValueError as error:
                if "exit code -9" not in str(error):
                    raise
                row[f"MB at {frames}"] = "too much for this machine"
                continue
            row |= {"M parameters": measured["parameters"] / 1e6}
            row |= {"GFLOP per s of audio": measured["gflop_per_s"]}
            row[f"MB at {frames}"] = measured["memory_mb"]
        rows.append(row)
        say(row)
    return rows


def memory(cfg: DictConfig) -> list[Row]:
    """What one network takes for one item: to separate it, or to learn from it with AdamW."""
    frames, trains = cfg.bench.of, cfg.bench.memory == "train"
    network = instantiate(cfg.model).train(trains).requires_grad_(trains)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    past = 1 + 2 * getattr(network, "num_past_crops", 0)
    magnitude = torch.rand(1, past * cfg.audio.num_channels, network.num_bins, frames)
    gc.collect()
    rest = resident_mb()
    with torch.inference_mode(not trains), FlopCounterMode(display=False) as counter:
        logits = network(magnitude)
    if trains:
        logits.square().mean().backward()
    per_parameter = FLOAT_BYTES + (ADAMW_BYTES if trains else 0)
    seconds = frames * cfg.audio.hop_length / cfg.audio.sample_rate
    return [
        {
            "parameters": parameters,
            "gflop_per_s": counter.get_total_flops() / seconds / 1e9,
            "memory_mb": max(0.0, peak_mb() - rest) + parameters * per_parameter / MEGABYTE,
        }
    ]


def attention(cfg: DictConfig) -> list[Row]:
    """A chain of two layers as V10 has it at n_fft 2048: time and memory of each backend."""
    rows: list[Row] = []
    for mode in cfg.bench.modes:
        for frames in (*cfg.bench.frames, 2048):
            for backend in ("materialised", "fused"):
                named = (f"+bench.of={frames}", f"+bench.backend={backend}", f"+bench.mode={mode}")
                row = {"mode": mode, "frames": frames, "backend": backend}
                rows.append(row | rerun("chain", *named)[0])
    return rows


def chain(cfg: DictConfig) -> list[Row]:
    """The chain with one backend; memory beyond the queries, keys and values themselves."""
    layers = [torch.randn(3, 1, 1, 8, cfg.bench.of, 128).requires_grad_() for _ in range(2)]
    rest = resident_mb()

    def run() -> None:
        scores, power = None, torch.zeros(())
        for q, k, v in layers:
            attended, scores = residual_attention(
                q, k, v, scale=1024**-0.5, scores=scores, backend=cfg.bench.backend
            )
            power = power + attended.square().mean()
        if cfg.bench.mode == "train":
            power.backward()

    with torch.inference_mode(cfg.bench.mode == "infer"):
        row = measured(run, repeats=cfg.bench.repeats)
    return [{"CPU s": row["CPU s"], "MB": max(0.0, row["peak MB"] - rest)}]


def data(cfg: DictConfig) -> list[Row]:
    """A library of each kind of file, read by one process as a worker reads it."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("wav", "flac", "ogg", "mp3"):
            for stem in cfg.stems:
                write_library(Path(folder) / suffix / stem, suffix)
            for decode_once in (False, True):
                named = ["data=stems", f"data.root={folder}/{suffix}"]
                named += [f"data.decode_once={str(decode_once).lower()}"]
                named += [f"paths.cache_dir={folder}/{suffix}/cache"]
                row = {"files": suffix, "decode_once": decode_once}
                rows.append(row | rerun("loading", *named)[0])
                say(rows[-1])
    return rows


def write_library(folder: Path, suffix: str) -> None:
    """Two minutes of stereo noise that fades in and out, in two files."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for number in range(2):
        noise = 0.1 * torch.randn(44_100 * 60, 2, generator=generator)
        swell = 0.6 + 0.4 * torch.linspace(0, 60, len(noise)).sin()
        with soundfile.SoundFile(folder / f"{number}.{suffix}", "w", 44_100, 2) as file:
            for block in (noise * swell[:, None]).split(1 << 16):  # vorbis crashes on long ones
                file.write(block.numpy())


def loading(cfg: DictConfig) -> list[Row]:
    """Seconds of audio a second: decoded, as excerpts of samples, and mixed on the CPU."""
    module = instantiate(cfg.data)
    stage = instantiate(cfg.curriculum).stage(0)
    num_samples = instantiate(cfg.stft).num_samples(stage.frames)
    files = [file for library in module.libraries.values() for file in library.files]
    start = time.process_time()
    for file in files:
        soundfile.read(file.path, dtype="float32")
    decode_s = time.process_time() - start
    source = module.source
    for warm_up in range(4):  # decoded files are stored here
        source[(1000 + warm_up, num_samples)]
    count = 8 * stage.batch_size
    start = time.process_time()
    samples = [source[(number, num_samples)] for number in range(count)]
    read_s = time.process_time() - start
    batches = [
        default_collate(samples[first : first + stage.batch_size])
        for first in range(0, count, stage.batch_size)
    ]
    module.mix(batches[0])
    start = time.process_time()
    for batch in batches:
        module.mix(batch)
    mix_s = time.process_time() - start
    seconds = count * num_samples / cfg.audio.sample_rate
    return [
        {
            "decoded s per s": sum(file.seconds for file in files) / decode_s,
            "mixtures read, s per s": seconds / read_s,
            "read and mixed, s per s": seconds / (read_s + mix_s),
            "mixing, ms a batch": 1000 * mix_s / len(batches),
        }
    ]


def step(cfg: DictConfig) -> list[Row]:
    """One optimiser step of the first stage, on noise that is already on the device."""
    module = instantiate(cfg.module)
    stage = instantiate(cfg.curriculum).stage(0)
    separator = module.separator
    length = instantiate(cfg.stft).num_samples(stage.frames)
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
    return [{"what": what, **row, "audio s per s": audio_seconds / row["s"]}]


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
    return [{"what": what, **row, "audio s per s": cfg.bench.seconds / row["s"]}]


PARTS: dict[str, Callable[[DictConfig], list[Row]]] = {
    "plain": plain,
    "family": family,
    "data": data,
    "attention": attention,
    "step": step,
    "separate": separate,
    "loop": loop,
    "field": field,
}
# what `family`, `attention`, `data` and `field` run again and again
INNER = {"memory": memory, "chain": chain, "loading": loading, "pace": pace, "chunk": chunk}


def table(part: str, rows: list[Row]) -> Table:
    """All rows of a part, a column for each quantity."""
    shown = Table(title=part, title_justify="left")
    for heading in rows[0]:
        shown.add_column(heading, no_wrap=True)
    for row in rows:
        shown.add_row(*(readable(value) for value in row.values()))
    return shown


@hydra_main("bench")
def main(cfg: DictConfig) -> None:
    """Measure the parts asked for, print a table of each, write a JSON."""
    unknown = [part for part in cfg.bench.parts if part not in PARTS | INNER]
    if unknown:
        raise ValueError(f"bench.parts={unknown}: there is {', '.join(PARTS)}")
    if os.environ.get("FRAMETX_BENCH_CHILD"):
        torch.set_num_threads(cfg.bench.threads)
        print(json.dumps((PARTS | INNER)[cfg.bench.parts[0]](cfg)))
        return
    console = Console(width=max(Console().width, 120))
    rows: dict[str, list[Row]] = {}
    output = Path(cfg.bench.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    machine = {"threads": cfg.bench.threads, "torch": str(torch.__version__)}
    for part in cfg.bench.parts:
        starts_processes = part in ("plain", "family", "attention", "data", "loop", "field")
        rows[part] = PARTS[part](cfg) if starts_processes else rerun(part)
        console.print(table(part, rows[part]))
        output.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")
    print(f"written: {output}")


if __name__ == "__main__":
    main()
