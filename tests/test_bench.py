from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from frametx.bench import separate, step, table

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
        assert row["seconds"] > 0
        assert row["peak_mb"] > 100
    audio_seconds = 4 * 8 * 32 / 16_000  # four samples of nine frames
    assert abs(trained["audio_s_per_s"] * trained["seconds"] - audio_seconds) < 1e-9
    assert abs(separated["audio_s_per_s"] * separated["seconds"] - 1) < 1e-9


def test_the_table_shows_how_many_times_less_ours_takes() -> None:
    plain = {"what": "plain", "seconds": 6.0, "cpu_seconds": 12.0, "peak_mb": 300.0}
    ours = {"what": "ours", "seconds": 2.0, "cpu_seconds": 3.0, "peak_mb": 200.0}
    ours |= {"seconds_ratio": 3.0, "cpu_seconds_ratio": 4.0, "peak_mb_ratio": 1.5}
    console = Console(width=120)
    with console.capture() as shown:
        console.print(table([plain, ours]))
    assert "2.000 (1/3.0)" in shown.get()
