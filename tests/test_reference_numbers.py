"""The reference numbers that ship with the tests: small, all read, and missed when absent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).parent
PARITY = TESTS / "fixtures" / "parity"


def test_they_are_small_enough_for_a_repository() -> None:
    assert 0 < sum(path.stat().st_size for path in PARITY.iterdir()) <= 16_000_000


def test_every_file_is_read_by_a_test() -> None:
    sources = [path.read_text() for path in TESTS.rglob("test_*.py")]
    readers = "\n".join(source for source in sources if "reference(" in source)
    unread = [path.name for path in PARITY.glob("*.npz") if f'"{path.stem}"' not in readers]
    assert unread == []


def test_an_absent_file_fails_the_test(reference: Callable[[str], dict[str, Any]]) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"no reference numbers at .*v11\.npz: restore"):
        reference("v11")
