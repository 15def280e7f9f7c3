import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_wheel_installed_elsewhere_trains_and_separates(
    tmp_path: Path, tiny_overrides: list[str], libraries: Path
) -> None:
    def run(*command: str, **variables: str) -> str:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(ROOT))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    run("-m", "zipfile", "-e", str(wheel), str(site))
    where = {"PYTHONPATH": str(site)}
    assert str(site) in run("-c", "import frametx; print(frametx.__file__)", **where)
    run("-m", "frametx.train", *tiny_overrides, "trainer.max_steps=2", "name=x", **where)
    song = next((libraries / "vocals").glob("*.wav"))
    checkpoint = "ckpt=runs/x/checkpoints/last.ckpt"
    run("-m", "frametx.separate", checkpoint, f"input={song}", "output=stems", **where)
    written = sorted(path.name for path in (tmp_path / "stems").rglob("*.wav"))
    assert written == ["instrumental.wav", "vocals.wav"]
    vocals = next((tmp_path / "stems").rglob("vocals.wav"))
    assert soundfile.info(vocals).frames == soundfile.info(song).frames
