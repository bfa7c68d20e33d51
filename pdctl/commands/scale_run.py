"""What `scale` shows while a deployment changes, and when it has."""

import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pdctl.commands.up_run import Screen
    from pdctl.engines.records import FleetState
    from pdctl.engines.rescale import Rescaled

SAY_EVERY_S = 5.0


def announce(done: "Rescaled") -> None:
    """What happens to which engine, and why."""
    from pdctl.console import printable

    if not done.is_changed:
        return
    sys.stderr.write(f"{done.before} → {done.launch.layout}\n")
    for sentence in done.changes:
        sys.stderr.write(printable(f"  {sentence}\n"))
    sys.stderr.flush()


def wait(done: "Rescaled", timeout_s: float) -> "FleetState | None":
    """The state in which it is done, progress shown meanwhile."""
    try:
        return _watched(done, timeout_s)
    except KeyboardInterrupt:
        layout = done.launch.layout
        sys.stderr.write(f"\nthe change to {layout} goes on; pdctl status shows it\n")
        raise


def _watched(done: "Rescaled", timeout_s: float) -> "FleetState | None":
    from pdctl.engines.settle import settling

    launch, last = done.launch, None
    screen = _screen(f"{launch.name} · {launch.layout}")
    try:
        for last in settling(launch.name, revision=launch.revision, timeout_s=timeout_s):
            screen.show(last)
    finally:
        screen.close()
    return last


def show(done: "Rescaled", last: "FleetState | None", *, as_json: bool) -> None:
    """The outcome, for a person or a program."""
    import dataclasses

    from rich.text import Text

    from pdctl import console

    layout = last.layout if last else done.launch.layout
    data = {
        "name": done.launch.name,
        "before": done.before,
        "layout": layout,
        "revision": done.launch.revision,
        "changed": done.is_changed,
        "changes": list(done.changes),
        "state": dataclasses.asdict(last) if last else None,
    }
    console.show("scale", data, as_json=as_json, render=lambda: Text(_words(done, last)))


def _words(done: "Rescaled", last: "FleetState | None") -> str:
    name = done.launch.name
    if not done.is_changed:
        serves = "and serves" if last else "already"
        return f"{name} is {done.launch.layout} {serves}."
    if last is None:
        return f"{name} is becoming {done.launch.layout}; pdctl status shows it."
    return f"{name} serves as {last.layout}."


class _Lines:
    """Changes of phase as lines, and every few seconds what is still draining."""

    def __init__(self) -> None:
        from pdctl.commands.up_run import LineScreen

        self._changes = LineScreen()
        self._last: FleetState | None = None
        self._said_at = time.monotonic()

    def show(self, state: "FleetState | None") -> None:
        if state is None:
            return
        if self._last is None:
            self._changes = type(self._changes)(state)  # only what changes from here on
        self._changes.show(state)
        self._last = state
        if time.monotonic() - self._said_at >= SAY_EVERY_S:
            self._said_at = time.monotonic()
            sys.stderr.write(f"  {state.detail or state.phase}\n")
            sys.stderr.flush()

    def close(self) -> None:
        return


def _screen(words: str) -> "Screen":
    from pdctl.commands.up_run import LiveScreen
    from pdctl.console import err

    return LiveScreen(words) if err().is_terminal else _Lines()
