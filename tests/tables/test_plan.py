import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from pdctl.perf_model.records import Parallelism, Role
from pdctl.tables.plan import (
    arm_rows,
    bar,
    basis,
    gpus_text,
    next_lines,
    plain_view,
    plan_view,
    usd_per_million,
    width,
)
from pdctl.verdict.records import (
    Flip,
    Interval,
    OneDown,
    Provenance,
    Rule,
    Sizing,
    StateLimits,
    Verdict,
)
from pdctl.verdict.sentences import flip_sentences
from pdctl.workload.records import Slo
from tests.verdict.examples import arm, errors, question

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
        "headline": "Split: run 5 prefill and 3 decode engines (5P3D)",
        "rules": RULES,
        "sizing": Sizing(8, 5, 3, "simulation"),
        "arms": {"colocated": arm("8C", capacity_rps=2.6), "pd": arm("5P3D", capacity_rps=5.5)},
        "sweep": (
            arm("4P4D", capacity_rps=None, estimate_rps=4.8),
            arm("5P3D", capacity_rps=5.5),
        ),
        "flips": FLIPS,
        "warnings": ("The rate between nodes is unknown.",),
        "provenance": Provenance("roofline", None, errors(0.25)),
        "starts": (Sizing(8, 2, 6, "quarter"),),
        "reason": "A split carries up to 5.5 req/s within your SLOs, colocated 2.6.",
        "rate_rps": 3.4,
        "is_rate_asked": True,
    }
    return Verdict(**{**made, **changes})  # type: ignore[arg-type]


def screen(told: Verdict, width: int = 100, slo: Slo | None = None) -> str:
    asked = question(slo=slo or Slo(5.0, 0.04))
    file = io.StringIO()
    console = Console(file=file, width=width, no_color=True, highlight=False)
    console.print(plan_view(asked, told))
    return file.getvalue()


