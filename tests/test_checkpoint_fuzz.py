"""Checkpoints changed at random end in a separator or in one line, in little time and memory."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

FUZZ = Path(__file__).with_name("fuzz_checkpoints.py")


def fuzzed(folder: Path, first: int, count: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, FUZZ, folder, str(first), str(count)],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads take room in the bounded memory
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory as Linux does")
@pytest.mark.parametrize(
    ("first", "count"), [(0, 25), pytest.param(25, 475, marks=pytest.mark.slow)]
)
def test_changed_checkpoints_are_loaded_or_refused_in_one_line(
    first: int, count: int, tmp_path: Path
) -> None:
    done = fuzzed(tmp_path, first, count)
    assert done["bad"] == []
    assert done["loaded"] + done["refused"] == 5 * count
    assert done["loaded"] > count / 10  # the ways work where nothing is wrong
    assert done["refused"] > count
