"""One file that holds a separator: its weights, the config that builds it, and its origin.

The file is an ordinary Lightning checkpoint with one more key, `frametx`, so that training resumes
from it and `separate` needs nothing beside it; or a .safetensors file with the same two things and
no state of training. It is read with weights_only=True, and a stored
`_target_` may only name what lives in frametx or torch.nn: a checkpoint cannot run code.

A file of an original program (.pth) is recognised and converted as it is loaded.
"""

import importlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from frametx import __version__, legacy, pretrained
from frametx.data.trained_on import TrainedOn
from frametx.files import atomic_write, save_tensors
from frametx.nn.low_rank import merged
from frametx.separator import Separator

FORMAT = 1
PREFIX = "separator."  # of a separator's weights inside a training module's state_dict
ALLOWED_TARGETS = ("frametx.", "torch.nn.")


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
        ValueError: if it is no frametx checkpoint, is damaged, would run code, its weights do not
            fit the network that its config describes, or it has never seen a stem.
    """
    stored = as_ours(read_file(path), path)
    if stored["frametx"].get("pretraining"):
        raise ValueError(
            f"{path} was pretrained ({stored['frametx']['pretraining']}) and separates nothing "
            f"yet: train it on by python -m frametx.train init_from={path}"
        )
    config = stored["frametx"]["separator"]
    refuse_foreign_targets(config, path)
    try:
        separator = cast(nn.Module, build(config))
    except TypeError as error:
        raise ValueError(
            f"{path} was written by another version of frametx: {first_line(error)}"
        ) from error
    load_weights(separator, separator_weights(stored), path)
    return cast(Separator, separator.to(device).eval())


def as_ours(stored: Any, path: Path | str) -> dict[str, Any]:
    """What a file of an original program holds, in the form of a checkpoint; ours as it is.

    Raises:
        ValueError: if it is neither.
    """
    if is_ours(stored):
        return stored
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


def build(config: Any) -> Any:
    """The object that a stored config describes: each `_target_` called with the values beside it.

    As Hydra's instantiate does for plain configs; separating needs no Hydra.
    """
    if isinstance(config, Mapping):
        values = {str(key): build(value) for key, value in config.items()}
        target = values.pop("_target_", None)
        return values if target is None else find_class(str(target))(**values)
    if isinstance(config, list | tuple):
        return [build(value) for value in config]
    return config


def read_checkpoint(path: Path | str) -> dict[str, Any]:
    """The raw contents of a frametx checkpoint.

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
    return stored


def read_file(path: Path | str) -> Any:
    """What a checkpoint of any origin holds: tensors and plain values, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is damaged, or holds code.
    """
    if pretrained.is_name(path):
        return _published(path)
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint; give the path of a .ckpt file")
    try:
        if Path(path).suffix == ".safetensors":
            stored = read_safetensors(path)
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {first_line(error)}") from error
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise ValueError(
                f"{path}: refused, because it holds code besides weights; "
                "only checkpoints of plain tensors are loaded"
            ) from error
        raise ValueError(f"{path} is no checkpoint: it cannot be read as one") from error
    except (RuntimeError, EOFError, BadZipFile, LookupError, AttributeError) as error:
        raise ValueError(f"{path} is damaged or no checkpoint: {first_line(error)}") from error
    return stored


def _published(name: Path | str) -> dict[str, Any]:
    """Weights that a package brings along, in the form of a checkpoint."""
    found = pretrained.read(name)
    weights = {f"{PREFIX}network.{key}": value for key, value in found.weights.items()}
    return {"state_dict": weights, "frametx": recipe(found.separator, model=found.model)}


def heard_by(path: Path | str) -> TrainedOn:
    """What a checkpoint's weights have heard; it is not all where it does not say.

    Reads no weights, so it is quick for a file of any size.
    """
    if pretrained.is_name(path):
        return TrainedOn(is_all=False)
    path = Path(path).expanduser()
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            made_by = json.loads((file.metadata() or {}).get("frametx", "{}"))
    else:
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, pickle.UnpicklingError):  # not a file that we wrote
            return TrainedOn(is_all=False)
        made_by = stored["frametx"] if is_ours(stored) else {}
    return TrainedOn.from_stored(made_by.get("trained_on"))


def read_safetensors(path: Path | str) -> dict[str, Any]:
    """The contents of a .safetensors file in the form of a checkpoint."""
    with safe_open(path, framework="pt") as file:
        note = (file.metadata() or {}).get("frametx")
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    return {"state_dict": weights} | ({"frametx": json.loads(note)} if note else {})


def separator_weights(stored: Mapping[str, Any]) -> dict[str, Tensor]:
    """The separator's part of a checkpoint's weights; adapters are merged into theirs."""
    weights = {
        name.removeprefix(PREFIX): value
        for name, value in stored["state_dict"].items()
        if name.startswith(PREFIX)
    }
    return merged(weights)


def load_weights(separator: nn.Module, weights: Mapping[str, Tensor], path: Path | str) -> None:
    """Load weights whose names and shapes must all fit.

    Raises:
        ValueError: naming the first keys that differ.
    """
    have = {name: tuple(value.shape) for name, value in separator.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    if have != given:
        differ = [name for name in sorted(have | given) if have.get(name) != given.get(name)]
        shown = "; ".join(
            f"{name}: file {given.get(name, 'none')}, network {have.get(name, 'none')}"
            for name in differ[:3]
        )
        raise ValueError(
            f"{path} is a checkpoint of another architecture: {len(differ)} of "
            f"{len(have | given)} weights differ ({shown}); choose the model it was trained as"
        )
    separator.load_state_dict(dict(weights))


def refuse_foreign_targets(config: Any, path: Path | str) -> None:
    """Walk a stored config and refuse every `_target_` outside frametx and torch.nn.

    Raises:
        ValueError: naming the target.
    """
    if isinstance(config, Mapping):
        target = config.get("_target_")
        if target is not None and not is_allowed(str(target)):
            raise ValueError(
                f"{path}: refused, because its config calls {target}; "
                f"a checkpoint may only build what is in {' and '.join(ALLOWED_TARGETS)}"
            )
        for value in config.values():
            refuse_foreign_targets(value, path)
    elif isinstance(config, list | tuple):
        for value in config:
            refuse_foreign_targets(value, path)


def is_allowed(target: str) -> bool:
    """Whether a dotted path names a class that frametx or torch.nn defines.

    The place of definition counts as well as the path: `frametx.config.os.system` is reached
    through frametx and is not frametx's.
    """
    if not target.startswith(ALLOWED_TARGETS):
        return False
    try:
        found = find_class(target)
    except (ImportError, AttributeError, ValueError, TypeError):
        return False
    return f"{found.__module__}.".startswith(ALLOWED_TARGETS)


def find_class(target: str) -> type:
    """The class with this dotted path.

    Raises:
        ImportError, AttributeError, ValueError: if there is none.
        TypeError: if it is no class.
    """
    module, _, name = target.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not isinstance(found, type):
        raise TypeError(f"{target} is no class")
    return found


def first_line(error: BaseException) -> str:
    """The first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
