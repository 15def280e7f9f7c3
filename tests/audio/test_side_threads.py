import threading
import time
from collections.abc import Iterator

import pytest

from frametx.audio.side_threads import Ahead, Behind


def numbers(count: int, seen: list[int]) -> Iterator[int]:
    for number in range(count):
        seen.append(number)
        yield number


def test_items_come_in_order_and_at_most_a_few_ahead() -> None:
    seen: list[int] = []
    with Ahead(num_items=3) as ahead:
        items = ahead.read(numbers(100, seen))
        assert next(items) == 0
        while len(seen) < 3:
            time.sleep(0.001)
        assert len(seen) <= 6
        assert list(items) == list(range(1, 100))


def test_what_the_reader_raises_is_raised_where_it_is_read() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("song.mp3: cut short")

    with Ahead() as ahead:
        items = ahead.read(broken())
        assert next(items) == 1
        with pytest.raises(ValueError, match="cut short"):
            next(items)


def test_a_reader_that_is_left_ends() -> None:
    before = threading.active_count()
    seen: list[int] = []

    def leave() -> None:
        with Ahead(num_items=2) as ahead:
            next(ahead.read(numbers(10**9, seen)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert threading.active_count() == before
    assert len(seen) < 10


def test_everything_is_written_in_order_before_the_context_is_left() -> None:
    written: list[int] = []

    def write(item: int) -> None:
        time.sleep(0.001)
        written.append(item)

    with Behind(write, num_items=2) as behind:
        for number in range(50):
            behind.give(number)
    assert written == list(range(50))


def test_what_the_writer_raises_reaches_the_giver() -> None:
    def full(item: int) -> None:
        raise OSError(28, "No space left on device", "stem.wav")

    def give(count: int) -> None:
        with Behind(full, num_items=1) as behind:
            for number in range(count):
                behind.give(number)

    for count in (100, 1):  # of a single item it is seen only on leaving
        with pytest.raises(OSError, match="No space left"):
            give(count)


def test_after_an_error_nothing_more_is_written() -> None:
    written: list[int] = []
    started = threading.Event()

    def write(item: int) -> None:
        started.set()
        time.sleep(0.05)
        written.append(item)

    def leave() -> None:
        with Behind(write, num_items=100) as behind:
            for number in range(100):
                behind.give(number)
            started.wait()
            raise KeyboardInterrupt

    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        leave()
    assert len(written) < 5
    assert threading.active_count() == before
