"""Run `pdctl scale`: announce a change, follow it, show its outcome."""

import dataclasses
import sys
import time

from rich.text import Text

from pdctl.commands.progress import say
from pdctl.commands.screens import LineScreen, LiveScreen, Screen
from pdctl.console import err, show
from pdctl.engines.lifecycle.follow import settling
from pdctl.engines.lifecycle.rescale import Rescaled
from pdctl.engines.records import DeploymentState

SAY_EVERY_S = 5.0


def announce(change: Rescaled) -> None:
    """Say which engines change, and why."""
    if not change.is_changed:
        return
    say(f"{change.before} → {change.launch.layout}")
    for sentence in change.changes:
        say(f"  {sentence}")


def wait(change: Rescaled, timeout_s: float) -> DeploymentState | None:
    """Follow the change to its end and return the final state."""
    try:
        return _follow(change, timeout_s)
    except KeyboardInterrupt:
        layout = change.launch.layout
        sys.stderr.write(f"\nthe change to {layout} continues; pdctl status shows it\n")
        raise


def _follow(change: Rescaled, timeout_s: float) -> DeploymentState | None:
    launch, last = change.launch, None
    screen = _open_screen(f"{launch.name} · {launch.layout}")
    try:
        for last in settling(launch.name, revision=launch.revision, timeout_s=timeout_s):
            screen.show(last)
    finally:
        screen.close()
    return last


def _open_screen(headline: str) -> Screen:
    return LiveScreen(headline) if err().is_terminal else _ChangeLines()


class _ChangeLines:
    """Writes phase changes as lines, and every few seconds the progress of draining."""

    def __init__(self) -> None:
        self._changes = LineScreen()
        self._last: DeploymentState | None = None
        self._said_at = time.monotonic()

    def show(self, state: DeploymentState | None) -> None:
        if state is None:
            return
        if self._last is None:
            self._changes = LineScreen(state)  # only later changes are news
        self._changes.show(state)
        self._last = state
        if time.monotonic() - self._said_at >= SAY_EVERY_S:
            self._said_at = time.monotonic()
            say(f"  {state.detail or state.phase}")

    def close(self) -> None:
        return


def show_scale(change: Rescaled, last: DeploymentState | None, *, as_json: bool) -> None:
    """Show the outcome as a sentence or as JSON."""
    layout = last.layout if last else change.launch.layout
    data = {
        "name": change.launch.name,
        "before": change.before,
        "layout": layout,
        "revision": change.launch.revision,
        "changed": change.is_changed,
        "changes": list(change.changes),
        "state": dataclasses.asdict(last) if last else None,
    }
    show("scale", data, as_json=as_json, render=lambda: Text(_outcome(change, last)))


def _outcome(change: Rescaled, last: DeploymentState | None) -> str:
    name, layout = change.launch.name, change.launch.layout
    if not change.is_changed:
        return f"{name} already runs {layout}{' and serves' if last else ''}."
    if last is None:
        return f"{name} is changing to {layout}; pdctl status shows it."
    return f"{name} serves as {last.layout}."
