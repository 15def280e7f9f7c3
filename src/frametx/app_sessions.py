"""What each open page is working on, and how it is told.

Progress and results are plain HTML: the browser's own players stream a file instead of decoding it
whole, work by keyboard, and are read out by a screen reader.
"""

import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from frametx.app_studio import Choice, Progress, Separated, StoppedError, Studio, Waiting, message
from frametx.separation_options import Absent, Augmentation, SeparationOptions

SECONDS_BETWEEN_UPDATES = 0.2
AUGMENTATIONS = {
    "as the quality says": Augmentation(),
    "off": Augmentation(swap=False, polarity=False, shifts=0),
    "on": Augmentation(swap=True, polarity=True, shifts=1),
}


class Sessions:
    """What belongs to each open page: the switch that stops its work, and the folder of its song.

    Args:
        is_kept: whether the stems stay when their page is closed or takes the next song.
    """

    def __init__(self, *, is_kept: bool) -> None:
        self.is_kept = is_kept
        self._stops: dict[str, threading.Event] = {}
        self._folders: dict[str, Path] = {}

    def begin(self, session: str) -> None:
        """A new switch, before the page waits for its turn; what it showed before goes."""
        self.stop(session)
        self._delete(session)
        self._stops[session] = threading.Event()

    def switch(self, session: str) -> threading.Event:
        """The switch of a page; one that is on already if the page is gone."""
        if session not in self._stops:
            gone = threading.Event()
            gone.set()
            return gone
        return self._stops[session]

    def stop(self, session: str) -> None:
        """Let the work of a page end at its next block."""
        if session in self._stops:
            self._stops[session].set()

    def stop_all(self) -> None:
        """The same for all pages."""
        for stop in list(self._stops.values()):
            stop.set()

    def finished(self, session: str, folder: Path) -> None:
        """Remember the folder of a page's song, and delete the one before."""
        self._delete(session)
        self._folders[session] = folder
        if session not in self._stops:  # closed in the meantime
            self._delete(session)

    def folder_of(self, session: str) -> Path | None:
        """The folder of a page's song; None before it has one."""
        return self._folders.get(session)

    def forget(self, session: str) -> None:
        """A page was closed."""
        self.stop(session)
        self._stops.pop(session, None)
        self._delete(session)

    def _delete(self, session: str) -> None:
        folder = self._folders.pop(session, None)
        if folder is not None and not self.is_kept:
            shutil.rmtree(folder, ignore_errors=True)


def separated(
    studio: Studio,
    sessions: Sessions,
    session: str,
    song: str | None,
    names: Sequence[str],
    rule: str,
    weights: str,
    quality: str,
    format: str,
    stems: Sequence[str],
    aggressiveness: float,
    aggressiveness_stem: str | None,
    wiener: float,
    absent_stem: str,
    augmentation: str,
) -> Iterator[tuple[str, str | None]]:
    """Status and results of a page, while its song is taken apart; errors end up there too.

    Results of None stay what they are. The other arguments are what the page's controls give.
    """
    path = None if song is None else Path(song)
    stop = sessions.switch(session)
    told_at = -SECONDS_BETWEEN_UPDATES
    try:
        if path is None:
            raise ValueError("no song is there: choose one first")
        is_ensemble, changes = len(names) > 1, float(aggressiveness) != 1
        options = SeparationOptions(
            quality=quality,  # pyright: ignore[reportArgumentType]
            ensemble=rule if is_ensemble else None,
            weights=numbers(weights) if is_ensemble and rule == "weighted" else None,
            aggressiveness=float(aggressiveness),
            aggressiveness_stem=aggressiveness_stem if changes else None,
            wiener=int(wiener),
            absent=Absent(stem=absent_stem) if absent_stem else None,
            tta=AUGMENTATIONS[augmentation],
        )
        choice = Choice(song=path, names=names, format=format, stems=stems, options=options)
        for step in studio.separate(choice, stop):
            if isinstance(step, Separated):
                sessions.finished(session, step.picture.parent)
                yield done_html(step), results_html(step)
            elif isinstance(step, Waiting):
                yield told(f"waiting for {step.num_before} song(s) before this one"), None
            elif step.fraction == 1 or time.monotonic() - told_at >= SECONDS_BETWEEN_UPDATES:
                told_at = time.monotonic()
                yield progress_html(step), None
    except StoppedError:
        yield told("stopped: nothing was written"), ""
    except Exception as error:  # whatever it is, the person is told and the page goes on
        yield error_html(message(error, path)), ""


