"""One file that holds a separator: its weights, the config that builds it, and its origin.

The file is an ordinary Lightning checkpoint with one more key, `frametx`, so that training resumes
from it and `separate` needs no other file; or a .safetensors file with the same two things and
no state of training. `frametx.checkpoint_file` reads it and `frametx.stored_config` builds from it:
a checkpoint cannot run code, whatever is in it.

A file of an original program (.pth) is recognised and converted as it is loaded.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from frametx import __version__, checkpoint_file, legacy, pretrained
from frametx.checkpoint_file import DamagedError
from frametx.data.trained_on import TrainedOn
from frametx.files import atomic_write, save_tensors
from frametx.nn.low_rank import merged
from frametx.separator import Separator
from frametx.stored_config import build, build_without_memory, check_config, materialise

FORMAT = 1
PREFIX = "separator."  # of a separator's weights inside a training module's state_dict


def recipe(
    separator_config: Mapping[str, Any], *, model: str, data_fingerprint: str = ""
) -> dict[str, Any]:
    """What a checkpoint stores under `frametx`, beside the weights.

    Args:
        separator_config: resolved config of the separator (`_target_` and plain values).
        model: the name the user chose, e.g. `asym_unet_mct`.
        data_fingerprint: of the libraries it was trained on.
    """
    return {
        "format": FORMAT,
        "separator": dict(separator_config),
        "model": model,
        "data_fingerprint": data_fingerprint,
        "versions": {"frametx": __version__, "torch": str(torch.__version__)},
    }


def save_separator(
    path: Path | str, separator: nn.Module, separator_config: Mapping[str, Any], *, model: str
) -> None:
    """Write a separator without any state of training, as .safetensors if the path ends so.

    Raises:
        OSError: if the disk does not take it; what was there before stays.
    """
    weights = {f"{PREFIX}{name}": value for name, value in separator.state_dict().items()}
    made_by = recipe(separator_config, model=model)
    if Path(path).suffix == ".safetensors":
        save_safetensors(weights, path, made_by)
    else:
        save_tensors({"state_dict": weights, "frametx": made_by}, path)


def save_safetensors(
    weights: Mapping[str, Tensor], path: Path | str, made_by: Mapping[str, Any]
) -> None:
    """Write weights with their recipe as .safetensors, so that `path` is whole at any time.

    Raises:
        OSError: if the disk does not take it.
    """
    with atomic_write(path) as part:
        try:
            save_file(dict(weights), part, metadata={"frametx": json.dumps(dict(made_by))})
        except SafetensorError as error:  # its only error in writing: that of the disk
            raise OSError(None, first_line(error), str(path)) from error


def load_separator(path: Path | str, *, device: torch.device | str = "cpu") -> Separator:
    """The separator stored in a checkpoint, in evaluation mode, with its averaged weights.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no frametx checkpoint, is damaged, would run code, its weights are not
            finite or do not fit the network that its config describes, or it has never seen a stem.
    """
    stored = as_ours(read_file(path), path)
    if stored["frametx"].get("pretraining"):
        raise ValueError(
            f"{path} was pretrained ({stored['frametx']['pretraining']}) and separates nothing "
            f"yet: train it on by python -m frametx.train init_from={path}"
        )
    weights = separator_weights(stored, path)
    with _naming(path):
        separator = build_without_memory(stored["frametx"]["separator"], weights)
    load_weights(separator, weights, path)
    return cast(Separator, separator.to(device).eval())


def build_member(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path | str) -> Any:
    """A separator of a stored config that fits these weights; its own are drawn at random.

    Raises:
        ValueError: if the config is bad or describes another network.
    """
    with _naming(path):
        check_weights(build_without_memory(config, weights), weights, path)
        return build(config)


@contextmanager
def _naming(path: Path | str) -> Iterator[None]:
    """Put the path before what is wrong with a stored config."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        raise ValueError(message if str(path) in message else f"{path}: {message}") from error


def as_ours(stored: Any, path: Path | str, *, also: Sequence[str] = ()) -> dict[str, Any]:
    """What a file of an original program holds, in the form of a checkpoint; ours as it is.

    Args:
        stored: by `read_file`.
        path: of the file.
        also: targets of which nothing is built, see `frametx.stored_config.check_config`.

    Raises:
        ValueError: if it is neither.
    """
    if is_ours(stored):
        return checked(stored, path, also=also)
    try:
        converted = legacy.convert(legacy.state_dict_of(stored))
    except ValueError as error:
        raise ValueError(
            f"{path} is no frametx checkpoint (it has no config inside), nor of a network that "
            f"could be converted: {error}"
        ) from error
    weights = {f"{PREFIX}network.{name}": value for name, value in converted.weights.items()}
    made_by = recipe(legacy.separator_config(converted), model=converted.name)
    return {"state_dict": weights, "frametx": made_by}


def is_ours(stored: Any) -> bool:
    """Whether what was read is a frametx checkpoint."""
    return isinstance(stored, dict) and "frametx" in stored and "state_dict" in stored


