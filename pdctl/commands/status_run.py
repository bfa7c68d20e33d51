"""Run `pdctl status`: sample a deployment once or again and again, and show each sample.

Imports rich and the HTTP client late: one sample as JSON needs neither, and scripts poll it.
"""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

import typer

from pdctl.console import ask, can_redraw, err, interactive, out, show
from pdctl.deployment.records import Counts
from pdctl.engines.lifecycle.deployment_key import use_key_of
from pdctl.engines.lifecycle.logs import NO_ENGINES
from pdctl.engines.request_times import log_lines
from pdctl.engines.state import logs_dir, read_state
from pdctl.engines.supervision.recorder import recorded
from pdctl.engines.untuned_kernels import untuned
from pdctl.errors import ExitCode, InvalidInput, PdctlError, StateConflict
from pdctl.status.drift import Expected
from pdctl.status.job_limit import job_clock_of
from pdctl.status.recent_times import RecentTimes
from pdctl.status.records import Advice, DeploymentStatus, Target
from pdctl.status.snapshot import is_well
from pdctl.status.targets import candidates, only_name, source_of_router, source_of_state
from pdctl.status.watch import (
    REMEMBERED_S,
    REPLAYED_S,
    Expect,
    Watch,
    keep_evidence,
    read_evidence,
)
from pdctl.status.what_if_file import keep_what_if, kept_what_if
from pdctl.tables.advice_command import advice_command

LOG_LINES = 100  # more than a terminal is high

if TYPE_CHECKING:
    from rich.console import RenderableType


def open_watch(
    name: str, router: str, metrics_port: int | None, *, is_live: bool
) -> tuple[str, Watch]:
    """The deployment's name, "" for a router pdctl did not start, and a watch on it."""
    expect = _late_expectation(in_background=is_live)
    if router:
        return "", Watch(source_of_router(router, metrics_port), expect=expect)
    name = name or _ask_name()
    use_key_of(name)
    source = source_of_state(name)
    now_s = time.time()
    past = read_evidence(name, now_s - REMEMBERED_S)
    watch = Watch(
        source,
        past,
        expect,
        times=RecentTimes(logs_dir(name), at_once=not is_live),
        notes=_untuned(name),
        job=job_clock_of(name),
    )
    watch.replay(recorded(name, now_s - REPLAYED_S))
    return name, watch


def _late_expectation(*, in_background: bool) -> Expect:
    """Expected step times. Imports what computes them only when a minute of steps is there."""
    made: list[Expect] = []

    def expect(targets: Sequence[Target]) -> Mapping[str, Expected]:
        if not made:
            from pdctl.commands.status_expect import Expectation

            made.append(Expectation(in_background=in_background))
        return made[0](targets)

    return expect


def _ask_name() -> str:
    """The only deployment. Asks which one if there are several and a person can answer."""
    names = candidates()
    if len(names) < 2 or not interactive(no_input=False):
        return only_name()

    def check(name: str) -> None:
        if name not in names:
            raise InvalidInput(f"{name!r} is not one of {', '.join(names)}.")

    question = f"Which deployment ({', '.join(names)})?"
    return ask(question, default=names[0], flag="NAME", no_input=False, check=check)


def close_watch(name: str, watch: Watch) -> None:
    """Close the watch. Keep its samples for the next call if the deployment still exists."""
    watch.close()
    if name and watch.moments and read_state(name) is not None:
        keep_evidence(name, watch.moments, watch.counters())


def show_once(
    name: str, watch: Watch, window_s: float | None, *, as_json: bool, check: bool
) -> None:
    """Show one sample. check: exit with 5 unless everything serves.

    window_s: also replay the requests of this time on other layouts; None: show the last replay.
    """
    if window_s is None:
        sample = _sample(name, watch)
    else:
        sample = _with_what_if(name, _sample(name, watch), window_s)
    _show(sample, as_json=as_json)
    well = sample.verdict == "serving" and all(is_well(engine) for engine in sample.engines)
    if check and not well:
        raise typer.Exit(ExitCode.ENGINE_FAILED)


def _sample(name: str, watch: Watch) -> DeploymentStatus:
    """The next sample, with the last replay that the supervisor or a command has kept."""
    sample = watch.sample()
    if not name:
        return sample
    advice = carried_out(name, sample.advice, sample.layout)
    return dataclasses.replace(sample, what_if=kept_what_if(name), advice=advice)


