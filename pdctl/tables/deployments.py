"""Screens of `up`, `ls` and `doctor`: processes that start, deployments that run, and checks."""

import json
import shlex
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pdctl.doctor.records import Check, CheckOutcome
from pdctl.engines.records import DeploymentState, Phase, ProcessState
from pdctl.text_lines import shell_lines, wrapped
from pdctl.units import format_seconds, format_share

OUTCOME_MARKS: dict[CheckOutcome, tuple[str, str]] = {
    "fail": ("✗", "red"),
    "warn": ("▲", "yellow"),
    "unknown": ("?", "dim"),
    "pass": ("●", "green"),
}
LS_COLOURS = {"serving": "green", "failed": "red", "degraded": "red", "stopped": "dim"}
PHASE_MARKS: dict[Phase, tuple[str, str]] = {
    "starting": ("◌", "yellow"),
    "loading": ("◐", "yellow"),
    "registering": ("◕", "yellow"),
    "serving": ("●", "green"),
    "draining": ("◔", "yellow"),
    "stopped": ("○", "dim"),
    "backoff": ("↻", "red"),
    "failed": ("✗", "red"),
}
_BAR_CELLS = 16
_OTHER_LINES = 6  # of a screen of `up`, beside its processes
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def doctor_view(checks: Sequence[Check]) -> RenderableType:
    """Screen of `doctor`: machines, then deployments; faults before passed checks."""
    parts: list[RenderableType] = []
    ordered = in_shown_order(checks)
    for name in dict.fromkeys(check.subject for check in ordered):
        own = [check for check in ordered if check.subject == name]
        parts += [Text(name or "this machine", style="bold"), _rows(own), Text()]
    return Group(*parts, Text(doctor_summary(checks)))


def in_shown_order(checks: Iterable[Check]) -> list[Check]:
    """Machine after machine, then each deployment; faults before passed checks."""
    order, found = list(OUTCOME_MARKS), list(checks)
    subjects = list(dict.fromkeys(check.subject for check in found))
    return sorted(found, key=lambda c: (subjects.index(c.subject), order.index(c.outcome)))


def doctor_summary(checks: Iterable[Check]) -> str:
    """2 fail, 1 warn, 24 pass."""
    outcomes = [check.outcome for check in checks]
    words = {"fail": "fail", "warn": "warn", "unknown": "unknown", "pass": "pass"}
    counted = ((outcomes.count(outcome), words[outcome]) for outcome in OUTCOME_MARKS)
    return ", ".join(f"{num} {word}" for num, word in counted if num) or "nothing was checked"


def _rows(checks: Sequence[Check]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mark, colour = OUTCOME_MARKS[check.outcome]
        is_well = check.outcome == "pass"
        table.add_row(
            Text(f"  {mark}", style=colour),
            Text(_clean(check.text), style="dim" if is_well else ""),
        )
        if check.fix and not is_well:
            table.add_row("", Text(f"fix  {_clean(_fix(check))}", style="cyan"))
    return table


def _fix(check: Check) -> str:
    return f"{check.fix}   ({check.source})" if check.source else check.fix


def _clean(text: str) -> str:
    return "".join(c for c in text if c.isprintable())


def ls_view(states: Sequence[DeploymentState], now: float, width: int = 100) -> RenderableType:
    """Screen of `ls`: one row per deployment, or two lines where `width` is too small for that.

    now: Unix seconds.
    """
    if not states:
        return Text("No deployment is running. pdctl up starts one.")
    table = ls_table(states, now)
    columns = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    needed = sum(max(map(len, cells)) + 3 for cells in columns) - 3
    return table if needed <= width else _stacked(states, now)


def _stacked(states: Sequence[DeploymentState], now: float) -> RenderableType:
    """Two lines per deployment: what it is called and does, then what and where it serves."""
    parts: list[RenderableType] = []
    for state in states:
        head = Text(state.name, style="bold")
        head.append(f"  {_phase(state)}", style=LS_COLOURS.get(state.phase, "yellow"))
        head.append(f"  {state.layout}  {_up_for(state, now)}", style="not bold")
        parts += [head, Text(f"  {state.model}  {state.endpoint}", overflow="fold")]
    return Group(*parts)


def _up_for(state: DeploymentState, now: float) -> str:
    started = min((p.started_at for p in state.processes if p.started_at), default=None)
    return format_seconds(None if started is None else now - started)


def ls_table(states: Sequence[DeploymentState], now: float) -> Table:
    """The table of `ls`, also without any row."""
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False)
    for column in ("NAME", "STATE", "LAYOUT", "MODEL", "ENDPOINT", "UP FOR"):
        table.add_column(column, no_wrap=column not in ("MODEL", "STATE"), overflow="fold")
    for state in states:
        table.add_row(
            state.name,
            Text(_phase(state), style=LS_COLOURS.get(state.phase, "yellow")),
            state.layout,
            state.model,
            state.endpoint,
            _up_for(state, now),
        )
    return table


def _phase(state: DeploymentState) -> str:
    tells = state.phase in ("scaling", "degraded")
    return f"{state.phase}: {state.detail}" if tells else state.phase


