"""Checkpoints changed at random, each through the ways from a file to weights.

    python fuzz_checkpoints.py FOLDER FIRST COUNT

Prints a JSON object: how many were loaded, how many refused, and what else happened. A process of
its own, so that memory can be bounded and a canary be looked for.
"""

import contextlib
import copy
import json
import random
import resource
import struct
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from frametx.checkpoint import load_separator, recipe, save_separator
from frametx.runs.initial_weights import build_module, give_weights, members_of_ensemble
from frametx.stored_config import build

MOST_BYTES = 1 << 30  # of memory, beyond what there was before the first file
MOST_SECONDS = 5.0
CALL = {"_target_": "torch.utils.collect_env.run", "command": "touch CANARY"}
VALUES: list[Any] = [
    *(0, 1, -1, 2, 3, 7, 10**6, 10**9, 10**12, 10**40, -(10**12), 0.5, 1e300, -0.0),
    *(float("nan"), float("inf"), True, False, None, "", "x", "vocals", "\n\u202e", "x" * 10_000),
    *("${oc.env:HOME}", "${oc.create:{_target_:os.getcwd}}", "os.system", b"x", [], {}, [[]]),
    *([1, 2], ["a", "a"], ["a/b", "a:b"], {"_target_": "os.getcwd"}, CALL, [CALL], {1: 2}),
    *(torch.zeros(2), torch.zeros(1).expand(10**6, 10**6), [10**9] * 3, ["x"] * 5000),
]
STATE: dict[str, Any] = {
    **{"epoch": 0, "global_step": 2, "pytorch-lightning_version": "2.6.0", "callbacks": {}},
    **{"loops": {"fit_loop": {"x": 1}}, "optimizer_states": [{"state": {}}], "lr_schedulers": []},
}


