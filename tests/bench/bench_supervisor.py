"""What the supervisor of 64 engines costs while idle, and how fast another one takes over."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from pdctl.deployment.records import Deployment, ProcessRole, ProcessSpec, RolePlan
from pdctl.engines import state
from pdctl.engines.lifecycle import follow, running, start
from pdctl.engines.lifecycle.start import Prepared
from pdctl.engines.lifecycle.supervisor_process import SupervisorProcess
from pdctl.paths import HOME_VARIABLE

NUM_PREFILL = 16
NUM_DECODE = 48
IDLE_S = 30.0
FAKE = Path(__file__).with_name("fake_engine.py")
NAME = "bench64"


def measure() -> list[tuple[str, float, float, str]]:
    """Rows of (what, measured, limit, unit)."""
    with tempfile.TemporaryDirectory() as home:
        os.environ[HOME_VARIABLE] = home
        try:
            first = start.launch(_prepared(), detached=True, ready_timeout_s=300)
            _wait_until_serving(first)
            share, mib = _idle()
            _kill(first)
            started = time.monotonic()
            _wait_until_serving(running.resume(NAME))
            adopted_s = time.monotonic() - started
        finally:
            running.stop(NAME, now=True)
    return [
        ("supervisor of 64 idle engines, of a core", share * 100, 1, "%"),
        ("supervisor of 64 idle engines, memory", mib, 60, "MiB"),
        ("another supervisor adopts 64 engines", adopted_s, 2, "s"),
    ]


def _deployment() -> Deployment:
    roles = {"prefill": RolePlan(NUM_PREFILL), "decode": RolePlan(NUM_DECODE)}
    return Deployment(name=NAME, model="fake", roles=roles)  # type: ignore[arg-type]


def _prepared() -> Prepared:
    return Prepared(_deployment(), _specs(), None, "", "", ())


def _specs() -> tuple[ProcessSpec, ...]:
    router = (sys.executable, "-m", "sglang_router.launch_router", "--pd-disaggregation")
    where = ("--host", "127.0.0.1", "--port", "28600", "--prometheus-port", "28690")
    return (_spec("router", (*router, *where), 28600, None), *map(_engine, range(64)))


def _engine(index: int) -> ProcessSpec:
    role: ProcessRole = "prefill" if index < NUM_PREFILL else "decode"
    port, bootstrap_port = 28700 + index, 28800 + index
    argv = (sys.executable, str(FAKE), role, str(port), str(bootstrap_port))
    return _spec(role, argv, port, bootstrap_port, index=index)


def _spec(
    role: ProcessRole,
    argv: tuple[str, ...],
    port: int,
    bootstrap_port: int | None,
    *,
    index: int | None = None,
) -> ProcessSpec:
    name = role if index is None else f"{role}-{index}"
    return ProcessSpec(
        name=name,
        role=role,
        argv=argv,
        env={},
        gpus=() if index is None else (index,),
        host="127.0.0.1",
        port=port,
        log=state.logs_dir(NAME) / f"{name}.log",
        bootstrap_port=bootstrap_port if role == "prefill" else None,
        stop_grace_s=5.0,
    )


def _wait_until_serving(supervisor: SupervisorProcess) -> None:
    for seen in follow.follow_states(supervisor):
        if seen is not None and seen.phase == "serving":
            return
    raise AssertionError("the supervisor ended")


def _kill(supervisor: SupervisorProcess) -> None:
    """Kill the guard, and then the supervisor, which nobody starts again."""
    supervisor.child.kill()
    supervisor.child.wait()
    os.kill(_supervisor_pid(), signal.SIGKILL)
    while state.is_supervised(NAME):
        time.sleep(0.01)


def _supervisor_pid() -> int:
    """The process of the supervisor itself, not of its guard."""
    found = state.read_state(NAME)
    assert found is not None
    return found.supervisor_pid


def _idle() -> tuple[float, float]:
    """The share of a core over half a minute, and MiB."""
    process = psutil.Process(_supervisor_pid())
    time.sleep(2)
    before, started = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(IDLE_S)
    used_s = sum(process.cpu_times()[:2]) - before
    return used_s / (time.monotonic() - started), process.memory_info().rss / 2**20


if __name__ == "__main__":
    for row in measure():
        print(row)  # noqa: T201
