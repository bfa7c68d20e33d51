from dataclasses import replace

import pytest

from pdctl.verdict.judge import with_intervals
from pdctl.verdict.records import Arm, Choice, Flip, Interval, OneDown, Provenance, Rule, Verdict
from pdctl.verdict.sentences import (
    down_sentences,
    flip_sentences,
    gpus_sentence,
    misses,
    share_down,
    share_name,
    write,
)
from pdctl.verdict.verdict import decide
from pdctl.workload.records import Slo
from tests.verdict.examples import arm, counts_in, errors, question

ASKED = question("qwen3-8b", "8xH200", rate=3.4, slo=Slo(2.0, 0.03))
RULES = (Rule("moe", "pd", 8, 1, "MoE", "source"),)


def carrying(layout: str, rate: float) -> Arm:
    carried = Interval(0.9 * rate, 1.1 * rate)
    return with_intervals(arm(layout, capacity_rps=rate, meets=rate >= 3.4), errors(), carried)


def verdict(choice: Choice = "pd", colocated: float = 2.6, pd: float = 5.5,
            **changes: object) -> Verdict:  # fmt: skip
    provenance = Provenance("roofline", None, errors(0.25))
    made = {
        "verdict": choice,
        "confidence": "medium",
        "decided_by": "evidence",
        "rules": RULES,
        "sizing": None,
        "arms": {
            "colocated": carrying("8C", colocated),
            "pd": carrying("5P3D", pd),
        },
        "sweep": (),
        "flips": (),
        "provenance": provenance,
        "evidence": choice,
        "rate_rps": 3.4,
        "is_rate_asked": True,
    }
    return Verdict(**{**made, **changes})  # type: ignore[arg-type]


def test_requests_that_meet_the_slos_at_a_higher_rate_only_are_told_as_chance() -> None:
    told = verdict()
    told.arms["pd"] = replace(told.arms["pd"], attainment=0.8967)
    assert write(ASKED, told).warnings[0] == (
        "5P3D is near its limit: at 3.4 req/s, 89.6 % of the requests meet your SLOs, but 90 % do "
        "at 5.5. Chance decides there."
    )


def test_the_slo_that_the_losing_arm_misses_is_quoted() -> None:
    told = verdict()
    told.arms["colocated"] = replace(told.arms["colocated"], tpot_at_share_s=0.05)
    assert write(ASKED, told).reason == (
        "A split carries up to 5.5 req/s within your SLOs, colocated 2.6. At 3.4 req/s, 8C misses "
        "TPOT (p90 50 ms against 30 ms)."
    )


def test_a_split_that_wins_though_colocated_should_do_says_what_is_in_doubt() -> None:
    assert write(ASKED, verdict("pd", 3.7, 5.5)).reason == (
        "A split carries up to 5.5 req/s within your SLOs, colocated 3.7 (1.5×). At 3.4 req/s, 8C "
        "should meet them too, but it may carry only 3.33."
    )


def test_colocated_that_is_enough_says_up_to_where() -> None:
    told = write(ASKED, verdict("colocated", 6.8, 7.9))
    assert told.headline == "Don't split: run 8 colocated engines (8C)"
    assert told.reason == (
        "Both meet your SLOs at 3.4 req/s; colocated is simpler. Above about 6.8 req/s, only a "
        "split (5P3D) does, up to about 7.9."
    )
    assert "It carries up to 6.8 req/s, a split 5." in write(
        ASKED, verdict("colocated", 6.8, 5.0)
    ).reason  # fmt: skip


def test_a_tie_gives_the_ratio_the_least_that_could_be_told_and_the_lean() -> None:
    told = write(ASKED, verdict("too_close", 5.0, 5.2, lean="pd"))
    assert told.headline == "Too close to call: 8C or 5P3D"
    assert told.reason == (
        "The simulation cannot tell the arms apart: a split carries 1.04× what colocated does, and "
        "a gap below 1.25× is within its error. The rules lean to a split (MoE)."
    )


def test_a_tie_says_which_arm_alone_meets_the_slos() -> None:
    told = write(ASKED, verdict("too_close", 3.3, 3.5))
    assert "At 3.4 req/s, only 5P3D meets your SLOs." in told.reason


def test_where_nothing_meets_the_slos_the_headline_says_so_and_never_that_it_is_close() -> None:
    told = write(ASKED, verdict("pd", 2.0, 2.1, is_met=False))
    assert told.headline == "No layout meets your SLOs at 3.4 req/s"
    assert told.reason == told.unmet == "The best layout, 5P3D, carries 2.1 req/s within your SLOs."


