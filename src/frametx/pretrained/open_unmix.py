"""Weights of Open-Unmix: `openunmix:umxl`, or a folder as its training program writes one.

A folder holds `separator.json` and a `TARGET.pth` or `TARGET-CHECKSUM.pth` for every stem. All
sizes are read from the weights.

The package filters what its networks say by a multichannel Wiener filter; here that is an option of
its own, `wiener=1`.
"""

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from frametx import checkpoint_file
from frametx.pretrained.published import Pretrained, no_code


class Rates(NamedTuple):
    """What the weights were trained for, and do not tell.

    Attributes:
        sample_rate: Hz.
        n_fft: of the STFT, samples.
        hop_length: of the STFT, samples.
    """

    sample_rate: int
    n_fft: int
    hop_length: int


_MUSIC = Rates(44_100, 4096, 1024)
PUBLISHED = {"umxl": _MUSIC, "umxhq": _MUSIC, "umx": _MUSIC, "umxse": Rates(16_000, 1024, 512)}
NAMES = tuple(f"openunmix:{name}" for name in PUBLISHED)
CHUNK_FRAMES = 1024  # of a chunk: its networks read a song both ways, and want much of it
_TARGET = re.compile(r"(?P<target>.+?)(-[0-9a-f]{8,})?")
_LAYER = re.compile(r"lstm\.weight_ih_l(\d+)")


def read(name: str) -> Pretrained:
    """The weights of `openunmix:NAME` or `openunmix:FOLDER`.

    Raises:
        ValueError: if a file is damaged or would run code, or does not belong to the others.
        FileNotFoundError: if there is no such name or folder, or it cannot be fetched.
    """
    place = name.partition(":")[2]
    folder = Path(place).expanduser()
    if place in PUBLISHED and not folder.is_dir():
        return _assembled(name, _fetched(name, place), PUBLISHED[place])
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{name}: no published weights of this name, and no folder {folder}; there are "
            f"{', '.join(NAMES)}"
        )
    return _assembled(name, _read_folder(folder), _read_rates(folder / "separator.json"))


def _assembled(name: str, found: Mapping[str, Mapping[str, Tensor]], rates: Rates) -> Pretrained:
    """One separator of the networks of all targets."""
    stems = list(found)
    sizes = {stem: _sizes(name, stem, found[stem], rates) for stem in stems}
    first = sizes[stems[0]]
    for stem, size in sizes.items():
        if size != first:
            raise ValueError(
                f"{name}: the networks of {stems[0]} and {stem} differ in size, {first} and {size}"
            )
    weights = {
        f"targets.{number}.{key}": value.float() if value.is_floating_point() else value
        for number, stem in enumerate(stems)
        for key, value in found[stem].items()
        if key in _entries(first["num_layers"], is_causal=first["is_causal"])
    }
    for number in range(len(stems)):  # old files do not count batches, and nothing reads it here
        counts = {f"targets.{number}.bn{norm}.num_batches_tracked" for norm in (1, 2, 3)}
        weights |= dict.fromkeys(counts, torch.tensor(0))
    complement = None
    if len(stems) == 1:  # what is left is a stem too
        complement = "instrumental" if stems == ["vocals"] else "rest"
        stems = [*stems, complement]
    shared = {"n_fft": rates.n_fft, "sample_rate": rates.sample_rate}
    network = {
        "_target_": "frametx.models.open_unmix.OpenUnmix",
        "stems": stems,
        "complement": complement,
        **shared,
        **first,
        "dropout": 0.4 if first["num_layers"] > 1 else 0.0,
    }
    separator = {
        "_target_": "frametx.separator.SpectrogramSeparator",
        "stft": {
            "_target_": "frametx.audio.stft.Stft",
            "n_fft": rates.n_fft,
            "hop_length": rates.hop_length,
        },
        "network": network,
        "stems": stems,
        "complement": complement,
        "sample_rate": rates.sample_rate,
        "num_channels": first["in_channels"],
        "chunk_frames": CHUNK_FRAMES,
        "scale": "none",
        "top_bin": "copy",
    }
    return Pretrained("open_unmix", separator, weights)