def config_of(number: int) -> dict[str, Any]:
    """One of three separators: a spectrogram's, a waveform's, an ensemble."""
    stft = {"_target_": "frametx.audio.stft.Stft", "n_fft": 64, "hop_length": 32}
    v7 = {
        "_target_": "frametx.models.v7.V7",
        **{"in_channels": 1, "out_channels": 1, "n_fft": 64, "channels": 2, "widths": [1, 2]},
        **{"num_attention_maps": 1, "num_heads": 2, "num_bottom_heads": 2, "expansions": [8, 8]},
        **{"dropout": 0.0, "embedding_widths": [], "embedding_kernel_size": 3},
        **{"mixes_encoder_hidden": False, "score_scale": "features"},
        "angle_precision": "float32",
    }
    shared = {
        **{"stems": ["vocals", "instrumental"], "complement": "vocals", "sample_rate": 8000},
        **{"num_channels": 1, "chunk_frames": 16, "scale": "chunk_peak", "top_bin": "copy"},
    }
    spectrogram = {
        "_target_": "frametx.separator.SpectrogramSeparator",
        **{"stft": stft, "network": v7, **shared},
    }
    if number % 3 == 0:
        return spectrogram
    if number % 3 == 1:
        return {
            "_target_": "frametx.neural_ensemble.NeuralEnsemble",
            "members": [spectrogram, copy.deepcopy(spectrogram)],
            **{"stft": stft, "network": {**v7, "in_channels": 3}, **shared},
        }
    network = {
        "_target_": "frametx.models.sepformer.SepFormer",
        **{"stems": ["a", "b"], "complement": None, "num_features": 12, "kernel_size": 8},
        **{"stride": 4, "chunk_frames": 6, "num_blocks": 1, "num_intra_layers": 1},
        **{"num_inter_layers": 1, "num_heads": 2, "hidden_features": 16, "dropout": 0.0},
    }
    return {
        "_target_": "frametx.waveform_separator.WaveformSeparator",
        **{"network": network, "stems": ["a", "b"], "complement": None, "sample_rate": 8000},
        **{"num_channels": 1, "chunk_seconds": 1.0, "levels": "network"},
    }


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every container with a key or place in it."""
    if isinstance(tree, dict):
        keys: list[Any] = list(tree)
    elif isinstance(tree, list):
        keys = list(range(len(tree)))
    else:
        return []
    return [(tree, key) for key in keys] + [one for key in keys for one in places(tree[key])]


def change_tree(tree: Any, draw: random.Random) -> None:
    """Another value, a key more, a key less, or a key of another name."""
    owner, key = draw.choice(places(tree))
    kind = draw.randrange(5)
    if kind < 3:
        owner[key] = draw.choice(VALUES)
    elif kind == 3:
        del owner[key]
    elif isinstance(owner, dict):
        owner[draw.choice([f"{key}_", "_target_", "_partial_", "_args_", "", 3])] = owner.pop(key)
    else:
        owner.append(draw.choice(VALUES))


def change_weights(weights: dict[str, Any], draw: random.Random) -> None:
    """Another shape, type or name of one weight, or one that is missing."""
    name = draw.choice(list(weights))
    value = weights.pop(name)
    changes: list[Callable[[], Any]] = [
        lambda: weights.update({name: value.double()}),
        lambda: weights.update({name: value.half()}),
        lambda: weights.update({name: value.flatten()}),
        lambda: weights.update({name: torch.full_like(value, float("nan"))}),
        lambda: weights.update({name: value.flatten()[:1].expand(1000, 1000)}),
        lambda: weights.update({name[:-3]: value}),
        lambda: weights.update({name: 3}),
        lambda: weights.update({name + ".parametrizations.x.0.down": value}),
        lambda: None,
    ]
    draw.choice(changes)()


def change_bytes(path: Path, draw: random.Random) -> None:
    """Bits flipped, bytes overwritten, cut or inserted, zip entries renamed, doubled or shorter."""
    raw = bytearray(path.read_bytes())
    place, kind = draw.randrange(len(raw)), draw.randrange(8)
    if kind == 0:
        raw[place] ^= 1 << draw.randrange(8)
    elif kind == 1:
        raw[place : place + 64] = draw.randbytes(64)
    elif kind == 2:
        del raw[place:]
    elif kind == 3:
        raw[place:place] = draw.randbytes(draw.choice([1, 16, 1000]))
    elif kind == 4:  # the directory at the end, or the header at the start
        for _ in range(4):
            raw[-draw.randrange(1, min(len(raw), 3000))] = draw.randrange(256)
    elif kind == 5:
        size = struct.pack("<Q", draw.choice([1 << 31, 1 << 40, (1 << 64) - 1]))
        raw[place : place + 8] = size
    elif path.suffix == ".ckpt" and bytes(raw[:2]) == b"PK":
        change_zip(path, draw)
        return
    path.write_bytes(raw)


def change_zip(path: Path, draw: random.Random) -> None:
    with zipfile.ZipFile(path) as archive:
        contents = [(name, archive.read(name)) for name in archive.namelist()]
    number = draw.randrange(len(contents))
    name, data = contents[number]
    changed = [
        [(name[:-1], data)],
        [(name, data), (name, data[::-1])],
        [(name, data[: len(data) // 2])],
        [(name, draw.randbytes(len(data)))],
        [(name, b"\0" * (1 << 22))],
        [],
    ]
    contents[number : number + 1] = draw.choice(changed)
    method = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in contents:
            archive.writestr(name, data)


def write(folder: Path, number: int) -> Path:
    """The checkpoint of this number, changed in one way or two."""
    draw = random.Random(number)
    config = config_of(draw.randrange(3))
    torch.manual_seed(0)
    separator = build(config)
    made_by = recipe(config, model="m")
    if draw.random() < 0.2:
        path = folder / "x.safetensors"
        save_separator(path, separator, config, model="m")
        change_bytes(path, draw)
        return path
    path = folder / draw.choice(["x.ckpt", "x.pth"])
    weights: dict[str, Any] = {f"separator.{k}": v for k, v in separator.state_dict().items()}
    stored: dict[str, Any] = {**copy.deepcopy(STATE), "frametx": copy.deepcopy(made_by)}
    kind = 0.0
    for _ in range(draw.randrange(1, 3)):
        kind = draw.random()
        if kind < 0.5:
            change_tree(stored["frametx"].get("separator", stored), draw)
        elif kind < 0.6:
            change_tree(stored, draw)
        elif kind < 0.75:
            change_weights(weights, draw)
        if not isinstance(stored.get("frametx"), dict):
            break
        if not isinstance(stored["frametx"].get("separator"), dict):
            break
    torch.save(stored | {"state_dict": weights}, path, _use_new_zipfile_serialization=kind < 0.9)
    if kind >= 0.6:
        change_bytes(path, draw)
    return path


def ways(path: Path, number: int) -> dict[str, Callable[[], object]]:
    """What is done with a file."""
    model = {"in_channels": 1}
    shared = {
        **{"members": None, "init_from": None, "pretraining": None, "model": model},
        **{"stems": ["a", "b"], "audio": {"num_channels": 1}},
        "init": {"strict": True, "leave_out": []},
    }
    plain = OmegaConf.create({**shared, "separator": config_of(0), "init_from": str(path)})
    base = config_of(1)
    base["members"] = None
    ensemble = {**shared, "separator": base, "module": {"_target_": "builtins.dict"}}
    named = OmegaConf.create({**ensemble, "members": [str(path), str(path)]})
    inside = OmegaConf.create({**ensemble, "init_from": str(path)})
    fresh = build(config_of(number % 3))

    def resume() -> None:
        give_weights(OmegaConf.create({**shared, "separator": config_of(0)}), fresh, str(path))

    return {
        "load": lambda: load_separator(path),
        "init_from": lambda: give_weights(plain, fresh, None),
        "ckpt_path": resume,
        "members": lambda: build_module(named, members_of_ensemble(named, None)),
        "inside": lambda: build_module(inside, members_of_ensemble(inside, None)),
    }


def main() -> None:
    folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    done = {"loaded": 0, "refused": 0, "slowest": 0.0, "bad": []}
    for way in ways(write(folder, 0), 0).values():  # what is imported once
        with contextlib.suppress(ValueError, OSError):
            way()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, used + MOST_BYTES))
    for number in range(first, first + count):
        path = write(folder, number)
        for name, way in ways(path, number).items():
            begin = time.process_time()
            try:
                way()
                done["loaded"] += 1
            except (ValueError, OSError) as error:
                done["refused"] += 1
                if "\n" in str(error) or "weights_only" in str(error) or len(str(error)) > 2000:
                    done["bad"].append(f"{number} {name}: {error}")
            except BaseException as error:
                done["bad"].append(f"{number} {name}: {type(error).__name__} {error}")
            seconds = time.process_time() - begin
            done["slowest"] = max(done["slowest"], seconds)
            if seconds > MOST_SECONDS:
                done["bad"].append(f"{number} {name}: {seconds:.1f} s")
        if Path("CANARY").exists():
            done["bad"].append(f"{number}: a program was run")
            break
        path.unlink()
    print(json.dumps(done))


if __name__ == "__main__":
    main()
