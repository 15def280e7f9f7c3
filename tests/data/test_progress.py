import io

import pytest
from rich.console import Console

from frametx.data import progress
from frametx.data.progress import progress_bar


@pytest.fixture(params=[True, False], ids=["terminal", "file"])
def shown(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[bool, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, force_terminal=request.param, width=100)
    monkeypatch.setattr(progress, "Console", lambda stderr: console)
    return request.param, text


def test_a_bar_shows_how_far_it_is_on_a_terminal_only(shown: tuple[bool, io.StringIO]) -> None:
    is_terminal, text = shown
    with progress_bar("checking vocals") as report:
        report(1, 3)
        report(2, 3)
    assert ("checking vocals" in text.getvalue() and "2/3" in text.getvalue()) == is_terminal
    assert is_terminal or text.getvalue() == ""


def test_where_nothing_is_checked_nothing_is_shown(shown: tuple[bool, io.StringIO]) -> None:
    with progress_bar("checking vocals"):
        pass
    assert "checking" not in shown[1].getvalue()
