"""Weights of HTDemucs: `demucs:htdemucs`, or a folder with the files of the `demucs` package.

A folder holds for each network a `SIGNATURE-CHECKSUM.th` as the package's servers have it, or a
`SIGNATURE.safetensors` as its pages on Hugging Face have it; and perhaps `NAME.yaml`, which says
what networks a name stands for. The package's own lists do where there is none.
"""

import hashlib
import inspect
import json
import logging
import pickle
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from frametx import checkpoint_file
from frametx.pretrained.published import UNREADABLE, Pretrained, no_code

PUBLISHED = ("htdemucs", "htdemucs_ft", "htdemucs_6s")
NAMES = tuple(f"demucs:{name}" for name in PUBLISHED)
_CLASS = "demucs.htdemucs.HTDemucs"
# our arguments, and the package's for the same
_ARGUMENTS = {
    "sources": "sources",
    "num_channels": "audio_channels",
    "n_fft": "nfft",
    "num_maps": "channels",
    "num_levels": "depth",
    "bottom_features": "bottom_channels",
    "num_layers": "t_layers",
    "num_heads": "t_heads",
    "expansion": "t_hidden_scale",
    "dropout": "t_dropout",
    "sample_rate": "samplerate",
}
_RESIDUAL_BRANCHES = {1: "encoder", 3: "both"}
_SEEN_TO = {*_ARGUMENTS.values(), "dconv_mode", "segment", "use_train_segment", "self"}


class Stored(NamedTuple):
    """A network as the package stores it.

    Attributes:
        arguments: of the package's class, those that were not left out.
        weights: under the package's names.
    """

    arguments: dict[str, Any]
    weights: Mapping[str, Tensor]


class Bag(NamedTuple):
    """What a name stands for.

    Attributes:
        networks: one or several.
        weights: of every network, for every source; None counts all alike.
        segment: seconds that the networks are shown instead of those they were trained with.
    """

    networks: list[Stored]
    weights: Sequence[Sequence[float]] | None
    segment: float | None


def read(name: str) -> Pretrained:
    """The weights of `demucs:NAME` or `demucs:FOLDER/NAME`.

    Raises:
        ValueError: if there are none of this name, a file is damaged or would run code, or holds
            another network than HTDemucs.
        FileNotFoundError: if the package is not installed, a file is missing or cannot be fetched.
    """
    place = name.partition(":")[2]
    try:
        from demucs.htdemucs import HTDemucs
    except ImportError as error:
        raise FileNotFoundError(
            f"{name}: it is read by the demucs package: pip install 'frametx[demucs]'"
        ) from error
    folder = Path(place).expanduser().parent
    bag = _fetched(name, place) if folder == Path() else _local(name, folder, Path(place).name)
    defaults = {
        key: parameter.default
        for key, parameter in inspect.signature(HTDemucs.__init__).parameters.items()
    }
    return _assembled(name, bag, defaults)


def _assembled(name: str, bag: Bag, defaults: Mapping[str, Any]) -> Pretrained:
    """One separator of all networks."""
    full = [{**defaults, **stored.arguments} for stored in bag.networks]
    stems = list(full[0]["sources"])
    configs = [_config(name, arguments, defaults, bag.segment, stems) for arguments in full]
    shared = ("sources", "audio_channels", "samplerate")
    if any(arguments[key] != full[0][key] for arguments in full for key in shared):
        raise ValueError(f"{name}: its networks differ in {', '.join(shared)}, so they are no bag")
    if len(configs) == 1:
        network = configs[0]
        weights = _weights(bag.networks[0], "")
    else:
        shares = bag.weights or [[1.0] * len(stems)] * len(configs)
        network = {
            "_target_": "frametx.models.htdemucs.BagOfHtdemucs",
            "networks": configs,
            "weights": [[float(share) for share in row] for row in shares],
        }
        weights = {}
        for number, stored in enumerate(bag.networks):
            weights |= _weights(stored, f"networks.{number}.")
    segments = [_segment(arguments, bag.segment) for arguments in full]
    separator = {
        "_target_": "frametx.waveform_separator.WaveformSeparator",
        "network": network,
        "stems": stems,
        "complement": None,
        "sample_rate": int(full[0]["samplerate"]),
        "num_channels": int(full[0]["audio_channels"]),
        "chunk_seconds": min(segments),
        "levels": "network",
    }
    return Pretrained("htdemucs", separator, weights)


