"""Exported files, used as the programs they are for would use them."""

import builtins
import importlib.util
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from frametx.audio.stft import Stft
from frametx.checkpoint import load_separator, read_checkpoint, save_separator
from frametx.config import conf_dir
from frametx.export import NotEqualError, export, main, report_difference
from frametx.separator import SpectrogramSeparator


def small_networks() -> dict[str, Any]:
    """The family's small configurations, which the laws of tests/models are about."""
    path = Path(__file__).parent / "models" / "conftest.py"
    spec = importlib.util.spec_from_file_location("small_networks", path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module.NETWORKS


NETWORKS = small_networks()


def checkpoint(
    path: Path, name: str, *, network: dict[str, Any] | None = None, **changes: Any
) -> Path:
    """A file with a small network of the family and random weights, for 8 kHz stereo."""
    case = NETWORKS[name]
    target = f"{case.network.__module__}.{case.network.__qualname__}"
    n_fft = case.config["n_fft"]
    config = {
        "_target_": "frametx.separator.SpectrogramSeparator",
        "stft": {
            "_target_": "frametx.audio.stft.Stft",
            "n_fft": n_fft,
            "hop_length": n_fft // 4,
        },
        "network": {
            "_target_": target,
            **case.config,
            **case.changes,
            "out_channels": 2,
            **(network or {}),
        },
        "stems": ["vocals", "instrumental"],
        "complement": "vocals",
        "sample_rate": 8000,
        "num_channels": 2,
        "chunk_frames": 24,
        "scale": "chunk_peak",
        "top_bin": "zero",
        **changes,
    }
    torch.manual_seed(0)
    save_separator(path, instantiate(config), config, model=name)
    return path


def tiny(folder: Path, **changes: Any) -> Path:
    """The quickest of the family to export."""
    return checkpoint(folder / "v3.ckpt", "v3", network={"num_layers": 1}, **changes)


@pytest.fixture
def symbols() -> Iterator[None]:
    """While a graph for any size is made, sizes are symbols, which a check of types takes amiss."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def separator_in(path: Path) -> SpectrogramSeparator:
    separator = load_separator(path)
    assert isinstance(separator, SpectrogramSeparator)
    return separator


@torch.no_grad()
def exported(ckpt: Path, output: Path, *overrides: str) -> Path:
    """As the command does it, without a process of its own."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return export(compose("export", [f"ckpt='{ckpt}'", f"output='{output}'", *overrides]))


def onnx(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """The file in ONNX Runtime, and what it says about itself."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    facts = json.loads(session.get_modelmeta().custom_metadata_map["frametx"])
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    assert [given.name, answer.name] == [facts["inputs"][0]["name"], facts["outputs"][0]["name"]]

    def run(x: Tensor) -> Tensor:
        (found,) = session.run([answer.name], {given.name: np.ascontiguousarray(x.numpy())})
        return torch.from_numpy(found)

    return run, facts


def noise(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_safetensors_hold_the_same_separator_to_the_last_bit(name: str, tmp_path: Path) -> None:
    ckpt = checkpoint(tmp_path / "x.ckpt", name)
    stored = torch.load(ckpt, weights_only=True)
    stored |= {"optimizer_states": [{"state": torch.rand(1000)}], "epoch": 3}
    torch.save(stored, ckpt)
    output = exported(ckpt, tmp_path / "x.safetensors")
    mixture = 2 * noise(1, 2, 700) - 1
    assert torch.equal(separator_in(output)(mixture), separator_in(ckpt)(mixture))
    assert read_checkpoint(output)["frametx"] == read_checkpoint(ckpt)["frametx"]
    assert read_checkpoint(output).keys() == {"state_dict", "frametx"}


@torch.no_grad()
def test_a_program_that_reads_only_the_file_separates_as_we_do(tmp_path: Path) -> None:
    ckpt = tiny(tmp_path)
    output = exported(ckpt, tmp_path / "v3.onnx", "frames=20")
    run, facts = onnx(output)
    assert facts["stems"] == ["vocals", "instrumental"]
    assert facts["complement"] == "vocals"
    assert facts["sample_rate"] == 8000
    assert facts["inputs"] == [{"name": "magnitude", "shape": [1, 2, 32, 20]}]
    assert facts["outputs"] == [{"name": "logits", "shape": [1, 2, 32, 20]}]

    # none of this knows our classes but the STFT: everything else is said in the file
    stft = Stft(n_fft=facts["n_fft"], hop_length=facts["hop_length"])
    mixture = 2 * noise(1, facts["num_channels"], 19 * facts["hop_length"]) - 1
    spectrogram = stft(mixture)
    seen = spectrogram.abs()[:, :, : facts["num_bins"]]
    assert facts["scale"] == "chunk_peak"
    assert facts["input_range"] == [0.0, 1.0]
    mask = run(seen / seen.amax((1, 2, 3), keepdim=True)).sigmoid()
    assert facts["head"] == "mask"
    assert facts["top_bin"] == "zero"
    mask = torch.nn.functional.pad(mask, (0, 0, 0, spectrogram.shape[2] - facts["num_bins"]))
    instrumental = stft.inverse(spectrogram * mask, length=mixture.shape[-1])
    expected = separator_in(ckpt)(mixture)
    torch.testing.assert_close(instrumental, expected[:, 1], atol=1e-5, rtol=0)
    torch.testing.assert_close(mixture - instrumental, expected[:, 0], atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_whole_separator_takes_a_mixture_and_its_stems_sum_to_it(tmp_path: Path) -> None:
    ckpt = tiny(tmp_path, top_bin="copy")
    output = exported(ckpt, tmp_path / "v3.onnx", "part=separator", "external_data=true")
    assert {path.name for path in tmp_path.iterdir()} == {"v3.ckpt", "v3.onnx", "v3.onnx.data"}
    run, facts = onnx(output)
    mixture = 2 * noise(1, 2, facts["chunk_samples"]) - 1
    assert facts["inputs"] == [{"name": "mixture", "shape": list(mixture.shape)}]
    estimates = run(mixture)
    assert list(estimates.shape) == facts["outputs"][0]["shape"] == [1, 2, 2, mixture.shape[-1]]
    torch.testing.assert_close(estimates.sum(1), mixture, atol=1e-5, rtol=0)
    torch.testing.assert_close(estimates, separator_in(ckpt)(mixture), atol=1e-5, rtol=0)


@pytest.mark.usefixtures("symbols")
@torch.no_grad()
def test_a_graph_of_torch_says_what_it_is_and_takes_any_length(tmp_path: Path) -> None:
    ckpt = tiny(tmp_path)
    output = exported(ckpt, tmp_path / "v3.pt2", "part=separator", "dynamic=true", "frames=9")
    said = {"frametx.json": ""}
    run = torch.export.load(output, extra_files=said).module()
    facts = json.loads(said["frametx.json"])
    assert facts["inputs"] == [{"name": "mixture", "shape": ["batch", 2, "samples"]}]
    assert facts["part"] == "separator"
    for batch, length in ((1, 200), (4, 1601)):
        mixture = 2 * noise(batch, 2, length) - 1
        torch.testing.assert_close(run(mixture), separator_in(ckpt)(mixture), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_network_that_is_shown_its_past_is_exported_with_all_the_maps_it_reads(
    tmp_path: Path,
) -> None:
    ckpt = checkpoint(tmp_path / "v9.ckpt", "v9_patch", network={"num_layers": 1})
    output = exported(ckpt, tmp_path / "v9.pt2")
    said = {"frametx.json": ""}
    run = torch.export.load(output, extra_files=said).module()
    facts = json.loads(said["frametx.json"])
    assert facts["inputs"] == [{"name": "magnitude", "shape": [1, 6, 32, 16]}]
    assert facts["num_past_frames"] == facts["crop_frames"] == facts["frame_multiple"] == 16
    x = noise(1, 6, 32, 16)
    torch.testing.assert_close(run(x), separator_in(ckpt).network(x), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="reads its own earlier estimates"):
        exported(ckpt, tmp_path / "whole.pt2", "part=separator")
    with pytest.raises(ValueError, match=r"at most 16 frames"):
        exported(ckpt, tmp_path / "long.pt2", "frames=32")
    with pytest.raises(ValueError, match=r"frames=17 must be a multiple of 16.*take 32"):
        exported(ckpt, tmp_path / "odd.pt2", "frames=17")
    assert not list(tmp_path.glob("*.pt2.*"))


def test_what_returns_other_numbers_is_not_kept_and_ends_the_command_with_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ckpt = tiny(tmp_path)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        asked = ["part=separator", "frames=8", "tolerance=1e-12"]
        files = [f"ckpt='{ckpt}'", f"output='{tmp_path / 'x.pt2'}'"]
        cfg = compose("export", [*files, *asked])
    assert inspect.unwrap(main)(cfg) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: largest error ")
    assert "more than tolerance=1e-12" in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["v3.ckpt"]


def test_a_difference_on_any_input_and_what_is_no_number_are_refused() -> None:
    inputs = {"loud": torch.ones(3), "silence": torch.zeros(3)}
    expected = {"loud": torch.ones(3), "silence": torch.zeros(3)}
    report_difference(lambda x: x * (1 + 1e-6), inputs, expected, tolerance=1e-4)
    with pytest.raises(NotEqualError, match=r"relative 2\.0e-04"):
        report_difference(lambda x: x + 2e-4 * (x == 0), inputs, expected, tolerance=1e-4)
    with pytest.raises(NotEqualError, match="nan"):
        report_difference(lambda x: x / x, inputs, expected, tolerance=1e-4)


def test_the_command_makes_the_folder_and_says_what_it_wrote(tmp_path: Path) -> None:
    ckpt, output = tiny(tmp_path), tmp_path / "new" / "v3.safetensors"
    command = [sys.executable, "-m", "frametx.export", f"ckpt={ckpt}", f"output={output}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"written: {output}" in done.stdout
    assert [path.name for path in output.parent.iterdir()] == ["v3.safetensors"]


@pytest.mark.parametrize(
    ("output", "overrides", "message"),
    [
        ("x.tflite", (), r"must end in \.safetensors, \.pt2 or \.onnx"),
        ("x.pt2", ("part=stft",), "part=stft must be network or separator"),
        ("x.pt2", ("frames=0",), "frames=0 must be a whole number"),
        ("x.pt2", ("tolerance=0",), "tolerance=0 must be between"),
        ("x.pt2", ("external_data=true",), r"is for \.onnx"),
        ("x.pt2", ("dynamic=true", "frames=7"), "frames=7 must be at least 8"),
        ("x.pt2", ("part=separator", "frames=1"), "frames=1 must be at least 2"),
        ("x.safetensors", ("part=separator", "frames=9"), "part=separator frames=9 says nothing"),
    ],
)
def test_what_cannot_be_done_is_refused_before_any_work(
    output: str, overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        exported(tiny(tmp_path), tmp_path / output, *overrides)
    assert [path.name for path in tmp_path.iterdir()] == ["v3.ckpt"]


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(tmp_path: Path) -> None:
    ckpt, output = tiny(tmp_path), tmp_path / "x.safetensors"
    output.write_bytes(b"mine")
    with pytest.raises(ValueError, match="overwrite=true replaces it"):
        exported(ckpt, output)
    assert output.read_bytes() == b"mine"
    exported(ckpt, output, "overwrite=true")
    with pytest.raises(ValueError, match="the checkpoint itself"):
        exported(output, output, "overwrite=true")
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        exported(tmp_path / "none.ckpt", tmp_path / "y.safetensors")
    (tmp_path / "x.onnx.data").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"x\.onnx\.data is there already"):
        exported(ckpt, tmp_path / "x.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named_with_the_way_to_get_it(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return there(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ValueError, match=rf"package {package}: pip install 'frametx\[onnx\]'"):
        exported(tiny(tmp_path), tmp_path / "x.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.usefixtures("symbols")
@torch.no_grad()
def test_every_network_is_exported_for_any_number_of_frames(name: str, tmp_path: Path) -> None:
    crops = {"crop_frames": 48} if name == "v9_patch" else {}
    ckpt = checkpoint(tmp_path / "x.ckpt", name, network=crops)
    run, _ = onnx(exported(ckpt, tmp_path / "x.onnx", "dynamic=true"))
    for batch, frames in ((1, 64), (3, 32)):
        x = NETWORKS[name].magnitude(batch=batch, frames=frames)
        torch.testing.assert_close(run(x), separator_in(ckpt).network(x), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [".onnx", ".pt2"])
@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "v9_patch"])
@torch.no_grad()
def test_every_whole_separator_is_exported(name: str, kind: str, tmp_path: Path) -> None:
    ckpt = checkpoint(tmp_path / "x.ckpt", name)
    output = exported(ckpt, tmp_path / f"x{kind}", "part=separator")
    run = onnx(output)[0] if kind == ".onnx" else torch.export.load(output).module()
    mixture = 2 * noise(1, 2, separator_in(ckpt).chunk_samples) - 1
    estimates = run(mixture)
    torch.testing.assert_close(estimates, separator_in(ckpt)(mixture), atol=1e-4, rtol=0)
    torch.testing.assert_close(estimates.sum(1), mixture, atol=1e-5, rtol=0)
