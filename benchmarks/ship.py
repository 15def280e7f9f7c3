"""Write the model that ships: `python benchmarks/ship.py CHECKPOINT CARD.json [FILE]`.

The refiner of a checkpoint of experiment=refiner goes into the package in 16-bit floats, with its
config and its card. Its one member must be the published weights of Spleeter, which stay outside.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from frametx.checkpoint import read_checkpoint, separator_weights
from frametx.pretrained import ours, spleeter

LARGEST_MB = 10


def ship(checkpoint: Path, card: Path, file: Path = ours.FILE) -> None:
    """Write the file.

    Raises:
        ValueError: if the checkpoint is no refiner of Spleeter's masks, or the file too large.
    """
    stored = read_checkpoint(checkpoint)
    separator = stored["frametx"]["separator"]
    weights = separator_weights(stored, checkpoint)
    published = spleeter.read(spleeter.SPLEETER_2STEMS)
    members = {k.removeprefix("members."): v for k, v in weights.items() if "members." in k}
    wanted = {f"0.network.{key}": weight for key, weight in published.weights.items()}
    if members.keys() != wanted.keys() or not all(
        torch.equal(weight, members[key]) for key, weight in wanted.items()
    ):
        raise ValueError(f"{checkpoint}: its one member is not {spleeter.SPLEETER_2STEMS}")
    own = {
        key.removeprefix("network."): weight.half().contiguous()
        for key, weight in weights.items()
        if key.startswith("network.")
    }
    note = {"separator": {**separator, "members": None}, "card": json.loads(card.read_text())}
    save_file(own, file, metadata={ours.NOTE: json.dumps(note)})
    megabytes = file.stat().st_size / 1e6
    if megabytes > LARGEST_MB:
        raise ValueError(f"{file}: {megabytes:.1f} MB, and it may have {LARGEST_MB}")
    print(f"{file}: {megabytes:.1f} MB")


if __name__ == "__main__":
    ship(*map(Path, sys.argv[1:]))
