"""Injected faults of eight kinds are told apart from the engines' log lines alone."""

import pytest

from pdctl.status.explain.explain import explain_requests, requests_in
from pdctl.status.explain.records import ExplainedRequest
from tests.status.explain.histories import FAULTS, VERSIONS, History, history

PER_KIND = 25
SKEWS_S = (0.0, 0.3, -0.3, 5.0, -40.0)


def _histories() -> list[History]:
    return [
        history(
            seed,
            FAULTS[seed % len(FAULTS)],
            version=VERSIONS[seed % len(VERSIONS)],
            skew_s=SKEWS_S[seed % len(SKEWS_S)],
        )
        for seed in range(PER_KIND * len(FAULTS))
    ]


def _explained(one: History) -> ExplainedRequest:
    pairs = requests_in(one.logs, None)
    return explain_requests(pairs, hosts={}, slowest=1, rid=one.victim.rid).requests[0]


HISTORIES = _histories()
EXPLAINED = [(one, _explained(one)) for one in HISTORIES]


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_fault_is_found_in_95_of_100_histories(fault: str) -> None:
    some = [(one, found) for one, found in EXPLAINED if one.fault == fault]
    right = sum(
        found.cause.kind == fault and found.cause.engine == one.engine for one, found in some
    )
    wrong = [(one.victim.rid, found.cause) for one, found in some if found.cause.kind != fault]
    assert right >= 0.95 * len(some), wrong


def test_the_parts_add_up_to_the_true_time_to_first_token() -> None:
    off = [
        abs(sum(part.seconds for part in found.parts) / true_s - 1)
        for one, found in EXPLAINED
        if one.fault != "retry" and (true_s := one.victim.ttft_s)
    ]
    assert sum(share < 0.03 for share in off) >= 0.95 * len(off)


def test_clocks_that_differ_are_found_to_a_tenth_of_a_second() -> None:
    for one in HISTORIES:
        clocks = explain_requests(requests_in(one.logs, None), hosts={}, slowest=1).clocks
        for clock in clocks:
            assert clock.ahead_s == pytest.approx(one.skew_s, abs=0.1)
