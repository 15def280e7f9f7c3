"""A checkpoint as a file that other programs run: `python -m frametx.export`.

    .safetensors    weights and config, without the state of training, for frametx itself
    .pt2            a graph of torch.export, run by torch alone, without a line of ours
    .onnx           a graph for ONNX Runtime and whatever else reads ONNX

A graph is the network, or the whole separator, its STFT as convolutions of real numbers. Every
file is made in a folder of its own, loaded again there by the program it is meant for, and run
beside the checkpoint; only what agrees is moved to its place.
"""

import json
import logging
import math
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from omegaconf import DictConfig
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from frametx import __version__
from frametx.audio.masking import with_rest
from frametx.audio.real_stft import RealStft
from frametx.checkpoint import (
    PREFIX,
    first_line,
    load_separator,
    read_checkpoint,
    save_safetensors,
)
from frametx.config import hydra_main
from frametx.nn.residual_scores import use_backend
from frametx.separator import SpectrogramSeparator
from frametx.waveform_separator import WaveformSeparator, with_levels_of

SUFFIXES = (".safetensors", ".pt2", ".onnx")
OPSET = 20  # the first whose GELU is one node; ONNX Runtime reads it since 1.17
MIN_FRAMES = 8  # of a graph for any number of frames: fewer meet special cases of strided kernels
Graphed = SpectrogramSeparator | WaveformSeparator
METADATA = "frametx"  # key of the JSON text in .onnx; with .json behind it in .pt2


class NotEqualError(ArithmeticError):
    """What was exported returns other numbers than the checkpoint."""


class RealSeparator(nn.Module):
    """A separator without complex numbers: mixture in, stems out, from a song's start.

    Args:
        separator: whose network, mask, stems and complement are taken over.
    """

    def __init__(self, *, separator: SpectrogramSeparator) -> None:
        super().__init__()
        self.separator = separator
        self.stft = RealStft(stft=separator.stft)

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """The estimated stems."""
        real, imaginary = self.stft(mixture)
        mask = self.separator.mask((real.square() + imaginary.square()).sqrt())
        estimates = self.stft.inverse(
            mask * real.unsqueeze(1), mask * imaginary.unsqueeze(1), length=mixture.shape[-1]
        )
        if self.separator.complement is None:
            return estimates
        at = self.separator.stems.index(self.separator.complement)
        return with_rest(estimates, mixture, at)


class PlainSeparator(nn.Module):
    """A separator of samples in operations that every format knows: mixture in, stems out.

    Args:
        separator: whose network, levels, stems and complement are taken over.
    """

    def __init__(self, *, separator: WaveformSeparator) -> None:
        super().__init__()
        self.separator = separator

    def forward(self, mixture: Float[Tensor, "B C L"]) -> Float[Tensor, "B S C L"]:
        """The estimated stems."""
        estimates = self.separator.network(mixture)
        if self.separator.levels == "mixture":
            estimates = with_levels_of(mixture, estimates, solve=eliminated)
        if self.separator.complement is None:
            return estimates
        at = self.separator.stems.index(self.separator.complement)
        return with_rest(estimates, mixture, at)


def eliminated(
    matrices: Float[Tensor, "B S S"], right: Float[Tensor, "B S"]
) -> Float[Tensor, "B S"]:
    """Solutions of positive definite equations, by elimination in sums and products alone."""
    rows = torch.cat([matrices, right.unsqueeze(-1)], dim=-1)
    for pivot in range(matrices.shape[1]):
        row = rows[:, pivot : pivot + 1] / rows[:, pivot : pivot + 1, pivot : pivot + 1]
        rows = rows - rows[:, :, pivot : pivot + 1] * row
        rows = torch.cat([rows[:, :pivot], row, rows[:, pivot + 1 :]], dim=1)
    return rows[..., -1]


