"""Questions asked in threads, answers taken in the loop: a slow engine never holds the loop up."""

import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

Answer = TypeVar("Answer")
MAX_THREADS = 32


class Asks(Protocol):
    """Who answers the supervisor's questions; in tests, at once."""

    def ask(
        self,
        key: tuple[str, ...],
        question: Callable[[], Answer],
        then: Callable[[Answer], None],
        *,
        now: float,
        every_s: float,
    ) -> None: ...

    def take_answers(self) -> None: ...


class Probes:
    """Asks each key again when its answer has come and `every_s` has passed since it was asked.

    wake: called from a thread when an answer is there.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._todo: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None], Any]]
        self._todo = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Callable[[Any], None], Any, Any]] = queue.SimpleQueue()
        self._num_threads = 0
        self._asked_at: dict[tuple[str, ...], float] = {}
        self._in_flight: set[tuple[str, ...]] = set()

    def ask(
        self,
        key: tuple[str, ...],
        question: Callable[[], Answer],
        then: Callable[[Answer], None],
        *,
        now: float,
        every_s: float,
    ) -> None:
        """Have `question` answered in a thread and `then` called with it by take_answers."""
        if key in self._in_flight or now - self._asked_at.get(key, -1e9) < every_s:
            return
        if every_s:
            self._asked_at[key] = now
        self._in_flight.add(key)
        if self._num_threads < min(MAX_THREADS, len(self._in_flight)):
            self._num_threads += 1
            threading.Thread(target=self._work, daemon=True).start()
        self._todo.put((question, then, key))

    def take_answers(self) -> None:
        """Hand over every answer that has come. Call from the loop's thread."""
        while True:
            try:
                then, answer, key = self._done.get_nowait()
            except queue.Empty:
                return
            self._in_flight.discard(key)
            then(answer)

    def _work(self) -> None:
        while True:
            question, then, key = self._todo.get()
            self._done.put((then, question(), key))
            self._wake()