def _config(
    name: str,
    arguments: Mapping[str, Any],
    defaults: Mapping[str, Any],
    segment: float | None,
    stems: list[str],
) -> dict[str, Any]:
    """Config of one network, from the package's arguments for it.

    Raises:
        ValueError: if ours cannot be built so.
    """
    mode = arguments["dconv_mode"]
    if mode not in _RESIDUAL_BRANCHES:
        raise ValueError(f"{name}: dconv_mode={mode} is not built here; 1 and 3 are")
    ours = {key: arguments[theirs] for key, theirs in _ARGUMENTS.items()}
    options = {
        key: _plain(value)
        for key, value in arguments.items()
        if key in defaults and key not in _SEEN_TO and value != defaults[key]
    }
    fills = arguments["use_train_segment"]
    return {
        "_target_": "frametx.models.htdemucs.Htdemucs",
        "stems": stems,
        "complement": None,
        **{key: _plain(value) for key, value in ours.items()},
        "expansion": float(ours["expansion"]),
        "dropout": float(ours["dropout"]),
        "residual_branches": _RESIDUAL_BRANCHES[mode],
        "min_seconds": _segment(arguments, segment) if fills else 0.0,
        "options": options,
    }


def _segment(arguments: Mapping[str, Any], segment: float | None) -> float:
    """Seconds that a network is shown: a bag may shorten them, and not lengthen."""
    own = float(arguments["segment"])
    return own if segment is None else min(own, float(segment))


def _weights(stored: Stored, prefix: str) -> dict[str, Tensor]:
    """Weights under our names, in full precision."""
    return {
        f"{prefix}demucs.{key}": value.float() if value.is_floating_point() else value
        for key, value in stored.weights.items()
    }


def _plain(value: Any) -> Any:
    """A value as a config holds it."""
    if isinstance(value, Fraction):
        return float(value)
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def _fetched(name: str, model: str) -> Bag:
    """What the package fetches from the internet, or has fetched before.

    Raises:
        ValueError: if it publishes no HTDemucs of this name, or it is damaged or holds code.
        FileNotFoundError: if it cannot be fetched.
    """
    if model not in PUBLISHED:
        raise ValueError(
            f"{name}: no published weights of this name; there are {', '.join(NAMES)}, and "
            "demucs:FOLDER/NAME reads the package's files in a folder"
        )
    from demucs.htdemucs import HTDemucs
    from demucs.pretrained import get_model

    try:
        with _quiet(), no_code(HTDemucs, Fraction):
            found: Any = get_model(model)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{name}: refused, because what the package keeps in {torch.hub.get_dir()} is damaged, "
            "or holds code, or another network than HTDemucs: delete it there"
        ) from error
    except (OSError, RuntimeError) as error:
        wanted = ", ".join(_addresses(_bag_file(model)))
        raise FileNotFoundError(
            f"{name} cannot be fetched ({error}): bring {wanted} into a folder and give "
            f"demucs:FOLDER/{model}"
        ) from error
    members = list(getattr(found, "models", [found]))
    networks: list[Stored] = []
    for member in members:
        arguments, named = member._init_args_kwargs
        bound = inspect.signature(type(member).__init__).bind(member, *arguments, **named)
        networks.append(Stored(dict(bound.arguments), member.state_dict()))
        networks[-1].arguments.pop("self")
    return Bag(networks, getattr(found, "weights", None), None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without a line for every attempt at an address that is only the first of two."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _local(name: str, folder: Path, model: str) -> Bag:
    """What lies in a folder: a network by its signature, or several by a name.

    Raises:
        FileNotFoundError: if there is no such folder, or nothing of this name in it.
        ValueError: if a file is not what it should be.
    """
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name}: {folder} is no folder: give one with the demucs package's .th files"
        )
    own = folder / f"{model}.yaml"
    path = own if own.is_file() else _bag_file(model)
    if not path.is_file():
        return Bag([_read_network(_file_of(name, folder, model))], None, None)
    said = _read_yaml(path)
    networks = [_read_network(_file_of(name, folder, str(one))) for one in said["models"]]
    return Bag(networks, said.get("weights"), said.get("segment"))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        said = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML that can be read") from error
    if not isinstance(said, dict) or not isinstance(said.get("models"), list) or not said["models"]:
        raise ValueError(f"{path} must name networks: models: [SIGNATURE, ...]")
    return said


