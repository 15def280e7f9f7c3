from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

Fixture = Callable[[str], dict[str, Any]]
FIXTURES = Path(__file__).parents[3] / "shared" / "parity"


@pytest.fixture(scope="session")
def reference() -> Fixture:
    """Reads reference numbers by name; large matrices are stored as int8 and a scale, exactly."""

    def read(name: str) -> dict[str, Any]:
        path = FIXTURES / f"{name}.pt"
        if not path.is_file():
            pytest.skip(f"no reference numbers at {path}")
        return unpacked(torch.load(path, weights_only=True))

    return read


def unpacked(stored: Any) -> Any:
    if isinstance(stored, Tensor):
        return stored.clone()
    if isinstance(stored, dict):
        if stored.keys() == {"q", "scale"}:
            return stored["q"].float() * stored["scale"]
        return {key: unpacked(value) for key, value in stored.items()}
    if isinstance(stored, list | tuple):
        return [unpacked(value) for value in stored]
    return stored
