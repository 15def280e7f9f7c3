"""A bar that shows how far the checking of a library is."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from frametx.data.index import Progress as Report


@contextmanager
def progress_bar(text: str) -> Iterator[Report]:
    """What to report (files done, files in all) to; a bar appears with the first report.

    Nothing is shown where the error stream is no terminal.
    """
    console = Console(stderr=True)
    columns = (TextColumn(text), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task(text, visible=False)

    def report(done: int, total: int) -> None:
        if done == 1:
            bar.start()
        bar.update(task, completed=done, total=total, visible=True)

    try:
        yield report
    finally:
        bar.stop()