def described(studio: Studio, names: Sequence[str]) -> str:
    """What the picked models are, or why they cannot be used together."""
    if not names:
        return told("Pick one model, or several that work together.")
    said = ""
    try:
        said = told(*studio.describe(names))
        studio.stems(names)
    except Exception as error:  # whatever it is, the person is told and the page goes on
        said += error_html(message(error))
    return said


def stems_of(studio: Studio, names: Sequence[str]) -> tuple[str, ...]:
    """The stems to choose from; none while the picked models cannot be used together."""
    try:
        return studio.stems(names) if names else ()
    except Exception:  # `described` tells why
        return ()


def numbers(text: str) -> list[float]:
    """The weights that a person wrote, with commas or blanks between them.

    Raises:
        ValueError: if one is no number.
    """
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError as error:
        raise ValueError(f"weights={text} must be numbers, one for each model: 1, 2, 2") from error


def told(*lines: str) -> str:
    """Lines that a screen reader reads when they appear."""
    return f'<div role="status">{"<br>".join(map(escape, lines))}</div>'


def error_html(said: str) -> str:
    """A message that a screen reader reads at once."""
    return f'<div role="alert" class="frametx-error"><strong>Error:</strong> {escape(said)}</div>'


def progress_html(progress: Progress) -> str:
    """A bar with the seconds that are done, the seconds in all, and how long it will take."""
    percent = 100 * progress.fraction
    said = f"{progress.done_s:.0f} s of {progress.total_s:.0f} s"
    if progress.left_s is not None:
        said += f", about {in_words(progress.left_s)} left"
    return (
        f'<progress class="frametx-bar" aria-label="Progress" max="100" value="{percent:.1f}">'
        f"</progress><div>{percent:.0f} %: {said}</div>"
    )


def in_words(seconds: float) -> str:
    """A time to wait, no more precise than it is known."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def done_html(song: Separated) -> str:
    """What was done, and what else should be known."""
    return told(f"Done: {song.song}", song.summary, *(f"Note: {note}" for note in song.notes))


def results_html(song: Separated) -> str:
    """A player and a link for each stem, and the picture."""
    parts = [stem_html(stem, path, song.played[stem]) for stem, path in song.stems.items()]
    shown = ", ".join(["the mixture", *song.stems])
    return (
        f'<div class="frametx-results">{"".join(parts)}'
        f'<img class="frametx-picture" src="{address(song.picture)}" '
        f'alt="Spectrograms of {escape(shown)}: time in seconds, frequency in kilohertz">'
        "</div>"
    )


def stem_html(stem: str, path: Path, played: Path) -> str:
    """One stem."""
    name, size_mb = escape(path.name), path.stat().st_size / 1e6
    return (
        f'<section class="frametx-stem" aria-label="{escape(stem)}"><h3>{escape(stem)}</h3>'
        f'<audio controls preload="metadata" aria-label="Player of {escape(stem)}" '
        f'src="{address(played)}"></audio>'
        f'<a href="{address(path)}" download="{name}">Download {name}</a> ({size_mb:.1f} MB)'
        "</section>"
    )


def address(path: Path) -> str:
    """Where a browser finds a file of the output folder."""
    return f"gradio_api/file={quote(str(path.absolute()))}"
