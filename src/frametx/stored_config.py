"""From the config that a checkpoint stores to a separator, whatever the config says.

The one way there is: no OmegaConf, no Hydra, no interpolation. A config is plain data; each of its
`_target_` must be a class of ours in a place where such a class belongs, its values must have the
types of that class's arguments, and sizes have bounds. While the separator is built its parameters
take no memory (they lie on torch's `meta` device), and it may have no more of them than there are
weights for it.
"""

import importlib
import math
import threading
import types
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode

from frametx.models import SPECTROGRAM_NETWORKS, WAVEFORM_NETWORKS

TARGET = "_target_"
MAX_DEPTH = 12  # of an ensemble of ensembles of networks of bands
MAX_VALUES = 20_000
MAX_LETTERS = 200  # of a string
MAX_ITEMS = 4096  # of a list: a RoFormer has one for each of its bands

_SEPARATORS = (
    "frametx.separator.SpectrogramSeparator",
    "frametx.waveform_separator.WaveformSeparator",
    "frametx.neural_ensemble.NeuralEnsemble",
)
_LAYERS = tuple(f"torch.nn.{name}" for name in ("Conv1d", "Conv2d", "Identity", "Threshold"))
_OF_SPECTROGRAMS = (*(f"frametx.models.{name}" for name in SPECTROGRAM_NETWORKS), *_LAYERS)
_OF_WAVEFORMS = (*(f"frametx.models.{name}" for name in WAVEFORM_NETWORKS), *_LAYERS)
_STFT = ("frametx.audio.stft.Stft",)
_BANDS = ("frametx.nn.dense_unet.DenseUNet",)
_PLACES: dict[str, dict[str, tuple[str, ...]]] = {
    "SpectrogramSeparator": {"stft": _STFT, "network": _OF_SPECTROGRAMS},
    "WaveformSeparator": {"network": _OF_WAVEFORMS},
    "NeuralEnsemble": {"stft": _STFT, "network": _OF_SPECTROGRAMS, "members": _SEPARATORS},
    "MMDenseNet": {"bands": _BANDS, "full": _BANDS},
    "BagOfHtdemucs": {"networks": ("frametx.models.htdemucs.Htdemucs",)},
}
"""Of a class: which classes its arguments may be."""
_IGNORED = {"Bert": ("pretrained",)}
"""Arguments that name another file; all weights come from the checkpoint."""
_BOUNDS = {
    "sample_rate": (1_000, 768_000),
    "num_channels": (1, 1024),
    "n_fft": (2, 1 << 18),
    "hop_length": (1, 1 << 18),
    "chunk_frames": (2, 1 << 20),
    "crop_frames": (1, 1 << 20),
    "chunk_seconds": (1e-3, 3600.0),
    "min_seconds": (0.0, 3600.0),
    "num_bands": (1, MAX_ITEMS),
}
_OF_LOOPS = ("layers", "levels", "blocks", "scales", "streams", "crops", "depth", "taps")
_MOST_LOOPS = 512
_MOST = 1 << 24  # of any other whole number
_LARGEST = 1e9  # of any other number
_TAKE_SHAPES = ("empty", "zeros", "ones", "rand", "randn", "eye")
_SMALL = 1 << 22  # numbers of a table that a network may compute, however small its weights are


def check_config(config: Any, *, also: Sequence[str] = ()) -> None:
    """See that a stored config is plain data, and that it asks for separators of ours.

    Args:
        config: of a separator.
        also: further targets; nothing is built of them here.

    Raises:
        ValueError: naming what is wrong.
    """
    _check_plain(config)
    _check_targets(config, "separator", _SEPARATORS, tuple(also))


def build(config: Mapping[str, Any]) -> nn.Module:
    """The separator that a config describes, with weights drawn at random.

    Raises:
        ValueError: if the config is none that a separator of ours is built from.
    """
    check_config(config)
    with _as_value_error():
        return _built(config, "separator")


