"""Seconds and memory of taking a song apart, file to files: the plain loop, or `separate`'s own.

    python benchmarks/separation.py --variant v8 --loop plain --song-seconds 60

prints one line of JSON. Both loops have the same weights, song, crop and padding, and a network of
the form that the loop belongs to.

    plain      the plain network in the originals' loop (benchmarks/plain/inference.py)
    ours       our network in `separate`, whose chunks fade into each other within the padding
    faithful   our network in `separate` with faithful=true, which gives the plain loop's numbers

    seconds, cpu_seconds   of the song, the smallest of the repeats; importing and building do not
                           count; where others work too, compare CPU seconds at one thread
    peak_mb, rest_mb       resident memory at its highest, and before the first song
    windows                that the network saw: `ours` starts with the song's first sample instead
                           of padding, and so needs about one less

Linux only: memory is read from /proc.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import built, forget_building, resident_mb
from benchmarks.plain import CASES
from benchmarks.plain.inference import separate_file
from frametx.audio.stft import Stft
from frametx.execution import Execution
from frametx.faithful import OriginalOptions
from frametx.pipeline import Pipeline
from frametx.separation_options import Augmentation, SeparationOptions
from frametx.separator import SpectrogramSeparator
from frametx.songs import Job
from frametx.to_files import FileOptions, separate_song

LOOPS = ("plain", "ours", "faithful")
VARIANTS = sorted(name for name, case in CASES.items() if case.get("in_channels", 2) == 2)
SAMPLE_RATE = 44_100
WARM_UP_FRAMES = 8  # of the crop and the padding of a short song that is not counted


class Counted(nn.Module):
    """A network that counts the windows it is shown.

    Args:
        network: any.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.count = 0
        for name in ("num_bins", "input_range", "head", "frame_multiple"):
            if hasattr(network, name):
                setattr(self, name, getattr(network, name))

    def forward(self, magnitude: Tensor) -> Tensor:
        self.count += len(magnitude)
        return self.network(magnitude)


def loop_of(
    network: nn.Module, loop: str, *, n_fft: int, crop: int, padding: int, batch_size: int
) -> Callable[[Path, Path], None]:
    """What writes the stems of a song into a folder."""
    if loop == "plain":

        def plain(source: Path, folder: Path) -> None:
            separate_file(
                network,
                source,
                folder,
                n_fft=n_fft,
                hop_length=n_fft // 2,
                sample_rate=SAMPLE_RATE,
                crop_frames=crop,
                padding_frames=padding,
                batch_size=batch_size,
            )

        return plain
    pipeline = pipeline_of(
        network, loop, n_fft=n_fft, crop=crop, padding=padding, batch_size=batch_size
    )

    def ours(source: Path, folder: Path) -> None:
        job = Job(source=source, folder=folder)
        separate_song(pipeline, job, FileOptions(stems=pipeline.stems))

    return ours


def pipeline_of(
    network: nn.Module, loop: str, *, n_fft: int, crop: int, padding: int, batch_size: int
) -> Pipeline:
    """What `separate` would make of a checkpoint with this network and of the options."""
    separator = SpectrogramSeparator(
        stft=Stft(n_fft=n_fft, hop_length=n_fft // 2),
        network=network,
        stems=["vocals", "instrumental"],
        complement="vocals",
        sample_rate=SAMPLE_RATE,
        num_channels=2,
        chunk_frames=crop + 2 * padding,
        scale="chunk_peak",
        top_bin="zero",
    ).eval()
    if loop == "ours":
        options = SeparationOptions(tta=Augmentation(contexts=((crop, padding),)))
    else:
        original = OriginalOptions(crop_frames=crop, padding_frames=padding)
        options = SeparationOptions(faithful=True, original=original)
    execution = Execution(device="cpu", batch_size=batch_size)
    return Pipeline([separator], options, execution=execution)


def write_song(path: Path, seconds: float) -> None:
    """Stereo noise that swells and fades: no part of it is silent, and every run has the same."""
    noise = torch.randn(2, round(seconds * SAMPLE_RATE), generator=torch.Generator().manual_seed(0))
    swell = 0.1 + 0.05 * torch.linspace(0, seconds, noise.shape[1]).sin()
    soundfile.write(path, (noise * swell).clamp(-1, 1).T.numpy(), SAMPLE_RATE)


def measure(
    variant: str,
    loop: str,
    *,
    song_seconds: float,
    crop: int,
    padding: int,
    batch_size: int,
    threads: int,
    repeats: int,
) -> dict[str, Any]:
    """What one loop takes for one song, in this process."""
    torch.set_num_threads(threads)
    network = Counted(built(variant, "plain" if loop == "plain" else "ours", None)).eval()
    network.requires_grad_(False)
    n_fft = CASES[variant]["n_fft"]
    shape = {"n_fft": n_fft, "batch_size": batch_size}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_song(folder / "short.flac", 0.5)
        write_song(folder / "song.flac", song_seconds)
        short = loop_of(network, loop, crop=WARM_UP_FRAMES, padding=WARM_UP_FRAMES, **shape)
        short(folder / "short.flac", folder)  # loads what is loaded at first use
        run = loop_of(network, loop, crop=crop, padding=padding, **shape)
        forget_building()
        rest_mb = resident_mb("VmRSS")
        seconds, cpu_seconds = [], []
        for _ in range(repeats):
            network.count = 0
            start, cpu_start = time.perf_counter(), time.process_time()
            run(folder / "song.flac", folder)
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    return {
        "seconds": min(seconds),
        "cpu_seconds": min(cpu_seconds),
        "peak_mb": resident_mb("VmHWM"),
        "rest_mb": rest_mb,
        "windows": network.count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Time one loop around one network.")
    parser.add_argument("--variant", choices=VARIANTS, default="v8")
    parser.add_argument("--loop", choices=LOOPS, required=True)
    parser.add_argument("--song-seconds", type=float, default=60)
    parser.add_argument("--crop", type=int, default=1024, help="frames")
    parser.add_argument("--padding", type=int, default=512, help="frames on each side")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = vars(parser.parse_args())
    for name in ("crop", "batch_size", "threads", "repeats"):
        if options[name] < 1:
            parser.error(f"--{name.replace('_', '-')} ({options[name]}) must be at least 1")
    if options["padding"] < 0 or options["song_seconds"] <= 0:
        parser.error("--padding must be at least 0, and --song-seconds above it")
    print(json.dumps(measure(options.pop("variant"), options.pop("loop"), **options)))


if __name__ == "__main__":
    main()
