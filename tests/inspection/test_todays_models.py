"""Every figure of the models people serve in 2026, against the arithmetic beside it."""

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pdctl.inspection import llm_size
from pdctl.inspection.layers import mixers_of
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Llm
from pdctl.inspection.sglang_models import window_pool_share

MODELS = Path(__file__).parent.parent / "data" / "models"
EXPECTED: dict[str, dict[str, Any]] = json.loads((MODELS / "expected.json").read_text())
DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"
TOLERANCE = 0.03
COLUMNS = (
    "total_params",
    "active_params",
    "weight_bytes",
    "kv_bytes_growing_per_token",
    "window_bytes_per_token",
    "window_tokens",
    "state_bytes_per_request",
    "moved_bytes_at_8000_tokens",
)


def read(name: str, folder: Path) -> Llm:
    """The LLM of one file of tests/data/models, laid out as a release has it."""
    home = folder / name
    home.mkdir()
    for file, values in json.loads((MODELS / f"{name}.json").read_text()).items():
        (home / file).write_text(json.dumps(values))
    return read_llm(str(home))


def figures(llm: Llm) -> dict[str, float]:
    return {
        "total_params": llm_size.num_params(llm),
        "active_params": llm_size.num_active_params(llm),
        "weight_bytes": llm_size.weight_bytes(llm),
        "kv_bytes_growing_per_token": llm_size.kv_bytes_growing(llm),
        "window_bytes_per_token": llm_size.window_bytes_per_token(llm),
        "window_tokens": llm_size.trimmed_window(llm),
        "state_bytes_per_request": llm_size.state_bytes(llm),
        "moved_bytes_at_8000_tokens": llm_size.moved_bytes(llm, 8000),
    }


@pytest.mark.parametrize("name", EXPECTED)
def test_every_figure_of_a_model_is_within_three_percent(name: str, tmp_path: Path) -> None:
    found, expected = figures(read(name, tmp_path)), EXPECTED[name]
    for column in COLUMNS:
        assert found[column] == pytest.approx(expected[column], rel=TOLERANCE), column


@pytest.mark.parametrize("name", EXPECTED)
def test_no_figure_of_a_model_rests_on_a_guess(name: str, tmp_path: Path) -> None:
    assert read(name, tmp_path).guesses == ()


def test_the_table_in_the_documentation_is_the_one_made_here(tmp_path: Path) -> None:
    heads = ("model", *COLUMNS, "largest error")
    rows = [_row(heads), _row("---" for _ in heads)]
    for name in sorted(EXPECTED, key=str.lower):
        found = figures(read(name, tmp_path))
        errors = [abs(found[c] / EXPECTED[name][c] - 1) for c in COLUMNS if EXPECTED[name][c]]
        cells = [_shown(found[column]) for column in COLUMNS]
        rows.append(_row((name, *cells, f"{max(errors):.2%}")))
    table = "\n".join(rows)
    if os.environ.get("PDCTL_PRINT_MODELS"):
        sys.__stdout__.write(f"\n{table}\n")  # type: ignore[union-attr]
    assert table in DOCUMENT.read_text(), "PDCTL_PRINT_MODELS=1 pytest prints the new table"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(value: float) -> str:
    return f"{value:,.0f}" if value < 1e6 else f"{value / 1e9:,.4g} G"


def test_capacity_counts_the_window_pool_at_its_share(tmp_path: Path) -> None:
    llm = read("gpt-oss-120b", tmp_path)
    windows = figures(llm)["window_bytes_per_token"]
    cell = llm_size.kv_bytes_growing(llm) + window_pool_share(llm.architecture) * windows
    assert cell == pytest.approx(EXPECTED["gpt-oss-120b"]["capacity_bytes_per_token_tp1"], rel=1e-4)


def test_an_index_is_kept_by_the_full_layers_only(tmp_path: Path) -> None:
    llm = read("GLM-5.3-FP8", tmp_path)
    assert sum(1 for mixer in mixers_of(llm.layers) if mixer.index_dim) == 21
