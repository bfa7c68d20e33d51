"""Replays of the latest requests on other layouts."""

from dataclasses import replace

import pytest

from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator.simulate import simulate
from pdctl.status.autopilot.split_advice import Split
from pdctl.status.records import WhatIf
from pdctl.status.request_window import Ended, Window, window_of
from pdctl.status.what_if import what_if
from pdctl.workload.records import Requests, Slo
from tests.perf_model.fleets import engine
from tests.status.autopilot_histories import (
    MIXES,
    SLO,
    TIMES,
    fleet_of,
    seeded_requests,
    share_of,
)

NUM = 300
NOW = Split(1, 3)


def seen_on(fleet: Fleet, isl: int, osl: int, rate: float, lie: float = 1.0) -> Window:
    """What a fleet logs of `NUM` equal requests. lie: factor on the times in the log."""
    asked = Requests([i / rate for i in range(NUM)], [isl] * NUM, [osl] * NUM)
    return logged(fleet, asked, NUM / rate / 2, lie)


def logged(fleet: Fleet, asked: Requests, since_s: float, lie: float = 1.0) -> Window:
    """The window that begins at `since_s`, once all requests have ended."""
    outcome = simulate(fleet, asked)
    lengths = zip(asked.arrival_s, asked.isl, asked.osl, strict=True)
    times = zip(outcome.ttft_s, outcome.tpot_s, outcome.e2e_s, strict=True)
    ended = [
        Ended(at_s, at_s + took_s * lie, isl, osl, 0, ttft_s * lie, tpot_s * lie)
        for (at_s, isl, osl), (ttft_s, tpot_s, took_s) in zip(lengths, times, strict=True)
        if ttft_s is not None and tpot_s is not None and took_s is not None
    ]
    window = window_of(ended, since_s=since_s, now_s=max(one.ended_s for one in ended))
    assert window is not None
    return window


def asked(fleet: Fleet, window: Window) -> WhatIf:
    found = what_if(fleet, window, SLO, now_s=0.0)
    assert isinstance(found, WhatIf)
    return found


def test_long_prompts_on_too_few_prefill_engines_call_for_more() -> None:
    fleet = fleet_of(TIMES, Split(1, 3))
    look = asked(fleet, seen_on(fleet, isl=2000, osl=10, rate=2.0))
    assert look.mismatch < 0.02
    assert look.best is not None
    assert look.best.num_prefill >= 2
    assert look.best.gain_low > 0.3


def test_a_layout_that_is_good_enough_gets_no_other_advice() -> None:
    fleet = fleet_of(TIMES, Split(2, 2))
    look = asked(fleet, seen_on(fleet, isl=1000, osl=50, rate=1.0))
    assert look.seen == 1.0
    assert look.best is None


def test_wrong_step_times_are_fitted_to_what_was_seen() -> None:
    truth = fleet_of(TIMES, Split(1, 3))
    slow = replace(TIMES, prefill_token_s=TIMES.prefill_token_s / 1.4)
    look = asked(fleet_of(slow, Split(1, 3)), seen_on(truth, isl=2000, osl=10, rate=1.4))
    assert look.prefill_factor > 1.2
    assert look.is_match


def test_metrics_that_cannot_be_true_give_no_advice() -> None:
    fleet = fleet_of(TIMES, Split(2, 2))
    look = asked(fleet, seen_on(fleet, isl=1000, osl=50, rate=1.0, lie=20.0))
    assert not look.is_match
    assert look.best is None


def test_no_layout_gains_on_requests_that_were_all_good_but_in_the_replay() -> None:
    pace = TIMES.prefill_token_s
    truth, slow = (fleet_of(replace(TIMES, prefill_token_s=k * pace), NOW) for k in (0.5, 1.4))
    look = asked(slow, seen_on(truth, isl=2000, osl=10, rate=1.5))
    assert (look.seen, look.is_match) == (1.0, False)
    assert max(one.gain for one in look.alternatives) > look.mismatch
    assert max(one.gain_low for one in look.alternatives) <= 0


def contradicted(window: Window) -> Window:
    """The window of a fleet that ran these requests, with whole times alone."""
    times = zip(window.ttft_s, window.tpot_s, window.requests.osl, strict=True)
    took_s = tuple((ttft or 0.0) + (tpot or 0.0) * (osl - 1) for ttft, tpot, osl in times)
    unknown = (None,) * len(took_s)
    return replace(window, ttft_s=unknown, tpot_s=unknown, took_s=took_s)


def test_times_that_contradict_whole_times_leave_those_to_compare_by() -> None:
    fleet = fleet_of(TIMES, Split(1, 3))
    look = asked(fleet, contradicted(seen_on(fleet, isl=2000, osl=10, rate=2.0)))
    assert look.by_whole
    assert look.mismatch < 0.02
    assert look.best is not None
    assert look.best.num_prefill >= 2


def test_whole_times_that_cannot_be_true_give_no_advice() -> None:
    fleet = fleet_of(TIMES, Split(2, 2))
    window = contradicted(seen_on(fleet, isl=1000, osl=50, rate=1.0, lie=20.0))
    look = asked(fleet, window)
    assert not look.is_match
    assert look.best is None


