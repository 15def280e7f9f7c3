"""The model that ships with frametx: a mask refiner around the published weights of Spleeter.

Its file holds the refiner alone, in 16-bit floats, with its config and its card. Spleeter's weights
come with their own package. `experiment=refiner` trains it, `benchmarks/ship.py` writes the file.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open

from frametx.pretrained import spleeter
from frametx.pretrained.published import Pretrained

VOCALS = "frametx:vocals"
FILE = Path(__file__).with_name("vocals.safetensors")
NOTE = "frametx"  # key of the config in the file


def read(name: str) -> Pretrained:
    """The weights of this name.

    Raises:
        ValueError: if there are none of this name.
        FileNotFoundError: if the file is not in this installation, or Spleeter's weights are not.
    """
    if name != VOCALS:
        raise ValueError(
            f"{name}: no model of this name, and no such file; the one that ships is {VOCALS}"
        )
    if not FILE.is_file():
        raise FileNotFoundError(f"{name}: {FILE} is missing: install frametx anew")
    member = spleeter.read(spleeter.SPLEETER_2STEMS)
    with safe_open(FILE, framework="pt") as file:
        weights = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118
    members = {f"0.network.{key}": weight for key, weight in member.weights.items()}
    config = {**_note()["separator"], "members": [member.separator]}
    return Pretrained("mask_refiner", config, weights, members)


def card() -> dict[str, Any]:
    """What the file says about itself: data, hours, licences, numbers, limits."""
    return _note()["card"]


def _note() -> dict[str, Any]:
    with safe_open(FILE, framework="pt") as file:
        return json.loads(file.metadata()[NOTE])
