import math
import random
from dataclasses import replace

import pytest

from pdctl.perf_model.records import Fleet, Outcome
from pdctl.perf_model.simulator.replay import make_jobs
from pdctl.verdict.trials import Run, Trials, arm_of, keeps_up, sample_of, try_layout
from pdctl.workload.arrivals import at_rate
from pdctl.workload.describe import workload_from_trace
from pdctl.workload.records import Requests, Slo, Trace
from tests.verdict.examples import engine, equal_lengths, errors

ALONE = Fleet(colocated=engine(), num_colocated=1)
DRAWN = equal_lengths(isl=1000, osl=50)
SAMPLE = sample_of(DRAWN, 200, max_context=None, seed=0)
SLO = Slo(ttft_s=1.0)


def trace(num: int) -> Requests:
    return Requests([0.7 * i**1.01 for i in range(num)], [1000 + i for i in range(num)], [50] * num)


def test_an_arm_keeps_percentiles_goodput_and_queues() -> None:
    arm = try_layout(Trials(SAMPLE), ALONE, 1.0, SLO, queues=True)
    assert arm.layout == "1C"
    assert arm.ttft_s is not None
    assert 0.1 <= arm.ttft_s.p50 < 1.0
    assert (arm.attainment, arm.meets, arm.goodput_rps) == (1.0, True, 1.0)
    assert arm.queues


def test_an_arm_shows_the_percentile_that_the_slo_names() -> None:
    arm = try_layout(Trials(SAMPLE), ALONE, 4.0, replace(SLO, attainment=0.99))
    assert arm.ttft_s is not None
    assert arm.ttft_at_share_s == pytest.approx(arm.ttft_s.p99)


def test_an_arm_that_rejects_everything_says_so() -> None:
    nothing = Outcome((None, None), (None, None), (None, None), 0.0, 0, {})
    arm = arm_of(ALONE, nothing, SAMPLE, 1.0, Slo())
    assert arm.infeasible is not None
    assert arm.ttft_s is None


def test_a_queue_that_grows_for_ever_has_no_percentile() -> None:
    arm = try_layout(Trials(SAMPLE), ALONE, 30.0, SLO)
    assert arm.keeps_up is False
    assert (arm.ttft_s, arm.attainment, arm.goodput_rps, arm.meets) == (None, 0.0, 0.0, False)


def test_engines_that_take_in_a_whole_short_sample_keep_up_with_no_more_than_they_can_do() -> None:
    drawn = equal_lengths(isl=10, osl=500)
    trials = Trials(sample_of(drawn, 1000, max_context=None, seed=0))
    # the pool of 1,000,000 tokens holds all of them, and no prompt waits long
    arms = [try_layout(trials, ALONE, rate, Slo()) for rate in (5.0, 100.0)]
    assert [arm.keeps_up for arm in arms] == [True, False]
    assert [trials.meets(ALONE, rate, Slo()) for rate in (5.0, 100.0)] == [True, False]
    # 10 ms a step, 1 µs a token of context: 3846 requests of 260 tokens take 1.01 s a token
    assert trials.sample.most_rps(ALONE) == pytest.approx(1.1 / (500 / 3846 * 1.01), rel=0.01)


def test_waits_that_grow_with_time_are_told_from_waits_that_do_not() -> None:
    times = tuple(float(i) for i in range(100))
    steady = Outcome((0.5,) * 100, times, times, 200.0, 5000, {}, arrival_s=times)
    growing = replace(steady, ttft_s=tuple(0.1 * t for t in times))
    assert keeps_up(steady)
    assert not keeps_up(growing)


def test_only_the_middle_of_drawn_requests_counts_and_all_of_a_long_trace() -> None:
    assert (SAMPLE.first, SAMPLE.last, SAMPLE.is_whole) == (80, 180, False)
    known = workload_from_trace(Trace(trace(300), (), 0, has_arrivals=True), "t")
    whole = sample_of(known, 200, max_context=None, seed=0)
    assert (whole.first, whole.last, whole.is_whole) == (0, 300, True)
    again = sample_of(known, 1000, max_context=None, seed=0)
    assert len(again.requests) >= 1000
    assert not again.is_whole


def test_a_trace_is_the_same_sample_at_whatever_rate_it_is_read() -> None:
    own = workload_from_trace(Trace(trace(300), (), 0, has_arrivals=True), "t")
    faster = workload_from_trace(Trace(trace(300), (), 0, has_arrivals=True), "t", rate_rps=7.3)
    samples = [sample_of(w, 200, max_context=None, seed=0).requests for w in (own, faster)]
    assert list(samples[0].arrival_s) == list(samples[1].arrival_s)