def test_colocated_engines_are_tried_on_the_same_gpus() -> None:
    fleet = fleet_of(TIMES, Split(2, 2))
    window = seen_on(fleet, isl=1000, osl=50, rate=1.0)
    look = what_if(fleet, window, SLO, now_s=0.0, others=[engine(times=TIMES)])
    assert isinstance(look, WhatIf)
    assert {one.layout for one in look.alternatives} == {"1P3D", "3P1D", "4C"}


def test_colocated_engines_are_known_by_whole_times_and_splits_are_tried_in_their_place() -> None:
    # prompts hold up everybody's tokens on a colocated engine
    fleet = Fleet(colocated=engine(times=TIMES), num_colocated=4)
    window = contradicted(seen_on(fleet, isl=2000, osl=50, rate=3.0))
    split = [engine("prefill", times=TIMES), engine("decode", times=TIMES)]
    look = what_if(fleet, window, SLO, now_s=0.0, others=split)
    assert isinstance(look, WhatIf)
    assert (look.layout, look.by_whole) == ("4C", True)
    assert {one.layout for one in look.alternatives} == {"1P3D", "2P2D", "3P1D"}
    assert look.is_match
    assert look.attainment < 0.5
    assert look.best is not None
    assert look.best.layout == "3P1D"


FOUR = {role: engine(role, times=TIMES) for role in ("colocated", "prefill", "decode")}
COLOCATED = replace(fleet_of(TIMES, Split(0, 0)), colocated=FOUR["colocated"], num_colocated=4)


def asked_under(fleet: Fleet, slo: Slo, mix: tuple[int, float, int, float]) -> WhatIf:
    """The what-if of four engines that serve a mix at half their load."""
    seen = logged(fleet, seeded_requests(1, mix, 2.0, 240.0), 120.0)
    window = contradicted(seen) if fleet.num_colocated else seen
    look = what_if(fleet, window, slo, now_s=0.0, others=tuple(FOUR.values()))
    assert isinstance(look, WhatIf)
    assert look.is_match
    return look


@pytest.mark.parametrize("slo", [SLO, Slo()], ids=["SLOs", "median times"])
@pytest.mark.parametrize("mix", MIXES)
def test_colocated_engines_advised_to_a_split_advise_no_split_when_asked_again(
    mix: tuple[int, float, int, float], slo: Slo
) -> None:
    on_split = asked_under(fleet_of(TIMES, Split(2, 2)), slo, mix)
    on_colocated = asked_under(COLOCATED, slo, mix)
    advised = on_split.of("4C")
    assert advised is not None
    if advised.gain_low > 0:
        assert on_colocated.best is None
    if slo.is_given:
        assert advised.attainment == pytest.approx(on_colocated.attainment, abs=0.02)


@pytest.mark.parametrize(
    ("slo", "mix"), [(SLO, MIXES[0]), (Slo(), MIXES[3])], ids=["SLOs", "median times"]
)
def test_a_split_with_too_few_engines_of_a_role_is_advised_to_colocated_ones(
    slo: Slo, mix: tuple[int, float, int, float]
) -> None:
    look = asked_under(fleet_of(TIMES, Split(2, 2)), slo, mix)
    assert look.best is not None
    assert look.best.layout == "4C"


def test_without_slos_a_layout_is_better_if_more_requests_get_todays_usual_times() -> None:
    fleet = fleet_of(TIMES, Split(1, 3))
    window = seen_on(fleet, isl=2000, osl=10, rate=2.0)
    look = what_if(fleet, window, Slo(), now_s=0.0)
    assert isinstance(look, WhatIf)
    assert look.usual_ttft_s is not None
    assert look.usual_tpot_s is not None
    assert 0.2 < look.seen < 0.8
    assert look.is_match
    assert look.best is not None
    assert look.best.num_prefill >= 2
    good = seen_on(fleet_of(TIMES, Split(2, 2)), isl=1000, osl=50, rate=1.0)
    same = what_if(fleet_of(TIMES, Split(2, 2)), good, Slo(), now_s=0.0)
    assert isinstance(same, WhatIf)
    assert same.best is None


def test_too_little_evidence_is_said() -> None:
    fleet = fleet_of(TIMES, Split(2, 2))
    window = seen_on(fleet, isl=1000, osl=50, rate=1.0)
    unknown = replace(window, ttft_s=(None,) * len(window.ttft_s))
    assert "0 requests" in str(what_if(fleet, unknown, SLO, now_s=0.0))
    late = replace(window, first=len(window.ttft_s) - 5)
    assert "5 requests arrived" in str(what_if(fleet, late, SLO, now_s=0.0))


@pytest.mark.parametrize("mix", MIXES)
def test_the_layout_it_ranks_first_is_within_three_points_of_the_best_split_of_the_next_minutes(
    mix: tuple[int, float, int, float],
) -> None:
    total = 6
    splits = [Split(p, total - p) for p in range(1, total)]
    past, future = (seeded_requests(seed, mix, 0.5 * total, 240.0) for seed in (1, 2))
    look = asked(fleet_of(TIMES, Split(3, 3)), logged(fleet_of(TIMES, Split(3, 3)), past, 120.0))
    top = look.alternatives[0]
    pick = top.layout if top.attainment > look.attainment else look.layout
    shares = {one.layout: share_of(simulate(fleet_of(TIMES, one), future)) for one in splits}
    assert max(shares.values()) - shares[pick] <= 0.03
