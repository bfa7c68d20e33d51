"""What `calibrate` does: find or start an engine, measure it, fit, keep the profile."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from pdctl.commands.calibrate_wish import Wish, cluster_of, command_line, kept, step_log
from pdctl.errors import ExitCode, InvalidInput

if TYPE_CHECKING:
    from pdctl.deployment.records import Deployment
    from pdctl.measurement.calibrate import Progress
    from pdctl.measurement.calibrated import Calibration


def run(wish: Wish, *, as_json: bool) -> None:
    """Calibrate, show what came of it, and exit 3 where it is not to be believed."""
    import dataclasses

    from pdctl.console import out, print_json
    from pdctl.tables.calibrate import calibration_view, where_lines

    _check(wish)
    found = _calibration(wish)
    if as_json:
        status = "ok" if found.file else "no"
        print_json("calibrate", _plain(dataclasses.asdict(found)), status=status)
    else:
        out().print(calibration_view(found))
        for line in where_lines(found):
            typer.echo(line)
    if found.file is None:
        raise typer.Exit(ExitCode.ANSWER_IS_NO)


def _calibration(wish: Wish) -> "Calibration":
    if wish.from_urls or wish.from_logs:
        from pdctl.commands.calibrate_from import watched

        found = watched(wish)
        with step_log(wish.steps) as keep:
            for step in found.profile.measurements:
                keep(step)
        return found
    if wish.urls:
        return _measured(wish, wish.urls, clock_rate=wish.sim_speed)
    from pdctl.commands.starting import starting
    from pdctl.engines.session import serving

    deployment = _deployment(wish)
    with serving(deployment, ready_timeout_s=wish.timeout_s, tell=starting()) as state:
        urls = [p.url for p in state.processes if p.role != "router"]
        return _measured(wish, urls, clock_rate=deployment.sim_speed)


def _deployment(wish: Wish) -> "Deployment":
    """One engine; or with --transfer one of each role."""
    from pdctl.commands.chosen import Options, choose
    from pdctl.engines.private import private

    tp, pp, dp, ep = wish.sizes
    options = Options(
        model=wish.model,
        prefill=1 if wish.transfer else 0,
        total=2 if wish.transfer else 1,
        engine=wish.engine,
        gpus=wish.gpus or None,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        args=wish.args or None,
        decode_args=wish.decode_args or None,
        transfer_backend=wish.transfer_backend,
        python=wish.python,
        sim_speed=wish.sim_speed,
        no_input=True,
    )
    return private(choose(options), "calibrate")


def _measured(
    wish: Wish, urls: "list[str] | tuple[str, ...]", *, clock_rate: float
) -> "Calibration":
    """Measure what answers at these addresses."""
    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.calibrate_engines import calibrate_engines, facts_of
    from pdctl.perf_model.profiles import named_profile

    earlier = named_profile(wish.earlier) if wish.earlier else None
    facts = asyncio.run(facts_of(urls))
    llm = read_llm(wish.model or facts[0].model)
    cluster = cluster_of(wish.gpus, facts[0])
    with progress() as tell, step_log(wish.steps) as keep:
        found = asyncio.run(
            calibrate_engines(
                facts,
                llm,
                cluster,
                budget_s=wish.budget_s,
                clock_rate=clock_rate,
                command=command_line(),
                earlier=earlier,
                tell=tell,
                keep=keep,
            )
        )
    return kept(found, wish.output)


@contextmanager
def progress() -> "Iterator[Callable[[Progress], None]]":
    """Says on stderr what is measured now; on a terminal in one line."""
    from pdctl.tables.calibrate import progress_line

    is_terminal = sys.stderr.isatty()
    said = [-1e9]

    def tell(now: "Progress") -> None:
        if is_terminal:
            sys.stderr.write(f"\r\x1b[2K{progress_line(now)}")
            sys.stderr.flush()
        elif now.elapsed_s - said[0] >= 10:
            said[0] = now.elapsed_s
            sys.stderr.write(f"{progress_line(now)}\n")

    try:
        yield tell
    finally:
        if is_terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


def _check(wish: Wish) -> None:
    ways = [bool(wish.urls), bool(wish.from_urls), bool(wish.from_logs)]
    if sum(ways) > 1:
        raise InvalidInput(
            "--url, --from and --from-logs exclude one another.", hint="choose one of them"
        )
    if not wish.model and not any((wish.urls, wish.from_urls)):
        raise InvalidInput(
            "No model is given.", hint="pdctl calibrate MODEL --tp 1", code="no_model"
        )
    if wish.output is not None and wish.output.exists():
        raise InvalidInput(
            f"{wish.output} is there already and was left as it is.", hint="-o another file"
        )


def _plain(value: object) -> object:
    """Without the measurements: they are in the file."""
    if isinstance(value, dict):
        profile = value.get("profile")
        if isinstance(profile, dict):
            value["profile"] = {
                k: v for k, v in profile.items() if k not in ("measurements", "residuals")
            }
    return value
