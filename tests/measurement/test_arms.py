"""Two arms compared: who wins, how surely, and when nobody does."""

from dataclasses import replace

import pytest

from pdctl.measurement.arms import ArmName, ArmResult, Played, arm_result, inside
from pdctl.measurement.records import LoadResult, Sent
from pdctl.measurement.ruling import rule
from pdctl.perf_model.records import Outcome
from pdctl.workload.records import Slo

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
) -> Played:
    """A load whose every `bad_every`th request is ten times as slow to its first token."""
    rows = []
    for n in range(num):
        slow = 10.0 if bad_every and n % bad_every == 0 else 1.0
        ttft = ttft_s * slow * (1 + 0.1 * (n * 7919 % 13) / 13)
        rows.append(sent(n, ttft_s=ttft, tpot_s=tpot_s, late_s=late_s))
    result = LoadResult("http://x", tuple(rows), 0.0, rows[-1].end_s, 0.1)
    return Played(arm, repeat, 10.0, result)


def results(loads: list[Played], slo: Slo = SLO) -> list[ArmResult]:
    names: list[tuple[ArmName, str]] = [("colocated", "2C"), ("pd", "1P1D")]
    return [
        arm_result(name, layout, 2, [one for one in loads if one.arm == name], slo)
        for name, layout in names
    ]


def test_the_arm_with_more_goodput_wins() -> None:
    loads = [played("colocated", bad_every=3), played("pd")]
    ruling = rule(results(loads), loads, SLO)
    assert ruling.winner == "pd"
    assert ruling.by == "goodput"
    assert ruling.margin is not None
    assert ruling.margin.low > 0
    assert "1P1D wins" in ruling.text


def test_colocated_wins_where_the_split_misses() -> None:
    loads = [played("colocated"), played("pd", bad_every=3)]
    assert rule(results(loads), loads, SLO).winner == "colocated"


def test_without_service_levels_the_arm_that_ends_sooner_wins() -> None:
    loads = [played("colocated", tpot_s=0.030), played("pd", tpot_s=0.010)]
    ruling = rule(results(loads, Slo()), loads, Slo())
    assert ruling.winner == "pd"
    assert ruling.margin is not None
    assert ruling.margin.high < 0


def test_equal_arms_are_too_close_and_the_knee_is_suggested() -> None:
    loads = [played("colocated"), played("pd")]
    ruling = rule(results(loads), loads, SLO)
    assert ruling.winner == "too_close"
    assert "--find-knee" in ruling.text


def test_where_both_meet_the_levels_the_higher_sustained_rate_wins() -> None:
    loads = [played("colocated"), played("pd")]
    colocated, pd = results(loads)
    more = [replace(colocated, knee_rps=4.0), replace(pd, knee_rps=6.0)]
    assert rule(more, loads, SLO).winner == "pd"
    assert "6 req/s of PD against 4" in rule(more, loads, SLO).text
    near = [replace(colocated, knee_rps=4.0), replace(pd, knee_rps=4.2)]
    assert rule(near, loads, SLO).winner == "too_close"


def test_service_levels_that_neither_meets_have_no_winner() -> None:
    loads = [played("colocated", ttft_s=3.0), played("pd", bad_every=2)]
    ruling = rule(results(loads), loads, SLO)
    assert ruling.winner == "neither"
    assert "2C 0 %" in ruling.text


def test_a_late_generator_gives_no_verdict() -> None:
    loads = [played("colocated", bad_every=3, late_s=0.2), played("pd")]
    ruling = rule(results(loads), loads, SLO)
    assert ruling.winner == "unsure"
    assert "generator" in ruling.text


def test_one_arm_alone_is_said_to_be_alone() -> None:
    loads = [played("pd")]
    arms = results(loads)
    ruling = rule(arms, loads, SLO)
    assert ruling.winner == "one_arm"
    assert ruling.text.startswith("Only 1P1D was measured; it meets")
    assert rule(results([]), [], SLO).text == "Nothing was measured."


def test_repeats_are_taken_together_and_make_the_figures_surer() -> None:
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