class Part(NamedTuple):
    """What is exported, and how it is run.

    Attributes:
        module: from one tensor to one tensor.
        original: what the module must equal, called with the same tensor.
        inputs: to compare on, by name; the first is an example of the shape.
        others: of another batch and length, to compare on if these are free.
        dynamic_shapes: which axes of the input are free; None for a fixed shape.
        input_name: of the tensor that comes in.
        output_name: of the one that goes out.
    """

    module: nn.Module
    original: Callable[[Tensor], Tensor]
    inputs: dict[str, Tensor]
    others: dict[str, Tensor]
    dynamic_shapes: dict[int, Any] | None
    input_name: str
    output_name: str


def export(cfg: DictConfig) -> Path:
    """Export the checkpoint that `cfg.ckpt` names, as conf/export.yaml says.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be exported this way, or the output cannot be written.
        NotEqualError: if the file does not return what the checkpoint returns; it is not kept.
    """
    source, output = Path(str(cfg.ckpt)).expanduser(), Path(str(cfg.output)).expanduser()
    check_options(cfg, source, output)
    stored = read_checkpoint(source)
    separator = load_separator(source)
    if output.suffix != ".safetensors" and not isinstance(separator, Graphed):
        raise ValueError(
            f"{source} holds a {type(separator).__name__}, which is not one graph: "
            "export its members one by one, or write .safetensors"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with (
        torch.no_grad(),
        tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as folder,
    ):
        made = Path(folder) / output.name
        if output.suffix == ".safetensors":
            write_safetensors(made, cast(nn.Module, separator), stored["frametx"])
        else:
            assert isinstance(separator, Graphed)
            write_graph(made, separator, cfg, model=str(stored["frametx"]["model"]))
        move(made, output)
    return output


def check_options(cfg: DictConfig, source: Path, output: Path) -> None:
    """Refuse before any work what could not be done in the end.

    Raises:
        ValueError: if the output has no suffix of ours, is there already or is the checkpoint; if
            an option is out of range or has no meaning for that kind of file; or if the packages
            for it are missing.
    """
    if output.suffix not in SUFFIXES:
        raise ValueError(
            f"output={output} must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        )
    if output.exists() and source.exists() and output.samefile(source):
        raise ValueError(f"output={output} is the checkpoint itself: give another name")
    for path in (output, weights_beside(output)):
        if path.exists() and not cfg.overwrite:
            raise ValueError(f"output={path} is there already: overwrite=true replaces it")
    if cfg.part not in ("network", "separator"):
        raise ValueError(f"part={cfg.part} must be network or separator")
    if cfg.frames is not None and (not isinstance(cfg.frames, int) or cfg.frames < 1):
        raise ValueError(f"frames={cfg.frames} must be a whole number of at least 1, or null")
    if cfg.samples is not None and (not isinstance(cfg.samples, int) or cfg.samples < 1):
        raise ValueError(f"samples={cfg.samples} must be a whole number of at least 1, or null")
    if not 0 < cfg.tolerance < 1:
        raise ValueError(f"tolerance={cfg.tolerance} must be between 0 and 1")
    of_graphs = {
        "part": "network",
        "frames": None,
        "samples": None,
        "dynamic": False,
        "external_data": False,
    }
    changed = [f"{name}={cfg[name]}" for name, value in of_graphs.items() if cfg[name] != value]
    if output.suffix == ".safetensors" and changed:
        raise ValueError(
            f"{' '.join(changed)} says nothing about .safetensors, which holds weights and no "
            "graph: leave it out, or write .pt2 or .onnx"
        )
    if output.suffix == ".pt2" and cfg.external_data:
        raise ValueError("external_data=true is for .onnx: a .pt2 is always one file")
    if output.suffix == ".onnx":
        onnxruntime()


def write_safetensors(path: Path, separator: nn.Module, made_by: Mapping[str, Any]) -> None:
    """Weights and config, and a look whether the same separator comes out again.

    Raises:
        NotEqualError: if it does not, to the last bit.
    """
    weights = {f"{PREFIX}{name}": value for name, value in separator.state_dict().items()}
    save_safetensors(weights, path, made_by)
    again = cast(nn.Module, load_separator(path)).state_dict()
    changed = [
        name
        for name, value in separator.state_dict().items()
        if not torch.equal(value, again[name])
    ]
    if changed:
        raise NotEqualError(f"{changed[0]} comes out of the file with other numbers")
    print(f"weights and config of {made_by['model']}: {len(again)} tensors, read again bit by bit")


def write_graph(path: Path, separator: Graphed, cfg: DictConfig, *, model: str) -> None:
    """Trace, write, load again and compare.

    Raises:
        ValueError: if the network cannot be exported this way.
        NotEqualError: if what is loaded again differs by more than `cfg.tolerance`.
    """
    part = part_of(separator, cfg)
    compared = part.inputs | (part.others if cfg.dynamic else {})
    expected = {name: part.original(x) for name, x in compared.items()}
    # what is faster on this machine is no matter of the file; every runtime has matrix products
    use_backend(separator.network, "materialised")
    program = traced(part, dynamic=cfg.dynamic)
    facts = json.dumps(describe(separator, part, cfg, model=model), indent=1)
    if path.suffix == ".pt2":
        with quiet():
            torch.export.save(program, path, extra_files={f"{METADATA}.json": facts})
            run = read_again(path)
    else:
        write_onnx(path, program, part, facts, external_data=cfg.external_data)
        run = onnx_module(path)
    report_difference(run, compared, expected, tolerance=cfg.tolerance)
    num_parameters = sum(p.numel() for p in separator.parameters())
    shapes = " -> ".join(
        f"{name} {' x '.join(map(str, axes))}" for name, axes in shapes_of(separator, part, cfg)
    )
    print(f"{cfg.part} of {model}, {num_parameters / 1e6:.1f} M parameters: {shapes}")


def read_again(path: Path) -> nn.Module:
    """A graph of torch, from its file.

    Raises:
        ValueError: if torch does not understand what it has written, which it first says here.
    """
    try:
        return torch.export.load(path).module()
    except RuntimeError as error:
        raise ValueError(
            "torch.export writes a file of this network that it cannot read again: dynamic=false "
            "exports one length, and a dynamic graph can be written as .onnx"
        ) from error


def part_of(separator: Graphed, cfg: DictConfig) -> Part:
    """What is exported, as conf/export.yaml says.

    Raises:
        ValueError: if the separator cannot be exported so.
    """
    if isinstance(separator, WaveformSeparator):
        if cfg.frames is not None:
            raise ValueError(
                f"frames={cfg.frames}: this separator reads samples and has no frames: give their "
                "number by samples="
            )
        whole = cfg.part == "separator"
        return waveform_part(separator, whole=whole, samples=cfg.samples, dynamic=cfg.dynamic)
    if cfg.samples is not None:
        raise ValueError(
            f"samples={cfg.samples}: this separator reads frames: give their number by frames="
        )
    make_part = network_part if cfg.part == "network" else separator_part
    return make_part(separator, frames=cfg.frames, dynamic=cfg.dynamic)


def waveform_part(
    separator: WaveformSeparator, *, whole: bool, samples: int | None, dynamic: bool
) -> Part:
    """A network of samples, alone or with levels and complement.

    Raises:
        ValueError: if it takes no such number of samples.
    """
    # A length that is no whole number of strides is filled up by a case of its own.
    multiple = int(getattr(separator.network, "stride", 1)) if dynamic else 1
    if samples is None:
        samples = separator.chunk_samples + -separator.chunk_samples % multiple
    least = MIN_FRAMES * multiple
    if dynamic and (samples % multiple or samples < 2 * least):
        raise ValueError(
            f"samples={samples} must be a multiple of {multiple} and at least {2 * least} with "
            "dynamic=true for this network; with dynamic=false it can be exported"
        )
    free = None
    others: dict[str, Tensor] = {}
    if dynamic:
        count = Dim("samples", min=least)
        if multiple > 1:
            count = multiple * Dim("multiples", min=MIN_FRAMES)
        free = {0: Dim("batch"), 2: count}
        other = other_length(samples, multiple, most=None)
        others[f"{other} samples"] = music(separator, other, batch=3)
    return Part(
        module=PlainSeparator(separator=separator).eval() if whole else separator.network,
        original=separator if whole else separator.network,
        inputs=signals(separator, samples, batch=2 if dynamic else 1),
        others=others,
        dynamic_shapes=free,
        input_name="mixture",
        output_name="estimates",
    )


def network_part(separator: SpectrogramSeparator, *, frames: int | None, dynamic: bool) -> Part:
    """The network alone, and what a separator shows it of made-up music.

    Raises:
        ValueError: if it takes no such number of frames.
    """
    multiple, crop_frames = separator.frame_multiple, separator.crop_frames
    if frames is None and separator.num_past_frames:
        frames = crop_frames
    elif frames is None:
        frames = separator.stft.num_frames(separator.chunk_samples)
        frames += -frames % multiple
    if frames % multiple:
        raise ValueError(
            f"frames={frames} must be a multiple of {multiple} for this network: "
            f"take {frames + -frames % multiple}"
        )
    if separator.num_past_frames and frames > crop_frames:
        raise ValueError(
            f"frames={frames}: the network reads crops of at most {crop_frames} frames"
        )
    others: dict[str, Tensor] = {}
    free = None
    if dynamic:
        # torch takes an axis of one for one that is always so: the example has two of the multiple
        least = max(MIN_FRAMES, 2 * multiple if multiple > 1 else 1)
        if frames < least:
            raise ValueError(
                f"frames={frames} must be at least {least} with dynamic=true for this network; "
                "with dynamic=false it can be exported"
            )
        count = Dim("frames", min=MIN_FRAMES) if multiple == 1 else multiple * Dim("multiples")
        free = {0: Dim("batch"), 3: count}
        other = other_length(
            frames, multiple, most=crop_frames if separator.num_past_frames else None
        )
        made = music(separator, length_of(separator, other), batch=3)
        others[f"{other} frames"] = shown(separator, made)
    batch = 2 if dynamic else 1
    return Part(
        module=separator.network,
        original=separator.network,
        inputs={
            name: shown(separator, signal)
            for name, signal in signals(
                separator, length_of(separator, frames), batch=batch
            ).items()
        },
        others=others,
        dynamic_shapes=free,
        input_name="magnitude",
        output_name="logits" if separator.head == "mask" else "stem_magnitude",
    )


def separator_part(separator: SpectrogramSeparator, *, frames: int | None, dynamic: bool) -> Part:
    """All from mixture to stems.

    Raises:
        ValueError: if the network reads its own earlier estimates, or the frames are too few.
    """
    if separator.num_past_frames:
        raise ValueError(
            "part=separator: this network reads its own earlier estimates, so the whole is a loop "
            "and no graph: take part=network and show it the crops before, newest first"
        )
    if frames is None:
        frames = separator.stft.num_frames(separator.chunk_samples)
    least = MIN_FRAMES if dynamic else 2
    if frames < least:
        raise ValueError(f"frames={frames} must be at least {least} for part=separator")
    stft = separator.stft
    free = None
    others: dict[str, Tensor] = {}
    if dynamic:
        free = {0: Dim("batch"), 2: Dim("samples", min=stft.num_samples(MIN_FRAMES))}
        other = other_length(frames, 1, most=None)
        # not a whole number of hops
        made = music(separator, length_of(separator, other), batch=3)
        others[f"{other} frames"] = made[..., :-3]
    return Part(
        module=RealSeparator(separator=separator).eval(),
        original=separator,
        inputs=signals(separator, length_of(separator, frames), batch=2 if dynamic else 1),
        others=others,
        dynamic_shapes=free,
        input_name="mixture",
        output_name="estimates",
    )


def other_length(length: int, multiple: int, *, most: int | None) -> int:
    """A length that a free axis should take as well: more, or less if it must."""
    longer = length + max(1, length // (2 * multiple)) * multiple
    if most is None or longer <= most:
        return longer
    return max(multiple, length - multiple)


def length_of(separator: SpectrogramSeparator, frames: int) -> int:
    """Samples of so many frames, and of the crops before them that the network is shown."""
    return separator.stft.num_samples(frames + separator.num_past_frames)


def signals(separator: Graphed, num_samples: int, *, batch: int) -> dict[str, Tensor]:
    """Mixtures of so many samples with all the range that music has, the same every time."""
    generator = torch.Generator().manual_seed(0)
    tones = music(separator, num_samples, batch=batch)
    noise = 2 * torch.rand(tones.shape, generator=generator) - 1
    return {"music": tones, "silence": torch.zeros_like(tones), "full scale": noise.sign()}


def music(separator: Graphed, num_samples: int, *, batch: int) -> Float[Tensor, "B C L"]:
    """Plucked harmonic tones over a floor of noise at -80 dB, peak near full scale."""
    time = torch.arange(max(1, num_samples)) / separator.sample_rate
    generator = torch.Generator().manual_seed(1)
    mixture = 1e-4 * torch.randn(batch, separator.num_channels, len(time), generator=generator)
    onsets = torch.arange(0, float(time[-1]) + 0.25, 0.25)
    for item in mixture:
        for onset in onsets.tolist():
            pitch_hz = 110.0 * 2 ** (torch.randint(0, 36, (), generator=generator).item() / 12)
            pan = torch.rand(separator.num_channels, 1, generator=generator)
            since = (time - onset).clamp_min(0)
            tone = sum(
                torch.sin(2 * math.pi * pitch_hz * k * since) * torch.exp(-4 * k * since) / k
                for k in range(1, 8)
                if pitch_hz * k < separator.sample_rate / 2
            )
            item += 0.25 * pan * tone * (time >= onset)
    return mixture / max(1.0, mixture.abs().max().item())


def shown(separator: SpectrogramSeparator, mixture: Float[Tensor, "B C L"]) -> Tensor:
    """What the separator gives its network last: scaled, with the past if it reads one."""
    seen: list[Tensor] = []
    hook = separator.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        separator(mixture)
    finally:
        hook.remove()
    return seen[-1]


def traced(part: Part, *, dynamic: bool) -> ExportedProgram:
    """The part as a graph.

    Raises:
        ValueError: if torch cannot make one.
    """
    example = next(iter(part.inputs.values()))
    free = None if part.dynamic_shapes is None else (part.dynamic_shapes,)
    try:
        with quiet():
            # with free axes torch asks which of two products of sizes is larger; the answer is the
            # same for all sizes, but it cannot know
            return torch.export.export(
                part.module,
                (example,),
                dynamic_shapes=free,
                prefer_deferred_runtime_asserts_over_guards=dynamic,
            )
    except RuntimeError as error:
        way_out = "dynamic=false exports one length" if dynamic else "it has no graph"
        raise ValueError(
            f"torch.export refuses this network: {first_line(error)}; {way_out}"
        ) from (error)


def write_onnx(
    path: Path, program: ExportedProgram, part: Part, facts: str, *, external_data: bool
) -> None:
    """Translate the graph to ONNX and write it, with the facts inside.

    Raises:
        ValueError: if it cannot be translated.
    """
    try:
        with quiet():
            translated = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=OPSET,
                input_names=[part.input_name],
                output_names=[part.output_name],
                verbose=False,
            )
    except RuntimeError as error:
        raise ValueError(
            f"ONNX has no words for this network: {reason_of(error)}; a .pt2 can be written"
        ) from error
    assert translated is not None
    translated.model.metadata_props[METADATA] = facts
    # None: torch writes a second file where one would be larger than the format allows
    translated.save(path, external_data=True if external_data else None)


def reason_of(error: BaseException) -> str:
    """Why a graph could not be translated: the message of the first error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


def onnx_module(path: Path) -> Callable[[Tensor], Tensor]:
    """The file in ONNX Runtime, as a function from tensor to tensor."""
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run(x: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {given.name: x.contiguous().numpy()})[0])

    return run


def report_difference(
    run: Callable[[Tensor], Tensor],
    inputs: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    tolerance: float,
) -> None:
    """Say how far what was exported is from the checkpoint.

    The relative error divides by the largest output of all inputs.

    Raises:
        NotEqualError: if it is further than the tolerance, or anything is no number.
    """
    largest = max(x.abs().max().item() for x in expected.values())
    # by torch, because Python's max passes over what is no number
    error = torch.stack([(run(x) - expected[name]).abs().max() for name, x in inputs.items()])
    error = error.max().item()
    relative = error / largest if largest else error
    said = f"largest error {error:.1e}, relative {relative:.1e}, over {', '.join(inputs)}"
    if not relative <= tolerance:
        raise NotEqualError(
            f"{said}: more than tolerance={tolerance:g}, so the file is not kept; "
            "a larger tolerance keeps it"
        )
    print(f"{said} (tolerance {tolerance:g})")


def describe(separator: Graphed, part: Part, cfg: DictConfig, *, model: str) -> dict[str, Any]:
    """What a program must know to prepare the input and use the output."""
    (input_name, input_axes), (output_name, output_axes) = shapes_of(separator, part, cfg)
    facts = {
        "frametx": __version__,
        "torch": str(torch.__version__),
        "model": model,
        "part": cfg.part,
        "dynamic": cfg.dynamic,
        "inputs": [{"name": input_name, "shape": input_axes}],
        "outputs": [{"name": output_name, "shape": output_axes}],
        "stems": list(separator.stems),
        "complement": separator.complement,
        "sample_rate": separator.sample_rate,
        "num_channels": separator.num_channels,
        "ordered_stems": separator.ordered_stems,
        "sums_to_mixture": separator.sums_to_mixture,
        "chunk_samples": separator.chunk_samples,
    }
    if isinstance(separator, WaveformSeparator):
        multiple = int(getattr(separator.network, "stride", 1)) if cfg.dynamic else 1
        return facts | {"levels": separator.levels, "sample_multiple": multiple}
    return facts | {
        "n_fft": separator.stft.n_fft,
        "hop_length": separator.stft.hop_length,
        "window": "periodic Hann",
        "num_bins": separator.num_bins,
        "scale": separator.scale,
        "top_bin": separator.top_bin,
        "input_range": list(separator.input_range),
        "head": separator.head,
        "frame_multiple": separator.frame_multiple,
        "num_past_frames": separator.num_past_frames,
        "crop_frames": separator.crop_frames,
        "chunk_frames": separator.stft.num_frames(separator.chunk_samples),
    }


def shapes_of(separator: Graphed, part: Part, cfg: DictConfig) -> list[tuple[str, list[int | str]]]:
    """Names and axes of what comes in and goes out; a name instead of a number where it is free."""
    shape = next(iter(part.inputs.values())).shape
    batch: int | str = "batch" if cfg.dynamic else shape[0]
    if isinstance(separator, WaveformSeparator) or cfg.part == "separator":
        samples: int | str = "samples" if cfg.dynamic else shape[-1]
        is_without = cfg.part == "network" and separator.complement is not None
        stems = len(separator.stems) - is_without
        given: Sequence[int | str] = [batch, shape[1], samples]
        answer: Sequence[int | str] = [batch, stems, shape[1], samples]
    else:
        frames: int | str = "frames" if cfg.dynamic else shape[-1]
        stems = len(separator.stems) - (separator.complement is not None)
        given = [batch, shape[1], separator.num_bins, frames]
        answer = [batch, stems * separator.num_channels, separator.num_bins, frames]
    return [(part.input_name, list(given)), (part.output_name, list(answer))]


def move(made: Path, output: Path) -> None:
    """Put the finished file and its weights, if they are a file, in their place."""
    beside, there = weights_beside(made), weights_beside(output)
    if beside.exists():
        beside.replace(there)
    else:
        there.unlink(missing_ok=True)
    made.replace(output)
    size = f"{output.stat().st_size / 1e6:.1f} MB"
    if there.exists():
        size += f", and {there.name} with its weights, {there.stat().st_size / 1e6:.1f} MB"
    print(f"written: {output}, {size}")


def weights_beside(output: Path) -> Path:
    """Where the weights of an .onnx file are that has none inside."""
    return output.with_name(f"{output.name}.data")


def onnxruntime() -> Any:
    """The package that runs ONNX; those that write it must be there too.

    Raises:
        ValueError: if one is missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f".onnx needs the package {error.name}: pip install 'frametx[onnx]'"
        ) from error
    return onnxruntime


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's remarks to its own developers."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@hydra_main("export")
def main(cfg: DictConfig) -> int:
    """Export one checkpoint; 1 where the file would not agree with it."""
    try:
        export(cfg)
    except NotEqualError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    main()
