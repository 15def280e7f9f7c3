"""What `frametx.load` is asked for reaches what runs the networks, and the networks themselves."""

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import frametx
from frametx.checkpoint import build, load_separator, save_separator
from frametx.execution import choose_precision
from frametx.loading import compile_network
from frametx.pipeline import Pipeline

RATE = 8_000
SPECTROGRAM = {
    "_target_": "frametx.separator.SpectrogramSeparator",
    "stft": {"_target_": "frametx.audio.stft.Stft", "n_fft": 64, "hop_length": 16},
    "network": {
        "_target_": "torch.nn.Conv2d",
        "in_channels": 2,
        "out_channels": 2,
        "kernel_size": 1,
    },
    "stems": ["speech", "noise"],
    "complement": "noise",
    "sample_rate": RATE,
    "num_channels": 2,
    "chunk_frames": 40,
    "scale": "chunk_peak",
    "top_bin": "copy",
}


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ckpt") / "tiny.ckpt"
    save_separator(path, build(SPECTROGRAM), SPECTROGRAM, model="convolution")
    return path


def network_of(pipeline: Pipeline) -> nn.Module:
    return cast(nn.Module, cast(Any, pipeline.members[0]).network)


def answers(pipeline: Pipeline) -> list[Tensor]:
    """What the network says of each batch of a song of ten chunks."""
    seen: list[Tensor] = []

    def remember(network: nn.Module, given: tuple[Tensor, ...], answer: Tensor) -> None:
        seen.append(answer)

    network_of(pipeline).register_forward_hook(cast(Any, remember))
    num_samples = 10 * pipeline.members[0].chunk_samples
    mixture = 0.1 * torch.randn(2, num_samples, generator=torch.Generator().manual_seed(0))
    pipeline.separate(mixture, sample_rate=RATE)
    return seen


@pytest.mark.parametrize("batch_size", [1, 3])
def test_as_many_chunks_as_asked_for_go_through_the_network_at_once(
    ckpt: Path, batch_size: int
) -> None:
    loaded = frametx.load(ckpt, device="cpu", batch_size=batch_size, quality="fast")
    assert loaded.execution.batch_size == batch_size
    sizes = [len(answer) for answer in answers(loaded)]
    assert sum(sizes) == 10
    assert max(sizes) == sizes[0] == batch_size
    with pytest.raises(ValueError, match=r"batch_size \(0\) must be at least 1"):
        frametx.load(ckpt, device="cpu", batch_size=0)


@pytest.mark.parametrize(
    ("precision", "quality", "expected"),
    [
        ("fp32", "fast", torch.float32),
        ("bf16", "fast", torch.bfloat16),
        ("bf16", "best", torch.bfloat16),
        ("auto", "best", torch.float32),
    ],
)
def test_the_network_computes_as_precisely_as_asked_for(
    ckpt: Path, precision: str, quality: str, expected: torch.dtype
) -> None:
    loaded = frametx.load(ckpt, device="cpu", precision=precision, quality=quality)
    assert {answer.dtype for answer in answers(loaded)} == {expected}
    with pytest.raises(ValueError, match="precision=int4 must be auto"):
        frametx.load(ckpt, device="cpu", precision="int4")


def test_without_a_precision_it_is_that_of_the_device(ckpt: Path) -> None:
    loaded = frametx.load(ckpt, device="cpu")
    assert loaded.execution.precision == choose_precision("auto", torch.device("cpu"))


class Compilable(nn.Identity):
    """Remembers that it was to be compiled; the compiler itself takes seconds to be imported."""

    num_compiled = 0

    def compile(self, *args: Any, **kwargs: Any) -> None:
        self.num_compiled += 1


def test_compiling_is_for_the_networks_alone_and_only_if_asked_for(
    ckpt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(path: Path, *, device: torch.device) -> nn.Module:
        member = cast(Any, load_separator(path, device=device))
        member.network = Compilable()
        # The STFT around it is complex, which compilers have no kernels for.
        monkeypatch.setattr(member, "compile", lambda: pytest.fail("the whole is compiled"))
        return member

    monkeypatch.setattr("frametx.loading.load_separator", loaded)
    plain = frametx.load(ckpt, device="cpu")
    assert cast(Any, network_of(plain)).num_compiled == 0
    compiled = frametx.load([ckpt, ckpt], device="cpu", compile=True)
    assert [cast(Any, member).network.num_compiled for member in compiled.members] == [1, 1]


def test_a_network_of_samples_is_compiled_as_a_whole() -> None:
    separator = Compilable()
    compile_network(cast(Any, separator))
    assert separator.num_compiled == 1
