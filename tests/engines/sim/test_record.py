"""Log of a simulated engine."""

import io
import sys
from dataclasses import replace

import pytest

from pdctl.engines.sim.decode import DecodeQueues
from pdctl.engines.sim.record import Record, StatePool, batch_line, log, state_pool
from pdctl.engines.sim.requests import Batch
from tests.engines.sim.models import model, request


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
