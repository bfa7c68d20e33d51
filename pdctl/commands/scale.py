"""`pdctl scale`: other numbers of engines for a running deployment, without losing a request."""

import sys
import time
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pdctl.commands.screens import Screen
    from pdctl.engines.lifecycle.rescale import Rescaled
    from pdctl.engines.records import DeploymentState


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


def wait(done: "Rescaled", timeout_s: float) -> "DeploymentState | None":
    """The state in which it is done, progress shown meanwhile."""
    try:
        return _watched(done, timeout_s)
    except KeyboardInterrupt:
        layout = done.launch.layout
        sys.stderr.write(f"\nthe change to {layout} goes on; pdctl status shows it\n")
        raise


def _watched(done: "Rescaled", timeout_s: float) -> "DeploymentState | None":
    from pdctl.engines.lifecycle.follow import settling

    launch, last = done.launch, None
    screen = _screen(f"{launch.name} · {launch.layout}")
    try:
        for last in settling(launch.name, revision=launch.revision, timeout_s=timeout_s):
            screen.show(last)
    finally:
        screen.close()
    return last


def show_scale(done: "Rescaled", last: "DeploymentState | None", *, as_json: bool) -> None:
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


def _words(done: "Rescaled", last: "DeploymentState | None") -> str:
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
        from pdctl.commands.screens import LineScreen

        self._changes = LineScreen()
        self._last: DeploymentState | None = None
        self._said_at = time.monotonic()

    def show(self, state: "DeploymentState | None") -> None:
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
    from pdctl.commands.screens import LiveScreen
    from pdctl.console import err

    return LiveScreen(words) if err().is_terminal else _Lines()


def scale(
    name: str | None = typer.Argument(None, help="Of the deployment; not needed if one runs."),
    prefill: int | None = typer.Option(
        None, "--prefill", help="Prefill engines; alone: the total stays, decode gives or takes."
    ),
    decode: int | None = typer.Option(
        None, "--decode", help="Decode engines; alone: the total stays, prefill gives or takes."
    ),
    total: int | None = typer.Option(
        None, "--total", help="Engines in all; alone: the ratio of the roles stays."
    ),
    no_wait: bool = typer.Option(False, "--no-wait", help="Return at once; it happens anyway."),
    timeout: str = typer.Option("30min", "--timeout", help="How long to wait until it is done."),
    drain: str | None = typer.Option(
        None, "--drain", help="How long requests of a leaving engine may take. Usual: 60s."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object when it is done."),
) -> None:
    """Add, remove and move engines of a running deployment under load.

    A new engine serves before an old one leaves; an old one leaves the router, finishes its
    requests and ends. Ctrl-C stops the waiting, not the change.

    \b
    Examples:
      pdctl scale --prefill 3
      pdctl scale chat --total 10
    """
    from pdctl.deployment.build import Counts
    from pdctl.engines.lifecycle import rescale, running
    from pdctl.units import parse_duration_s

    timeout_s = parse_duration_s(timeout, flag="--timeout")
    drain_s = None if drain is None else parse_duration_s(drain, flag="--drain")
    chosen = running.chosen_name(name)
    done = rescale.rescale(chosen, Counts(prefill, decode, total), drain_s=drain_s)
    announce(done)
    last = None if no_wait else wait(done, timeout_s)
    show_scale(done, last, as_json=as_json)
