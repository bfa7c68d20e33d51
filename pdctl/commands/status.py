"""`pdctl status`: what every engine does now, whether that is healthy, and what to change."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pdctl.status.records import FleetStatus
    from pdctl.status.watch import Watch

EXAMPLES = """\b
Examples:
  pdctl status
  pdctl status --once --json
  pdctl status --router http://host:30000
"""


def status(
    name: str = typer.Argument("", help="Deployment; the only one if left out."),
    watch: bool = typer.Option(False, "--watch", "-w", help="Sample again and again."),
    once: bool = typer.Option(False, "--once", help="One sample, also on a terminal."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object per sample."),
    check: bool = typer.Option(False, "--check", help="One sample; exit 5 unless all is well."),
    router: str = typer.Option("", "--router", help="URL of a router that pdctl did not start."),
    metrics_port: int = typer.Option(
        None, "--metrics-port", min=1, max=65535, help="With --router: its Prometheus port."
    ),
    interval: str = typer.Option("1s", "--interval", help="Between samples."),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="Holds the API key; else PDCTL_API_KEY, or its engines' own."
    ),
) -> None:
    import sys

    from pdctl.engines.api_key import use_key_file
    from pdctl.errors import InvalidInput
    from pdctl.units import parse_duration_s

    if watch and (once or check):
        raise InvalidInput("--watch excludes --once and --check.", hint="pdctl status --watch")
    if router and name:
        raise InvalidInput("--router excludes a NAME.", hint=f"pdctl status --router {router}")
    interval_s = max(0.2, parse_duration_s(interval, flag="--interval"))
    use_key_file(api_key_file)
    is_live = watch or (sys.stdout.isatty() and not (once or as_json or check))
    name, one = _watch(name, router, metrics_port, is_live=is_live)
    try:
        if is_live:
            _live(one, interval_s, as_json=as_json)
        else:
            _once(one, as_json=as_json, check=check)
    finally:
        one.close()
        _keep(name, one)


status.__doc__ = f"""Show every engine's queues, live on a terminal, and what to change.

{EXAMPLES}"""


def _watch(
    name: str, router: str, metrics_port: int | None, *, is_live: bool
) -> "tuple[str, Watch]":
    import time

    from pdctl.engines.key_of_run import use_key_of
    from pdctl.status.evidence import read_evidence
    from pdctl.status.sources import source_of_router, source_of_state
    from pdctl.status.watch import REMEMBERED_S, Watch

    expect = None
    if is_live:  # one sample sees no minute of steps
        from pdctl.commands.status_expect import Expectation

        expect = Expectation()
    if router:
        return "", Watch(source_of_router(router, metrics_port), expect=expect)
    name = name or _meant()
    use_key_of(name)
    source = source_of_state(name)
    past = read_evidence(name, time.time() - REMEMBERED_S)
    return name, Watch(source, past, expect)


def _meant() -> str:
    """The deployment of a bare `status`: the only one, else the one a person names."""
    from pdctl.console import ask, interactive
    from pdctl.status.sources import candidates, only_name

    names = candidates()
    if len(names) < 2 or not interactive(no_input=False):
        return only_name()
    question = f"Which deployment ({', '.join(names)})?"
    return ask(question, default=names[0], flag="NAME", no_input=False)


def _keep(name: str, one: "Watch") -> None:
    from pdctl.engines.state import read_state
    from pdctl.status.evidence import keep_evidence

    if name and one.moments and read_state(name) is not None:
        keep_evidence(name, one.moments, one.counters())


def _once(one: "Watch", *, as_json: bool, check: bool) -> None:
    from pdctl.console import out, show
    from pdctl.errors import ExitCode
    from pdctl.status.snapshot import is_well
    from pdctl.tables.status import status_view

    sample = one.sample()
    show("status", _data(sample), as_json=as_json, render=lambda: status_view(sample, out().width))
    well = sample.verdict == "serving" and all(is_well(engine) for engine in sample.engines)
    if check and not well:
        raise typer.Exit(ExitCode.ENGINE_FAILED)


def _view(sample: "FleetStatus") -> "RenderableType":
    from pdctl.console import out
    from pdctl.tables.status import status_view

    return status_view(sample, out().width)


def _live(one: "Watch", interval_s: float, *, as_json: bool) -> None:
    """Until q, Ctrl-C, or the deployment is gone."""
    from pdctl.console import err, out
    from pdctl.errors import StateConflict

    sample = one.sample()
    try:
        if as_json or not out().is_terminal:
            _as_lines(one, sample, interval_s, as_json=as_json)
        else:
            _in_place(one, sample, interval_s)
    except StateConflict:  # it was there at the first sample
        err().print(f"{sample.name} was stopped.")


def _as_lines(one: "Watch", sample: "FleetStatus", interval_s: float, *, as_json: bool) -> None:
    import sys

    from pdctl.commands.keys import keys
    from pdctl.console import show

    with keys() as wait:
        while True:
            show("status", _data(sample), as_json=as_json, render=partial(_view, sample))
            sys.stdout.flush()
            if wait(interval_s) == "q":
                return
            sample = one.sample()


def _in_place(one: "Watch", sample: "FleetStatus", interval_s: float) -> None:
    from rich.live import Live

    from pdctl.commands.keys import keys
    from pdctl.console import out

    with keys() as wait, Live(console=out(), auto_refresh=False) as live:
        while True:
            live.update(_view(sample), refresh=True)
            if wait(interval_s) == "q":
                return
            sample = one.sample()


def _data(sample: "FleetStatus") -> object:
    import dataclasses

    return dataclasses.asdict(sample)
