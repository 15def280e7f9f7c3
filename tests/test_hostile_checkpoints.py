"""Files made to run a program, to read a secret, or to take memory; through every entry."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

import frametx
from frametx import checkpoint_file, stored_config
from frametx.app_studio import Studio
from frametx.check import Listener
from frametx.checkpoint import (
    heard_by,
    load_separator,
    read_checkpoint,
    recipe,
    save_separator,
)
from frametx.config import conf_dir
from frametx.convert import convert
from frametx.export import export
from frametx.runs.initial_weights import check_resumable, prepare_discriminator
from frametx.stored_config import build, build_without_memory, check_config
from frametx.train import train

Compose = Callable[..., DictConfig]
Config = dict[str, Any]


def good_config(**changes: Any) -> Config:
    return {
        "_target_": "frametx.separator.SpectrogramSeparator",
        "stft": {"_target_": "frametx.audio.stft.Stft", "n_fft": 64, "hop_length": 32},
        "network": {
            "_target_": "frametx.models.jansson_unet.JanssonUNet",
            "in_channels": 1,
            "out_channels": 1,
            "num_bins": 32,
            "widths": [2, 4],
            "kernel_size": 5,
            "num_dropout_levels": 0,
            "dropout": 0.0,
        },
        "stems": ["vocals", "instrumental"],
        "complement": "vocals",
        "sample_rate": 16_000,
        "num_channels": 1,
        "chunk_frames": 64,
        "scale": "chunk_peak",
        "top_bin": "copy",
    } | changes


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return build(good_config()).state_dict()


def written(path: Path, config: Any, weights: dict[str, Tensor], **more: Any) -> Path:
    """A checkpoint with everything that a resumed run looks for."""
    stored = {
        "epoch": 0,
        "global_step": 1,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": {f"separator.{name}": value for name, value in weights.items()},
        "loops": {},
        "callbacks": {},
        "optimizer_states": [],
        "lr_schedulers": [],
        "frametx": {**recipe({}, model="tiny"), "separator": config},
    }
    torch.save(stored | more, path)
    return path


CANARY = "touch CANARY"
CALLS: list[Config] = [
    {"_target_": "torch.utils.collect_env.run", "command": CANARY},
    {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "x", "source": "local"},
    {"_target_": "torch.load", "f": "evil.pt", "weights_only": False},
    {"_target_": "torch.utils.cpp_extension.load_inline", "name": "x", "cpp_sources": "int i;"},
    {"_target_": "os.system", "command": CANARY},
    {"_target_": "builtins.eval", "_args_": [f"__import__('os').system('{CANARY}')"]},
    {"_target_": "frametx.config.os.system", "command": CANARY},
    {"_target_": "frametx.songs.os.popen", "cmd": CANARY},
    {"_target_": "frametx.bench_measure.subprocess.Popen", "args": CANARY, "shell": True},
    {"_target_": "frametx.checkpoint.load_separator", "path": "other.ckpt"},
    {"_target_": "frametx.loading.load", "ckpt": "other.ckpt"},
    {"_target_": "frametx.data.library.Library.open", "root": "."},
    {"_target_": "frametx.training.datamodule.StemsDataModule", "root": "."},
    {"_target_": "frametx.export.ONNX"},
    {"_target_": "torch.nn.ModuleList", "modules": [{"_target_": "os.getcwd"}]},
    {"_target_": "torch.nn.Sequential"},
    {"_target_": "hydra.utils.call", "_partial_": True},
    {"_target_": 3},
    {"_target_": ["os", "system"]},
    {"_target_": {"_target_": "os.getcwd"}},
    {"_target_": "frametx.models.htdemucs.demucs_class"},
    {"_target_": "frametx.models.bert._transformers"},
    {"_target_": "frametx.nn.roformer_package.roformer_package"},
    {"_target_": "frametx.models.v7.torch.hub.load", "repo_or_dir": "x", "model": "y"},
]
FILLED_IN = [
    "${oc.create:{_target_:torch.utils.collect_env.run,command:'touch CANARY'}}",
    "${oc.env:SECRET}",
    "${oc.env:SECRET,none}",
    "a ${oc.decode:'1'} b",
    "${now:%Y}",
    "${stems}",
    "\\${oc.env:SECRET}",
]


def in_every_place(evil: Any) -> list[Config]:
    """The whole config, each part of it, a value of it, and a member of an ensemble."""
    network = good_config()["network"]
    ensemble = {k: v for k, v in good_config().items() if k != "ordered_stems"}
    ensemble |= {"_target_": "frametx.neural_ensemble.NeuralEnsemble"}
    places: list[Any] = [
        good_config(stft=evil),
        good_config(network=evil),
        good_config(network={**network, "dropout": evil}),
        good_config(network={**network, "widths": [2, evil]}),
        good_config(stems=[evil, "vocals"]),
        good_config(extra=[[{"x": evil}]]),
        {**ensemble, "members": [good_config(), evil]},
        {**ensemble, "members": [good_config(), good_config(network=evil)]},
        {**ensemble, "members": evil},
    ]
    return [evil, *places] if isinstance(evil, dict) else places


HOSTILE = [config for evil in (*CALLS, *FILLED_IN) for config in in_every_place(evil)]
ENSEMBLES = [config for config in HOSTILE if isinstance(config, dict) and "members" in config]


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, in which a command that was run would leave a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECRET", "hunter2")
    return tmp_path / "CANARY"


def refusal(act: Callable[[], object]) -> str:
    """The one line with which something is refused; no other error, and no secret in it."""
    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        act()
    message = str(refused.value)
    assert "\n" not in message
    assert "hunter2" not in message
    assert len(message) < 1500
    return message


def entries(path: Path, folder: Path) -> dict[str, Callable[[], object]]:
    """Every way from a checkpoint to a separator that reads its config and no data."""
    files = {"input": str(path), "output": str(folder / "out.ckpt"), "ckpt": str(path)}
    of_convert = OmegaConf.merge(OmegaConf.load(conf_dir() / "convert.yaml"), files)
    graph = {"ckpt": str(path), "output": str(folder / "out.safetensors")}
    of_export = OmegaConf.merge(OmegaConf.load(conf_dir() / "export.yaml"), graph)
    of_check = OmegaConf.create({"device": "cpu", "screen": str(path), "batch_size": 1})
    of_train = OmegaConf.create({"separator": good_config(), "discriminator_init_from": str(path)})
    encoder = nn.Module()
    encoder.discriminator = nn.Module()
    encoder.discriminator.from_generator = lambda _: "copied"  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return {
        "load": lambda: frametx.load(path, device="cpu"),
        "ensemble": lambda: frametx.load([path, path], device="cpu"),
        "separator": lambda: load_separator(path),
        "convert": lambda: convert(of_convert),  # pyright: ignore[reportArgumentType]
        "export": lambda: export(of_export),  # pyright: ignore[reportArgumentType]
        "check": lambda: Listener.load(of_check),
        "discriminator": lambda: prepare_discriminator(of_train, encoder, None),
    }


def test_a_good_checkpoint_passes_every_entry(
    canary: Path, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    path = written(tmp_path / "good.ckpt", good_config(), weights)
    ways = entries(path, tmp_path)
    assert "is a frametx checkpoint already" in refusal(ways.pop("convert"))
    for act in ways.values():
        act()


@pytest.mark.parametrize("way", list(entries(Path("x.ckpt"), Path())))
def test_no_stored_config_runs_anything_through_any_entry(
    way: str, canary: Path, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    configs = HOSTILE if way == "separator" else HOSTILE[:: len(HOSTILE) // 8]
    for number, config in enumerate(configs):
        path = written(tmp_path / f"{number}.ckpt", config, weights)
        refusal(entries(path, tmp_path)[way])
        assert not canary.exists(), config


@pytest.mark.parametrize("key", ["members", "init_from", "ckpt_path"])
def test_no_stored_config_runs_anything_in_training(
    key: str, canary: Path, tmp_path: Path, compose_tiny: Compose, weights: dict[str, Tensor]
) -> None:
    path = tmp_path / "evil.ckpt"
    given = f"members=[{path},{path}]" if key == "members" else f"{key}={path}"
    cfg = compose_tiny(tmp_path / "run", "model=neural_ensemble", given)
    for config in HOSTILE[::12] if key == "members" else ENSEMBLES[::6]:
        written(path, config, weights)
        refusal(lambda: train(cfg))
        assert not canary.exists(), config
    plain = compose_tiny(tmp_path / "run", "model=v7_tiny", given)
    for config in CALLS[::6]:
        written(path, config, weights)
        refusal(lambda: train(plain))
        assert not canary.exists(), config


def test_the_page_refuses_a_hostile_checkpoint(
    canary: Path, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    path = written(tmp_path / "evil.ckpt", good_config(network=CALLS[0]), weights)
    studio = Studio(sources=[path], device=torch.device("cpu"), output=tmp_path / "stems")
    refusal(lambda: studio.describe(list(studio.checkpoints)))
    assert not canary.exists()


@pytest.mark.parametrize("command", ["separate", "train"])
def test_a_command_refuses_a_hostile_checkpoint_in_one_line(
    command: str, canary: Path, tmp_path: Path, weights: dict[str, Tensor]
) -> None:
    config = {**ENSEMBLES[0], "members": [CALLS[0], CALLS[0]]}
    path = written(tmp_path / "evil.ckpt", config, weights)
    soundfile.write(tmp_path / "x.wav", np.zeros(100), 16_000)
    arguments = {
        "separate": [f"ckpt={path}", "input=x.wav"],
        "train": ["model=neural_ensemble", f"init_from={path}", "data=folders"],
    }
    done = subprocess.run(
        [sys.executable, "-m", f"frametx.{command}", *arguments[command]],
        capture_output=True,
        text=True,
        check=False,
    )
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"error: {path}: refused, because its config calls")
    assert done.returncode == 2
    assert not canary.exists()


def test_what_a_run_itself_asks_for_may_be_in_the_checkpoint_that_it_resumes() -> None:
    config = good_config(network={"_target_": "mine.Network", "size": 3})
    with pytest.raises(ValueError, match=r"calls mine\.Network at separator\.network"):
        check_config(config)
    check_config(config, also=["mine.Network"])
    with pytest.raises(ValueError, match=r"calls mine\.Network at separator\.network"):
        build(config)


def test_every_model_of_ours_is_one_that_a_checkpoint_may_name() -> None:
    targets = {
        line.split()[-1]
        for path in (conf_dir() / "model").glob("*.yaml")
        for line in path.read_text().splitlines()
        if line.strip().startswith("_target_:")
    }
    allowed = {
        *stored_config._SEPARATORS,
        *stored_config._OF_SPECTROGRAMS,
        *stored_config._OF_WAVEFORMS,
        *stored_config._BANDS,
    }
    assert targets <= allowed, targets - allowed


def test_a_folder_that_a_stored_config_names_is_not_read(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text("{ this would be read")
    network = {
        "_target_": "frametx.models.bert.Bert",
        **{"in_channels": 1, "out_channels": 1, "n_fft": 64, "channels": 1},
        **{"encoder_features": 8, "num_layers": 1, "num_heads": 2, "expansion": 2},
        **{"dropout": 0.0, "norm_eps": 1e-5, "embedding_widths": [], "embedding_kernel_size": 3},
        **{"score_scale": "head", "pretrained": str(tmp_path), "freezes_encoder": True},
    }
    build(good_config(network=network))


VALUES: list[tuple[str, Any]] = [
    *(("sample_rate", value) for value in (0, -5, 10**12, 44_100.5, 44_100.0, "44100", True, None)),
    *(("sample_rate", value) for value in (float("nan"), [16_000], {}, 999)),
    *(("num_channels", value) for value in (0, -1, 10**12, 1.5, None)),
    *(("chunk_frames", value) for value in (0, 1, -3, 10**15, "64", 2.5)),
    *(("stems", value) for value in ([], "vocals", [1, 2], [""], ["v", "v"], ["a/b", "a:b"])),
    *(("stems", value) for value in (["v", "V"], ["caf\u00e9", "cafe\u0301"], ["v", "v "], None)),
    *(("stems", value) for value in (["a\u202eb", "c"], ["a\nb", "c"], ["x" * 150, "c"], [["v"]])),
    *(("stems", value) for value in (["\ufb01", "fi"], ["stra\u00dfe", "STRASSE"], ["none", "v"])),
    *(("complement", value) for value in ("drums", 3, ["vocals"], "")),
    *(("scale", value) for value in ("loud", 1, None)),
    *(("top_bin", value) for value in ("up", 0, None)),
    *(("ordered_stems", value) for value in ("no", 1, None)),
    *(("stft", value) for value in (None, 3, "x", [], {}, good_config())),
    *(("network", value) for value in (None, 3, "x", [], {}, good_config())),
    *(("unknown", value) for value in (1, None)),
]
SIZES: list[tuple[str, Any]] = [
    *(("widths", value) for value in ([10**12], [2, 10**9], [], [0], [-1], [2] * 5000, [2.5])),
    *(("kernel_size", value) for value in (0, -1, 10**12, 2, "5", 1.5)),
    *(("num_bins", value) for value in (0, -4, 10**12, 33, 31.0)),
    *(("in_channels", value) for value in (0, 10**12, -1, 3, 1 << 24)),
    *(("out_channels", value) for value in (0, 10**12, 10**40)),
    *(("dropout", value) for value in (float("inf"), 1e300, "0", None)),
    *(("num_dropout_levels", value) for value in (10**9, -1.5, "1")),
]


@pytest.mark.parametrize(("name", "value"), VALUES)
def test_a_value_that_no_separator_takes_is_refused_in_one_line(
    name: str, value: Any, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    more = {"complement": None} if name == "stems" else {}
    path = written(tmp_path / "x.ckpt", good_config(**more, **{name: value}), weights)
    assert str(path) in refusal(lambda: load_separator(path))


@pytest.mark.parametrize(("name", "value"), SIZES)
def test_a_size_that_no_network_has_is_refused_in_one_line(
    name: str, value: Any, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    config = good_config()
    config["network"][name] = value
    path = written(tmp_path / "x.ckpt", config, weights)
    assert str(path) in refusal(lambda: load_separator(path))


def test_a_key_that_is_missing_is_named(weights: dict[str, Tensor], tmp_path: Path) -> None:
    for name in [name for name in good_config() if name != "_target_"]:
        config = good_config()
        del config[name]
        path = written(tmp_path / "x.ckpt", config, weights)
        assert name in refusal(lambda path=path: load_separator(path))


def test_stacks_of_layers_end_where_the_weights_do() -> None:
    network = {
        "_target_": "frametx.models.sepformer.SepFormer",
        **{"stems": ["a", "b"], "complement": None, "num_features": 12, "kernel_size": 8},
        **{"stride": 4, "chunk_frames": 6, "num_blocks": 500, "num_intra_layers": 500},
        **{"num_inter_layers": 500, "num_heads": 2, "hidden_features": 16, "dropout": 0.0},
    }
    config = {
        "_target_": "frametx.waveform_separator.WaveformSeparator",
        **{"network": network, "stems": ["a", "b"], "complement": None, "sample_rate": 8000},
        **{"num_channels": 1, "chunk_seconds": 1.0, "levels": "network"},
    }
    with pytest.raises(ValueError, match=r"more (layers )?than the 3 weights"):
        build_without_memory(config, {str(n): torch.zeros(1) for n in range(3)})


def test_what_is_built_without_memory_is_what_is_built(weights: dict[str, Tensor]) -> None:
    light = build_without_memory(good_config(), weights)
    assert all(parameter.is_meta for parameter in light.parameters())
    shapes = {name: value.shape for name, value in light.state_dict().items()}
    assert shapes == {name: value.shape for name, value in weights.items()}
    assert not any(parameter.is_meta for parameter in nn.Linear(2, 2).parameters())


MALFORMED: list[Config] = [
    *({"frametx": value} for value in (None, 3, "x", [], {}, {"separator": None})),
    *({"frametx": {"separator": value}} for value in (3, "x", [good_config()], {1: 2})),
    {"frametx": {**recipe({}, model="m"), "separator": good_config(), "format": 99}},
    {"frametx": {**recipe({}, model="m"), "separator": good_config(), "pretraining": ["x"]}},
    {"frametx": {**recipe({}, model="m"), "separator": good_config(), "model": {"a": 1}}},
    *({"state_dict": value} for value in (None, 3, [], {}, {"x": 1}, {3: torch.zeros(1)})),
    {"state_dict": {"separator.network.x": torch.zeros(2)}},
    {"state_dict": {"separator." + "x" * 100_000: torch.zeros(2)}},
]


@pytest.mark.parametrize("changes", MALFORMED)
def test_a_malformed_checkpoint_is_refused_in_one_line(
    changes: Config, weights: dict[str, Tensor], tmp_path: Path, compose_tiny: Compose
) -> None:
    path = written(tmp_path / "x.ckpt", good_config(), weights, **changes)
    assert str(path) in refusal(lambda: load_separator(path))
    cfg = compose_tiny(tmp_path / "run", "model=neural_ensemble", f"members=[{path},{path}]")
    refusal(lambda: train(cfg))


@pytest.mark.parametrize(
    "note",
    [3, "x", [], {"files": 3}, {"files": "a", "songs": ""}, {"files": "YQ==", "songs": None}],
)
def test_a_note_of_what_was_trained_on_that_cannot_be_read_is_refused(
    note: Any, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    made_by = {**recipe({}, model="m"), "separator": good_config(), "trained_on": note}
    path = written(tmp_path / "x.ckpt", good_config(), weights, frametx=made_by)
    assert "what it was trained on" in refusal(lambda: heard_by(path))


def test_nesting_has_an_end(weights: dict[str, Tensor], tmp_path: Path) -> None:
    deep: Any = {}
    for _ in range(200):
        deep = {"network": deep, "x": [deep]}
    laughs: Any = ["ha"]
    for _ in range(50):
        laughs = [laughs] * 10
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    for evil in (deep, laughs, cyclic):
        path = written(tmp_path / "x.ckpt", good_config(extra=evil), weights)
        assert "deep" in refusal(lambda path=path: load_separator(path))
        path = written(tmp_path / "x.ckpt", good_config(), weights, callbacks={"x": evil})
        if evil is not laughs:
            assert "deep" in refusal(lambda path=path: load_separator(path))
    note = json.dumps(recipe({}, model="m")).replace("{}", '{"a":' * 100_000 + "1" + "}" * 100_000)
    save_separator(tmp_path / "x.safetensors", build(good_config()), good_config(), model="m")
    raw = (tmp_path / "x.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    header["__metadata__"] = {"frametx": note}
    packed = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(
        struct.pack("<Q", len(packed)) + packed + raw[8 + size :]
    )
    refusal(lambda: load_separator(tmp_path / "x.safetensors"))


class Calls:
    """What a pickle would call as it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


