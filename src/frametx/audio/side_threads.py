"""Reading and writing beside the computation: decoding and encoding take their own threads."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from queue import Empty, Full, Queue
from types import TracebackType
from typing import Generic, TypeVar, cast

Item = TypeVar("Item")
WAIT_SECONDS = 0.1  # between looks at whether the other side has given up
END = object()


class Ahead:
    """Runs iterators in threads, a few items ahead. Leaving the context ends the threads.

    Args:
        num_items: that are kept ready.
    """

    def __init__(self, *, num_items: int = 8) -> None:
        self.num_items = num_items
        self._stopped = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> "Ahead":
        """Nothing runs yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for the item that each thread is at."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def read(self, items: Iterable[Item]) -> Iterator[Item]:
        """The same items; what the iterator raises is raised here."""
        queue: Queue[object] = Queue(self.num_items)
        thread = threading.Thread(target=self._fill, args=(items, queue), daemon=True)
        self._threads.append(thread)
        thread.start()
        while True:
            item = queue.get()
            if item is END:
                return
            if isinstance(item, _Raised):
                raise item.error
            yield cast(Item, item)

    def _fill(self, items: Iterable[object], queue: "Queue[object]") -> None:
        try:
            for item in items:
                if not self._put(queue, item):
                    return
        except BaseException as error:
            self._put(queue, _Raised(error))
        else:
            self._put(queue, END)

    def _put(self, queue: "Queue[object]", item: object) -> bool:
        while not self._stopped.is_set():
            with suppress(Full):
                queue.put(item, timeout=WAIT_SECONDS)
                return True
        return False


class Behind(Generic[Item]):
    """Calls a function with one item after the other in a thread. Leaving the context waits for it.

    Args:
        call: what to do with an item; what it raises is raised by the next `give`, or on leaving.
        num_items: that may wait.
    """

    def __init__(self, call: Callable[[Item], None], *, num_items: int = 8) -> None:
        self._call = call
        self._queue: Queue[object] = Queue(num_items)
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Behind[Item]":
        """Start the thread."""
        self._thread.start()
        return self

    def give(self, item: Item) -> None:
        """Hand an item over, as soon as there is room for it."""
        while True:
            if self._error is not None:
                raise self._error
            with suppress(Full):
                self._queue.put(item, timeout=WAIT_SECONDS)
                return

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Wait until all is done; after an error, only until the item at hand is."""
        try:
            if kind is None:
                self.give(cast(Item, END))
                self._thread.join()
        finally:
            # Also where Ctrl-C ends the waiting: the thread must not go on with what is taken away.
            self._stopped.set()
            self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                item = self._queue.get(timeout=WAIT_SECONDS)
            except Empty:
                continue
            if item is END:
                return
            try:
                self._call(cast(Item, item))
            except BaseException as error:
                self._error = error
                return


class _Raised:
    def __init__(self, error: BaseException) -> None:
        self.error = error
