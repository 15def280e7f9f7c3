"""Exported separators of samples, used as the programs they are for would use them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import jaxtyping
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor, nn

from frametx.checkpoint import load_separator, save_separator
from frametx.config import conf_dir
from frametx.export import Part, eliminated, export, traced, write_onnx
from frametx.waveform_separator import WaveformSeparator

RATE = 8_000


@pytest.fixture
def checkpoint(sepformer_config: dict[str, Any], tmp_path: Path) -> Callable[..., Path]:
    """Writes a small SepFormer of two speakers, with some options of the separator changed."""

    def write(**changes: Any) -> Path:
        shared = {name: changes[name] for name in ("stems", "complement") if name in changes}
        network = sepformer_config | {"num_blocks": 1} | shared
        config = {
            "_target_": "frametx.waveform_separator.WaveformSeparator",
            "network": network | {"_target_": "frametx.models.sepformer.SepFormer"},
            "stems": network["stems"],
            "complement": network["complement"],
            "sample_rate": RATE,
            "num_channels": 1,
            "chunk_seconds": 0.02,
            "levels": "mixture",
            "ordered_stems": False,
            **changes,
        }
        torch.manual_seed(0)
        path = tmp_path / "x.ckpt"
        save_separator(path, instantiate(config), config, model="sepformer")
        return path

    return write


@pytest.fixture
def symbols() -> Iterator[None]:
    """While a graph for any size is made, sizes are symbols, which a check of types takes amiss."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def separator_in(path: Path) -> WaveformSeparator:
    separator = load_separator(path)
    assert isinstance(separator, WaveformSeparator)
    return separator


@torch.no_grad()
def exported(ckpt: Path, output: Path, *overrides: str) -> Path:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return export(compose("export", [f"ckpt='{ckpt}'", f"output='{output}'", *overrides]))


def opened(path: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, Any]]:
    """The file in the program that it is for, and what it says about itself."""
    if path.suffix == ".pt2":
        said = {"frametx.json": ""}
        run = torch.export.load(path, extra_files=said).module()
        return run, json.loads(said["frametx.json"])
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def run_onnx(x: Tensor) -> Tensor:
        (found,) = session.run(None, {given.name: np.ascontiguousarray(x.numpy())})
        return torch.from_numpy(found)

    return run_onnx, json.loads(session.get_modelmeta().custom_metadata_map["frametx"])


def noise(batch: int, channels: int, length: int) -> Tensor:
    return torch.randn(batch, channels, length, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_safetensors_hold_the_same_separator(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    ckpt = checkpoint()
    again = separator_in(exported(ckpt, tmp_path / "x.safetensors"))
    assert torch.equal(again(noise(1, 1, 300)), separator_in(ckpt)(noise(1, 1, 300)))
    assert (again.levels, again.ordered_stems) == ("mixture", False)


@pytest.mark.parametrize("suffix", [".pt2", ".onnx"])
@torch.no_grad()
def test_the_whole_separator_gives_its_stems_at_their_levels(
    suffix: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    ckpt = checkpoint(num_channels=2)
    run, facts = opened(exported(ckpt, tmp_path / f"x{suffix}", "part=separator"))
    assert facts["inputs"] == [{"name": "mixture", "shape": [1, 2, 160]}]
    assert facts["outputs"] == [{"name": "estimates", "shape": [1, 2, 2, 160]}]
    assert facts["stems"] == ["speaker_1", "speaker_2"]
    assert (facts["ordered_stems"], facts["sums_to_mixture"]) == (False, False)
    assert (facts["levels"], facts["chunk_samples"], facts["sample_rate"]) == ("mixture", 160, RATE)
    for mixture in (noise(1, 2, 160), torch.zeros(1, 2, 160)):
        torch.testing.assert_close(run(mixture), separator_in(ckpt)(mixture), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_network_alone_gives_what_it_gives_before_levels_and_complement(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    named = {"stems": ["vocals", "rest"], "complement": "vocals", "levels": "network"}
    ckpt = checkpoint(**named)
    run, facts = opened(exported(ckpt, tmp_path / "x.pt2", "samples=90"))
    assert facts["outputs"] == [{"name": "estimates", "shape": [1, 1, 1, 90]}]
    mixture, separator = noise(1, 1, 90), separator_in(ckpt)
    torch.testing.assert_close(run(mixture), separator.network(mixture), atol=1e-6, rtol=1e-5)
    run, facts = opened(exported(ckpt, tmp_path / "y.pt2", "samples=90", "part=separator"))
    assert facts["sums_to_mixture"] is True
    torch.testing.assert_close(run(mixture), separator(mixture), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(run(mixture).sum(1), mixture, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("symbols")
@torch.no_grad()
def test_any_batch_and_any_number_of_strides_goes_through_a_dynamic_graph(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    ckpt = checkpoint()
    output = exported(ckpt, tmp_path / "x.onnx", "part=separator", "dynamic=true")
    run, facts = opened(output)
    assert facts["inputs"] == [{"name": "mixture", "shape": ["batch", 1, "samples"]}]
    assert facts["sample_multiple"] == 4
    for batch, length in ((1, 64), (3, 404)):
        mixture = noise(batch, 1, length)
        torch.testing.assert_close(run(mixture), separator_in(ckpt)(mixture), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("symbols")
def test_a_file_that_torch_cannot_read_again_is_refused_in_one_line(
    checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """For any length torch writes how many chunks there are, and does not understand it then."""
    with pytest.raises(ValueError, match=r"cannot read again: dynamic=false .* \.onnx") as refused:
        exported(checkpoint(), tmp_path / "x.pt2", "part=separator", "dynamic=true")
    assert "\n" not in str(cast(ValueError, refused.value))
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


@pytest.mark.parametrize("num_stems", [1, 2, 4])
def test_elimination_solves_what_the_solver_solves(num_stems: int) -> None:
    torch.manual_seed(0)
    parts = torch.randn(5, num_stems, 9)
    matrices = parts @ parts.mT + 1e-3 * torch.eye(num_stems)
    right = torch.randn(5, num_stems)
    expected = torch.linalg.solve(matrices, right)
    torch.testing.assert_close(eliminated(matrices, right), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("frames=9",), r"frames=9: this separator reads samples.* samples="),
        (("samples=0",), "samples=0 must be a whole number"),
        (("dynamic=true", "samples=102"), "samples=102 must be a multiple of 4"),
        (("dynamic=true", "samples=32"), "at least 64"),
    ],
)
def test_what_cannot_be_done_is_refused(
    overrides: tuple[str, ...], message: str, checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        exported(checkpoint(), tmp_path / "x.pt2", *overrides)
    assert [path.name for path in tmp_path.iterdir()] == ["x.ckpt"]


class Solver(nn.Module):
    """Something that ONNX has no words for."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.solve(x @ x.mT + torch.eye(x.shape[1]), x)


@torch.no_grad()
def test_what_onnx_has_no_words_for_is_refused_in_one_line_with_the_reason(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    part = Part(Solver(), Solver(), {"x": noise(1, 2, 2)}, {}, None, "mixture", "estimates")
    program = traced(part, dynamic=False)
    with pytest.raises(ValueError, match="ONNX has no words") as refused:
        write_onnx(tmp_path / "x.onnx", program, part, "{}", external_data=False)
    said = str(cast(ValueError, refused.value))
    assert "linalg_solve" in said
    assert "\n" not in said
    assert "\x1b" not in said
