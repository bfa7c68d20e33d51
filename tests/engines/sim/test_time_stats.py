"""Simulated engines log the times of requests as SGLang does."""

import pytest

from pdctl.engines.request_times import RequestTimes, request_log
from pdctl.engines.sim.requests import Moment, Request
from pdctl.engines.sim.time_stats import time_stats_line
from pdctl.perf_model.records import Role

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
