"""Whole runs of `separate` in this process, with made-up separators instead of checkpoints."""

import contextlib
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, settings
from omegaconf import DictConfig
from torch import Tensor, nn

import frametx.loading
from frametx.audio.io import probe, read_blocks
from frametx.audio.stft import Stft
from frametx.config import conf_dir
from frametx.printable import printable
from frametx.separate import Report, separate
from frametx.separator import SpectrogramSeparator

# The same cases in every run, none of them from an earlier one.
settings.register_profile(
    "bad_input",
    derandomize=True,
    deadline=None,
    database=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

Separated = Callable[..., "Outcome"]
BAND = ("vocals", "drums", "bass", "other")


class Share(nn.Module):
    """The vocals are a fixed share of the mixture."""

    def __init__(self, share: float, *, rate: int, channels: int) -> None:
        super().__init__()
        self.share = share
        self.stems: tuple[str, ...] = ("vocals", "instrumental")
        self.sample_rate = rate
        self.num_channels = channels
        self.chunk_samples = 1_024

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([self.share * mixture, (1 - self.share) * mixture], dim=1)


class Alone(Share):
    """A model of one stem, which has no remainder."""

    def __init__(self) -> None:
        super().__init__(0.5, rate=16_000, channels=1)
        self.stems = ("vocals",)

    def forward(self, mixture: Tensor) -> Tensor:
        return super().forward(mixture)[:, :1]


class Band(Share):
    """A model of four stems, with the same shares of whatever it hears."""

    shares = (0.4, 1.3, -0.9, 0.2)

    def __init__(self) -> None:
        super().__init__(0.0, rate=22_050, channels=2)
        self.stems = BAND

    def forward(self, mixture: Tensor) -> Tensor:
        return torch.stack([share * mixture for share in self.shares], dim=1)


class Masked(nn.Module):
    """A network whose masks follow the magnitude, each more than the one before."""

    def __init__(self, num_masks: int) -> None:
        super().__init__()
        self.num_masks = num_masks

    def forward(self, magnitude: Tensor) -> Tensor:
        return torch.cat([6 * n * magnitude - 2 for n in range(1, self.num_masks + 1)], dim=1)


def spectral(stems: Sequence[str], complement: str) -> SpectrogramSeparator:
    return SpectrogramSeparator(
        stft=Stft(n_fft=256, hop_length=64),
        network=Masked(len(stems) - 1),
        stems=stems,
        complement=complement,
        sample_rate=16_000,
        num_channels=2,
        chunk_frames=40,
        scale="chunk_peak",
        top_bin="zero",
    ).eval()


SEPARATORS: dict[str, Callable[[], nn.Module]] = {
    "quiet": lambda: Share(0.3, rate=44_100, channels=2),
    "mono": lambda: Share(0.6, rate=16_000, channels=1),
    "loud": lambda: Share(1.7, rate=8_000, channels=2),
    "spectral": lambda: spectral(["vocals", "instrumental"], "vocals"),
    "alone": Alone,
    "band": Band,
    "band_turned": lambda: spectral(BAND[::-1], "bass"),
}


@dataclass(frozen=True)
class Outcome:
    """A run: its report, the report as it was written, and what stood on the terminal."""

    report: Report
    written: dict[str, Any]
    lines: list[str]
    output: Path

    def check(self, songs: Sequence[Path]) -> None:
        """What holds whatever the songs are."""
        files = self.report.files
        assert [file.input for file in files] == [str(song) for song in songs]
        failed = [file for file in files if file.status == "failed"]
        assert self.report.exit_code == (1 if failed or self.report.lost else 0)
        assert bool(self.written) == (self.report.lost is None)
        if self.written:
            assert [file["status"] for file in self.written["files"]] == [f.status for f in files]
        for file in failed:
            reason = file.reason
            assert reason
            assert "Traceback" not in reason
            assert is_one_line(reason), reason
            assert not reason.startswith(file.input), reason
            # An error that nobody foresaw is told with its type.
            assert not re.match(r"[A-Z]\w*: ", reason), reason
        told = [line for line in self.lines if line.startswith(("done:", "failed:", "copied:"))]
        assert len(told) == len(files)
        for line, file in zip(told, files, strict=True):
            assert is_one_line(line), line
            if is_one_line(file.input) and str(self.output) not in line:
                assert line.count(printable(file.input)) == 1, line
        expected = set() if self.report.lost else {self.output / "report.json"}
        expected |= {Path(path) for file in files for path in file.outputs.values()}
        assert set(paths_below(self.output)) == expected

    def check_samples(self) -> None:
        """Stems are finite, and have the length, the rate and the channels of their song."""
        for file in self.report.files:
            if file.status != "done":
                continue
            num_samples = sum(b.shape[1] for b in read_blocks(file.input, block_samples=1 << 16))
            for path in file.outputs.values():
                assert probe(path).num_samples == num_samples
                stem = torch.cat(list(read_blocks(path, block_samples=1 << 16)), dim=1)
                assert stem.isfinite().all()
                assert stem.shape[1] == num_samples


def is_one_line(text: str) -> bool:
    """Whether a terminal shows it as one line, and can show it at all."""
    return not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)


def paths_below(folder: Path) -> Iterator[Path]:
    """Files, and folders with nothing in them."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink() and any(path.iterdir()):
            yield from paths_below(path)
        else:
            yield path


def strictly(raw: bytes) -> dict[str, Any]:
    """JSON that any parser takes: no NaN, no half of a surrogate pair."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    value = json.loads(raw.decode(), parse_constant=refuse)
    json.dumps(value, ensure_ascii=False).encode()
    return value


@pytest.fixture(scope="session")
def defaults() -> DictConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose("separate", ["ckpt=quiet", "input=x", "output=y"])


def made_up(path: Path, **_: object) -> Any:
    """The separator that a checkpoint of this name stands for."""
    return SEPARATORS[path.name]()


@pytest.fixture(scope="session")
def separated(defaults: DictConfig) -> Separated:
    """Runs `separate` as the command does: separated(input, output, option=value ...)."""

    def run(wanted: Path | str, output: Path, **chosen: object) -> Outcome:
        cfg = defaults.copy()
        for key, value in {"device": "cpu", **chosen}.items():
            node, _, name = key.rpartition("__")
            (cfg[node] if node else cfg)[name] = value
        cfg.input, cfg.output = str(wanted), str(output)
        raw = io.BytesIO()
        # As strict as a terminal is: names must be made fit for it.
        terminal = io.TextIOWrapper(raw, encoding="utf-8", errors="strict")
        with contextlib.redirect_stdout(terminal), pytest.MonkeyPatch.context() as patch:
            patch.setattr(frametx.loading, "load_separator", made_up)
            report = separate(cfg)
            terminal.flush()
        text = raw.getvalue().decode()
        path = output / "report.json"
        written = strictly(path.read_bytes()) if path.is_file() else {}
        return Outcome(report, written, text.removesuffix("\n").split("\n"), output)

    return run
