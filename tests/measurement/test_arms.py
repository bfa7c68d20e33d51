"""Comparison of two arms: the winner, its confidence interval, and cases without a winner."""

import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean

import pytest

from pdctl.measurement.arms import (
    MAX_LOADS,
    ArmLoad,
    ArmName,
    ArmResult,
    ConfidenceInterval,
    arm_result,
    compare_arms,
    confidence_interval,
    difference,
    inside,
    measured_capacity_rps,
    next_rate,
)
from pdctl.measurement.results import LoadResult, Sent
from pdctl.perf_model.records import Outcome
from pdctl.workload.records import Slo


def mean_of(values: Sequence[float]):  # type: ignore[no-untyped-def]
    return len(values), lambda indices: mean(values[i] for i in indices)


def normal(num: int, seed: int, centre: float = 0.0) -> list[float]:
    dice = random.Random(seed)
    return [dice.gauss(centre, 1) for _ in range(num)]


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    found = [confidence_interval(*mean_of(normal(100, seed))) for seed in range(60)]
    covered = sum(one is not None and one.low <= 0 <= one.high for one in found)
    assert 49 <= covered <= 60


def test_more_observations_make_the_interval_narrower() -> None:
    few, many = (
        confidence_interval(*mean_of(normal(40, 1))),
        confidence_interval(*mean_of(normal(1600, 1))),
    )
    assert few is not None
    assert many is not None
    assert many.high - many.low < (few.high - few.low) / 3


def test_correlated_observations_give_wider_intervals_than_independent_ones() -> None:
    alone = normal(400, 3)
    smooth = [mean(alone[max(0, i - 12) : i + 1]) for i in range(400)]
    shuffled = smooth[:]
    random.Random(0).shuffle(shuffled)
    ordered, mixed = confidence_interval(*mean_of(smooth)), confidence_interval(*mean_of(shuffled))
    assert ordered is not None
    assert mixed is not None
    assert ordered.high - ordered.low > 1.8 * (mixed.high - mixed.low)


def test_a_real_difference_is_found_and_chance_is_not_called_one() -> None:
    there = difference(mean_of(normal(200, 1, 1.0)), mean_of(normal(200, 2)))
    not_there = difference(mean_of(normal(200, 1)), mean_of(normal(200, 2)))
    assert there is not None
    assert there.low > 0
    assert not_there is not None
    assert not_there.low < 0 < not_there.high


def test_the_same_seed_gives_the_same_interval() -> None:
    assert confidence_interval(*mean_of(normal(50, 1)), seed=4) == confidence_interval(
        *mean_of(normal(50, 1)), seed=4
    )


def test_no_observation_has_no_interval_and_one_value_has_width_zero() -> None:
    assert confidence_interval(0, lambda indices: 1.0) is None
    assert confidence_interval(1, lambda indices: 2.5) == ConfidenceInterval(2.5, 2.5, 2.5)
    assert confidence_interval(5, lambda indices: None) is None


def search(true_knee: float, start: float) -> list[tuple[float, bool]]:
    tried: list[tuple[float, bool]] = []
    while (rate := next_rate(tried, start)) is not None:
        tried.append((rate, rate <= true_knee))
    return tried


@pytest.mark.parametrize("true_knee", [1.0, 2.9, 3.0, 5.5, 9.0])
def test_the_capacity_is_bracketed_within_a_handful_of_loads(true_knee: float) -> None:
    tried = search(true_knee, 3.0)
    found = measured_capacity_rps(tried)
    assert len(tried) <= MAX_LOADS
    assert found is not None
    assert true_knee / 1.3 <= found <= true_knee


def test_it_begins_with_the_rate_asked_for() -> None:
    assert next_rate([], 3.0) == 3.0


def test_an_arm_that_never_holds_has_no_capacity() -> None:
    tried = search(0.0, 3.0)
    assert len(tried) == MAX_LOADS
    assert measured_capacity_rps(tried) is None


def test_a_rate_that_broke_below_one_that_held_is_not_the_upper_end() -> None:
    assert next_rate([(2.0, False), (3.0, True)], 2.0) == pytest.approx(4.8)


SLO = Slo(1.0, 0.020)


def sent(n: int, *, ttft_s: float, tpot_s: float, late_s: float = 0.0, osl: int = 11) -> Sent:
    at = n * 0.1
    first = at + ttft_s
    times = tuple(first + i * tpot_s for i in range(osl))
    return Sent(n, at, at + late_s, times[-1], 1000, osl, times)


def played(
    arm: ArmName,
    *,
    ttft_s: float = 0.5,
    tpot_s: float = 0.010,
    bad_every: int = 0,
    repeat: int = 0,
    late_s: float = 0.0,
    num: int = 200,
) -> ArmLoad:
    """A load in which every `bad_every`th request takes ten times as long to its first token."""
    rows = []
    for n in range(num):
        slow = 10.0 if bad_every and n % bad_every == 0 else 1.0
        ttft = ttft_s * slow * (1 + 0.1 * (n * 7919 % 13) / 13)
        rows.append(sent(n, ttft_s=ttft, tpot_s=tpot_s, late_s=late_s))
    result = LoadResult("http://x", tuple(rows), 0.0, rows[-1].end_s, 0.1)
    return ArmLoad(arm, repeat, 10.0, result)