def test_lengths_without_times_come_from_all_over_the_file() -> None:
    lengths = Requests([0.0] * 1000, list(range(1, 1001)), [5] * 1000)
    known = workload_from_trace(Trace(lengths, (), 0, has_arrivals=False), "t", rate_rps=3.0)
    sample = sample_of(known, 100, max_context=None, seed=0)
    assert list(sample.requests.isl) == list(range(1, 1001, 10))
    assert sample.requests.arrival_s[-1] == pytest.approx(100, rel=0.5)


def test_requests_beyond_the_context_are_left_out() -> None:
    known = workload_from_trace(Trace(trace(300), (), 0, has_arrivals=True), "t")
    sample = sample_of(known, 100, max_context=1101, seed=0)
    assert max(sample.requests.isl) == 1098
    assert None not in make_jobs(sample.requests, None, [engine(max_context=1101)])


def test_a_sample_is_played_faster_or_slower_and_never_drawn_again() -> None:
    fast = SAMPLE.at(4.0)
    assert list(fast.isl) == list(SAMPLE.requests.isl)
    assert fast.arrival_s[-1] == pytest.approx(SAMPLE.requests.arrival_s[-1] / 4)
    assert at_rate(fast, 1.0).arrival_s[50] == pytest.approx(
        SAMPLE.requests.arrival_s[50] / SAMPLE.requests.arrival_s[-1] * 199
    )


@pytest.mark.parametrize("rate", [0.5, 4.0, 6.0, 7.0, 8.0, 30.0])
def test_a_run_cut_short_decides_as_the_whole_run_does(rate: float) -> None:
    slo = Slo(ttft_s=0.4, tpot_s=0.012)
    short, whole = Trials(SAMPLE), Trials(SAMPLE)
    assert short.meets(ALONE, rate, slo) == whole.run(ALONE, rate).meets(slo)


def test_what_misses_loose_levels_is_not_run_again_for_tight_ones() -> None:
    trials = Trials(SAMPLE)
    assert not trials.meets(ALONE, 30.0, Slo(ttft_s=0.4))
    made = trials.num_runs
    assert not trials.meets(ALONE, 30.0, Slo(ttft_s=0.3, tpot_s=0.02))
    assert trials.num_runs == made


def test_a_single_output_token_has_no_time_per_token_to_miss() -> None:
    sample = sample_of(equal_lengths(isl=1000, osl=1), 200, max_context=None, seed=0)
    assert Trials(sample).run(ALONE, 1.0).attainment(Slo(tpot_s=1e-9)) == 1.0


def test_without_service_levels_keeping_up_is_enough() -> None:
    assert Run([9.0], [9.0], keeps_up=True).meets(Slo())
    assert not Run([0.1], [0.1], keeps_up=False).meets(Slo())


def test_attainment_counts_the_same_requests_in_whatever_order_levels_are_asked_about() -> None:
    dice = random.Random(3)
    times = [(dice.choice((0.1, 0.2, dice.random())), dice.random()) for _ in range(200)]
    times += [(math.nan, math.nan)] * 5  # rejected
    ttft, tpot = zip(*times, strict=True)
    run = Run(ttft, tpot, keeps_up=True)
    levels = (None, 0.1, 0.2, 0.5, 0.9)
    for _ in range(300):
        slo = Slo(dice.choice(levels), dice.choice(levels))
        most = slo.ttft_s or math.inf, slo.tpot_s or math.inf
        met = [a <= most[0] and b <= most[1] for a, b in times]
        assert run.attainment(slo) == sum(met) / len(met)


def test_slack_is_the_part_of_the_likely_error_that_the_slos_bear() -> None:
    slo = Slo(2.0, 0.03, attainment=0.9)

    def slack(ttft_s: float, tpot_s: float = 0.01) -> float:
        return Run([ttft_s] * 10, [tpot_s] * 10, True).slack(slo, errors(0.25))

    assert slack(2.0 / 1.25) == pytest.approx(1.0)
    assert slack(2.0) == pytest.approx(0.0)
    assert slack(2.5) == pytest.approx(-1.0)
    assert slack(0.1, 0.03) == pytest.approx(0.0)
    tail = Run([1.6] * 9 + [9.0], [0.01] * 10, True)
    assert tail.slack(slo, errors(0.25)) == pytest.approx(1.0)
    assert Run([0.1] * 10, [0.01] * 10, False).slack(slo, errors()) == -float("inf")
