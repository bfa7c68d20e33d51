"""Questions in threads."""

import threading
import time
from collections.abc import Callable

from pdctl.engines.probes import Probes


def nothing() -> None:
    return


def take_until(probes: Probes, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "no answer came"
        probes.take_answers()
        time.sleep(0.001)


def test_an_answer_is_handed_over_in_the_thread_that_takes_it() -> None:
    woken = threading.Event()
    probes = Probes(woken.set)
    seen: list[tuple[int, int]] = []
    probes.ask(
        ("a",),
        threading.get_ident,
        lambda ident: seen.append((ident, threading.get_ident())),
        now=0.0,
        every_s=1.0,
    )
    assert woken.wait(10)
    take_until(probes, lambda: bool(seen))
    asked_in, taken_in = seen[0]
    assert asked_in != threading.get_ident() == taken_in


def test_a_key_is_asked_again_only_after_its_answer_and_its_time() -> None:
    probes = Probes(nothing)
    may_answer = threading.Event()
    seen: list[float] = []

    def ask(now: float) -> None:
        probes.ask(
            ("a",), lambda: may_answer.wait(10), lambda _: seen.append(now), now=now, every_s=1
        )

    ask(0.0)
    ask(5.0)  # the first has not been answered
    may_answer.set()
    take_until(probes, lambda: seen == [0.0])
    ask(0.5)  # too early
    ask(6.0)
    take_until(probes, lambda: seen == [0.0, 6.0])


def test_a_slow_answer_does_not_keep_others_waiting() -> None:
    probes = Probes(nothing)
    may_answer = threading.Event()
    seen: list[str] = []
    probes.ask(
        ("slow",), lambda: may_answer.wait(10), lambda _: seen.append("slow"), now=0, every_s=1
    )
    for name in ("a", "b", "c"):
        probes.ask((name,), nothing, lambda _, name=name: seen.append(name), now=0, every_s=1)  # type: ignore[misc]
    take_until(probes, lambda: len(seen) == 3)
    assert "slow" not in seen
    may_answer.set()
    take_until(probes, lambda: "slow" in seen)
