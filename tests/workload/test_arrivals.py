"""Requests made from means, and requests moved in time."""

from dataclasses import replace

import pytest

from pdctl.workload.arrivals import (
    at_rate,
    head,
    in_any_order,
    in_arrival_order,
    make_requests,
    mean_rate_rps,
    tail,
)
from pdctl.workload.describe import describe_lengths, prefix_reuse, workload_from_lengths
from pdctl.workload.records import Requests, Workload


def spread_workload(cv: float) -> Workload:
    workload = workload_from_lengths(isl=2000, osl=300, rate_rps=1)
    assert workload.isl is not None
    return replace(workload, isl=replace(workload.isl, cv=cv))


def test_arrivals_are_poisson_at_the_rate_and_lengths_are_constant() -> None:
    workload = workload_from_lengths(isl=100, osl=9, isl_cv=0, osl_cv=0)
    requests = make_requests(workload, num=4000, rate_rps=8, seed=1)
    assert mean_rate_rps(requests) == pytest.approx(8, rel=0.05)
    gaps = [b - a for a, b in zip(requests.arrival_s, requests.arrival_s[1:], strict=False)]
    assert describe_lengths(gaps).cv == pytest.approx(1, abs=0.05)  # type: ignore[arg-type]
    assert set(requests.isl) == {100}
    assert set(requests.osl) == {9}
    assert requests.blocks is None


def test_the_same_seed_gives_the_same_requests_and_another_seed_others() -> None:
    workload = replace(spread_workload(1.0), prefix_hit=0.5)
    first = make_requests(workload, num=50, rate_rps=8, seed=1)
    assert make_requests(workload, num=50, rate_rps=8, seed=1) == first
    assert make_requests(workload, num=50, rate_rps=8, seed=2) != first


def test_lengths_spread_around_their_mean_with_the_given_cv() -> None:
    requests = make_requests(spread_workload(0.8), num=20_000, rate_rps=8, seed=3)
    lengths = describe_lengths(requests.isl)
    assert lengths.mean == pytest.approx(2000, rel=0.03)
    assert lengths.cv == pytest.approx(0.8, rel=0.08)
    assert min(requests.isl) >= 1


@pytest.mark.parametrize("hit", [0.05, 0.4, 0.9, 1.0])
@pytest.mark.parametrize("isl", [40, 1000, 30_000])
def test_the_share_of_prefix_hits_is_honoured(hit: float, isl: int) -> None:
    workload = workload_from_lengths(isl=isl, osl=9, prefix_hit=hit)
    requests = make_requests(workload, num=2000, rate_rps=8, seed=5)
    # whole blocks of at least 16 tokens: a prompt of 40 cannot share its last 8
    unshareable = 0.5 if isl == 40 else 0.02
    assert prefix_reuse(requests) == pytest.approx(hit, abs=unshareable)


def test_every_prompt_has_the_blocks_its_length_needs() -> None:
    workload = replace(spread_workload(1.5), prefix_hit=0.7)
    requests = make_requests(workload, num=500, rate_rps=8, seed=6)
    assert requests.blocks is not None
    for ids, tokens in zip(requests.blocks, requests.isl, strict=True):
        assert len(ids) == -(-tokens // requests.block_tokens)
        assert len(set(ids)) == len(ids)


def test_a_trace_keeps_its_pattern_at_another_rate() -> None:
    requests = Requests([5.0, 6.0, 9.0], [1, 2, 3], [4, 5, 6])
    faster = at_rate(requests, 1.0)
    assert list(faster.arrival_s) == [0.0, 0.5, 2.0]
    assert faster.isl == [1, 2, 3]


def test_requests_at_one_instant_become_poisson() -> None:
    requests = at_rate(Requests([0.0] * 3000, [1] * 3000, [1] * 3000), 4.0, seed=2)
    assert mean_rate_rps(requests) == pytest.approx(4, rel=0.1)
    assert requests == at_rate(Requests([0.0] * 3000, [1] * 3000, [1] * 3000), 4.0, seed=2)


def test_one_request_arrives_at_once_whatever_the_rate() -> None:
    assert list(at_rate(Requests([7.0], [1], [1]), 4.0).arrival_s) == [0.0]


def test_the_head_is_the_first_requests_with_their_blocks() -> None:
    requests = Requests([0.0, 1.0, 2.0], [1, 2, 3], [4, 5, 6], [(1,), (2,), (3,)], 512)
    assert head(requests, 2) == Requests([0.0, 1.0], [1, 2], [4, 5], [(1,), (2,)], 512)
    assert head(requests, 9) == requests


def test_more_requests_than_the_trace_has_repeat_it_without_sharing_prefixes() -> None:
    trace = Requests([0.0, 2.0], [600, 700], [4, 5], [(0, 1), (0, 2)], 512)
    workload = replace(workload_from_lengths(isl=1, osl=1), requests=trace)
    requests = make_requests(workload, num=5, rate_rps=2.0, seed=0)
    assert list(requests.isl) == [600, 700, 600, 700, 600]
    assert list(requests.arrival_s) == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert requests.blocks == [(0, 1), (0, 2), (3, 4), (3, 5), (6, 7)]


def test_requests_already_in_order_are_only_moved_to_zero() -> None:
    ordered = in_arrival_order(Requests([3.0, 4.0], [1, 2], [1, 1], [(1,), (2,)], 16))
    assert list(ordered.arrival_s) == [0.0, 1.0]
    assert ordered.blocks == [(1,), (2,)]


def test_head_and_tail_are_the_two_parts_of_requests() -> None:
    blocks = [(0,), (0, 1), (2,)]
    asked = Requests([0.0, 1.5, 4.0], [10, 20, 30], [1, 2, 3], blocks, 16)
    first, rest = head(asked, 1), tail(asked, 1)
    assert (first.arrival_s, first.blocks) == ([0.0], [(0,)])
    assert rest == Requests([1.5, 4.0], [20, 30], [2, 3], [(0, 1), (2,)], 16)


def test_only_requests_of_one_instant_change_places_and_long_ones_come_last() -> None:
    requests = Requests([0.0, 0.0, 0.0, 1.0, 2.0, 2.0], [10, 20, 30, 40, 500_000, 60], [1] * 6)
    orders = [in_any_order(requests, seed) for seed in range(8)]
    assert all(order.arrival_s == requests.arrival_s for order in orders)
    lengths = [tuple(order.isl) for order in orders]
    assert all({*isl[:3]} == {10, 20, 30} and isl[3:] == (40, 60, 500_000) for isl in lengths)
    assert len(set(lengths)) > 2
