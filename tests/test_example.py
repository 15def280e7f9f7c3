"""The network of examples/ trains by the command that its file names."""

import math
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SHORT = ("trainer.max_steps=4", "trainer.val_check_interval=4", "scheduler.warmup_steps=1")


@pytest.mark.slow
def test_a_network_of_ones_own_trains(tmp_path: Path) -> None:
    text = (ROOT / "examples" / "my_network.py").read_text()
    (line,) = (one for one in text.splitlines() if one.startswith("    python -m frametx."))
    places = (f"paths.runs_dir={tmp_path}", f"paths.cache_dir={tmp_path / 'cache'}", "name=mine")
    command = [sys.executable, *shlex.split(line)[1:], *SHORT, *places]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    stored = torch.load(tmp_path / "mine" / "checkpoints" / "last.ckpt", weights_only=True)
    network = stored["frametx"]["separator"]["network"]
    assert network["_target_"] == "examples.my_network.MyNetwork"
    metrics = (tmp_path / "mine" / "metrics.csv").read_text().splitlines()
    columns = metrics[0].split(",")
    scores = [row.split(",")[columns.index("val/si_sdr")] for row in metrics[1:]]
    assert any(score and math.isfinite(float(score)) for score in scores)