def checked(
    stored: dict[str, Any], path: Path | str, *, also: Sequence[str] = ()
) -> dict[str, Any]:
    """A frametx checkpoint whose parts are what they should be.

    Raises:
        ValueError: naming what is wrong.
    """
    made_by, weights = stored["frametx"], stored["state_dict"]
    if type(made_by) is not dict or made_by.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"{path} was written by another version of frametx, or by another program: this one "
            f"reads format {FORMAT}"
        )
    if not isinstance(weights, dict) or not all(
        type(name) is str and isinstance(weight, Tensor) for name, weight in weights.items()
    ):
        raise ValueError(f"{path}: its state_dict holds other things than weights by their names")
    for key in ("model", "pretraining", "data_fingerprint"):
        if not isinstance(made_by.get(key, ""), str):
            raise ValueError(f"{path}: its {key} is no name")
    with _naming(path):
        check_config(made_by.get("separator"), also=also)
    return stored


def read_checkpoint(path: Path | str, *, also: Sequence[str] = ()) -> dict[str, Any]:
    """The contents of a frametx checkpoint.

    Args:
        path: of the file.
        also: targets of which nothing is built, see `frametx.stored_config.check_config`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no frametx checkpoint, damaged, or holds code.
    """
    stored = read_file(path)
    if not is_ours(stored):
        raise ValueError(
            f"{path} is no frametx checkpoint: it has no config inside; "
            "give a .ckpt that python -m frametx.train wrote"
        )
    return checked(stored, path, also=also)


def read_file(path: Path | str) -> Any:
    """What a checkpoint of any origin holds: tensors and plain values, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds code.
    """
    if pretrained.is_name(path):
        return _published(path)
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; give the path of a .ckpt file")
    try:
        return checkpoint_file.read(path)
    except DamagedError as error:
        neighbour = whole_neighbour(path)
        if neighbour is None:
            raise
        raise DamagedError(f"{error}; {neighbour.name} next to it is whole") from error


def whole_neighbour(path: Path) -> Path | None:
    """Another checkpoint in the folder of a damaged one: `best.ckpt`, `last.ckpt`, or the newest.

    None if there is none that can be read to its end.
    """
    others = [other for other in path.parent.glob("*.ckpt") if other != path and other.is_file()]
    usual = ("best.ckpt", "last.ckpt")
    others.sort(key=lambda other: (other.name not in usual, -other.stat().st_mtime))
    return next((other for other in others[:4] if checkpoint_file.is_whole(other)), None)


def _published(name: Path | str) -> dict[str, Any]:
    """Weights that a package brings along, in the form of a checkpoint."""
    found = pretrained.read(name)
    weights = {f"{PREFIX}network.{key}": value for key, value in found.weights.items()}
    weights |= {f"{PREFIX}members.{key}": value for key, value in found.members.items()}
    return {"state_dict": weights, "frametx": recipe(found.separator, model=found.model)}


def heard_by(path: Path | str) -> TrainedOn:
    """What a checkpoint's weights have heard; it is not all where it does not say.

    Reads no weights, so it is quick for a file of any size.

    Raises:
        ValueError: if it says so in a way that cannot be read.
    """
    if pretrained.is_name(path):
        return TrainedOn(is_all=False)
    try:
        stored = checkpoint_file.read(Path(path).expanduser(), numbers=False)
    except ValueError:  # not a file that we wrote
        return TrainedOn(is_all=False)
    made_by = stored["frametx"] if is_ours(stored) else {}
    try:
        return TrainedOn.from_stored(made_by.get("trained_on"))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path} does not say in a readable way what it was trained on") from error


def separator_weights(stored: Mapping[str, Any], path: Path | str) -> dict[str, Tensor]:
    """The separator's part of a checkpoint's weights; adapters are merged into theirs.

    Raises:
        ValueError: if an adapter does not fit its weight, or a weight is not finite.
    """
    weights = {
        name.removeprefix(PREFIX): value
        for name, value in stored["state_dict"].items()
        if name.startswith(PREFIX)
    }
    with _naming(path):
        weights = merged(weights)
    for name, weight in weights.items():
        if not is_finite(weight):
            raise ValueError(
                f"{path}: its weight {name} holds NaN or infinity, so all that it gives would: "
                "take a checkpoint from before its training went wrong"
            )
    return weights


def is_finite(weight: Tensor) -> bool:
    """Whether a tensor has no NaN and no infinity; takes no memory for it."""
    if not weight.is_floating_point() or not weight.numel() or weight.is_meta:
        return True
    low, high = torch.aminmax(weight)
    return bool(torch.isfinite(low) & torch.isfinite(high))


def check_weights(separator: nn.Module, weights: Mapping[str, Tensor], path: Path | str) -> None:
    """See that weights have the names and shapes of a separator's.

    Raises:
        ValueError: naming the first keys that differ.
    """
    have = {name: tuple(value.shape) for name, value in separator.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if have != given:
        differ = [name for name in sorted(have | given) if have.get(name) != given.get(name)]
        shown = "; ".join(
            f"{name[:80]!r}: file {given.get(name, 'none')}, network {have.get(name, 'none')}"
            for name in differ[:3]
        )
        raise ValueError(
            f"{path} is a checkpoint of another architecture: {len(differ)} of "
            f"{len(have | given)} weights differ ({shown}); choose the model it was trained as"
        )


def load_weights(separator: nn.Module, weights: Mapping[str, Tensor], path: Path | str) -> None:
    """Load weights whose names and shapes must all fit.

    Raises:
        ValueError: naming the first keys that differ.
    """
    check_weights(separator, weights, path)
    materialise(separator)
    separator.load_state_dict(dict(weights))


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
