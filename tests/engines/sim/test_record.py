"""Log of a simulated engine."""

import io
import sys
from dataclasses import replace

import pytest

from pdctl.engines.request_times import RequestTimes, request_log
from pdctl.engines.sim.decode import DecodeQueues
from pdctl.engines.sim.record import (
    Record,
    StatePool,
    batch_line,
    log,
    state_pool,
    time_stats_line,
)
from pdctl.engines.sim.requests import Batch, Moment, Request
from pdctl.perf_model.records import Role
from tests.engines.sim.models import model, request

SPEED = 2.0  # a model second is half a real one
MOMENTS: dict[Role, dict[Moment, float]] = {
    "prefill": {"entry": 10.0, "bootstrapped": 10.2, "started": 11.0, "computed": 12.0},
    "decode": {
        "entry": 10.0,
        "bootstrapped": 10.2,
        "allocated": 10.4,
        "transferred": 12.4,
        "started": 12.6,
    },
    "colocated": {"entry": 10.0, "started": 11.0},
}


class FullDisk(io.StringIO):
    """A log file on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_loses_lines_and_not_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    log("Prefill batch")


def test_a_hybrids_pages_and_log_count_its_state_slots_as_sglang_names_them() -> None:
    hybrid = replace(model("decode"), state_slots=60, slots_per_request=1)
    queues = DecodeQueues(hybrid)
    queues.running += [request(str(n)) for n in range(15)]
    state = Record().snapshot(queues, 0.0)
    assert state.states == StatePool(slots=60, used=15)
    assert (state.kv_usage, state.usage) == (0.0, 0.25)  # token_usage: of the fuller pool
    line = batch_line(Batch([], list(queues.running), 0.01), state)
    assert "#full token: 0, full token usage: 0.00, mamba num: 15, mamba usage: 0.25" in line


def test_a_request_beside_a_radix_cache_takes_the_slots_that_public_logs_show() -> None:
    """SGLang 0.5.15: "#running-req: 4, ... mamba num: 16, mamba usage: 0.20"."""
    hybrid = replace(model(), state_slots=80, slots_per_request=5)
    assert state_pool(hybrid, 4) == StatePool(slots=80, used=16)
    assert state_pool(model(), 4) is None


def _read(role: Role) -> RequestTimes:
    room = None if role == "colocated" else 7
    request = Request("r", 4096, 9, room=room, out=9, cached_tokens=96)
    request.moments.update(MOMENTS[role])
    line = time_stats_line(
        request, role, 14.0, speed=SPEED, unix_s=lambda at_s: 2e9 + at_s / SPEED, kv_bytes=2.0**29
    )
    (record,) = request_log(iter([line.encode()]), "sim").records
    return record


@pytest.mark.parametrize(
    ("role", "expected"),
    [
        ("prefill", (0.1, 0.0, 0.0, 0.4, 1.5, 1.0)),
        ("decode", (0.1, 0.1, 1.0, 0.1, 0.7, None)),
        ("colocated", (0.0, 0.0, 0.0, 0.5, 1.5, None)),
    ],
)
def test_a_line_reads_back_as_the_true_times(role: Role, expected: tuple[float, ...]) -> None:
    record = _read(role)
    names = ("bootstrap_s", "allocation_s", "transfer_s", "queue_s", "forward_s", "sending_s")
    assert tuple(getattr(record, name) for name in names) == pytest.approx(expected, abs=1e-4)
    assert record.entry_s == 2e9 + 5
    assert (record.role, record.cached_tokens) == (role, 96)


def test_a_moment_keeps_its_first_time() -> None:
    request = Request("r", 4096, 9)
    request.reached("started", 1.0)
    request.reached("started", 2.0)
    assert request.moments == {"started": 1.0}
