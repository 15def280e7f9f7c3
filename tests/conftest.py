"""What several tests share: a tiny run on made-up audio."""

import importlib.util
import json
import subprocess
from collections.abc import Callable, Generator
from functools import cache
from pathlib import Path
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from torch import Tensor, nn

from frametx.audio.stft import Stft
from frametx.checkpoint import save_separator
from frametx.config import conf_dir
from frametx.data.synthetic import write_synthetic_libraries
from frametx.models.sepformer import SepFormer
from frametx.separator import SpectrogramSeparator

# Where `make test` checks shapes against annotations; `make test-all` does so everywhere. In runs
# of a whole training or separation that costs a third of the time and finds nothing more.
ANNOTATED = (
    *("audio", "losses", "metrics", "models", "nn"),
    *("test_export", "test_export_waveform", "test_neural_ensemble", "test_separator"),
    *("test_streaming", "test_waveform_separator"),
)
PARITY = Path(__file__).parent / "fixtures" / "parity"
NUM_DRAWS = 3_300_000  # the last one that a fixture needs is number 3,296,600

# One level less, one map, short crops: two steps take a fraction of a second.
TINY = [
    "audio=16k_mono",
    "audio.n_fft=64",
    "audio.hop_length=32",
    "audio.chunk_frames=64",
    "model=asym_unet_mct_tiny",
    "model.dropout=0.1",
    "data=folders",
    "data.num_workers=0",
    "data.held_out=0.34",
    "data.held_out_mixtures=1",
    "data.held_out_seconds=0.5",
    "trainer.accelerator=cpu",
    "trainer.val_check_interval=1000",
    "trainer.log_every_n_steps=1",
    "trainer.enable_progress_bar=false",
    "~callbacks.progress",
    "trainer.enable_model_summary=false",
    "curriculum.stages=[{until_step:null,frames:9,batch_size:2,accumulate:2}]",
    "scheduler.warmup_steps=1",
    "scheduler.total_steps=20",
    "callbacks.ema.start_step=1",
    "test=false",
    "paths.runs_dir=runs",
]


# Two speakers, and as little as all parts of the network allow.
SMALL_SEPFORMER: dict[str, Any] = {
    "stems": ["speaker_1", "speaker_2"],
    "complement": None,
    "num_features": 12,
    "kernel_size": 8,
    "stride": 4,
    "chunk_frames": 6,
    "num_blocks": 2,
    "num_intra_layers": 1,
    "num_inter_layers": 1,
    "num_heads": 2,
    "hidden_features": 16,
    "dropout": 0.0,
}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Check annotations where they matter most."""
    place = item.path.relative_to(Path(__file__).parent).with_suffix("").parts[0]
    is_quick = item.config.getoption("markexpr") == "not slow"
    jaxtyping.config.update("jaxtyping_disable", is_quick and place not in ANNOTATED)
    return (yield)


@pytest.fixture(scope="session", autouse=True)
def warm_commands(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Spare the commands of `make test` their imports; `make test-all` does not."""
    if request.config.getoption("markexpr") != "not slow":
        yield
        return
    path = Path(__file__).with_name("warm_commands.py")
    spec = importlib.util.spec_from_file_location("warm_commands", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    commands = module.WarmCommands()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "run", commands.run)
        yield
    commands.close()


@pytest.fixture(scope="session")
def sepformer_config() -> dict[str, Any]:
    """What builds a small SepFormer, without its class."""
    return dict(SMALL_SEPFORMER)


@pytest.fixture(scope="session")
def small_sepformer() -> Callable[..., SepFormer]:
    """Builds a small SepFormer, the same one every time, with some of its options changed."""

    def build(**changes: Any) -> SepFormer:
        torch.manual_seed(0)
        return SepFormer(**(SMALL_SEPFORMER | changes)).eval()

    return build


