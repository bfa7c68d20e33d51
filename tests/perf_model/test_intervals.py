"""Intervals of predicted times, from what predictions of measured runs were off by."""

import math
from pathlib import Path
from statistics import median

import pytest

from pdctl.perf_model.intervals import (
    FIGURES,
    ErrorInterval,
    Figure,
    Kind,
    Residual,
    interval,
    known_residuals,
    model_kind,
    overlap,
    read_residuals,
    region_of,
)
from tests.perf_model.shapes import llm


def left_out(figure: Figure, *, fitted: bool) -> list[tuple[bool, float]]:
    """For each run: is it within the interval of the other configurations; the half-width."""
    residuals = [r for r in known_residuals() if r.fitted == fitted]
    found = []
    for one in residuals:
        score = one.ttft if figure == "ttft" else one.tpot
        others = [r for r in known_residuals() if r.configuration != one.configuration]
        if score is None:
            continue
        near = interval(
            figure, one.kind, one.gpu, fitted=fitted, region=one.region, residuals=others
        )
        assert near is not None
        found.append((near.low <= math.exp(score) <= near.high, near.half_width))
    return found


def test_intervals_cover_nine_in_ten_runs_of_a_configuration_that_was_left_out() -> None:
    covered = [
        within
        for figure in FIGURES
        for fitted in (True, False)
        for within, _ in left_out(figure, fitted=fitted)
    ]
    assert 0.85 <= sum(covered) / len(covered) <= 0.96


@pytest.mark.parametrize(("fitted", "widest"), [(True, 0.25), (False, 0.50)])
def test_intervals_are_not_so_wide_that_they_say_nothing(fitted: bool, widest: float) -> None:
    widths = [width for figure in FIGURES for _, width in left_out(figure, fitted=fitted)]
    assert median(widths) < widest


def made(num: int, size: float, configuration: str) -> list[Residual]:
    return [
        Residual(configuration, "dense", "H200", False, "many", size * i / num, size * i / num)
        for i in range(num)
    ]


def test_few_configurations_say_nothing_of_the_next_one() -> None:
    two = made(20, 0.2, "a") + made(20, 0.3, "b")
    assert interval("tpot", "dense", "H200", fitted=False, region="many", residuals=two) is None
    three = two + made(20, 0.1, "c")
    found = interval("tpot", "dense", "H200", fitted=False, region="many", residuals=three)
    assert found is not None
    assert found.num_configurations == 3
    assert found.low < 1 < found.high


def test_a_kind_of_model_or_gpu_that_was_never_measured_has_a_wider_interval() -> None:
    runs = made(40, 0.2, "a") + made(40, 0.3, "b") + made(40, 0.5, "c")
    asked: list[tuple[Kind, str]] = [("dense", "H100"), ("dense", "MI300X"), ("hybrid", "H200")]
    known, gpu, kind = (
        interval("tpot", kind, name, fitted=False, region="many", residuals=runs)
        for kind, name in asked
    )
    assert known is not None
    assert gpu is not None
    assert kind is not None
    assert known.half_width < gpu.half_width == kind.half_width


def test_times_overlap_where_their_intervals_do() -> None:
    wide, narrow = ErrorInterval(0.7, 1.4, "", 40, 4), ErrorInterval(0.95, 1.05, "", 40, 4)
    assert overlap(1.0, wide, 1.3, wide)
    assert not overlap(1.0, narrow, 1.3, narrow)


@pytest.mark.parametrize("text", ["", "{}", '{"residuals": [{"kind": "dense"}]}', "[]"])
def test_a_file_that_is_not_of_residuals_counts_as_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "residuals.json"
    path.write_text(text)
    assert read_residuals(path) == []
    assert read_residuals(tmp_path / "missing.json") == []


def test_kinds_follow_what_mixes_tokens_first() -> None:
    names = ("llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "glm-5", "qwen3.5-397b-a17b")
    kinds = [model_kind(llm(name)) for name in names]
    assert kinds == ["dense", "moe", "mla", "sparse", "hybrid"]
    assert (region_of(8), region_of(9)) == ("few", "many")
