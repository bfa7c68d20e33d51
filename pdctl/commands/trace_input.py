"""Read the workload given to a verb: a trace, or clients in a closed loop."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from pdctl.errors import InvalidInput
from pdctl.units import positive

if TYPE_CHECKING:
    from pdctl.workload.records import Trace, Workload

MOST_CLIENTS = 50_000  # each sends at least three requests to every layout that is simulated


def read_given_trace(
    path: Path,
    *,
    time_unit: str = "",
    skip_bad: bool = False,
    osl: int | None = None,
    no_input: bool,
) -> "Trace":
    """Read a trace, and ask for the unit of its times if two units are possible.

    time_unit: the value of --time-unit. osl: output tokens of requests that give none.
    Raises InvalidInput as read_trace does, and TwoUnits if it cannot ask.
    """
    from pdctl.console import ask, interactive
    from pdctl.workload.time_units import TwoUnits, parse_time_unit
    from pdctl.workload.traces import read_trace

    unit = parse_time_unit(time_unit)
    try:
        return read_trace(path, skip_bad=skip_bad, time_unit=unit, osl=osl)
    except TwoUnits as doubt:
        if not interactive(no_input=no_input):
            raise
        answer = ask(
            f"{doubt.message} Which unit?",
            default=doubt.readings[0].unit,
            flag="--time-unit",
            no_input=False,
            check=parse_time_unit,
        )
    return read_trace(path, skip_bad=skip_bad, time_unit=parse_time_unit(answer), osl=osl)


def say_workload(workload: "Workload") -> None:
    """Print one line on stderr: how requests were read from a trace, or how they are drawn."""
    from pdctl.commands.progress import say
    from pdctl.workload.describe import drawn_line, read_line

    line = read_line(workload.trace) if workload.trace else drawn_line(workload)
    if line:
        say(f"  {line}")


def clients_given(concurrency: float | None) -> float | None:
    """The number of clients in a closed loop, or None."""
    if concurrency is None:
        return None
    clients = positive(concurrency, flag="--concurrency")
    if clients != int(clients) or clients > MOST_CLIENTS:
        raise InvalidInput(
            f"--concurrency must be a whole number up to {MOST_CLIENTS:,}, not {clients:,g}.",
            hint=f"--concurrency {min(math.ceil(clients), MOST_CLIENTS)}",
        )
    return clients