@pytest.fixture(scope="session")
def noise_mixture() -> Callable[..., Tensor]:
    """Makes noise B C L, the same every time."""

    def make(*, batch: int = 2, channels: int = 1, length: int = 101) -> Tensor:
        return torch.randn(batch, channels, length, generator=torch.Generator().manual_seed(1))

    return make


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with vocals/ and instrumental/, three short files each, and a cache beside them."""
    root = tmp_path_factory.mktemp("libraries")
    write_synthetic_libraries(root, seconds=1.5, num_files=3, sample_rate=16_000, seed=0)
    return root


@pytest.fixture(scope="session")
def tiny_overrides(libraries: Path) -> list[str]:
    """The command line of a tiny run on that folder."""
    return [
        *TINY,
        f"data.vocals={libraries / 'vocals'}",
        f"data.instrumental={libraries / 'instrumental'}",
        f"paths.cache_dir={libraries / 'cache'}",
    ]


@pytest.fixture(scope="session")
def compose_tiny(tiny_overrides: list[str]) -> Callable[..., DictConfig]:
    """Compose a tiny run whose files go to `output`, with further overrides."""

    def compose_run(output: Path, *overrides: str) -> DictConfig:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return compose("train", [*tiny_overrides, f"paths.output_dir={output}", *overrides])

    return compose_run


@pytest.fixture(scope="session")
def save_louder_is_more() -> Callable[[Path], Path]:
    """Saves a mono separator at 8 kHz whose mask is the sigmoid of the magnitude."""

    def save(path: Path) -> Path:
        settings = {
            "stems": ["vocals", "instrumental"],
            "complement": "vocals",
            "sample_rate": 8000,
            "num_channels": 1,
            "chunk_frames": 64,
            "scale": "chunk_peak",
            "top_bin": "copy",
        }
        stft = {"n_fft": 256, "hop_length": 128}
        separator = SpectrogramSeparator(stft=Stft(**stft), network=nn.Identity(), **settings)
        config = {
            "_target_": "frametx.separator.SpectrogramSeparator",
            "stft": {"_target_": "frametx.audio.stft.Stft", **stft},
            "network": {"_target_": "torch.nn.Identity"},
            **settings,
        }
        save_separator(path, separator, config, model="louder_is_more")
        return path

    return save


def stored(path: Path) -> dict[str, Any]:
    """A checkpoint's contents."""
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="session")
def reference() -> Callable[[str], dict[str, Any]]:
    """Reads the original programs' numbers by name; tests/fixtures/parity/README.md."""

    def read(name: str) -> dict[str, Any]:
        path = PARITY / f"{name}.npz"
        if not path.is_file():
            pytest.fail(f"no reference numbers at {path}: restore it from the repository", False)
        with np.load(path) as arrays:
            stored = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "tree"}
            return unpacked(json.loads(arrays["tree"].item()), stored)

    return read


def unpacked(node: Any, stored: dict[str, Tensor]) -> Any:
    """Replace every tensor's description in a tree by the tensor."""
    if isinstance(node, list):
        return [unpacked(value, stored) for value in node]
    if not isinstance(node, dict):
        return node
    if "of" not in node:
        return {key: unpacked(value, stored) for key, value in node.items()}
    is_drawn = node["of"] == "draws"
    numbers = draws(node["seed"]) if is_drawn else stored[node["of"]]
    values = numbers.as_strided(node["shape"], node["stride"], node["start"]).clone()
    if is_drawn:
        low, high = node["low"], node["high"]
        values = (values * (high - low) + low).float().to(getattr(torch, node["dtype"]))
    if "step" in node:
        steps = (values / node["step"]).round().to(torch.int8) if is_drawn else values
        values = steps.float() * node["step"]
    return values


@cache
def draws(seed: int) -> Tensor:
    """The numbers of `torch.rand` under `seed`, from NumPy's generator, whose stream is frozen."""
    drawn = np.random.RandomState(seed).randint(0, 2**32, NUM_DRAWS, np.uint32)
    return torch.from_numpy((drawn & 0xFFFFFF) / 2**24)  # float64: the products below are exact
