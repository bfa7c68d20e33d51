"""Engines that fail, come back, drain and change roles while requests go on."""

import pytest

from pdctl.perf_model.records import Change, Role
from pdctl.perf_model.simulator.simulate import simulate
from tests.perf_model.fleets import RICH, colocated, engine, random_requests, requests, split


def test_requests_without_a_first_token_go_elsewhere_when_an_engine_fails() -> None:
    # engine 0 gets the first and third; at 5 ms neither has its first token (11 ms)
    asked = requests((0.0, 1000, 5), (0.0, 1000, 5), (0.001, 1000, 5))
    outcome = simulate(colocated(num=2), asked, changes=[Change(0.005, "fail", "colocated", 0)])
    assert outcome.num_failed == 0
    # engine 1: prefill of the second 0-11 ms, its decode step queued behind that, 11-21 ms, then
    # both that came over at 5 ms in one batch, 21-42 ms
    assert [round(1000 * t, 6) for t in outcome.ttft_s if t] == [42.0, 11.0, 41.0]


def test_requests_that_already_stream_are_lost_with_their_engine() -> None:
    outcome = simulate(
        colocated(num=2),
        requests((0.0, 1000, 50), (0.0, 1000, 50)),
        changes=[Change(0.1, "fail", "colocated", 0)],
    )
    assert outcome.num_failed == 1
    assert outcome.ttft_s[0] is None
    assert outcome.ttft_s[1] is not None


def test_without_an_open_engine_requests_fail_until_one_recovers() -> None:
    asked = requests((0.0, 100, 1), (1.0, 100, 1), (2.0, 100, 1))
    changes = [Change(0.5, "fail", "colocated", 0), Change(1.5, "recover", "colocated", 0)]
    outcome = simulate(colocated(), asked, changes=changes)
    assert [t is None for t in outcome.ttft_s] == [False, True, False]
    assert outcome.num_failed == 1


def test_a_draining_engine_gets_no_more() -> None:
    asked = requests(*[(0.1 * n, 100, 5) for n in range(10)])
    changes = [Change(0.45, "drain", "colocated", 0)]
    outcome = simulate(colocated(num=2), asked, changes=changes)
    assert outcome.num_failed == 0
    busy = outcome.busy_share
    assert busy["colocated-1"] > busy["colocated-0"] > 0


@pytest.mark.parametrize("role", ["prefill", "decode"])
@pytest.mark.parametrize("at_s", [0.001, 0.2, 0.7, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_every_request_is_answered_or_lost_when_half_a_split_fleet_fails(
    role: Role, at_s: float, seed: int
) -> None:
    fleet = split(
        engine("prefill", times=RICH, chunk=256), engine("decode", times=RICH, kv=9000), 2, 2
    )
    asked = random_requests(80, seed=seed, rate_rps=40.0)
    changes = [Change(at_s, "fail", role, 1), Change(at_s + 0.5, "recover", role, 1)]
    outcome = simulate(fleet, asked, changes=changes)
    done = sum(value is not None for value in outcome.e2e_s)
    assert done + outcome.num_failed == 80
    assert outcome.num_failed < 30


def test_a_decode_engine_becomes_a_prefill_engine_once_it_is_empty() -> None:
    asked = requests(*[(0.01 * n, 4000, 3) for n in range(200)])
    plain = simulate(split(num_prefill=1, num_decode=3), asked)
    change = Change(0.1, "to_prefill", "decode", 2, takes_s=0.2)
    changed = simulate(split(num_prefill=1, num_decode=3), asked, changes=[change])
    assert changed.num_failed == 0
    assert changed.span_s < 0.7 * plain.span_s
    assert changed.busy_share["prefill-1"] > 0


def test_a_prefill_engine_becomes_a_decode_engine() -> None:
    asked = requests(*[(0.02 * n, 50, 60) for n in range(100)])
    fleet = split(engine("prefill"), engine("decode", running=10), num_prefill=3, num_decode=1)
    plain = simulate(fleet, asked)
    changed = simulate(fleet, asked, changes=[Change(0.0, "to_decode", "prefill", 0)])
    assert changed.num_failed == 0
    assert changed.span_s < plain.span_s
    assert changed.busy_share["decode-1"] > 0


def test_a_lone_prefill_engine_that_drains_becomes_a_decode_engine_though_nothing_wakes_it() -> (
    None
):
    asked = requests(*[(1.0 * n, 500, 50) for n in range(40)])
    change = Change(5.5, "to_decode", "prefill", 1)
    changed = simulate(split(num_prefill=2, num_decode=1), asked, changes=[change])
    assert changed.num_failed == 0
    assert changed.busy_share["decode-1"] > 0