def _sizes(name: str, stem: str, weights: Mapping[str, Tensor], rates: Rates) -> dict[str, Any]:
    """Arguments of the network that these are the weights of.

    Raises:
        ValueError: if they are of another network, or another STFT.
    """
    num_layers = sum(_LAYER.fullmatch(key) is not None for key in weights)
    is_causal = "lstm.weight_ih_l0_reverse" not in weights
    lacking = sorted(_entries(max(1, num_layers), is_causal=is_causal) - weights.keys())
    if lacking:
        raise ValueError(f"{name}: {stem} is no network of Open-Unmix: it has no {lacking[0]}")
    num_features, inputs = weights["fc1.weight"].shape
    seen, num_bins = len(weights["input_mean"]), len(weights["output_mean"])
    if num_bins != rates.n_fft // 2 + 1:
        raise ValueError(
            f"{name}: {stem} gives {num_bins} bins, but n_fft={rates.n_fft} has "
            f"{rates.n_fft // 2 + 1}"
        )
    return {
        "in_channels": inputs // seen,
        # between the highest bin that is seen and the next
        "bandwidth_hz": (seen - 0.5) * rates.sample_rate / rates.n_fft,
        "num_features": num_features,
        "num_layers": num_layers,
        "is_causal": is_causal,
    }


def _entries(num_layers: int, *, is_causal: bool) -> set[str]:
    """Names of a network's weights; the published files hold a window beside them."""
    ends = [""] if is_causal else ["", "_reverse"]
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    names = {
        f"lstm.{kind}_l{layer}{end}"
        for kind in kinds
        for layer in range(num_layers)
        for end in ends
    }
    names |= {f"fc{number}.weight" for number in (1, 2, 3)}
    norms = ("weight", "bias", "running_mean", "running_var")
    names |= {f"bn{number}.{entry}" for number in (1, 2, 3) for entry in norms}
    return names | {"input_mean", "input_scale", "output_mean", "output_scale"}


def _fetched(name: str, model: str) -> dict[str, Mapping[str, Tensor]]:
    """What the package fetches from the internet, or has fetched before.

    Raises:
        ValueError: if it is damaged or holds code.
        FileNotFoundError: if it cannot be fetched.
    """
    import openunmix

    try:
        with no_code():
            found = getattr(openunmix, f"{model}_spec")()
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{name}: refused, because what the package keeps in {torch.hub.get_dir()} is damaged, "
            "or holds more than plain weights: delete it there"
        ) from error
    except (OSError, RuntimeError) as error:
        kept = Path(torch.hub.get_dir()) / "checkpoints"
        raise FileNotFoundError(
            f"{name} cannot be fetched ({error}): bring the .pth files that are listed in "
            f"{openunmix.__file__} into {kept}, or into a folder with a separator.json and give "
            "openunmix:FOLDER"
        ) from error
    return {target: network.state_dict() for target, network in found.items()}


def _read_folder(folder: Path) -> dict[str, Mapping[str, Tensor]]:
    """The weights of all targets in a folder.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if one is damaged or holds code, or a target is there twice.
    """
    found: dict[str, Mapping[str, Tensor]] = {}
    for path in sorted(folder.glob("*.pth")):
        match = _TARGET.fullmatch(path.stem)
        assert match is not None
        target = match["target"]
        if target in found:
            raise ValueError(f"{folder} holds {target} twice: keep one .pth of it")
        try:
            found[target] = checkpoint_file.read(path)
        except ValueError as error:
            raise ValueError(
                f"{path}: refused, because it is damaged, or holds more than plain weights"
            ) from error
        if not isinstance(found[target], Mapping):
            raise ValueError(f"{path} holds no weights by name")
    if not found:
        raise FileNotFoundError(f"{folder} holds no .pth: Open-Unmix has one for each stem")
    return found


def _read_rates(path: Path) -> Rates:
    """What `separator.json` says.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it says something else.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: Open-Unmix writes it beside its weights; for the published music "
            'models it is {"sample_rate": 44100, "nfft": 4096, "nhop": 1024, "nb_channels": 2}'
        )
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return Rates(int(said["sample_rate"]), int(said["nfft"]), int(said["nhop"]))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} must say sample_rate, nfft and nhop as numbers") from error
