"""The user's own residuals: kept small, read defensively, weighed against those of others."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pdctl.perf_model.intervals import Case, errors_of, interval, ratio_interval
from pdctl.perf_model.residuals import (
    MOST_ROWS,
    Residual,
    add_own_residuals,
    known_residuals,
    own_file,
    own_residuals,
    read_residuals,
)

CASE = Case("dense", "H200", fitted=True, region="few", llm="qwen3-8b")
RUN = Residual("qwen3-8b H200 2C", "dense", "H200", True, "few", 0.02, 0.01, 0.01)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    own_residuals.cache_clear()
    errors_of.cache_clear()
    return tmp_path


def runs(num: int, size: float = 0.01) -> list[Residual]:
    return [replace(RUN, ttft=size, tpot=size, e2e=size + i / 1e4) for i in range(num)]


def test_what_was_added_is_read_back_in_order() -> None:
    assert add_own_residuals(runs(2))
    assert add_own_residuals([replace(RUN, tpot=None)])
    assert own_residuals() == (*runs(2), replace(RUN, tpot=None))


def test_the_file_keeps_the_newest_rows_only() -> None:
    add_own_residuals(runs(MOST_ROWS))
    add_own_residuals([replace(RUN, tpot=0.5)])
    assert len(own_residuals()) == MOST_ROWS
    assert own_residuals()[-1].tpot == 0.5


def test_nothing_is_written_without_residuals_or_where_nobody_may_write(home: Path) -> None:
    assert not add_own_residuals([])
    assert not own_file().exists()
    assert not add_own_residuals([replace(RUN, ttft=math.inf)])
    own_file().mkdir()
    assert not add_own_residuals([RUN])
    assert [path.name for path in home.iterdir()] == [own_file().name]


@pytest.mark.parametrize(
    "text", ["", "{}", '{"residuals": [{"kind": "dense"}]}', "[]", "\0", "[" * 9999]
)
def test_a_file_that_holds_no_residuals_counts_as_none_and_is_replaced(text: str) -> None:
    own_file().write_text(text)
    assert read_residuals(own_file()) == []
    assert add_own_residuals([RUN])
    assert own_residuals() == (RUN,)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ttft": math.nan},
        {"tpot": 9.0},
        {"e2e": "0.1"},
        {"fitted": 1},
        {"kind": "quantum"},
        {"region": None},
        {"configuration": ""},
        {"gpu": "x" * 1000},
        {"more": 1},
    ],
)
def test_a_row_that_pdctl_would_not_write_is_left_out(wrong: dict[str, object]) -> None:
    rows = [{**asdict(RUN), **wrong}, asdict(RUN)]
    own_file().write_text(json.dumps({"residuals": rows}))
    assert read_residuals(own_file()) == [RUN]


def test_own_runs_narrow_an_interval_one_by_one_until_nine_stand_alone() -> None:
    widths = [
        interval("tpot", CASE, known_residuals(), runs(num)).half_width
        for num in (0, 1, 3, 8, 9, 20)
    ]
    assert widths[:5] == sorted(widths[:5], reverse=True)
    assert widths[0] > 2 * widths[4]
    assert widths[4] == pytest.approx(widths[5])
    assert interval("tpot", CASE, known_residuals(), runs(9)).basis == "9 own runs"


def test_one_own_run_that_is_far_off_widens_the_interval() -> None:
    found = interval("tpot", CASE, known_residuals(), [*runs(1), replace(RUN, tpot=0.7)])
    assert found.high == pytest.approx(math.exp(0.7))
    assert found.basis.startswith("2 own runs and ")


def test_own_runs_of_both_arms_narrow_their_ratio_too() -> None:
    general = ratio_interval("rate", replace(CASE, fitted=False), known_residuals())
    own = [replace(run, fitted=False) for run in runs(9)]
    assert (
        ratio_interval("rate", replace(CASE, fitted=False), known_residuals(), own).high
        < general.high
    )


@pytest.mark.parametrize(
    "other",
    [{"llm": "qwen3-14b"}, {"gpu": "H100"}, {"fitted": False}, {"simulated": True}],
)
def test_own_runs_say_nothing_of_another_model_gpu_basis_or_of_simulated_engines(
    other: dict[str, str | bool],
) -> None:
    case = replace(CASE, **other)  # type: ignore[arg-type]
    bare = interval("tpot", case, known_residuals())
    assert interval("tpot", case, known_residuals(), runs(9)) == bare


def test_own_runs_of_another_load_region_count_where_there_are_none_of_this_one() -> None:
    case = replace(CASE, region="many")
    assert interval("tpot", case, known_residuals(), runs(9)).basis == "9 own runs"


def test_plans_read_what_was_added() -> None:
    before = errors_of(CASE)
    errors_of.cache_clear()
    add_own_residuals(runs(9))
    assert errors_of(CASE).tpot.half_width < before.tpot.half_width
