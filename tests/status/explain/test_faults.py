"""Injected faults of eight kinds are told apart from the engines' log lines alone."""

from functools import cache

import pytest

from pdctl.engines.request_times import request_log
from pdctl.status.explain.explain import explain_requests, requests_in
from pdctl.status.explain.records import ExplainedRequest
from tests.status.explain.histories import FAULTS, VERSIONS, Fault, History, history, log_lines

PER_KIND = 25
SKEWS_S = (0.0, 0.3, -0.3, 5.0, -40.0)


@cache
def histories(fault: Fault) -> tuple[History, ...]:
    """Some histories of a fault, of all versions and skews of clocks."""
    kind = FAULTS.index(fault)
    return tuple(
        history(
            seed,
            fault,
            version=VERSIONS[seed % len(VERSIONS)],
            skew_s=SKEWS_S[seed % len(SKEWS_S)],
        )
        for seed in range(kind, PER_KIND * len(FAULTS), len(FAULTS))
    )


@cache
def explained(fault: Fault) -> tuple[tuple[History, ExplainedRequest], ...]:
    return tuple((one, _explained(one)) for one in histories(fault))


def _explained(one: History) -> ExplainedRequest:
    pairs = requests_in(one.logs, None)
    return explain_requests(pairs, hosts={}, slowest=1, rid=one.victim.rid).requests[0]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_fault_is_found_in_95_of_100_histories(fault: Fault) -> None:
    some = explained(fault)
    right = sum(
        found.cause.kind == fault and found.cause.engine == one.engine for one, found in some
    )
    wrong = [(one.victim.rid, found.cause) for one, found in some if found.cause.kind != fault]
    assert right >= 0.95 * len(some), wrong


@pytest.mark.slow
def test_faults_are_found_where_the_engines_are_of_two_versions() -> None:
    found = []
    for seed in range(6 * len(FAULTS)):
        one = history(seed, FAULTS[seed % len(FAULTS)])
        old, new = VERSIONS[seed % 3], VERSIONS[(seed + 1) % 3]
        mixed = {
            name: log_lines(one.sent, old if name.startswith("prefill") else new)[name]
            for name in log_lines(one.sent)
        }
        logs = [request_log(map(str.encode, lines), name) for name, lines in mixed.items()]
        pairs = requests_in(logs, None)
        (request,) = explain_requests(pairs, hosts={}, slowest=1, rid=one.victim.rid).requests
        found.append((request.cause.kind, request.cause.engine) == (one.fault, one.engine))
    assert sum(found) >= 0.95 * len(found)


def test_a_log_cut_in_the_middle_explains_the_rest() -> None:
    one = history(1, "prefill_queue")
    lines = log_lines(one.sent)
    logs = [
        request_log(map(str.encode, [some[0][: len(some[0]) // 2], *some[1:]]), name)
        for name, some in lines.items()
    ]
    found = explain_requests(requests_in(logs, None), hosts={}, slowest=1)
    assert found.num_requests >= len(one.sent) - len(logs)
    assert found.requests[0].parts


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "retry"])
def test_the_parts_add_up_to_the_true_time_to_first_token(fault: Fault) -> None:
    off = [
        abs(sum(part.seconds for part in found.parts) / true_s - 1)
        for one, found in explained(fault)
        if (true_s := one.victim.ttft_s)
    ]
    assert sum(share < 0.03 for share in off) >= 0.95 * len(off)


@pytest.mark.parametrize("fault", FAULTS)
def test_clocks_that_differ_are_found_to_a_tenth_of_a_second(fault: Fault) -> None:
    for one in histories(fault):
        clocks = explain_requests(requests_in(one.logs, None), hosts={}, slowest=1).clocks
        for clock in clocks:
            assert clock.ahead_s == pytest.approx(one.skew_s, abs=0.1)


def test_without_its_prefill_log_a_late_request_points_there() -> None:
    one = history(1, "prefill_queue")
    lines = {name: some for name, some in log_lines(one.sent).items() if "decode" in name}
    logs = [request_log(map(str.encode, some), name) for name, some in lines.items()]
    (request,) = explain_requests(requests_in(logs, None), hosts={}, slowest=1).requests
    assert request.cause.kind == "unknown"
    assert "for its KV; the log of its prefill engine would show why." in request.cause.text
