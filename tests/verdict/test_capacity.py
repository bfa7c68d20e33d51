import math
from dataclasses import dataclass, replace

import pytest

from pdctl.perf_model.records import Fleet
from pdctl.units import format_rate
from pdctl.verdict.capacity import STEP, Candidate, CapacitySearch, rung_below, rung_rps
from pdctl.verdict.trials import Trials, sample_of, trials_on
from pdctl.workload.arrivals import make_requests
from pdctl.workload.describe import workload_from_lengths
from pdctl.workload.records import Slo
from tests.verdict.examples import engine, equal_lengths

ALONE = Fleet(colocated=engine(), num_colocated=1)
THREE = Fleet(colocated=engine(), num_colocated=3)
SAMPLE = sample_of(equal_lengths(isl=1000, osl=50), 400, max_context=None, seed=0)
SLO = Slo(ttft_s=0.5)


def capacity(*candidates: Candidate, slo: Slo = SLO) -> CapacitySearch:
    search = CapacitySearch(Trials(SAMPLE), candidates, slo)
    search.finish()
    return search


@pytest.mark.parametrize("rate", [0.00123, 0.5, 1.0, 7.77, 1e6])
def test_a_rate_lies_between_two_rungs(rate: float) -> None:
    rung = rung_below(rate)
    assert rung_rps(rung) <= rate < rung_rps(rung + 1)


def test_a_rung_is_printed_as_it_is() -> None:
    rates = [rung_rps(rung) for rung in range(rung_below(0.001), rung_below(9000.0))]
    assert [float(format_rate(rate)) for rate in rates] == rates


@pytest.mark.parametrize("guess", [0.1, 1.0, 4.0, 60.0])
def test_a_capacity_does_not_depend_on_the_guess_it_starts_from(guess: float) -> None:
    found = capacity(Candidate(ALONE, guess, 10.0))
    assert 4.0 <= found.rate_rps <= 9.0
    assert found.rate_rps == capacity(Candidate(ALONE, 5.0, 10.0)).rate_rps


def test_at_a_capacity_the_slos_are_met_and_a_tenth_above_they_are_missed() -> None:
    found = capacity(Candidate(ALONE, 4.0, 10.0))
    assert found.trials.run(ALONE, 0.97 * found.rate_rps).meets(SLO)
    assert not found.trials.run(ALONE, 1.10 * found.rate_rps).meets(SLO)


def test_an_slo_below_one_prompt_alone_has_no_capacity() -> None:
    found = capacity(Candidate(ALONE, 4.0, 10.0), slo=Slo(ttft_s=0.05))
    assert (found.rate_rps, found.bounds()) == (0.0, (0.0, 0.0))


def test_the_best_of_several_layouts_is_found_whichever_the_closed_forms_prefer() -> None:
    found = capacity(Candidate(ALONE, 9.0, 10.0), Candidate(THREE, 3.0, 30.0))
    assert found.best == THREE
    alone = capacity(Candidate(THREE, 9.0, 30.0))
    assert found.rate_rps == pytest.approx(alone.rate_rps, rel=STEP - 1)  # a rung more or less


def test_bounds_close_in_on_the_capacity() -> None:
    search = CapacitySearch(Trials(SAMPLE), [Candidate(ALONE, 4.0, 10.0)], SLO)
    seen = []
    while not search.is_done:
        seen.append(search.bounds())
        search.narrow()
    least, most = search.bounds()
    assert least == most == search.rate_rps
    assert all(low <= least for low, _ in seen)


def test_a_capacity_is_the_same_whatever_was_asked_before() -> None:
    both = [Candidate(ALONE, 4.0, 10.0), Candidate(THREE, 12.0, 30.0)]
    trials = Trials(SAMPLE)
    for rate in (3.0, 40.0):
        assert [trials.meets(c.fleet, rate, SLO) for c in both] == [rate == 3.0] * 2
    search = CapacitySearch(trials, both, SLO)
    assert search.bounds() == (0.0, math.inf), "attainment does not quite fall with the rate"
    assert search.finish() == capacity(*both).rate_rps


def test_without_service_levels_a_capacity_is_where_a_layout_still_keeps_up() -> None:
    found = capacity(Candidate(ALONE, 4.0, 10.0), slo=Slo())
    # 100 ms of prefill a request, with a decode step now and then
    assert 7.0 <= found.rate_rps <= 10.5


def test_a_layout_that_serves_carries_something_however_wrong_its_closed_form() -> None:
    found = capacity(Candidate(ALONE, 5000.0, 5000.0), slo=Slo())
    assert found.rate_rps == capacity(Candidate(ALONE, 4.0, 10.0), slo=Slo()).rate_rps


def test_nothing_to_try_carries_nothing() -> None:
    assert CapacitySearch(Trials(SAMPLE), [], SLO).finish() == 0.0


@dataclass
class Bursty(Trials):
    """Requests that happen to meet the service levels at a rate, and miss them a tenth below."""

    def meets(self, fleet: Fleet, rate_rps: float, slo: Slo) -> bool:
        return 4.8 <= rate_rps <= 5.2


def test_a_part_of_the_requests_that_misses_below_its_own_capacity_leaves_its_best_layout() -> None:
    search = CapacitySearch(Trials(SAMPLE, Bursty(SAMPLE)), [Candidate(ALONE, 5.0, 10.0)], SLO)
    assert search.finish() == capacity(Candidate(ALONE, 5.0, 10.0)).rate_rps


@pytest.mark.slow
def test_a_part_of_a_long_trace_shows_where_to_begin_and_changes_nothing_found() -> None:
    drawn = workload_from_lengths(isl=1000, osl=20, isl_cv=0.8)
    recorded = replace(drawn, requests=make_requests(drawn, num=3200, rate_rps=3.0, seed=1))
    trials = trials_on(sample_of(recorded, 1000, max_context=None, seed=0))
    assert trials.few is not None
    candidates = [Candidate(ALONE, 4.0, 10.0), Candidate(THREE, 3.0, 30.0)]
    guided, plain = (
        CapacitySearch(given, candidates, SLO) for given in (trials, Trials(trials.sample))
    )
    assert (guided.finish(), guided.best) == (plain.finish(), plain.best)
    assert 0.7 < guided.rough_rps / guided.rate_rps < 1.4