def results(loads: list[ArmLoad], slo: Slo = SLO) -> list[ArmResult]:
    names: list[tuple[ArmName, str]] = [("colocated", "2C"), ("pd", "1P1D")]
    return [
        arm_result(name, layout, 2, [one for one in loads if one.arm == name], slo)
        for name, layout in names
    ]


def test_the_arm_with_more_goodput_wins() -> None:
    loads = [played("colocated", bad_every=3), played("pd")]
    comparison = compare_arms(results(loads), loads, SLO)
    assert comparison.winner == "pd"
    assert comparison.by == "goodput"
    assert comparison.margin is not None
    assert comparison.margin.low > 0
    assert "1P1D wins" in comparison.text


def test_colocated_wins_where_the_split_misses() -> None:
    loads = [played("colocated"), played("pd", bad_every=3)]
    assert compare_arms(results(loads), loads, SLO).winner == "colocated"


def test_without_slos_the_arm_with_the_earlier_last_token_wins() -> None:
    loads = [played("colocated", tpot_s=0.030), played("pd", tpot_s=0.010)]
    comparison = compare_arms(results(loads, Slo()), loads, Slo())
    assert comparison.winner == "pd"
    assert comparison.margin is not None
    assert comparison.margin.high < 0


def test_equal_arms_are_too_close_and_find_knee_is_suggested() -> None:
    loads = [played("colocated"), played("pd")]
    comparison = compare_arms(results(loads), loads, SLO)
    assert comparison.winner == "too_close"
    assert "--find-knee" in comparison.text


def test_if_both_meet_the_slos_the_higher_capacity_wins() -> None:
    loads = [played("colocated"), played("pd")]
    colocated, pd = results(loads)
    more = [replace(colocated, capacity_rps=4.0), replace(pd, capacity_rps=6.0)]
    assert compare_arms(more, loads, SLO).winner == "pd"
    assert "sustains 6 req/s, the other arm 4" in compare_arms(more, loads, SLO).text
    near = [replace(colocated, capacity_rps=4.0), replace(pd, capacity_rps=4.2)]
    assert compare_arms(near, loads, SLO).winner == "too_close"


def test_slos_that_neither_arm_meets_have_no_winner() -> None:
    loads = [played("colocated", ttft_s=3.0), played("pd", bad_every=2)]
    comparison = compare_arms(results(loads), loads, SLO)
    assert comparison.winner == "neither"
    assert "2C 0 %" in comparison.text


def test_a_late_generator_gives_no_verdict() -> None:
    loads = [played("colocated", bad_every=3, late_s=0.2), played("pd")]
    comparison = compare_arms(results(loads), loads, SLO)
    assert comparison.winner == "unsure"
    assert "generator" in comparison.text


def test_a_single_arm_is_reported_as_the_only_one() -> None:
    loads = [played("pd")]
    arms = results(loads)
    comparison = compare_arms(arms, loads, SLO)
    assert comparison.winner == "one_arm"
    assert comparison.text.startswith("Only 1P1D was measured; it meets")
    assert compare_arms(results([]), [], SLO).text == "Nothing was measured."


@pytest.mark.slow
def test_repeats_are_pooled_and_narrow_the_intervals() -> None:
    once = results([played("pd", bad_every=7)])[1]
    thrice = results([played("pd", bad_every=7, repeat=n) for n in range(3)])[1]
    assert thrice.num_requests == 3 * once.num_requests
    assert once.attainment is not None
    assert thrice.attainment is not None
    assert thrice.attainment.value == pytest.approx(once.attainment.value, abs=0.01)
    assert (
        thrice.attainment.high - thrice.attainment.low < once.attainment.high - once.attainment.low
    )


def test_failed_requests_count_against_goodput_and_are_shown() -> None:
    load = played("pd")
    broken = tuple(
        replace(one, error="HTTP 500: no", token_s=()) if n % 2 else one
        for n, one in enumerate(load.result.sent)
    )
    arm = results([replace(load, result=replace(load.result, sent=broken))])[1]
    assert arm.num_failed == pytest.approx(arm.num_requests / 2, abs=1)
    assert arm.attainment is not None
    assert arm.attainment.value == pytest.approx(0.5, abs=0.02)
    assert arm.errors == ("HTTP 500: no",)


def test_prediction_is_compared_inside_the_same_window() -> None:
    load = played("pd")
    count = len(load.result.sent)
    outcome = Outcome(
        ttft_s=[5.0] * 5 + [0.4] * (count - 5),
        tpot_s=[0.012] * count,
        e2e_s=[1.0] * count,
        span_s=20.0,
        output_tokens=1,
        kv_usage_peak={},
    )
    arm = results([replace(load, predicted=outcome)])[1]
    figures = {figure.figure: figure for figure in arm.figures}
    assert figures["ttft p90"].predicted == 0.4
    assert figures["tpot p50"].error == pytest.approx(0.2)
    assert figures["goodput"].predicted == pytest.approx(figures["goodput"].measured)


def test_warm_up_and_cool_down_are_left_out() -> None:
    load = played("pd", num=101)
    kept = inside(load.result)
    assert kept[0].intended_s == pytest.approx(1.0)
    assert kept[-1].intended_s == pytest.approx(9.5)
