"""A checkpoint, or several, as something that separates: without Hydra, without Lightning."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import nn

from frametx.checkpoint import load_separator
from frametx.execution import Execution, choose_device, choose_precision
from frametx.faithful import OriginalOptions
from frametx.pipeline import Pipeline
from frametx.separation_options import Absent, Augmentation, SeparationOptions
from frametx.separator import Separator, SpectrogramSeparator, TopBin

TOP_BINS = get_args(TopBin)
OWN_KEYS = ("ckpt", "device", "precision", "batch_size", "compile", "top_bin")
NESTED_OPTIONS = ("tta", "absent", "original")
PLAIN_OPTIONS = [f.name for f in fields(SeparationOptions) if f.name not in NESTED_OPTIONS]
CONFIG_KEYS = (*OWN_KEYS, *NESTED_OPTIONS, *PLAIN_OPTIONS)  # of separation/default


def load(
    ckpt: str | Path | Sequence[str | Path],
    *,
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 1,
    compile: bool = False,
    top_bin: str | None = None,
    note: Callable[[str], None] = lambda _: None,
    options: SeparationOptions | None = None,
    **chosen: Any,
) -> Pipeline:
    """What separates with a checkpoint, or with several as an ensemble.

        separator = frametx.load("vocals.ckpt", quality="best")
        stems = separator.separate("song.flac")            # {"vocals": array C L, ...}
        stems = separator.separate(samples, sample_rate=44_100)

    Args:
        ckpt: of frametx (.ckpt, .safetensors), or of an original program (.pth).
        device: auto, cpu, cuda, cuda:1 ... or mps.
        precision: of the networks: fp32, bf16, fp16; auto is bf16 on a GPU that computes in it,
            and fp32 with quality=best and elsewhere.
        batch_size: chunks at once; halved where memory does not suffice.
        compile: let torch.compile make the networks faster; the first chunk takes minutes.
        top_bin: mask of the bins that a network does not see: `copy`, `average` or `zero`;
            None is as stored.
        note: is told in words what had to be changed on the way.
        options: how to separate.
        **chosen: fields of `SeparationOptions` instead of those of `options`.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if one is bad, they do not fit each other, or an option is out of its range.
        TypeError: if there is no such option.
    """
    paths = [ckpt] if isinstance(ckpt, str | Path) else list(ckpt)
    if not paths:
        raise ValueError("ckpt=[]: give at least one checkpoint")
    if top_bin not in (None, *TOP_BINS):
        raise ValueError(f"top_bin={top_bin} must be null, {' or '.join(TOP_BINS)}")
    options = replace(SeparationOptions() if options is None else options, **chosen)
    where = choose_device(device)
    execution = choose_execution(where, precision, options, batch_size=batch_size, note=note)
    members = [load_separator(Path(path).expanduser(), device=where) for path in paths]
    for member in members:
        if top_bin is not None:
            set_top_bin(member, top_bin)
        if compile:
            compile_network(member)
    return Pipeline(members, options, execution=execution)


def choose_execution(
    device: torch.device,
    precision: str,
    options: SeparationOptions,
    *,
    batch_size: int = 1,
    note: Callable[[str], None] = lambda _: None,
) -> Execution:
    """What runs the networks; `auto` is the precision that goes with the quality.

    Raises:
        ValueError: if the device lacks the precision, or a value is out of its range.
    """
    if precision == "auto" and (options.quality == "best" or options.faithful):
        precision = "fp32"
    return Execution(
        device=device,
        batch_size=batch_size,
        precision=choose_precision(precision, device),
        note=note,
    )


def load_configured(
    values: Mapping[str, Any], *, note: Callable[[str], None] = lambda _: None
) -> Pipeline:
    """What separates as the plain values of conf/separation/default.yaml say; see `load`."""
    tta = dict(values["tta"])
    if tta["contexts"] != "original":
        tta["contexts"] = tuple(tta["contexts"])
    options = SeparationOptions(
        tta=Augmentation(**tta),
        absent=absent_of(values["absent"]),
        original=OriginalOptions(**values["original"]),
        **{name: values[name] for name in PLAIN_OPTIONS},
    )
    return load(**{name: values[name] for name in OWN_KEYS}, note=note, options=options)


def absent_of(values: Mapping[str, Any]) -> Absent | None:
    """What stands under `absent`; None if it names no stem.

    Raises:
        ValueError: if it names none, and says more about it all the same.
    """
    if values["stem"] is not None:
        return Absent(**values)
    idle = [f.name for f in fields(Absent) if f.name != "stem" and values[f.name] != f.default]
    if idle:
        raise ValueError(
            f"absent.{idle[0]}={values[idle[0]]} does nothing without a stem: name one with "
            "absent.stem=, or leave it out"
        )
    return None


def set_top_bin(member: Separator, top_bin: str) -> None:
    """Say what becomes of the bins that a network does not see.

    Raises:
        ValueError: if it is no network that sees bins.
    """
    if not isinstance(member, SpectrogramSeparator):
        raise ValueError(f"top_bin={top_bin}: {type(member).__name__} has no bins; leave it out")
    member.top_bin = top_bin


def compile_network(member: Separator) -> None:
    """Compile the part of a separator that is real-valued, in place."""
    module = cast(nn.Module, member)
    network = module.network if isinstance(module, SpectrogramSeparator) else module
    assert isinstance(network, nn.Module)
    network.compile()


def num_parameters(pipeline: Pipeline) -> int:
    """Of all members together."""
    modules = [cast(nn.Module, member) for member in pipeline.members]
    return sum(weight.numel() for module in modules for weight in module.parameters())


def model_names(pipeline: Pipeline) -> list[str]:
    """The networks' classes."""
    return [type(getattr(member, "network", member)).__name__ for member in pipeline.members]


def describe_device(execution: Execution) -> str:
    """In words: what the networks run on, and how precisely."""
    if execution.device.type == "cuda":
        name = f"{execution.device} ({torch.cuda.get_device_name(execution.device)})"
    elif execution.device.type == "cpu":
        name = f"cpu ({torch.get_num_threads()} thread(s))"
    else:
        name = str(execution.device)
    return f"{name}, {execution.precision}"
