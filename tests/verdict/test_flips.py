from dataclasses import replace

from pdctl.perf_model.records import Fleet, Parallelism
from pdctl.verdict.flips import Point, Scale, closed_choice, find_flips, scale_of
from pdctl.verdict.layouts import engines_that_fit
from pdctl.verdict.records import Choice
from pdctl.verdict.scores import Scored
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
