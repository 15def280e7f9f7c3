"""The notebook runs from its first cell to its last, on a few steps, and shows what it promises."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.slow
def test_the_notebook_trains_plays_and_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRAMETX_QUICKSTART_STEPS", "10")
    monkeypatch.setenv("FRAMETX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the notebook puts its run
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    resources = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()

    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    rich = [output.data for output in shown if output.output_type == "display_data"]
    printed = "".join(o.text for o in shown if o.output_type == "stream")
    printed += "".join(data.get("text/plain", "") for data in rich)
    assert "SI-SDR" in printed
    assert sum("<audio" in data.get("text/html", "") for data in rich) == 3
    assert "image/png" in notebook.cells[-1].outputs[-1].data
    (run,) = tmp_path.glob("frametx_*")
    assert (run / "checkpoints" / "best.ckpt").is_file()
    assert (run / "evaluation" / "summary.json").is_file()
