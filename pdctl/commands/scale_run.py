"""Run `pdctl scale`: announce a change, follow it, show its outcome."""

import dataclasses
import sys
import time

from rich.text import Text

from pdctl.commands.progress import progress_line, say
from pdctl.commands.screens import LineScreen, LiveScreen, Screen
from pdctl.console import can_redraw, command_width, show
from pdctl.deployment.build import counts_of
from pdctl.deployment.records import Counts
from pdctl.engines.lifecycle.deployment_key import use_key_of
from pdctl.engines.lifecycle.follow import settling
from pdctl.engines.lifecycle.rescale import Rescaled, preview
from pdctl.engines.lifecycle.running import find, router_policy
from pdctl.engines.records import DeploymentState
from pdctl.measurement.scale_effect import ScaleEffect, scale_effect
from pdctl.status.targets import targets_of_state
from pdctl.text_lines import wrapped
from pdctl.units import format_rate, format_seconds

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
        say(f"\nthe change to {layout} continues; pdctl status shows it")
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
    return LiveScreen(headline) if can_redraw(sys.stderr) else _ChangeLines()


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
    data = {
        **_data(change),
        "layout": last.layout if last else change.launch.layout,
        "state": dataclasses.asdict(last) if last else None,
    }
    show("scale", data, as_json=as_json, render=lambda: Text(_outcome(change, last)))


def _data(change: Rescaled) -> dict[str, object]:
    return {
        "name": change.launch.name,
        "before": change.before,
        "layout": change.launch.layout,
        "revision": change.launch.revision,
        "changed": change.is_changed,
        "changes": list(change.changes),
        "state": None,
        "dry_run": False,
        "effect": None,
        "effect_unknown": "",
    }


def _outcome(change: Rescaled, last: DeploymentState | None) -> str:
    name, layout = change.launch.name, change.launch.layout
    if not change.is_changed:
        return f"{name} already runs {layout}{' and serves' if last else ''}."
    if last is None:
        return f"{name} is changing to {layout}; pdctl status shows it."
    return f"{name} serves as {last.layout}."


# --- dry run ---


def show_dry_run(name: str, counts: Counts, *, window_s: float, as_json: bool) -> None:
    """Show what a change would do to the engines and, as predicted, to the latencies."""
    change = preview(name, counts)
    effect = _effect(change, window_s) if change.is_changed else "Nothing changes."
    is_known = isinstance(effect, ScaleEffect)
    data = {
        **_data(change),
        "dry_run": True,
        "effect": dataclasses.asdict(effect) if isinstance(effect, ScaleEffect) else None,
        "effect_unknown": "" if is_known else effect,
    }
    text = "\n".join(_dry_lines(change, effect))
    show("scale", data, as_json=as_json, render=lambda: Text(wrapped(text, command_width())))


def _effect(change: Rescaled, window_s: float) -> ScaleEffect | str:
    state = find(change.launch.name)
    layout = counts_of(change.launch.layout)
    counts = (layout.total or 0, layout.prefill or 0, layout.decode or 0)
    use_key_of(state.name)
    with progress_line() as progress:
        return scale_effect(
            targets_of_state(state),
            counts,
            policy=router_policy(state.endpoint),
            watch_s=window_s,
            tell=lambda at_s: progress(f"watching the traffic · {at_s:.0f} s of {window_s:.0f} s"),
        )


def _dry_lines(change: Rescaled, effect: ScaleEffect | str) -> list[str]:
    if not change.is_changed:
        return [_outcome(change, None)]
    lines = [f"{change.launch.name}: {change.before} → {change.launch.layout} (dry run)"]
    lines += [f"  {sentence}" for sentence in change.changes]
    return [*lines, f"  {effect_line(effect)}"]


def effect_line(effect: ScaleEffect | str) -> str:
    """At 3.4 req/s: TTFT p99 1.9 s → 0.7 s, TPOT p99 22 ms → 25 ms (predicted, roofline)."""
    if isinstance(effect, str):
        return f"Effect unknown. {effect}"
    before, after = effect.before, effect.after
    ttft = f"{format_seconds(before.ttft_p99_s)} → {format_seconds(after.ttft_p99_s)}"
    tpot = f"{format_seconds(before.tpot_p99_s)} → {format_seconds(after.tpot_p99_s)}"
    return (
        f"At {format_rate(effect.rate_rps)} req/s: TTFT p99 {ttft}, TPOT p99 {tpot} "
        f"(predicted, {effect.basis})."
    )