PICKLED = {
    "program": Calls(os.system, CANARY),
    "memory": Calls(bytearray, 10**12),
    "codec": Calls(__import__("_codecs").encode, "x", "bz2"),
    "numpy": Calls(__import__("numpy").zeros, 10**9),
    "class": nn.Linear(2, 2),
    "set": {1, 2, 3},
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", list(PICKLED))
def test_a_pickle_of_anything_but_tensors_is_refused(
    kind: str, zipped: bool, canary: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"x": PICKLED[kind]}, path, _use_new_zipfile_serialization=zipped)
    assert "refused, because it holds" in refusal(lambda: load_separator(path))
    assert not canary.exists()


TENSORS: dict[str, Callable[[], Tensor]] = {
    "spread": lambda: torch.zeros(1).expand(10**6, 10**6),
    "windows": lambda: torch.zeros(100).as_strided((50, 50), (1, 1)),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "quantised": lambda: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8),
    "meta": lambda: torch.zeros(10**6, 10**6, device="meta"),
    "conjugate": lambda: torch.ones(3, dtype=torch.complex64).conj(),
    "dimensions": lambda: torch.zeros([1] * 20),
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kind", list(TENSORS))
def test_a_tensor_that_is_not_as_large_as_what_is_stored_is_refused(
    kind: str, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    name = next(iter(weights))
    path = written(tmp_path / "x.ckpt", good_config(), {**weights, name: TENSORS[kind]()})
    assert str(path) in refusal(lambda: load_separator(path))


def test_the_same_numbers_under_many_names_are_refused(tmp_path: Path) -> None:
    shared = torch.zeros(1 << 16)
    torch.save({str(n): shared.view(1 << 16) for n in range(200)}, tmp_path / "x.pth")
    assert "same few numbers" in refusal(lambda: load_separator(tmp_path / "x.pth"))


def test_an_adapter_that_does_not_fit_its_weight_is_refused_before_it_is_multiplied(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    name = next(name for name, value in weights.items() if value.dim() > 1)
    owner, _, tensor = name.rpartition(".")
    inside = f"{owner}.parametrizations.{tensor}"
    adapted = {key: value for key, value in weights.items() if key != name} | {
        f"{inside}.original": weights[name],
        f"{inside}.0.down": torch.zeros(1, 1 << 20),
        f"{inside}.0.up": torch.zeros(1 << 20, 1),
        f"{inside}.0.scale": torch.ones(()),
    }
    path = written(tmp_path / "x.ckpt", good_config(), adapted)
    assert "does not fit" in refusal(lambda: load_separator(path))


def rezipped(path: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> Path:
    """The same zip with some of its entries changed, or left out, and sums that are right."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in contents.items():
            changed = change(name, data)
            if changed is not None:
                archive.writestr(name, changed)
    return path


def test_an_entry_shorter_than_its_tensor_is_refused(
    weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = written(tmp_path / "x.ckpt", good_config(), weights)
    rezipped(path, lambda name, data: data[:4] if "/data/" in name else data)
    assert "are stored" in refusal(lambda: load_separator(path))


def test_a_compressed_entry_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"x": torch.zeros(1 << 20)}, path)
    rezipped(path, lambda _, data: data, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    assert "is compressed" in refusal(lambda: load_separator(path))


def test_a_pickle_of_many_small_things_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({"x": [{} for _ in range(1000)]}, path)
    monkeypatch.setattr(checkpoint_file, "MAX_OPCODES", 500)
    assert "too much besides weights" in refusal(lambda: load_separator(path))
    monkeypatch.setattr(checkpoint_file, "MAX_PICKLE_BYTES", 500)
    assert "besides weights" in refusal(lambda: load_separator(path))


@pytest.mark.parametrize("opcode", [b"\x8e", b"\x8d", b"\x96", b"\x8b", b"\x81", b"i", b"c"])
def test_opcodes_that_ask_for_memory_themselves_are_refused(
    opcode: bytes, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = written(tmp_path / "x.ckpt", good_config(), weights)
    evil = b"\x80\x02" + opcode + b"\xff\xff\xff\x7f\xff\xff\xff\x7f\n\n."
    rezipped(path, lambda name, data: evil if name.endswith("data.pkl") else data)
    refusal(lambda: load_separator(path))


def flipped(path: Path, place: int, num_bytes: int) -> None:
    raw = bytearray(path.read_bytes())
    for at in range(place, place + num_bytes):
        raw[at] ^= 0x10
    path.write_bytes(raw)


@pytest.mark.parametrize("num_bytes", [1, 64])
def test_changed_bytes_of_a_checkpoint_are_noticed(
    num_bytes: int, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = written(tmp_path / "last.ckpt", good_config(), weights)
    with zipfile.ZipFile(path) as archive:
        entry = max(archive.infolist(), key=lambda one: one.file_size * ("/data/" in one.filename))
    flipped(path, entry.header_offset + 256, num_bytes)
    message = refusal(lambda: load_separator(path))
    assert "is damaged: its entry" in message
    assert entry.filename in message
    assert "next to it" not in message
    whole = written(tmp_path / "best.ckpt", good_config(), weights)
    message = refusal(lambda: frametx.load(path, device="cpu"))
    assert message.endswith("; best.ckpt next to it is whole")
    assert "weights_only" not in message
    whole.write_bytes(whole.read_bytes()[:-100])
    assert "best.ckpt" not in refusal(lambda: read_checkpoint(path))


def test_a_resumed_run_names_the_whole_checkpoint_next_to_a_damaged_one(
    weights: dict[str, Tensor], tmp_path: Path, compose_tiny: Compose
) -> None:
    path = written(tmp_path / "last.ckpt", good_config(), weights)
    written(tmp_path / "best.ckpt", good_config(), weights)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cfg = compose_tiny(tmp_path / "run", f"ckpt_path={path}")
    message = refusal(lambda: train(cfg))
    assert message.startswith(f"{path} is damaged")
    assert message.endswith("best.ckpt next to it is whole")


@pytest.mark.parametrize("name", ["x.ckpt", "x.safetensors"])
@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(name: str, number: float, tmp_path: Path) -> None:
    separator = build(good_config())
    with torch.no_grad():
        next(separator.parameters()).view(-1)[1] = number
    save_separator(tmp_path / name, separator, good_config(), model="m")
    assert "NaN or infinity" in refusal(lambda: load_separator(tmp_path / name))


STATES: list[Config] = [
    *({key: value} for key in ("loops", "callbacks") for value in (None, [], 3, "x")),
    *({"optimizer_states": value} for value in (None, {}, [3])),
    *({"lr_schedulers": value} for value in (None, ["x"])),
    *({"global_step": value} for value in (-1, 10**30, 1.5, None)),
    *({"loops": {"fit_loop": {"x": value}}} for value in (-1, "x", 1e9, torch.zeros(1))),
    *({"pytorch-lightning_version": value} for value in (None, "x", "1.0.0", 2)),
    *(
        {"callbacks": {"best": {"dirpath": "/run", "best_model_path": path}}}
        for path in ("/run/../etc/x.ckpt", "/etc/x.ckpt", "/run/x", "local:///run/x.ckpt", 3)
    ),
    {"callbacks": {"best": {"dirpath": "/run", "best_k_models": {"/run/a/../../x.ckpt": 1.0}}}},
    {"callbacks": {"best": {"dirpath": "/run", "last_model_path": "memory::/run/x.ckpt"}}},
    {"callbacks": {"best": 3}},
]


@pytest.mark.parametrize("changes", STATES)
def test_a_state_of_training_that_lightning_would_act_on_is_checked(
    changes: Config, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    path = written(tmp_path / "x.ckpt", good_config(), weights)
    check_resumable(torch.load(path, weights_only=True), path)
    changed = torch.load(path, weights_only=True) | changes
    assert str(path) in refusal(lambda: check_resumable(changed, path))


def test_files_of_the_run_itself_may_be_named() -> None:
    folder = {"dirpath": "/run", "best_model_path": "/run/best.ckpt", "last_model_path": ""}
    stored: Config = {
        **{"epoch": 0, "global_step": 0, "pytorch-lightning_version": "2.6.0", "loops": {}},
        **{"optimizer_states": [], "lr_schedulers": [], "callbacks": {"ModelCheckpoint": folder}},
    }
    check_resumable(stored, "x.ckpt")


def test_an_original_of_the_old_format_is_read_and_a_lying_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    old = OrderedDict(weight=torch.arange(6.0).view(2, 3).T, bias=torch.zeros(0))
    torch.save(old, path, _use_new_zipfile_serialization=False)
    read = checkpoint_file.read(path)
    torch.testing.assert_close(read, dict(old) if type(read) is dict else old)
    raw = path.read_bytes()
    lying = raw.replace(b"K\x06N", b"J\xff\xff\xff\x7fN")
    assert lying != raw
    path.write_bytes(lying)
    refusal(lambda: load_separator(path))
    path.write_bytes(raw[:-8])
    refusal(lambda: load_separator(path))


def test_a_zip_that_is_none_of_torch_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    refusal(lambda: load_separator(path))
    buffer = io.BytesIO()
    pickle.dump({"x": 1}, buffer, protocol=2)
    path.write_bytes(zlib.compress(buffer.getvalue()))
    assert "no checkpoint" in refusal(lambda: load_separator(path))
