"""Scaling and crashes under load: what happens to the requests."""

import os
import random
import tempfile
import time
from collections import Counter
from pathlib import Path

from pdctl.deployment.build import Counts
from pdctl.engines import state
from pdctl.engines.launchers.local import pid_of
from pdctl.engines.lifecycle.follow import settling
from pdctl.engines.lifecycle.rescale import rescale
from pdctl.engines.records import DeploymentState
from pdctl.paths import HOME_VARIABLE
from tests.bench.under_load import Load, under_load
from tests.e2e.cli import Cli, free_port, kill, until

NUM_OPERATIONS = int(os.environ.get("PDCTL_SCALE_OPERATIONS", "100"))
RATE_RPS = 22.0
NAME = "bench-scale"
ARGS = ("-d", "--engine", "sim", "--sim-speed", "10", "--prefill", "2", "--total", "8")


def measure() -> list[tuple[str, float, float, str]]:
    """Rows of (what, measured, limit, unit)."""
    with tempfile.TemporaryDirectory() as home:
        cli = Cli(home=Path(home), cwd=Path(home))
        os.environ[HOME_VARIABLE] = home
        up = cli.run("up", "qwen3-8b", *ARGS, "--port", str(free_port()), "--name", NAME)
        assert up.returncode == 0, up.stderr
        try:
            return [*_scale(), *_crash()]
        finally:
            cli.run("down", NAME, "--now")


def _scale() -> list[tuple[str, float, float, str]]:
    dice = random.Random(4)
    tally: Counter[str] = Counter()
    with under_load(_state().endpoint, RATE_RPS) as load:
        time.sleep(3)
        started = time.monotonic()
        for number in range(NUM_OPERATIONS):
            print(f"{time.monotonic() - load.started_at:.1f} s: {number}", flush=True)  # noqa: T201
            kind, counts = some_operation(dice, _state().layout)
            tally[kind] += 1
            done = rescale(NAME, counts)
            for last in settling(NAME, revision=done.launch.revision, timeout_s=300):
                assert last.name == NAME
        per_operation_s = (time.monotonic() - started) / NUM_OPERATIONS
        time.sleep(3)
    for error, num in Counter(one.error or "truncated" for _, one in load.failed).most_common(9):
        first_s = min(at + o.sent_s for at, o in load.failed if (o.error or "truncated") == error)
        print(f"{num} × {error}, first at {first_s - load.started_at:.1f} s")  # noqa: T201
    print(f"{dict(tally)}; {len(load.sent)} requests, {_rate(load):.1f}/s")  # noqa: T201
    truncated = [one for _, one in load.failed if not one.error]
    return [
        (f"{NUM_OPERATIONS} scale operations, failed requests", len(load.failed), 0, ""),
        (f"{NUM_OPERATIONS} scale operations, truncated streams", len(truncated), 0, ""),
        ("one scale operation under load", per_operation_s, 10, "s"),
    ]


def some_operation(dice: random.Random, layout: str) -> tuple[str, Counts]:
    """One engine more, one less, or one that changes its role; 5 to 9 engines in all."""
    prefill, decode = map(int, layout.rstrip("D").split("P"))
    steps = {
        "prefill + 1": (prefill + 1, decode),
        "prefill - 1": (prefill - 1, decode),
        "decode + 1": (prefill, decode + 1),
        "decode - 1": (prefill, decode - 1),
        "decode to prefill": (prefill + 1, decode - 1),
        "prefill to decode": (prefill - 1, decode + 1),
    }
    may = {k: (p, d) for k, (p, d) in steps.items() if p >= 1 and d >= 2 and 5 <= p + d <= 9}
    kind = dice.choice(sorted(may))
    return kind, Counts(prefill=may[kind][0], decode=may[kind][1])


def _crash() -> list[tuple[str, float, float, str]]:
    """A decode and a prefill engine are killed: who suffers, how long, and when are they back."""
    rows: list[tuple[str, float, float, str]] = []
    for role in ("decode", "prefill"):
        victim = next(p for p in reversed(_state().processes) if p.role == role)
        with under_load(_state().endpoint, RATE_RPS) as load:
            time.sleep(4)
            killed_at = time.monotonic()
            kill(pid_of(victim.handle) or 0)
            until(lambda: _pid(victim.name) not in (None, pid_of(victim.handle)))  # noqa: B023
            until(lambda: _state().phase == "serving")
            time.sleep(3)
        crash, start, serving = _moments(victim.name)
        sent_at = [at + one.sent_s - killed_at for at, one in load.failed]
        late = [s for s in sent_at if s > 0]
        print(f"{role} killed: in flight and lost: {len(sent_at) - len(late)}")  # noqa: T201
        rows += [
            (f"{role} killed: requests sent later that fail after 2 s", _after(late), 0, ""),
            (f"{role} killed: requests sent later that fail", len(late), 0, ""),
            (f"{role} killed: started this long after its backoff", start - crash - 10.0, 1, "s"),
            (f"{role} killed: serving this long after its start", serving - start, 5, "s"),
        ]
    return rows


def _moments(name: str) -> tuple[float, float, float]:
    """When an engine crashed last, was started again and served."""
    found = [e for e in state.read(state.state_dir(NAME)) if e.process == name]
    last = max(i for i, event in enumerate(found) if event.event == "crash")
    first = {e.event: e.at for e in reversed(found[last:])}
    return first["crash"], first["start"], first["serving"]


def _after(late_s: list[float]) -> int:
    return sum(s > 2.0 for s in late_s)


def _state() -> DeploymentState:
    found = state.read_state(NAME)
    assert found is not None
    return found


def _pid(name: str) -> int | None:
    return next((pid_of(p.handle) for p in _state().processes if p.name == name), None)


def _rate(load: Load) -> float:
    span_s = max(at + one.sent_s for at, one in load.sent) - load.started_at
    return len(load.sent) / span_s


if __name__ == "__main__":
    for row in measure():
        print(row)  # noqa: T201