def _file_of(name: str, folder: Path, signature: str) -> Path:
    """The file of one network.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if there are several.
    """
    found = [path for path in folder.iterdir() if path.suffix in (".th", ".safetensors")]
    found = [path for path in found if path.stem.partition("-")[0] == signature]
    if not found:
        wanted = [address for address in _addresses(None) if f"/{signature}-" in address]
        raise FileNotFoundError(
            f"{name}: {folder} holds no {signature}-*.th and no {signature}.safetensors"
            + (f": bring {wanted[0]}" if wanted else "")
        )
    if len(found) > 1:
        raise ValueError(
            f"{name}: {' and '.join(sorted(path.name for path in found))} in {folder} are both "
            f"{signature}: keep one"
        )
    return found[0]


def _read_network(path: Path) -> Stored:
    """A network in either of the package's formats, without running what is in the file.

    Raises:
        ValueError: if it is damaged, holds code, or another network.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    checksum = path.stem.partition("-")[2]
    if checksum and not hashlib.sha256(path.read_bytes()).hexdigest().startswith(checksum):
        raise ValueError(f"{path} is damaged: its checksum is not the one in its name")
    stand_ins = [(_the_class, _CLASS), (_fraction, "fractions.Fraction")]
    try:
        checkpoint_file.check(path, also=("demucs.htdemucs HTDemucs", "fractions Fraction"))
        with no_code(), torch.serialization.safe_globals(stand_ins):
            package = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, ValueError, TypeError) as error:
        raise ValueError(
            f"{path}: refused, because it is damaged, or holds code, or another network than "
            "HTDemucs: only HTDemucs is read"
        ) from error
    is_whole = isinstance(package, dict) and {"args", "kwargs", "state"} <= package.keys()
    if not is_whole or package.get("klass") is not _the_class:
        raise ValueError(f"{path} holds no HTDemucs as the demucs package stores it")
    if any(not isinstance(value, Tensor) for value in package["state"].values()):
        raise ValueError(f"{path} holds quantised weights: only plain ones are read")
    return _stored(package["args"], package["kwargs"], package["state"])


def _the_class() -> None:
    """Stand in for the package's class, which a file names and may not call."""


def _fraction(numerator: int, denominator: int) -> Fraction:
    """A fraction of two numbers; of a text, `1e999999999` would take all memory.

    Raises:
        ValueError: if they are no whole numbers.
    """
    if type(numerator) is not int or type(denominator) is not int or denominator == 0:
        raise ValueError("a fraction of other things than whole numbers")
    return Fraction(numerator, denominator)


def _read_safetensors(path: Path) -> Stored:
    try:
        with safe_open(path, framework="pt") as file:
            notes = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no dict
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged or no .safetensors: {error}") from error
    is_whole = {"args", "kwargs"} <= notes.keys()
    if not is_whole or notes.get("klass") != _CLASS or "structure" in notes:
        raise ValueError(f"{path} holds no HTDemucs as the demucs package stores it")
    try:
        arguments, named = (_decoded(json.loads(notes[key])) for key in ("args", "kwargs"))
    except (ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} holds no HTDemucs as the demucs package stores it") from error
    return _stored(arguments, named, weights)


def _stored(
    arguments: Sequence[Any], named: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> Stored:
    """With every argument by its name."""
    from demucs.htdemucs import HTDemucs

    names = list(inspect.signature(HTDemucs.__init__).parameters)[1:]
    by_place = dict(zip(names, arguments, strict=False))
    return Stored({**by_place, **named}, weights)


def _decoded(value: Any) -> Any:
    """JSON as the package writes it: fractions have a form of their own."""
    if isinstance(value, dict):
        if value.get("_type") == "fraction":
            return _fraction(value["numerator"], value["denominator"])
        return {key: _decoded(one) for key, one in value.items()}
    return [_decoded(one) for one in value] if isinstance(value, list) else value


def _bag_file(model: str) -> Path:
    """The package's own list of a name's networks, whether it is there or not."""
    from demucs.pretrained import REMOTE_ROOT

    return REMOTE_ROOT / f"{model}.yaml"


def _addresses(bag: Path | None) -> list[str]:
    """Where the files of a bag are on the package's servers; None: of all."""
    from demucs import pretrained

    found = pretrained._parse_remote_files(pretrained.REMOTE_ROOT / "files.txt")
    wanted = list(found) if bag is None else _read_yaml(bag)["models"]
    return [found[signature] for signature in wanted]
