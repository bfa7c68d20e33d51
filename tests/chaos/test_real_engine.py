"""One short history on real SGLang: an engine, the supervisor and the router are killed."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.acts import listening_ports, send
from tests.e2e.cli import process_pid
from tests.real_engine.installed import missing
from tests.real_engine.loopback import loopback_only
from tests.real_engine.test_real_engine import PORT, Real, generate, split

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.real_engine,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

PROMPT = list(range(10, 60))
PATIENCE_S = 300.0
SIGKILL, SIGSTOP, SIGCONT = 9, 19, 18


@pytest.fixture(autouse=True)
def _network() -> Iterator[None]:
    """Run where nobody else can reach Mooncake's listeners."""
    with loopback_only():
        yield


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Real]:
    """Real engines; whatever a failed test leaves running is killed."""
    monkeypatch.setenv("PDCTL_BACKOFF_S", "0.5")
    one = Real(tmp_path)
    yield one
    for process in one.processes():
        process.kill()


def test_killed_one_after_the_other_everything_comes_back(real: Real) -> None:
    real.up("chaos", split())
    expected = generate(PROMPT)

    def look() -> Any:
        return real.pdctl("ls")["data"][0]

    def pid_of(name: str) -> int:
        return process_pid(state(real), name)

    for name in ("decode-0", "supervisor", "router"):
        send(state(real)["supervisor_pid"] if name == "supervisor" else pid_of(name), SIGKILL)
        time.sleep(2)
        until(lambda: look()["phase"] == "serving")
        until(lambda: answers(expected))
    send(pid_of("prefill-0"), SIGSTOP)
    time.sleep(1)
    send(pid_of("prefill-0"), SIGCONT)
    until(lambda: answers(expected))
    real.pdctl("down", "chaos")
    assert real.processes() == []
    assert PORT not in listening_ports()


def state(real: Real) -> Any:
    """What state.json says."""
    return json.loads((real.folder / "state" / "chaos" / "state.json").read_text())


def answers(expected: list[int]) -> bool:
    """Whether a request gets the same tokens as at first."""
    try:
        return generate(PROMPT) == expected
    except OSError:
        return False


def until(holds: Callable[[], bool]) -> None:
    """Wait for it, as long as real engines need to start."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.5)
