"""Processes beside the supervisor: their addresses, share of a core and priority."""

import socket
import sys
from pathlib import Path

import pytest

from pdctl.engines.supervision.side_processes import (
    EVERY_S,
    LOWEST_PRIORITY,
    MOST_OF_A_CORE,
    check_free,
    pause_s,
    run_at_low_priority,
)
from pdctl.errors import EnvironmentProblem


def test_a_taken_address_of_the_metrics_is_refused_with_the_next_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(EnvironmentProblem, match=r"Address already in use\.$") as refused:
            check_free(f"127.0.0.1:{port}")
    assert refused.value.hint == f"--metrics-endpoint 127.0.0.1:{port + 1}"
    check_free("")


def test_an_expensive_replay_is_followed_by_a_longer_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PDCTL_WHAT_IF_EVERY_S", raising=False)
    assert pause_s(0.0) == EVERY_S
    assert 20.0 / pause_s(20.0) <= MOST_OF_A_CORE


def test_a_replay_runs_at_the_lowest_priority_and_is_charged_its_time(tmp_path: Path) -> None:
    told = tmp_path / "told"
    code = (
        "import os, time\n"
        "while time.process_time() < 0.1: pass\n"
        f"open({str(told)!r}, 'w').write(str(os.getpriority(os.PRIO_PROCESS, 0)))"
    )
    assert run_at_low_priority([sys.executable, "-c", code]) >= 0.1
    assert told.read_text() == str(LOWEST_PRIORITY)
