"""Run one function over many items on all CPU cores."""

import gc
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

WORTH_A_PROCESS_S = 0.25  # total work that justifies forking, which costs about 20 ms
_KILL = 9
_TURN_BYTES = 2  # of one place in the pipe of turns, which holds 32,768 of them


def spread_over_cores(work: Callable[[T], R], items: Sequence[T], *, cost_s: float) -> list[R]:
    """Return work(item) for all items, in order. Forks over the cores if that saves time.

    cost_s: estimated CPU time per item. An error in a child is raised here; Ctrl-C ends all
    children at once.
    """
    cores = min(_cores(), len(items))
    if cores < 2 or cost_s * len(items) < WORTH_A_PROCESS_S or not hasattr(os, "fork"):
        return [work(item) for item in items]
    return _forked(work, items, cores)


def _forked(work: Callable[[T], R], items: Sequence[T], cores: int) -> list[R]:
    gc.freeze()  # else each collection looks at all that there is, and so copies its pages
    turns = _turns(len(items))
    children = [_start(work, items, turns) for _ in range(1, cores)]
    try:
        results = _work_off(work, items, turns)
        for _, pipe in children:
            results |= _received(pipe)
    except BaseException:
        for pid, _ in children:
            os.kill(pid, _KILL)
        raise
    finally:
        gc.unfreeze()
        os.close(turns)
        for pid, pipe in children:
            os.close(pipe)
            os.waitpid(pid, 0)
    return [results[place] for place in range(len(items))]


def _turns(num: int) -> int:
    """A pipe with the places of all items, from which every process takes its next one.

    The last item comes first: a caller that knows which items take long lists them last.
    """
    reader, writer = os.pipe()
    places = (place.to_bytes(_TURN_BYTES, "big") for place in reversed(range(num)))
    os.write(writer, b"".join(places))
    os.close(writer)
    return reader


def _work_off(work: Callable[[T], R], items: Sequence[T], turns: int) -> dict[int, R]:
    """Work on the next item that nobody has taken until none is left; results by place."""
    results = {}
    while turn := os.read(turns, _TURN_BYTES):
        place = int.from_bytes(turn, "big")
        results[place] = work(items[place])
    return results


def _start(work: Callable[[T], R], items: Sequence[T], turns: int) -> tuple[int, int]:
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    os.close(reader)
    os._exit(_child(work, items, turns, writer))


def _child(work: Callable[[T], R], items: Sequence[T], turns: int, writer: int) -> int:
    """Send the results to the parent. Never raises: a child must not run its parent's cleanup."""
    try:
        answer = (True, _work_off(work, items, turns))
    except BaseException as problem:  # noqa: BLE001 - the parent raises it
        answer = (False, problem)  # type: ignore[assignment]
    try:
        with os.fdopen(writer, "wb") as pipe:
            pickle.dump(answer, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    except BaseException:  # noqa: BLE001 - the parent sees a truncated answer
        return 1
    return 0


def _received(pipe: int) -> dict[int, R]:
    parts = []
    while part := os.read(pipe, 1 << 20):
        parts.append(part)
    done, value = pickle.loads(b"".join(parts))
    if not done:
        raise value
    return dict(value)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
