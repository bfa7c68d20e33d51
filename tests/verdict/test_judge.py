from dataclasses import replace

import pytest

from pdctl.perf_model.fitting.profiles import named_profile
from pdctl.perf_model.records import Fleet, Percentiles
from pdctl.verdict.judge import (
    Known,
    Margins,
    by_capacity,
    by_latency,
    confidence_of,
    confidence_of_no,
    exceeds,
    provenance_of,
    running_on_each,
    settled_choice,
    slo_if_fast,
    slo_if_slow,
    with_intervals,
)
from pdctl.verdict.records import Arm, Choice, Interval, Lean
from pdctl.workload.records import Slo
from tests.verdict.examples import arm, engine, errors, question

MARGINS = Margins(ratio=1.25, ttft=1.25, tpot=1.25)


def ruled(colocated: float, pd: float, rate: float | None = None) -> Choice:
    return by_capacity(Known(colocated), Known(pd), 0.8 * colocated, rate, MARGINS)


def sure(choice: Choice, lean: Lean = "mixed", width: float = 0.25) -> str:
    return confidence_of(choice, lean, errors(width))


def test_what_an_arm_carries_decides_when_it_clears_the_margin() -> None:
    assert ruled(4.0, 5.1) == "pd"
    assert ruled(5.1, 4.0) == "colocated"


def test_within_the_margin_it_is_too_close_whatever_the_rules_say() -> None:
    assert ruled(4.0, 4.9) == ruled(4.9, 4.0) == "too_close"
    assert settled_choice("too_close", "pd", is_anchored=True) == "too_close"


def test_colocated_suffices_when_it_carries_the_rate_at_least() -> None:
    assert ruled(4.0, 9.0, rate=3.2) == "colocated"
    assert ruled(4.0, 9.0, rate=3.3) == "pd"


def test_an_arm_that_never_meets_the_slos_loses() -> None:
    assert ruled(0.0, 1.0) == "pd"


def test_where_no_arm_carries_the_rate_the_nearer_is_named_and_it_is_never_too_close() -> None:
    assert ruled(2.0, 2.1, rate=3.0) == "pd"
    assert ruled(2.1, 2.0, rate=3.0) == "colocated"
    assert ruled(0.0, 0.0) == ruled(0.0, 0.0, rate=3.0) == "colocated"


def test_evidence_against_clear_rules_has_low_confidence() -> None:
    assert sure("pd", "colocated") == "low"
    assert sure("pd", "mixed") == "medium"


def test_measured_times_and_rules_that_agree_give_high_confidence() -> None:
    assert sure("pd", "pd", width=0.1) == "high"
    assert sure("pd", "pd", width=0.3) == "medium"
    assert sure("pd", "pd", width=0.9) == "low"


def test_a_no_is_sure_where_even_the_highest_capacity_is_below_the_rate() -> None:
    layouts = [with_intervals(arm("8C", capacity_rps=4.0), errors(), Interval(2.0, 4.8))]
    assert confidence_of_no(layouts, 4.7, errors()) == "low"
    assert confidence_of_no(layouts, 4.9, errors()) == "medium"
    assert confidence_of_no(layouts, 4.9, errors(0.1)) == "high"


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
    assert by_latency(timed(1.0, 0.020), timed(*pd), MARGINS) == choice


@pytest.mark.parametrize(("lean", "choice"), [
    ("pd", "pd"), ("mixed", "too_close"), ("colocated", "too_close"),
])  # fmt: skip
def test_at_a_load_nobody_asked_about_the_simulation_only_confirms_the_rules(
    lean: Lean, choice: str
) -> None:
    assert settled_choice("pd", lean, is_anchored=False) == choice


def test_without_slos_a_queue_that_grows_in_both_arms_names_what_carries_more() -> None:
    assert by_latency(timed(None, None), timed(None, None), MARGINS) == "colocated"
    more = replace(timed(None, None), capacity_rps=5.0)
    assert by_latency(timed(None, None), more, MARGINS) == "pd"


def test_a_gpu_that_nobody_measured_has_wider_intervals() -> None:
    known, unseen = (provenance_of(question(gpus=gpus)) for gpus in ("8xB200", "8xMI300X"))
    assert known.errors.tpot.half_width < unseen.errors.tpot.half_width
    assert known.errors.rate_ratio.high < unseen.errors.rate_ratio.high


def test_a_profile_counts_only_for_its_own_model_and_with_more_measurements_than_factors() -> None:
    own = named_profile("h200--dense-gqa--sglang-0.5.15--fa3")
    few = replace(own, measurements=own.measurements[:1])
    found = [
        provenance_of(question(model, profile=profile))
        for model, profile in (("llama-3.1-8b", own), ("qwen3-32b", own), ("llama-3.1-8b", few))
    ]
    assert [one.basis for one in found] == ["fitted", "relative", "relative"]
    widths = [one.errors.rate.half_width for one in found]
    assert widths[0] < widths[1] == widths[2]


def test_an_engine_across_hosts_has_wider_intervals() -> None:
    two = question("deepseek-r1", "2x8xH200:rdma400")
    wide = engine(parallelism=replace(engine().parallelism, tp=16))
    one, both = (
        provenance_of(two, [Fleet(colocated=e, num_colocated=1)]) for e in (engine(), wide)
    )
    assert one.errors.tpot.half_width < both.errors.tpot.half_width


def test_slos_are_met_with_longer_times_where_the_prediction_meets_tighter_ones() -> None:
    slow, fast = (scaled(Slo(2.0, 0.03), errors()) for scaled in (slo_if_slow, slo_if_fast))
    assert slow.ttft_s == pytest.approx(2.0 / 1.25)
    assert slow.tpot_s == pytest.approx(0.03 / 1.25)
    assert fast.ttft_s == pytest.approx(2.0 * 1.25)
    assert slo_if_slow(Slo(), errors()) == Slo()


def test_an_arm_carries_the_interval_of_each_figure_it_has() -> None:
    bare = arm("8C", capacity_rps=4.0, ttft_at_share_s=None)
    made = with_intervals(bare, errors(), Interval(2.0, 8.0))
    assert set(made.intervals) == {"tpot_at_share_s", "capacity_rps"}
    assert (made.intervals["capacity_rps"].low, made.intervals["capacity_rps"].high) == (2.0, 8.0)
    assert made.intervals["tpot_at_share_s"].high == pytest.approx(0.03 * 1.25)


def test_requests_running_at_once_follow_from_their_latency() -> None:
    assert running_on_each(arm("8C"), 8.0) == 5.0
    assert running_on_each(arm("6P2D"), 8.0) == 20.0
    assert running_on_each(arm("8C", e2e_s=None), 8.0) == float("inf")


def one_token(ttft_s: float) -> Arm:
    ttft = Percentiles(ttft_s, ttft_s, ttft_s, ttft_s)
    return arm("8C", ttft_s=ttft, tpot_s=Percentiles(0.0, 0.0, 0.0, 0.0))


def test_answers_of_one_token_are_compared_by_ttft_and_rate() -> None:
    fast, slow = one_token(1.0), one_token(2.0)
    assert by_latency(fast, slow, MARGINS) == "colocated"
    assert by_latency(slow, fast, MARGINS) == "pd"
    assert by_latency(fast, fast, MARGINS) == "too_close"
