import io

import pytest
from rich.console import Console

from pdctl.perf_model.records import Parallelism, Role
from pdctl.tables.plan import bar, basis, flip_sentence, gpus_text, plan_view
from pdctl.verdict.records import Flip, Provenance, Rule, Sizing, Verdict
from pdctl.workload.records import Slo
from tests.verdict.examples import arm, question

RULES = (
    Rule("long_prompts", "pd", 12035, 4000, "mean 12,035 tokens, 66 % over 4K", "source"),
    Rule("variability", "unknown", None, 2.5, "unknown: give a trace", "source"),
)
FLIPS = (
    Flip("tpot_s", "pd", "colocated", 0.08, 0.04),
    Flip("rate_rps", "pd", "colocated", 1.1, 3.4),
    Flip("total", "pd", "too_close", 4, 8),
)


def verdict(**changes: object) -> Verdict:
    made = {
        "verdict": "pd",
        "confidence": "medium",
        "decided_by": "evidence",
        "headline": "Split prefill and decode: 5P3D",
        "rules": RULES,
        "sizing": Sizing(8, 5, 3, "simulation"),
        "arms": {"colocated": arm("8C", knee_rps=2.6), "pd": arm("5P3D", knee_rps=5.5)},
        "sweep": (arm("4P4D", knee_rps=4.8), arm("5P3D", knee_rps=5.5)),
        "flips": FLIPS,
        "warnings": ("The rate between nodes is unknown.",),
        "provenance": Provenance("roofline", None, 0.25),
        "starts": (Sizing(8, 2, 6, "quarter"),),
        "reason": "2.1× the goodput of colocated at your SLOs.",
        "rate_rps": 3.4,
    }
    return Verdict(**{**made, **changes})  # type: ignore[arg-type]


def screen(told: Verdict, width: int = 100, slo: Slo | None = None) -> str:
    asked = question(slo=slo or Slo(5.0, 0.04))
    file = io.StringIO()
    console = Console(file=file, width=width, no_color=True, highlight=False)
    console.print(plan_view(asked, told, "pdctl up qwen3-32b --prefill 5 --total 8 --tp 2"))
    return file.getvalue()


def test_the_answer_comes_first_with_its_confidence_and_error_band() -> None:
    first, second, *_ = [line for line in screen(verdict()).splitlines() if line.strip()]
    assert "Split prefill and decode: 5P3D" in first
    assert "confidence medium (roofline, ±25 %)" in first
    assert "2.1× the goodput" in second


def test_a_no_stands_above_the_best_there_is() -> None:
    lines = screen(verdict(unmet="99 req/s is more than any layout here carries.")).splitlines()
    told = [line.strip() for line in lines if line.strip()]
    assert told[0] == "99 req/s is more than any layout here carries."
    assert told[1].startswith("Split prefill and decode: 5P3D")


def test_both_arms_stand_side_by_side_with_the_slo() -> None:
    text = screen(verdict())
    row = next(line for line in text.splitlines() if "goodput  " in line)
    assert row.split() == ["goodput", "2.6", "req/s", "5.5", "req/s", "offered", "3.4"]
    assert next(line for line in text.splitlines() if "TPOT  p50" in line).split()[-2:] == [
        "40",
        "ms",
    ]


def test_every_rule_says_what_it_favours_and_unknown_stays_a_question() -> None:
    lines = screen(verdict()).splitlines()
    assert next(line for line in lines if "prompts" in line).rstrip().endswith("PD")
    assert next(line for line in lines if "variability" in line).rstrip().endswith("?")


def test_flips_are_one_sentence_per_side() -> None:
    assert flip_sentence(verdict()) == (
        "It flips to colocated if TPOT may be 80 ms, or below 1.1 req/s. "
        "It becomes too close to call with 4 engines."
    )


def test_the_sweep_has_a_bar_per_split_and_where_the_rules_start() -> None:
    text = screen(verdict())
    assert "N/4 2P6D" in text
    assert text.count("█") > 20


def test_unknown_predictions_are_left_out_and_never_zero() -> None:
    bare = arm("5P3D", ttft_s=None, tpot_s=None, kv_usage=None, knee_rps=None, goodput_rps=None)
    rules_only = verdict(
        arms={"pd": bare}, sweep=(), flips=(), decided_by="rules", starts=(), rate_rps=None
    )
    text = screen(rules_only, slo=Slo())
    assert "rules alone" in text
    assert "TTFT" not in text
    half = verdict(arms={"colocated": arm("8C", kv_usage=None), "pd": arm("5P3D")})
    assert "unknown" in screen(half)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_it_fits_narrow_and_wide_terminals(width: int) -> None:
    text = screen(verdict(), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "5P3D" in text


def test_warnings_and_the_next_command_close_the_screen() -> None:
    lines = [line.strip() for line in screen(verdict()).splitlines() if line.strip()]
    assert lines[-3] == "! The rate between nodes is unknown."
    assert lines[-2] == "next   pdctl up qwen3-32b --prefill 5 --total 8 --tp 2"


def test_engines_of_unequal_size_are_told_apart() -> None:
    shapes: dict[Role, Parallelism] = {
        "prefill": Parallelism(tp=4),
        "decode": Parallelism(tp=8, dp=8, ep=8),
    }
    assert gpus_text(arm("2P1D", parallelism=shapes)) == "P 2 × tp4  D 1 × tp8 dp8 ep8"


def test_a_bar_is_as_long_as_its_share() -> None:
    assert bar(0.5, 8) == "████"
    assert bar(0.0, 8) == ""
    assert bar(2.0, 8) == "█" * 8
    assert bar(1 / 64, 8) == "▏"


def test_the_basis_names_a_profile_kind_and_its_band() -> None:
    assert basis(verdict(provenance=Provenance("fitted", "h200", 0.1))) == "fitted, ±10 %"


def test_a_closed_loop_says_how_it_starts_and_the_share_that_meets_the_slos() -> None:
    arms = {
        "colocated": arm("8C", knee_rps=None, attainment=0.84),
        "pd": arm("5P3D", knee_rps=None, attainment=0.97),
    }
    told = screen(verdict(arms=arms, clients=64, rate_rps=None))
    assert "Load: 64 clients, closed loop, starting with a burst of 64." in told
    row = next(line for line in told.splitlines() if "meet the SLOs" in line)
    assert row.split()[3:] == ["84", "%", "97", "%", "90", "%"]
    assert "offered" not in told
    assert "throughput" in screen(verdict(arms=arms, clients=64, rate_rps=None), slo=Slo())
