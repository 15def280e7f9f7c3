import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from frametx import bench, bench_field
from frametx.bench import SCRIPTS, chain, memory, separate, step, table
from frametx.bench_field import chunk, pace
from frametx.bench_measure import readable

Compose = Callable[..., DictConfig]


def bench_config(compose_tiny: Compose, tmp_path: Path) -> DictConfig:
    tiny = compose_tiny(tmp_path)
    OmegaConf.set_struct(tiny, False)
    cfg = OmegaConf.merge(tiny, {"bench": {"repeats": 1, "seconds": 1, "frames": 8}})
    assert isinstance(cfg, DictConfig)
    return cfg


def test_a_step_and_a_separation_are_measured(compose_tiny: Compose, tmp_path: Path) -> None:
    cfg = bench_config(compose_tiny, tmp_path)
    (trained,), (separated,) = step(cfg), separate(cfg)
    for row in (trained, separated):
        assert row["s"] > 0
        assert row["peak MB"] > 100
    audio_seconds = 4 * 8 * 32 / 16_000  # four samples of nine frames
    assert abs(trained["audio s per s"] * trained["s"] - audio_seconds) < 1e-9
    assert abs(separated["audio s per s"] * separated["s"] - 1) < 1e-9


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_network_and_a_chain_of_attention_are_measured(
    compose_tiny: Compose, tmp_path: Path, mode: str
) -> None:
    cfg = bench_config(compose_tiny, tmp_path)
    cfg.bench.update({"of": 16, "memory": mode, "mode": mode, "backend": "fused"})
    (network,), (attention,) = memory(cfg), chain(cfg)
    weights_mb = network["parameters"] * (12 if mode == "train" else 4) / 2**20
    assert network["memory_mb"] >= weights_mb
    assert network["gflop_per_s"] > 0
    assert attention["CPU s"] > 0


@pytest.mark.skipif(not (SCRIPTS / "separation.py").is_file(), reason="not a checkout")
def test_loops_are_compared_with_the_plain_one(
    compose_tiny: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = bench_config(compose_tiny, tmp_path)
    songs = {"seconds": 2, "crop_frames": 1024, "padding_frames": 512}
    cfg.bench.threads = 1
    cfg.bench.songs = {"variants": ["v1"], "loops": ["ours", "faithful"], **songs}
    asked: list[tuple[list[str], dict[str, Any]]] = []

    def child(command: list[str], **options: Any) -> dict[str, float]:
        asked.append((command, options))
        return {"cpu_seconds": 12.0 / len(asked), "windows": 3, "peak_mb": 900, "rest_mb": 600}

    monkeypatch.setattr(bench, "child", child)
    rows = bench.loop(cfg)
    assert [row["loop"] for row in rows] == ["plain", "ours", "faithful"]
    assert [row["times faster"] for row in rows] == [1, 2, 3]
    assert [row["CPU s per s"] for row in rows] == [6, 3, 2]
    # the script knows all the options it was given
    for command, options in asked:
        assert command[-1] == str(SCRIPTS / "separation.py")
        known = Path(command[-1]).read_text()
        assert all(f'"--{name}"' in known for name in options)


def test_a_chunk_and_a_whole_step_are_timed(compose_tiny: Compose, tmp_path: Path) -> None:
    cfg = bench_config(compose_tiny, tmp_path)
    cfg.bench.field = {"paced_steps": 1}
    (separated,), (trained,) = chunk(cfg), pace(cfg)
    assert separated["parameters"] == trained["parameters"] > 100
    assert separated["seconds"] == 63 * 32 / 16_000  # a chunk of 64 frames
    assert separated["CPU s"] > 0
    assert trained["CPU s"] > 0


def test_a_tiny_form_learns_for_its_budget_and_the_better_rate_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained: list[tuple[str, int, float]] = []

    def scores(cfg: DictConfig, tiny: str, num_steps: int, rate: float) -> dict[str, float]:
        trained.append((tiny, num_steps, rate))
        return {"rate": rate, "vocals dB": 3 - rate, "instrumental dB": 2.0}

    monkeypatch.setattr(bench_field, "rerun", lambda *_: [{"CPU s": 0.5, "parameters": 2e6}])
    monkeypatch.setattr(bench_field, "scores", scores)
    cfg = OmegaConf.create({"bench": {"field": {"seconds": 60, "rates": [1.0, 0.5, 2.0]}}})
    row = bench_field.learnt(cfg, "v7_tiny")
    assert trained == [("v7_tiny", 120, rate) for rate in (1.0, 0.5, 2.0)]
    assert row["rate"] == 0.5
    assert row["tiny M"] == 2


@pytest.mark.slow
def test_networks_are_compared_on_the_demo(tmp_path: Path) -> None:
    networks = "[{model: jansson_unet_tiny, audio: 16k_mono, tiny: jansson_unet_tiny}]"
    options = ["bench.parts=[field]", "bench.repeats=1", "bench.field.seconds=1"]
    options += ["bench.field.rates=[2e-3]", f"bench.field.networks={networks}"]
    command = [sys.executable, "-m", "frametx.bench", *options, f"bench.output={tmp_path / 'b'}"]
    done = subprocess.run(command, cwd=SCRIPTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "b").read_text())["rows"]["field"]
    assert row["M parameters"] == row["tiny M"] == pytest.approx(0.152, abs=0.01)
    assert row["steps"] >= 1
    assert {"CPU s per s", "vocals dB", "instrumental dB"} <= row.keys()


def test_the_table_has_a_column_for_each_quantity() -> None:
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table("plain", [{"network": "v7", "frames": 256, "times faster": 1.5}]))
    assert "times faster" in shown.get()
    assert "1.50" in shown.get()


def test_figures_have_three_digits_that_count() -> None:
    assert [readable(x) for x in (0.01234, 1.5, 23.46, 1234.5, 256)] == [
        "0.0123",
        "1.50",
        "23.5",
        "1234",
        "256",
    ]
