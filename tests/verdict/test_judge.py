import pytest

from pdctl.perf_model.records import Percentiles
from pdctl.verdict.judge import (
    Known,
    by_capacity,
    by_latency,
    confidence_of,
    exceeds,
    roofline_band,
    settled_choice,
)
from pdctl.verdict.records import Arm, Choice, Lean
from tests.verdict.examples import arm

BAND = 0.25


def ruled(colocated: float, pd: float, rate: float | None = None) -> Choice:
    return by_capacity(Known(colocated), Known(pd), rate, BAND)


def sure(
    choice: Choice,
    lean: Lean = "mixed",
    *,
    band: float = BAND,
    rate: float | None = None,
    carries: tuple[float, float] | None = None,
) -> str:
    return confidence_of(
        choice, lean, band=band, is_anchored=True, rate_rps=rate, capacities=carries
    )


def test_what_an_arm_carries_decides_when_it_clears_the_error_band() -> None:
    assert ruled(4.0, 5.1) == "pd"
    assert ruled(5.1, 4.0) == "colocated"


def test_inside_the_band_it_is_too_close_whatever_the_rules_say() -> None:
    assert ruled(4.0, 4.9) == ruled(4.9, 4.0) == "too_close"
    assert settled_choice("too_close", "pd", is_anchored=True) == "too_close"


def test_colocated_suffices_when_it_carries_the_rate_with_the_band_to_spare() -> None:
    assert ruled(4.0, 9.0, rate=3.2) == "colocated"
    assert ruled(4.0, 9.0, rate=3.3) == "pd"


def test_an_arm_that_never_meets_the_slos_loses() -> None:
    assert ruled(0.0, 1.0) == "pd"
    assert ruled(0.0, 0.0) == "too_close"


def test_evidence_against_clear_rules_has_low_confidence() -> None:
    assert sure("pd", "colocated") == "low"
    assert sure("pd", "mixed") == "medium"


def test_measured_times_and_rules_that_agree_give_high_confidence() -> None:
    assert sure("pd", "pd", band=0.1) == "high"
    assert sure("pd", "pd", band=0.3) == "medium"


def test_colocated_that_barely_suffices_is_said_with_low_confidence() -> None:
    assert sure("colocated", rate=3.2, carries=(4.0, 9.0)) == "low"
    assert sure("colocated", rate=2.0, carries=(4.0, 9.0)) == "medium"
    assert sure("colocated", rate=3.2, carries=(4.0, 4.5)) == "medium"


class Narrowing:
    """A capacity that halves the distance to its value, and counts how often it was asked to."""

    def __init__(self, value: float) -> None:
        self.value, self.width, self.num = value, value, 0

    def bounds(self) -> tuple[float, float]:
        return self.value - self.width, self.value + self.width

    def narrow(self) -> None:
        self.num += 1
        self.width = self.width / 2 if self.width > 1e-3 else 0.0


def test_no_more_is_learnt_of_a_capacity_than_a_comparison_takes() -> None:
    far, near = Narrowing(10.0), Narrowing(2.01)
    assert exceeds(far, 1.0, Known(2.0))
    assert exceeds(near, 1.0, Known(2.0))
    assert far.num < near.num


def timed(ttft_s: float | None, tpot_s: float | None) -> Arm:
    times = [None if t is None else Percentiles(t, t, t, t) for t in (ttft_s, tpot_s)]
    return arm("8C", ttft_s=times[0], tpot_s=times[1], capacity_rps=4.0)


@pytest.mark.parametrize(("pd", "choice"), [
    ((1.0, 0.010), "pd"),  # half the TPOT, the rest equal
    ((1.3, 0.010), "too_close"),  # and a third more TTFT: the SLO decides
    ((1.5, 0.020), "colocated"),
    ((1.1, 0.019), "too_close"),
    ((None, None), "colocated"),  # does not keep up
])  # fmt: skip
def test_without_slos_an_arm_must_be_better_at_something_and_worse_at_nothing(
    pd: tuple[float | None, float | None], choice: str
) -> None:
    assert by_latency(timed(1.0, 0.020), timed(*pd), BAND) == choice


@pytest.mark.parametrize(("lean", "choice"), [
    ("pd", "pd"), ("mixed", "too_close"), ("colocated", "too_close"),
])  # fmt: skip
def test_at_a_load_nobody_asked_about_the_simulation_only_confirms_the_rules(
    lean: Lean, choice: str
) -> None:
    assert settled_choice("pd", lean, is_anchored=False) == choice


def test_a_gpu_whose_efficiencies_are_assumed_has_a_wider_band() -> None:
    assert roofline_band("H200") < 0.5
    assert roofline_band("MI300X") == 0.5


def one_token(ttft_s: float) -> Arm:
    ttft = Percentiles(ttft_s, ttft_s, ttft_s, ttft_s)
    return arm("8C", ttft_s=ttft, tpot_s=Percentiles(0.0, 0.0, 0.0, 0.0))


def test_answers_of_one_token_are_compared_by_ttft_and_rate() -> None:
    fast, slow = one_token(1.0), one_token(2.0)
    assert by_latency(fast, slow, BAND) == "colocated"
    assert by_latency(slow, fast, BAND) == "pd"
    assert by_latency(fast, fast, BAND) == "too_close"
