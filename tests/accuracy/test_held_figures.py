"""Figures of docs/accuracy.md, held on an excerpt of the public points.

The excerpt has four runs of each configuration, so its limits are wider than the page's figures.
"""

import json
from functools import cache
from pathlib import Path
from statistics import median

import pytest

from tests.accuracy.public_points import Errors, closed_loop, errors_of
from tests.accuracy.report import BEGIN, END, PAGE, page, rows

EXCERPT = Path(__file__).parents[1] / "data" / "public_points.json"


@cache
def found() -> tuple[Errors, ...]:
    points = json.loads(EXCERPT.read_text())["points"]
    return tuple(errors_of(points, EXCERPT.parent, closed_loop, with_flags=True))


@pytest.mark.slow
def test_every_run_of_the_excerpt_is_simulated() -> None:
    assert len(found()) == len(json.loads(EXCERPT.read_text())["points"])


@pytest.mark.slow
def test_median_errors_of_all_runs_are_held() -> None:
    assert median(errors.tpot for errors in found()) <= 0.10
    assert median(errors.ttft for errors in found()) <= 0.30


def test_nine_in_ten_tpots_are_within_a_quarter() -> None:
    ordered = sorted(errors.tpot for errors in found())
    assert ordered[int(0.9 * (len(ordered) - 1))] <= 0.25


# kind of model, GPU, largest median error of TTFT and TPOT
HELD = [
    ("dense", "H100", 0.25, 0.12),
    ("dense", "H200", 0.30, 0.15),
    ("mla", "H200", 0.25, 0.12),
    ("mla", "B200", 0.25, 0.15),
    ("sparse", "B200", 0.35, 0.12),
    ("hybrid", "H200", 0.25, 0.15),
    ("hybrid", "B200", 0.30, 0.15),
    ("moe", "H200", 0.45, 0.15),
]


@pytest.mark.parametrize(("kind", "gpu", "ttft", "tpot"), HELD)
def test_each_kind_of_model_keeps_its_error(kind: str, gpu: str, ttft: float, tpot: float) -> None:
    chosen = [e for e in found() if (e.kind, e.group[1]) == (kind, gpu)]
    assert len(chosen) >= 3
    assert median(errors.ttft for errors in chosen) <= ttft
    assert median(errors.tpot for errors in chosen) <= tpot


def test_the_other_planner_is_further_off_on_the_same_runs() -> None:
    both = [e for e in found() if e.peer_ttft is not None and e.peer_tpot is not None]
    assert median(e.ttft for e in both) < median(e.peer_ttft for e in both if e.peer_ttft)
    assert median(e.tpot for e in both) < median(e.peer_tpot for e in both if e.peer_tpot)


def test_the_page_keeps_its_text_and_gets_a_new_table() -> None:
    made = page(PAGE.read_text(), list(rows(found())), "2026-11-28")
    assert made.startswith(PAGE.read_text().partition(BEGIN)[0])
    assert made.endswith(PAGE.read_text().partition(END)[2])
    lines = made.splitlines()
    worst = next(line for line in lines if line.startswith("| moe | H200"))
    assert lines.index(worst) == lines.index("| --- |" + " --- |" * 10) + 1