def test_a_no_within_the_interval_says_what_the_best_layout_may_carry() -> None:
    told = verdict("pd", 2.0, 3.0, is_met=False)
    told.arms["pd"] = with_intervals(told.arms["pd"], errors(), Interval(2.4, 3.75))
    assert write(ASKED, told).reason.endswith("It may carry 2.4 to 3.75 req/s.")


@pytest.mark.parametrize(("needed", "words"), [
    (1, "1 of these 8 GPUs is enough (split)."),
    (8, "All 8 GPUs are needed."),
    (24, "About 24 GPUs of this kind would be enough."),
    (None, ""),
])  # fmt: skip
def test_how_many_gpus_would_do(needed: int | None, words: str) -> None:
    told = verdict()
    told.arms["pd"] = replace(told.arms["pd"], gpus_needed=needed)
    assert gpus_sentence(ASKED, told) == words


def test_what_one_failure_leaves_is_never_told_too_well() -> None:
    told = verdict()
    down = (OneDown("prefill", 0.8999), OneDown("decode", 0.0))
    told.arms["pd"] = replace(told.arms["pd"], one_down=down)
    assert list(down_sentences(ASKED, told)) == [
        "With one prefill engine down, 89.9 % of the requests meet your SLOs.",
        "With one decode engine down, 5P3D cannot keep up.",
    ]
    told.arms["pd"] = replace(told.arms["pd"], counts=counts_in("7P1D"), one_down=down[1:])
    assert list(down_sentences(ASKED, told)) == [
        "With its only decode engine down, 7P1D serves nothing."
    ]


def test_shares_are_rounded_down_and_percentiles_named_by_the_attainment() -> None:
    assert [share_down(x) for x in (1.0, 0.8999, 0.05)] == ["100 %", "89.9 %", "5 %"]
    assert [share_name(x) for x in (0.9, 0.99, 0.999)] == ["p90", "p99", "p99.9"]


def test_an_arm_that_misses_both_only_together_says_so() -> None:
    fine = arm("8C", ttft_at_share_s=1.0, tpot_at_share_s=0.02)
    assert misses(ASKED, fine) == "TTFT and TPOT together"


def test_flips_name_the_side_that_turns() -> None:
    flips = (
        Flip("rate_rps", "colocated", "pd", 6.8, 3.4),
        Flip("isl", "colocated", "too_close", 2000, 4000),
        Flip("ttft_s", "colocated", "pd", 3.0, 2.0),
        Flip("concurrency", "colocated", "pd", 500, 400),
    )
    assert list(flip_sentences(flips, {})) == [
        "6.8 req/s or more → split",
        "prompts of about 2,000 tokens → too close to call",
        "TTFT target of 3 s or looser → split",
        "500 clients or more → split",
    ]


def test_what_is_too_close_to_call_claims_no_side() -> None:
    flips = (
        Flip("tpot_s", "pd", "too_close", 0.055, 0.05),
        Flip("ttft_s", "pd", "too_close", 1.7, 2.0),
        Flip("rate_rps", "pd", "too_close", 5.4, 3.4),
        Flip("concurrency", "pd", "too_close", 500, 400),
    )
    assert [text.partition(" →")[0] for text in flip_sentences(flips, {})] == [
        "TPOT target of about 55 ms",
        "TTFT target of about 1.7 s",
        "about 5.4 req/s",
        "about 500 clients",
    ]


def test_a_flip_below_what_colocated_carries_says_why() -> None:
    arms = {
        "colocated": with_intervals(arm("8C", capacity_rps=6.37), errors(), Interval(5.35, 7.6))
    }
    flips = (
        Flip("rate_rps", "colocated", "too_close", 5.4, 3.4),
        Flip("rate_rps", "colocated", "pd", 7.2, 3.4, is_met=False),
    )
    told = list(flip_sentences(flips, arms))
    assert told == [
        "about 5.4 req/s → too close to call: 8C carries 6.37, but it may be 5.35",
        "7.2 req/s or more → no layout meets your SLOs",
    ]
    assert all(len(line) <= 98 for line in told)


@pytest.mark.slow
def test_a_format_without_products_on_the_gpu_is_a_warning_with_what_to_check() -> None:
    fp4 = question("qwen3-235b-a22b-nvfp4", "8xH100")
    told = write(fp4, decide(fp4, flips=False)).warnings
    assert any("marlin" in sentence for sentence in told)
