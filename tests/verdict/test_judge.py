from dataclasses import replace

import pytest

from pdctl.perf_model.records import Fleet, Parallelism
from pdctl.verdict.closed_form import Scored
from pdctl.verdict.judge import (
    Point,
    Scale,
    Side,
    closed_choice,
    find_flips,
    judge,
    roofline_band,
    scale_of,
)
from pdctl.verdict.layouts import engines_that_fit
from pdctl.verdict.records import Choice
from pdctl.workload.records import Slo
from tests.verdict.examples import arm, question

TP2 = {role: Parallelism(tp=2) for role in ("colocated", "prefill", "decode")}


def point(tpot_s: float = 0.03, rate: float | None = None) -> Point:
    slo = Slo(ttft_s=4.0, tpot_s=tpot_s)
    asked = question("qwen3-32b", "2x8xH200:rdma400", isl=2000, osl=500, slo=slo, parallelism=TP2)
    engines = engines_that_fit(asked)
    return Point(
        asked,
        Fleet(colocated=engines.colocated[0], num_colocated=8),
        Fleet(prefill=engines.prefill[0], decode=engines.decode[0], num_prefill=5, num_decode=3),
        rate,
        band=0.25,
    )


def test_a_tight_tpot_favours_the_split_and_a_loose_one_does_not() -> None:
    assert closed_choice(point(0.02)) == "pd"
    assert closed_choice(point(0.2)) != "pd"


def test_the_tpot_at_which_the_verdict_turns_lies_between() -> None:
    flips = find_flips(point(0.02), "pd")
    (loose,) = [f for f in flips if f.what == "tpot_s" and f.at > 0.02]
    assert loose.from_ == "pd"
    assert loose.to != "pd"
    assert closed_choice(point(loose.at * 0.9)) == "pd"
    assert closed_choice(point(loose.at * 1.05)) != "pd"


def test_below_some_rate_colocated_suffices() -> None:
    base = closed_choice(point(0.02, rate=20.0))
    flips = find_flips(point(0.02, rate=20.0), base)
    lower = [f for f in flips if f.what == "rate_rps" and f.at < 20.0]
    assert base == "pd"
    assert [f.to for f in lower] == ["colocated"]


def test_nothing_flips_where_the_closed_forms_do_not_give_the_verdict() -> None:
    other: Choice = "colocated"
    assert closed_choice(point(0.02)) != other
    assert find_flips(point(0.02), other) == ()


def test_a_simulated_arm_scales_the_closed_forms() -> None:
    fleet = point().pd
    scored = Scored(fleet, 1.0, knee_rps=2.0, pace=None)
    assert scale_of(arm("5P3D", knee_rps=3.0), scored) == Scale(knee=1.5)
    assert scale_of(arm("5P3D", knee_rps=300.0), scored).knee == 5.0
    halved = replace(point(0.02), scales={"pd": Scale(knee=0.3)})
    assert closed_choice(halved) != "pd"


BAND = 0.25


def ruled(colocated: float, pd: float, lean: str = "mixed", rate: float | None = None,
          band: float = BAND) -> tuple[str, str, str]:  # fmt: skip
    ruling = judge(
        lean,  # type: ignore[arg-type]
        Side(colocated, None, None),
        Side(pd, None, None),
        rate_rps=rate,
        has_slo=True,
        band=band,
    )
    return ruling.choice, ruling.decided_by, ruling.confidence


def without_slo(colocated: Side, pd: Side, lean: str = "mixed") -> str:
    return judge(
        lean,  # type: ignore[arg-type]
        colocated,
        pd,
        rate_rps=1.0,
        has_slo=False,
        band=BAND,
    ).choice


def test_goodput_decides_when_it_clears_its_error_band() -> None:
    assert ruled(4.0, 5.1) == ("pd", "evidence", "medium")
    assert ruled(5.1, 4.0) == ("colocated", "evidence", "medium")


def test_inside_the_band_it_is_too_close_unless_the_rules_are_clear() -> None:
    assert ruled(4.0, 4.9) == ("too_close", "evidence", "low")
    assert ruled(4.0, 4.9, "pd") == ("pd", "rules", "medium")
    assert ruled(4.1, 4.0, "pd") == ("pd", "rules", "low")


def test_rules_that_the_arms_contradict_within_the_band_leave_it_too_close() -> None:
    assert ruled(4.9, 4.0, "pd") == ("too_close", "evidence", "low")
    assert ruled(4.0, 4.9, "colocated") == ("too_close", "evidence", "low")


def test_evidence_against_clear_rules_decides_with_low_confidence() -> None:
    assert ruled(4.0, 8.0, "colocated") == ("pd", "evidence", "low")


def test_measured_times_and_rules_that_agree_give_high_confidence() -> None:
    assert ruled(4.0, 8.0, "pd", band=0.1) == ("pd", "evidence", "high")
    assert ruled(4.0, 8.0, "pd", band=0.3) == ("pd", "evidence", "medium")


def test_colocated_suffices_when_it_holds_the_rate_with_the_band_to_spare() -> None:
    assert ruled(4.0, 9.0, rate=3.2)[0] == "colocated"
    assert ruled(4.0, 9.0, rate=3.3)[0] == "pd"


def test_colocated_that_barely_suffices_is_said_with_low_confidence() -> None:
    assert ruled(4.0, 9.0, rate=3.2)[2] == "low"
    assert ruled(4.0, 9.0, rate=2.0)[2] == "medium"
    assert ruled(4.0, 4.5, rate=3.2)[2] == "medium"


def test_an_arm_that_never_meets_the_slos_loses() -> None:
    assert ruled(0.0, 1.0)[0] == "pd"
    assert ruled(0.0, 0.0)[0] == "too_close"


@pytest.mark.parametrize(("pd", "choice"), [
    (Side(4.0, 1.0, 0.010), "pd"),  # half the TPOT, the rest equal
    (Side(4.0, 1.3, 0.010), "too_close"),  # and a third more TTFT: the SLO decides
    (Side(4.0, 1.5, 0.020), "colocated"),
    (Side(4.0, 1.1, 0.019), "too_close"),
    (Side(4.0, None, None), "colocated"),  # does not carry the rate
])  # fmt: skip
def test_without_slos_an_arm_must_be_better_at_something_and_worse_at_nothing(
    pd: Side, choice: str
) -> None:
    assert without_slo(Side(4.0, 1.0, 0.020), pd) == choice


@pytest.mark.parametrize(("lean", "choice"), [
    ("pd", "pd"), ("mixed", "too_close"), ("colocated", "too_close"),
])  # fmt: skip
def test_at_a_rate_nobody_asked_for_the_simulation_only_confirms_the_rules(
    lean: str, choice: str
) -> None:
    ruling = judge(
        lean,  # type: ignore[arg-type]
        Side(4, 1, 0.02),
        Side(4, 1, 0.01),
        rate_rps=None,
        has_slo=False,
        band=BAND,
    )
    assert (ruling.choice, ruling.confidence) == (choice, "low")


def test_a_gpu_whose_efficiencies_are_assumed_has_a_wider_band() -> None:
    assert roofline_band("H200") < 0.5
    assert roofline_band("MI300X") == 0.5


def test_answers_of_one_token_are_compared_by_ttft_and_rate() -> None:
    assert without_slo(Side(4.0, 1.0, 0.0), Side(4.0, 2.0, 0.0)) == "colocated"
    assert without_slo(Side(4.0, 2.0, 0.0), Side(4.0, 1.0, 0.0)) == "pd"
    assert without_slo(Side(4.0, 1.0, 0.0), Side(4.0, 1.0, 0.0)) == "too_close"