def up_view(
    headline: str, state: DeploymentState | None, now: float, height: int | None = None
) -> RenderableType:
    """Screen of a deployment that starts or stops. now: Unix seconds.

    Where the processes take more than `height` lines, the ones that do not serve come first, and
    the last line counts the others.
    """
    head = [Text(f"  {headline}", style="bold")] if headline else []
    parts: list[RenderableType] = [*head, Text()]
    if state is None:
        return Group(*parts, Text("  starting the supervisor"))
    room = len(state.processes) if height is None else max(1, height - _OTHER_LINES)
    if room < len(state.processes):
        shown = sorted(state.processes, key=lambda p: p.phase == "serving")
        parts.append(_processes(shown[:room], now))
        parts.append(Text(f"  {_counted(shown[room:])}", style="dim"))
    else:
        parts.append(_processes(state.processes, now))
    if state.phase in ("stopping", "scaling", "degraded") and state.detail:
        parts += [Text(), Text(f"  {state.phase}: {state.detail}", style="yellow")]
    elif state.phase == "stopping":
        parts += [Text(), Text("  stopping: requests in flight finish, no new ones start")]
    return Group(*parts)


def _counted(processes: Sequence[ProcessState]) -> str:
    """12 more: 3 loading, 9 up."""
    phases = ["up" if p.phase == "serving" else p.phase for p in processes]
    counts = ", ".join(f"{phases.count(phase)} {phase}" for phase in dict.fromkeys(phases))
    return f"{len(processes)} more: {counts}"


def _processes(processes: Sequence[ProcessState], now: float) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0), pad_edge=False)
    for place in range(6):
        table.add_column(no_wrap=place != 1)  # what a process does may take two lines
    table.columns[3].ratio = None
    table.columns[5].justify = "right"
    for process in processes:
        mark, colour = PHASE_MARKS[process.phase]
        table.add_row(
            f"  {process.name}",
            Text(f"{mark} {doing(process)}", style=colour),
            where(process),
            Text(_bar(process.progress), style="yellow"),
            "" if process.progress is None else format_share(process.progress),
            format_seconds(elapsed_s(process, now)),
        )
    return table


def doing(process: ProcessState) -> str:
    """A process's state in one or two words: weights, CUDA graphs 23/36, up."""
    if process.phase == "serving":
        again = f", restarted {process.restarts}×" if process.restarts else ""
        return f"up{again}" + (f" ({process.detail})" if process.detail else "")
    if process.phase == "draining" and process.detail:
        return f"draining, {process.detail}"
    if process.phase in ("loading", "backoff", "failed") and process.detail:
        return process.detail
    return process.phase


def where(process: ProcessState) -> str:
    """The GPUs of an engine, or the port of the router."""
    if process.role == "router" or not process.gpus:
        return f":{process.url.rpartition(':')[2]}"
    return f"GPU {','.join(map(str, process.gpus))}"


def elapsed_s(process: ProcessState, now: float) -> float | None:
    """Seconds until the process was ready, or since it started. None if it is not running."""
    if process.ready_after_s is not None:
        return process.ready_after_s
    if process.started_at is None or process.handle is None:
        return None
    return max(0.0, now - process.started_at)


def _bar(share: float | None) -> str:
    if share is None:
        return ""
    eighths = round(share * _BAR_CELLS * 8)
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def change_lines(before: DeploymentState | None, after: DeploymentState) -> tuple[str, ...]:
    """One line for every process whose phase has changed, for output off a terminal."""
    was = {p.name: _stage(p) for p in before.processes} if before else {}
    return tuple(
        _change(process) for process in after.processes if was.get(process.name) != _stage(process)
    )


def _stage(process: ProcessState) -> str:
    """The part of a state that deserves a line: not every single CUDA graph."""
    words = _without_count(process.detail) if process.phase == "loading" else ""
    return f"{process.phase} {words}"


def _without_count(text: str) -> str:
    return text.rstrip("0123456789/ ")


def _change(process: ProcessState) -> str:
    took = process.ready_after_s
    after = f"after {format_seconds(took)}" if process.phase == "serving" and took else ""
    words = _without_count(doing(process)) if process.phase == "loading" else doing(process)
    return f"{process.name:<12} {words} {after}".rstrip()


def ready_view(
    state: DeploymentState, *, is_foreground: bool, width: int, has_key: bool = False
) -> RenderableType:
    """Screen of a deployment that serves: its endpoint, a request to try, further commands.

    has_key: requests must carry the API key. Print it with soft_wrap, because cropping would
    break a word of the command that is wider than `width`.
    """
    slowest = max((p.ready_after_s or 0.0 for p in state.processes), default=0.0)
    ready = (
        f"  Ready in {format_seconds(state.ready_after_s)} (slowest {format_seconds(slowest)}). "
        f"One request went through: TTFT {format_seconds(state.first_request_ttft_s)}."
    )
    stops = "Ctrl-C stops it" if is_foreground else f"pdctl down {state.name} stops it"
    return Group(
        Text(),
        Text(wrapped(ready, width), style="green"),
        Text(),
        Text(f"  {state.endpoint}"),
        Text("\n".join(shell_lines(curl(state, has_key=has_key), width, head="  "))),
        Text(wrapped(f"  {stops} · pdctl status · pdctl logs -f", width), style="dim"),
    )


def curl(state: DeploymentState, *, has_key: bool = False) -> str:
    """A command that sends one request. The shell, not pdctl, inserts the key."""
    message = {"role": "user", "content": "Hello"}
    body = json.dumps({"model": state.model, "messages": [message], "max_tokens": 32})
    url = f"{state.endpoint}/v1/chat/completions"
    key = ' -H "authorization: Bearer $PDCTL_API_KEY"' if has_key else ""
    return f"curl {url}{key} -H 'content-type: application/json' -d {shlex.quote(body)}"
