"""Read what a supervisor did from its events: starts, scales, role switches, restarts. Pure.

An operation begins and ends; those of engines are parts of the deployment's one that is open.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pdctl.engines.records import Event

_REFUSED = "not_switched"


@dataclass(frozen=True)
class Begin:
    """An operation begins. key: of no other operation that is open. parent: "" at the top."""

    key: str
    name: str
    at_s: float
    parent: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class End:
    """An operation ends. problem: why it failed; "" if it did not."""

    key: str
    at_s: float
    problem: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)


Mark = Begin | End
WHOLE = "deployment"  # the key of start, scale and stop of a whole deployment


class Operations:
    """The operations of one deployment, from its events in order."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._crashed: dict[str, str] = {}  # engine -> how it ended

    def take(self, event: Event) -> Iterator[Mark]:
        """The operations that begin or end with an event."""
        at_s, name = event.at, event.process
        if not name:
            yield from self._of_deployment(event)
        elif event.event == "start":
            if not self._open and name not in self._crashed:
                yield self._begin(WHOLE, "start", at_s)
            yield from self._started(name, at_s)
        elif event.event == "deregister":
            yield self._begin(name, f"stop {name}", at_s, engine=name, why=event.text)
        elif event.event == "switched":
            yield from self._switched(event)
        elif event.event == _REFUSED:
            yield from self._end(name, at_s, event.text)
        elif event.event == "crash":
            self._crashed[name] = event.text
            yield from self._end(name, at_s, event.text)
        elif event.event == "give_up":
            yield from self._end(name, at_s, event.text)
        elif event.event in ("serving", "ended") or (event.event, name) == ("ready", "router"):
            yield from self._end(name, at_s)

    def _of_deployment(self, event: Event) -> Iterator[Mark]:
        at_s = event.at
        if event.event in ("serving", "settled"):
            yield from self._end(WHOLE, at_s)
        elif event.event in ("fail", "over"):
            for key in sorted(self._open - {WHOLE}):
                yield from self._end(key, at_s)
            yield from self._end(WHOLE, at_s, event.text if event.event == "fail" else "")
        elif event.event == "stop":
            yield self._begin(WHOLE, "stop", at_s, why=event.text)
        elif event.event == "desired" and WHOLE not in self._open:
            yield self._begin(WHOLE, "scale", at_s, layout=event.text)

    def _started(self, name: str, at_s: float) -> Iterator[Mark]:
        crash = self._crashed.pop(name, "")
        verb = "restart" if crash else "start"
        yield from self._end(name, at_s)
        yield self._begin(name, f"{verb} {name}", at_s, engine=name, after=crash)

    def _switched(self, event: Event) -> Iterator[Mark]:
        """The stop of the old role was the first part of a switch, and the new one still ends."""
        before = event.text.removeprefix("was ").split(";")[0]
        yield from self._end(before, event.at, becomes=event.process)
        name = f"switch {before} to {event.process}"
        yield self._begin(event.process, name, event.at, engine=event.process, before=before)

    def _begin(self, key: str, name: str, at_s: float, **attributes: str) -> Begin:
        parent = WHOLE if key != WHOLE and WHOLE in self._open else ""
        self._open.add(key)
        return Begin(key, name, at_s, parent, {k: v for k, v in attributes.items() if v})

    def _end(self, key: str, at_s: float, problem: str = "", **attributes: str) -> Iterator[End]:
        if key in self._open:
            self._open.remove(key)
            yield End(key, at_s, problem, attributes)
