"""`pdctl status`: what every engine does now, whether that is healthy, and what to change."""

import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdctl.perf_model.records import Role

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pdctl.measurement.calibration.engine_client import EngineFacts
    from pdctl.status.drift import Expected
    from pdctl.status.records import DeploymentStatus, Target
    from pdctl.status.watch import Watch


REFRESH_S = 120.0  # an engine is asked again: it may answer now, or have a new profile

Engine = tuple[str, Role]


class Expectation:
    """Asks each engine for what it is, in the background, and again from time to time.

    Empty until they have answered; engines without a measured profile are left out.
    """

    def __init__(self) -> None:
        self._asked_at: dict[Engine, float] = {}
        self._found: dict[Engine, Expected | None] = {}

    def __call__(self, targets: "Sequence[Target]") -> "Mapping[str, Expected]":
        engines = [(target.url, target.role) for target in targets]
        now = time.monotonic()
        due = [e for e in engines if now - self._asked_at.get(e, -REFRESH_S) >= REFRESH_S]
        if due:
            self._asked_at |= dict.fromkeys(due, now)
            threading.Thread(target=self._look, args=(due,), daemon=True).start()
        return {e[0]: found for e in engines if (found := self._found.get(e)) is not None}

    def _look(self, engines: Sequence[Engine]) -> None:
        import asyncio

        from pdctl.errors import PdctlError
        from pdctl.measurement.calibration.engines import facts_of

        for engine in engines:
            try:
                (facts,) = asyncio.run(facts_of([engine[0]]))
                found = _expected(facts) if facts.role == engine[1] else None
            except PdctlError:  # it does not answer, or its model or GPU is one nobody knows
                found = None
            self._found[engine] = found


def _expected(facts: "EngineFacts") -> "Expected | None":
    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.prediction import cluster_behind, predicted_engine, profile_for
    from pdctl.perf_model.fitting.profiles import error_band
    from pdctl.status.drift import Expected

    llm, cluster = read_llm(facts.model), cluster_behind("", facts)
    profile = profile_for(facts, llm, cluster) if cluster else None
    if cluster is None or profile is None:
        return None
    model = predicted_engine(facts, llm, cluster, profile)
    return Expected(
        role=facts.role,
        profile=profile.id,
        times=model.times,
        chunk=model.chunked_prefill_size,
        kv_tokens=model.kv_capacity_tokens,
        dp=model.parallelism.dp,
        band=error_band(profile, llm),
    )


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

    from pdctl.engines.clients.api_key import use_key_file
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

    from pdctl.engines.lifecycle.deployment_key import use_key_of
    from pdctl.status.targets import source_of_router, source_of_state
    from pdctl.status.watch import REMEMBERED_S, Watch, read_evidence

    expect = None
    if is_live:  # one sample sees no minute of steps
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
    from pdctl.status.targets import candidates, only_name

    names = candidates()
    if len(names) < 2 or not interactive(no_input=False):
        return only_name()
    question = f"Which deployment ({', '.join(names)})?"
    return ask(question, default=names[0], flag="NAME", no_input=False)


def _keep(name: str, one: "Watch") -> None:
    from pdctl.engines.state import read_state
    from pdctl.status.watch import keep_evidence

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


def _view(sample: "DeploymentStatus") -> "RenderableType":
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


def _as_lines(
    one: "Watch", sample: "DeploymentStatus", interval_s: float, *, as_json: bool
) -> None:
    import sys

    from pdctl.commands.screens import keys
    from pdctl.console import show

    with keys() as wait:
        while True:
            show("status", _data(sample), as_json=as_json, render=partial(_view, sample))
            sys.stdout.flush()
            if wait(interval_s) == "q":
                return
            sample = one.sample()


def _in_place(one: "Watch", sample: "DeploymentStatus", interval_s: float) -> None:
    from rich.live import Live

    from pdctl.commands.screens import keys
    from pdctl.console import out

    with keys() as wait, Live(console=out(), auto_refresh=False) as live:
        while True:
            live.update(_view(sample), refresh=True)
            if wait(interval_s) == "q":
                return
            sample = one.sample()


def _data(sample: "DeploymentStatus") -> object:
    import dataclasses

    return dataclasses.asdict(sample)