def build_without_memory(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> nn.Module:
    """The separator that a config describes, its parameters on the `meta` device.

    Args:
        config: of a separator.
        weights: that it is going to have; nothing in it may be larger, or of more parts.

    Raises:
        ValueError: as `build`, or if the separator is larger than its weights.
    """
    check_config(config)
    largest = max((weight.numel() for weight in weights.values()), default=0)
    with _as_value_error(), _Frugal(max(_SMALL, largest)), _parameters_on_meta(len(weights)):
        return _built(config, "separator")


def materialise(separator: nn.Module) -> None:
    """Give parameters on the `meta` device memory, without numbers; shared ones stay shared."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in separator.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None and parameter.is_meta:
                if parameter not in made:
                    made[parameter] = _without_numbers(parameter, device="cpu")
                setattr(module, name, made[parameter])


def _without_numbers(parameter: nn.Parameter, *, device: str) -> nn.Parameter:
    # not empty_like, which on `meta` imports sympy
    empty = torch.empty_strided(
        parameter.shape, parameter.stride(), dtype=parameter.dtype, device=device
    )
    return nn.Parameter(empty, requires_grad=parameter.requires_grad)


def _check_plain(config: Any) -> None:
    """Refuse anything but dicts, lists and values, or too much of it.

    Raises:
        ValueError: saying which.
    """
    left, num_values = [(config, 0)], 0
    while left:
        value, depth = left.pop()
        num_values += 1
        if depth > MAX_DEPTH or num_values > MAX_VALUES:
            raise ValueError("its config is nested too deep, or has too many values")
        if type(value) is dict:
            names = [name for name in value if type(name) is not str]
            if names:
                raise ValueError(f"its config has the key {_shown(names[0])}, which is no name")
            left += [(name, depth) for name in value]
            left += [(one, depth + 1) for one in value.values()]
        elif type(value) in (list, tuple):
            left += [(one, depth + 1) for one in value]
        elif type(value) is str:
            _check_text(value)
        elif type(value) not in (int, float, bool, type(None)):
            raise ValueError(f"its config holds a {type(value).__name__}, which is no plain value")


def _check_text(text: str) -> None:
    if "${" in text:
        raise ValueError(f"its config holds {_shown(text)}: nothing is filled into a stored config")
    if len(text) > MAX_LETTERS or any(unicodedata.category(letter)[0] == "C" for letter in text):
        raise ValueError(
            f"its config holds {_shown(text)}: strings have at most {MAX_LETTERS} letters, and no "
            "control characters"
        )


def _check_targets(config: Any, place: str, allowed: Sequence[str], also: Sequence[str]) -> None:
    """Refuse a class where it does not belong.

    Raises:
        ValueError: naming the target and its place.
    """
    if not isinstance(config, dict):
        raise ValueError(f"its config has {_shown(config)} at {place}, where a class must stand")
    target = config.get(TARGET)
    if target not in allowed and target not in also:
        raise ValueError(
            f"refused, because its config calls {_shown(target)} at {place}; a checkpoint may only "
            "build separators and networks of frametx, each in its place"
        )
    places = _PLACES.get(str(target).rpartition(".")[2], {})
    for name, value in config.items():
        if target in also and name not in places:
            continue  # not of ours, so nobody knows its arguments; nor is it built
        for one in value if isinstance(value, list | tuple) and name in places else [value]:
            if name in places:
                _check_targets(one, f"{place}.{name}", places[name], also)
            else:
                _refuse_targets(one, f"{place}.{name}")


def _refuse_targets(value: Any, place: str) -> None:
    if isinstance(value, dict):
        if TARGET in value:
            raise ValueError(
                f"refused, because its config calls {_shown(value[TARGET])} at {place}; a "
                "checkpoint may only build separators and networks of frametx, each in its place"
            )
        for one in value.values():
            _refuse_targets(one, place)
    elif isinstance(value, list | tuple):
        for one in value:
            _refuse_targets(one, place)


def _built(config: Mapping[str, Any], place: str) -> Any:
    """The object of a checked config."""
    target = str(config[TARGET])
    module, _, name = target.rpartition(".")
    made = getattr(importlib.import_module(module), name)
    hints = get_type_hints(made.__init__)
    hints.pop("return", None)
    given = {key: value for key, value in config.items() if key != TARGET}
    unknown = sorted(given.keys() - hints.keys())
    if unknown:
        raise ValueError(
            f"it was written by another version of frametx: {name} has no argument {unknown[0]}"
        )
    places = _PLACES.get(name, {})
    arguments: dict[str, Any] = {}
    for key, value in given.items():
        here = f"{place}.{key}"
        if key in places:
            is_list = get_origin(hints[key]) not in (None, Union, types.UnionType)
            if is_list != isinstance(value, list | tuple):
                raise ValueError(f"{here} must be {'a list' if is_list else 'one class'}")
            arguments[key] = (
                [_built(one, here) for one in value] if is_list else _built(value, here)
            )
        else:
            arguments[key] = None if key in _IGNORED.get(name, ()) else value
            _check_value(hints[key], value, here)
    return made(**arguments)


def _check_value(hint: Any, value: Any, place: str) -> None:
    """Refuse a value of another type than the argument has, or out of its bounds.

    Raises:
        ValueError: naming value and place.
    """
    if not _fits(hint, value):
        raise ValueError(f"{place} is {_shown(value)}, and must be {_words(hint)}")
    _check_bounds(value, place)


def _fits(hint: Any, value: Any) -> bool:
    """Whether a plain value is of an annotated type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(one, value) for one in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is dict:
        return isinstance(value, dict) and all(_is_option(one) for one in value.values())
    if isinstance(origin, type) and issubclass(origin, Sequence):
        of_items = arguments[0] if arguments else Any
        return isinstance(value, list | tuple) and all(_fits(of_items, one) for one in value)
    if hint is float:
        return type(value) in (int, float)
    return hint in (int, str, bool, type(None)) and type(value) is hint


def _is_option(value: Any) -> bool:
    """Whether a value may be one of a package's own arguments."""
    if isinstance(value, list | tuple):
        return all(_is_option(one) for one in value)
    return type(value) in (int, float, bool, str, type(None))


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    text = str(hint) if get_args(hint) else getattr(hint, "__name__", str(hint))
    return text.replace("collections.abc.", "").replace("typing.", "")


def _check_bounds(value: Any, place: str) -> None:
    """Refuse numbers and lists that no network has.

    Raises:
        ValueError: naming value, place and bounds.
    """
    if isinstance(value, dict):
        for key, one in value.items():
            _check_bounds(one, f"{place}.{key}")
    elif isinstance(value, list | tuple):
        if len(value) > MAX_ITEMS:
            raise ValueError(f"{place} has {len(value)} items, and may have {MAX_ITEMS}")
        for one in value:
            _check_bounds(one, place)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        low, high = _bounds(place.rpartition(".")[2], value)
        if not (math.isfinite(value) and low <= value <= high):
            raise ValueError(
                f"{place} is {_shown(value)}, and must be between {low:,} and {high:,}"
            )


def _bounds(name: str, value: float) -> tuple[float, float]:
    """The smallest and the largest number that an argument of this name may have."""
    if name in _BOUNDS:
        return _BOUNDS[name]
    if any(part in name.split("_") for part in _OF_LOOPS):
        return 0, _MOST_LOOPS
    return (-_LARGEST, _LARGEST) if isinstance(value, float) else (-_MOST, _MOST)


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Turn what constructors raise of numbers that do not fit together into a ValueError.

    Some are of packages, and they raise nearly every kind of exception.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that are drawn for nothing
            yield
    except ValueError as error:
        raise ValueError(" ".join(str(error).split())[:500]) from error
    except TypeError as error:
        raise ValueError(
            f"it was written by another version of frametx: {_first_line(error)}"
        ) from error
    except Exception as error:
        raise ValueError(
            f"the numbers in its config do not fit together: {type(error).__name__}, "
            f"{_first_line(error)}"
        ) from error


class _Frugal(TorchFunctionMode):
    """Refuse to make a tensor of more numbers than are allowed.

    Args:
        most: numbers of a tensor.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Look at the sizes that a function is given when it is given no tensor."""
        given = (*args, *(kwargs or {}).values())
        if given and not any(isinstance(one, Tensor) for one in given):
            shape = next((one for one in given if isinstance(one, list | tuple)), given)
            sizes = [one for one in shape if isinstance(one, int) and not isinstance(one, bool)]
            is_shape = shape is not given or getattr(func, "__name__", "") in _TAKE_SHAPES
            wanted = math.prod(sizes) if is_shape else max(map(abs, sizes), default=0)
            if wanted > self.most:
                raise ValueError(
                    f"its config asks for a tensor of {wanted:.3g} numbers, and its largest weight "
                    f"has no more than {self.most:,}"
                )
        return func(*args, **(kwargs or {}))


@contextmanager
def _parameters_on_meta(most: int) -> Iterator[None]:
    """Let modules that this thread makes have parameters without memory, and only so many.

    Args:
        most: parameters; modules may be ten times as many.
    """
    thread = threading.get_ident()
    num_parameters = num_modules = 0

    def on_parameter(_: nn.Module, __: str, parameter: nn.Parameter | None) -> Any:
        nonlocal num_parameters
        if threading.get_ident() != thread or parameter is None:
            return None
        num_parameters += 1
        if num_parameters > 2 * most + 16:  # some are replaced while a network is built
            raise ValueError(f"its config asks for more than the {most} weights that it has")
        return None if parameter.is_meta else _without_numbers(parameter, device="meta")

    def on_module(_: nn.Module, __: str, ___: nn.Module | None) -> None:
        nonlocal num_modules
        if threading.get_ident() == thread:
            num_modules += 1
            if num_modules > 10 * most + 100:
                raise ValueError(
                    f"its config asks for more layers than the {most} weights that it has"
                )

    handles = [
        hooks.register_module_parameter_registration_hook(cast(Any, on_parameter)),
        hooks.register_module_module_registration_hook(cast(Any, on_module)),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _shown(value: Any) -> str:
    """A value of a stranger in a message: short, and without control characters."""
    if isinstance(value, dict | list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) > 1 << 64:
        return "a number of many digits"
    text = ascii(value) if not isinstance(value, str) else ascii(value[:MAX_LETTERS]).strip("'\"")
    return text if len(text) <= 80 else f"{text[:77]}..."


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
