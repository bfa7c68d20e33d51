"""Slow tokens come from a full batch or from slow steps."""

from dataclasses import replace

from pdctl.engines.request_times import RequestTimes
from pdctl.status.explain.explain import explain_requests
from pdctl.status.explain.join import Halves
from pdctl.status.explain.records import ExplainedRequest

ONE = RequestTimes("decode-0", "decode", "r", 1, 1000, 101, 1e9, forward_s=1.0)


def _slowest(halves: list[RequestTimes]) -> ExplainedRequest:
    pairs = [Halves(None, half) for half in halves]
    return explain_requests(pairs, hosts={}, slowest=1, by_tpot=True).requests[0]


def _alone(count: int) -> list[RequestTimes]:
    return [replace(ONE, rid=f"r{n}", entry_s=1e9 + 10 * n) for n in range(count)]


def test_a_batch_fuller_than_usual_is_the_cause() -> None:
    full = [replace(ONE, rid=f"f{n}", entry_s=2e9, forward_s=3.0) for n in range(40)]
    found = _slowest([*_alone(60), *full])
    assert found.cause.kind == "full_batch"
    assert "a batch of 40 on decode-0 (usual: 1)" in found.cause.text


def test_slow_steps_of_a_usual_batch_are_the_engines_fault() -> None:
    found = _slowest([*_alone(60), replace(ONE, rid="x", engine="decode-1", forward_s=5.0)])
    assert (found.cause.kind, found.cause.engine) == ("slow_decode", "decode-1")
    assert found.tpot_s == 0.05


def test_a_batch_that_does_not_explain_how_slow_it_was_is_not_the_cause() -> None:
    two = [replace(ONE, rid=f"x{n}", engine="decode-1", forward_s=5.0) for n in range(2)]
    found = _slowest([*_alone(60), *two])
    assert found.cause.kind == "slow_decode"
    assert "more than a batch of 2 on decode-1 (usual: 1) explains" in found.cause.text


def test_a_request_as_fast_as_the_others_has_no_cause_to_be_slow() -> None:
    assert _slowest(_alone(20)).cause.kind == "usual_pace"