def lines_of(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def test_the_answer_comes_first_with_its_confidence_and_intervals() -> None:
    first, second, *_ = lines_of(screen(verdict()))
    assert "Split: run 5 prefill and 3 decode engines (5P3D)" in first
    assert "sure? medium · step times from datasheets" in first
    assert second == "A split carries up to 5.5 req/s within your SLOs, colocated 2.6."


def test_a_no_is_the_headline_and_its_reason_the_next_line() -> None:
    head = "No layout meets your SLOs at 99 req/s"
    why = "The most is 5.5 req/s (5P3D)."
    told = verdict(headline=head, unmet=why, reason=why, is_met=False)
    first, second, *_ = lines_of(screen(told))
    assert first.startswith(head)
    assert second == "The most is 5.5 req/s (5P3D)."
    assert "Split: run" not in screen(told)


def test_both_arms_stand_side_by_side_with_the_slo() -> None:
    lines = lines_of(screen(verdict()))
    carries = next(line for line in lines if line.startswith("carries up to"))
    assert carries.split() == ["carries", "up", "to", "2.6", "req/s", "5.5", "req/s", "you:", "3.4"]
    tpot = next(line for line in lines if line.startswith("TPOT p90"))
    assert tpot.split()[-2:] == ["40", "ms"]
    meet = next(line for line in lines if line.startswith("meet both SLOs"))
    assert meet.split() == ["meet", "both", "SLOs", "95", "%", "95", "%", "90", "%"]


def test_cells_that_miss_are_marked_also_without_colour() -> None:
    slow = arm("8C", tpot_at_share_s=0.08, attainment=0.4099, meets=False)
    stuck = arm("5P3D", keeps_up=False, attainment=0.0, ttft_at_share_s=None, tpot_at_share_s=None)
    told = verdict(arms={"colocated": slow, "pd": stuck})
    rows = {name: cells for name, cells, _ in arm_rows(question(slo=Slo(5.0, 0.04)), told)}
    assert rows["meet both SLOs"] == ["40.9 % ✗", "cannot keep up ✗"]
    assert rows["TPOT p90"] == ["80 ms ✗", "–"]
    assert rows["TTFT p90"] == ["900 ms", "–"]


def test_the_percentile_shown_is_the_one_that_decides() -> None:
    asked = question(slo=Slo(5.0, 0.04, 0.99))
    names = [name for name, _, _ in arm_rows(asked, verdict())]
    assert {"TTFT p99", "TPOT p99"} <= set(names)


def test_a_price_gives_dollars_per_million_output_tokens() -> None:
    assert usd_per_million(arm(tokens_per_s_per_gpu=1000.0), 3.6) == pytest.approx(1.0)
    assert usd_per_million(arm(tokens_per_s_per_gpu=None), 3.6) is None
    asked = question(slo=Slo(5.0, 0.04), usd_per_gpu_hour=3.6)
    rows = {name: cells for name, cells, _ in arm_rows(asked, verdict())}
    assert rows["per 1M output tokens"] == ["$10.00", "$10.00"]


def test_how_many_gpus_would_do_and_what_a_failure_leaves_are_said() -> None:
    down = (OneDown("prefill", 0.0), OneDown("decode", 0.8437))
    pd = arm("5P3D", gpus_needed=6, one_down=down)
    text = screen(verdict(arms={"colocated": arm("8C", gpus_needed=8), "pd": pd}))
    assert "At 3.4 req/s, 6 of these 8 GPUs are enough (split)." in text
    assert "With one prefill engine down, 5P3D cannot keep up." in text
    assert "With one decode engine down, 84.3 % of the requests meet your SLOs." in text


def test_every_rule_says_what_it_favours_and_unknown_stays_a_question() -> None:
    lines = screen(verdict()).splitlines()
    assert next(line for line in lines if "prompts" in line).rstrip().endswith("split")
    assert next(line for line in lines if "variability" in line).rstrip().endswith("?")


def test_each_flip_is_a_few_words() -> None:
    assert list(flip_sentences(verdict().flips, verdict().arms)) == [
        "TPOT target of 80 ms or looser → colocated",
        "1.1 req/s or less → colocated",
        "about 4 engines → too close to call",
    ]


def test_the_sweep_has_a_bar_per_layout_and_marks_estimates() -> None:
    text = screen(verdict())
    assert "2P6D (a quarter)" in text
    assert text.count("█") > 20
    assert next(line for line in lines_of(text) if line.startswith("4P4D")).endswith("~ 4.8")
    assert next(line for line in lines_of(text) if line.startswith("5P3D")).endswith(" 5.5")
    assert "~ estimated, not simulated" in text


@pytest.mark.parametrize("width", range(60, 100, 3))
def test_no_figure_of_a_layout_is_cut_off_on_a_narrow_terminal(width: int) -> None:
    mixed = tuple(
        replace(one, parallelism={"prefill": Parallelism(1), "decode": Parallelism(n)})
        for n, one in enumerate(verdict().sweep, 1)
    )
    rows = " ".join(screen(verdict(sweep=mixed), width).partition("all layouts")[2].split())
    for one in mixed:
        for part in gpus_text(one).split("  "):
            assert part in rows


def test_unknown_predictions_are_left_out_and_never_zero() -> None:
    bare = arm(
        "5P3D", ttft_s=None, tpot_s=None, kv_usage=None, capacity_rps=None, goodput_rps=None,
        attainment=None,
    )  # fmt: skip
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


def test_warnings_close_the_screen() -> None:
    assert lines_of(screen(verdict()))[-1] == "! The rate between nodes is unknown."


def test_next_commands_stand_below_each_other() -> None:
    assert next_lines((), 80) == []
    assert next_lines(("pdctl up", "pdctl rehearse"), 80) == [
        "",
        "  next   pdctl up",
        "         pdctl rehearse",
    ]


def test_a_piped_screen_has_no_spaces_at_the_ends_of_its_lines() -> None:
    text = plain_view(plan_view(question(slo=Slo(5.0, 0.04)), verdict()), 100)
    assert [line for line in text.splitlines() if line != line.rstrip()] == []
    assert text.endswith("\n")
    assert not text.startswith("\n")
    assert "\x1b" not in text


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


def test_the_basis_is_the_source_of_the_step_times() -> None:
    told = verdict(provenance=Provenance("fitted", "h200", errors(0.1)))
    assert basis(told) == "step times fitted to a profile"


def test_a_wide_interval_is_a_factor() -> None:
    assert width(errors(0.1).rate) == "±10 %"
    assert width(errors(1.4).ttft) == "within 2.4×"


def test_each_figure_is_shown_with_its_interval() -> None:
    between = {"capacity_rps": Interval(4.72, 6.6), "tpot_at_share_s": Interval(0.024, 0.036)}
    text = screen(verdict(arms={"pd": arm("5P3D", capacity_rps=5.5, intervals=between)}))
    assert "5.5 req/s (4.72–6.6)" in text
    assert "30 ms ±20 %" in text


def test_a_closed_loop_says_how_it_starts_and_the_share_that_meets_the_slos() -> None:
    arms = {
        "colocated": arm("8C", capacity_rps=None, throughput_rps=2.0, attainment=0.84, meets=False),
        "pd": arm("5P3D", capacity_rps=None, throughput_rps=3.0, attainment=0.97),
    }
    told = screen(verdict(arms=arms, clients=64, rate_rps=None))
    assert "Load: 64 clients, closed loop, starting with a burst of 64." in told
    assert "at 64 clients" in told
    row = next(line for line in told.splitlines() if "meet both SLOs" in line)
    assert row.split()[3:] == ["84", "%", "✗", "97", "%", "90", "%"]
    assert not any(line.strip().startswith("carries up to") for line in told.splitlines())
    assert "throughput" in screen(verdict(arms=arms, clients=64, rate_rps=None), slo=Slo())


def test_the_requests_that_states_leave_room_for_stand_under_why() -> None:
    told = screen(verdict(state_limits=StateLimits(723, 144)), width=120)
    assert "runs up to 723 requests at once, a colocated one 144" in told
    assert told.index("Why") < told.index("723 requests") < told.index("Changes the answer")
    assert "requests at once" not in screen(verdict())


def test_flips_of_the_fewest_gpus_say_that_they_hold_for_these() -> None:
    told = plain_view(plan_view(replace(question(), max_gpus=6), verdict(flips=FLIPS)), 100)
    assert "Changes the answer on 6 GPUs (each one asked again)" in told
    assert "Changes the answer (each one asked again)" in screen(verdict(flips=FLIPS))


@pytest.mark.parametrize("columns", [60, 72, 80])
def test_a_figure_and_its_interval_each_stay_in_one_line(columns: int) -> None:
    def table(width: int) -> str:
        return screen(verdict(), width).partition("your SLO")[2].partition("Why")[0]

    figures = re.findall(r"±\S+ %|\(90 %\)|[\d.]+ m?s\b", table(200))
    assert figures
    assert all(figure in table(columns) for figure in figures)