def carried_out(name: str, advice: Advice, layout: str) -> Advice:
    """The advice; without its change where that takes GPUs that are not there."""
    lacking = _lacking_gpus(name, advice.change, layout) if advice.change else ""
    if not lacking:
        return advice
    why = f"{advice.why}; {lacking.rstrip('.')}"
    return dataclasses.replace(advice, why=why, change=None)


@cache
def _lacking_gpus(name: str, change: Counts, layout: str) -> str:
    """The GPUs that a change lacks; read once for each change of a layout, not for each sample."""
    from pdctl.engines.lifecycle.rescale import lacking_gpus

    return lacking_gpus(name, change)


def _untuned(name: str) -> tuple[str, ...]:
    """Sentences on untuned kernels, from the logs on this machine; none if they are elsewhere."""
    logs = {path.stem: path for path in sorted(logs_dir(name).glob("*.log"))}
    engines = {stem: log_lines(path) for stem, path in logs.items() if stem not in NO_ENGINES}
    try:
        return untuned(engines)
    except PdctlError:  # renamed meanwhile
        return ()


def _with_what_if(name: str, sample: DeploymentStatus, window_s: float) -> DeploymentStatus:
    from pdctl.measurement.live_what_if import live_what_if

    look = live_what_if(name, window_s)
    if isinstance(look, str):
        return dataclasses.replace(sample, what_if=None, what_if_unknown=look)
    keep_what_if(name, look)
    return dataclasses.replace(sample, what_if=look)


def show_live(name: str, watch: Watch, interval_s: float, *, as_json: bool) -> None:
    """Show samples until q, Ctrl-C, or the end of the deployment. name: "" if it is not ours."""
    sample = _sample(name, watch)
    try:
        if as_json or not can_redraw(sys.stdout):
            _print_samples(name, watch, sample, interval_s, as_json=as_json)
        else:
            _draw_samples(name, watch, sample, interval_s)
    except StateConflict:  # it was there at the first sample
        err().print(f"{sample.name} has stopped.")


def _print_samples(
    name: str, watch: Watch, sample: DeploymentStatus, interval_s: float, *, as_json: bool
) -> None:
    from pdctl.commands.command_line.keys import keys

    with keys() as wait:
        while True:
            _show(sample, as_json=as_json)
            if wait(interval_s) == "q":
                return
            sample = _sample(name, watch)


def _draw_samples(name: str, watch: Watch, sample: DeploymentStatus, interval_s: float) -> None:
    from rich.live import Live

    from pdctl.commands.command_line.keys import keys
    from pdctl.tables.status_live import View, live_frame, pressed

    view, due_s = View(), time.monotonic() + interval_s
    with keys() as wait, Live(console=out(), auto_refresh=False) as live:
        while True:
            log = _end_of_log(name, view.chosen) if view.shows_engine else ()
            frame = live_frame(sample, view, out().width, out().height, log)
            live.update(frame.lines, refresh=True)
            key = wait(max(0.0, due_s - time.monotonic()))
            if key == "q":
                return
            view = pressed(frame, key) if key else view
            if time.monotonic() >= due_s:
                due_s = time.monotonic() + interval_s
                sample = sample if view.is_paused else _sample(name, watch)


def _end_of_log(name: str, engine: str) -> tuple[str, ...]:
    """The end of an engine's log; empty where it cannot be read."""
    from pdctl.engines.lifecycle.logs import lines

    try:
        return lines(name, engine, tail=LOG_LINES) if name else ("pdctl does not have its log.",)
    except (PdctlError, OSError) as problem:
        return (str(problem),)


def _show(sample: DeploymentStatus, *, as_json: bool) -> None:
    data = dataclasses.asdict(sample)
    data["advice"]["command"] = advice_command(sample)
    if look := sample.what_if:
        better = look.best.layout if look.best else ""
        data["what_if"] |= {"is_match": look.is_match, "better_layout": better}
    show("status", data, as_json=as_json, render=lambda: _view(sample))
    sys.stdout.flush()


def _view(sample: DeploymentStatus) -> "RenderableType":
    from pdctl.tables.status import status_view

    return status_view(sample, out().width)
