import pytest

from pdctl.perf_model.records import Fleet, Outcome
from pdctl.verdict.trials import arm_of, settled, simulated_knee_rps, try_layout
from pdctl.workload.arrivals import make_requests
from pdctl.workload.describe import workload_from_lengths
from pdctl.workload.records import Slo
from tests.verdict.examples import engine

ALONE = Fleet(colocated=engine(), num_colocated=1)
REQUESTS = make_requests(workload_from_lengths(isl=1000, osl=50), num=150, rate_rps=1, seed=0)


def test_an_arm_keeps_percentiles_goodput_and_queues() -> None:
    arm = try_layout(ALONE, REQUESTS, Slo(ttft_s=1.0), seed=0, queues=True, drawn=True)
    assert arm.layout == "1C"
    assert arm.ttft_s is not None
    assert 0.1 <= arm.ttft_s.p50 < 1.0
    assert arm.attainment == 1.0
    assert arm.queues


def test_an_arm_that_rejects_everything_says_so() -> None:
    nothing = Outcome((None, None), (None, None), (None, None), 0.0, 0, {})
    arm = arm_of(ALONE, nothing, Slo())
    assert arm.infeasible is not None
    assert arm.ttft_s is None


@pytest.mark.parametrize("guess", [0.5, 4.0, 60.0])
def test_the_knee_does_not_depend_much_on_the_guess_it_starts_from(guess: float) -> None:
    slo = Slo(ttft_s=0.5)
    knee = simulated_knee_rps(ALONE, REQUESTS, slo, guess, seed=0)
    if guess == 0.5:
        assert knee == pytest.approx(0.8)  # no more than 1.6 times the guess is tried
    else:
        assert 4.0 <= knee <= 9.0


def test_an_slo_below_one_prompt_alone_has_no_knee() -> None:
    assert simulated_knee_rps(ALONE, REQUESTS, Slo(ttft_s=0.05), 4.0, seed=0) == 0


def test_only_the_middle_of_a_run_is_steady() -> None:
    times = tuple(float(i) for i in range(100))
    kept = settled(Outcome(times, times, times, 200.0, 5000, {}))
    assert list(kept.ttft_s) == [float(i) for i in range(40, 90)]
    few = Outcome(times[:9], times[:9], times[:9], 9.0, 50, {})
    assert settled(few) == few
