"""The status screen at three widths, compared with golden files."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from pdctl.status.records import DeploymentStatus
from pdctl.tables.status import role_tables, status_view
from tests.status.fleets import BROKEN, BUSY, DECODE

GOLDEN = Path(__file__).parent / "golden"


def shown(status: DeploymentStatus, width: int, *, colour: bool = False) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=colour, no_color=not colour)
    console.print(status_view(status, width))
    return file.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize(("name", "status"), [("busy", BUSY), ("broken", BROKEN)])
def test_the_screen_is_as_written_down(name: str, status: DeploymentStatus, width: int) -> None:
    expected = (GOLDEN / f"{name}_{width}.txt").read_text(encoding="utf-8")
    assert shown(status, width) == expected


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120, 200])
@pytest.mark.parametrize("status", [BUSY, BROKEN], ids=["busy", "broken"])
def test_no_line_is_wider_than_the_terminal(status: DeploymentStatus, width: int) -> None:
    assert max(map(len, shown(status, width).splitlines())) <= width


def test_queues_states_and_the_command_are_there_at_80_columns() -> None:
    text = shown(BUSY, 80)
    for word in ("bootstrap", "inflight", "prealloc", "transfer", "running", "KV use", "ITL"):
        assert word in text
    assert "pdctl scale chat --prefill 3" in text


def test_an_engine_that_does_not_answer_keeps_its_last_numbers_and_unknown_is_a_dash() -> None:
    lines = shown(BROKEN, 200).splitlines()
    gone = next(line for line in lines if "decode-1" in line and "no answer" in line)
    assert "23" in gone
    assert "31.0 s" in gone
    starting = next(line for line in lines if line.startswith("  prefill-1"))
    assert "–" in starting
    assert " 0 " not in starting


def test_what_is_stale_is_dim_and_not_green() -> None:
    line = next(x for x in shown(BROKEN, 200, colour=True).splitlines() if "stale" in x)
    assert "\x1b[2m" in line
    assert "\x1b[32m" not in line


def test_a_colocated_deployment_has_one_table() -> None:
    sample = replace(DECODE, role="colocated")
    target = replace(BUSY.engines[2].target, name="engine-0", role="colocated")
    one = replace(BUSY, engines=(replace(BUSY.engines[2], target=target, sample=sample),))
    text = shown(one, 100)
    assert "COLOCATED" in text
    assert "PREFILL" not in text


def test_engines_that_drifted_are_listed_below_the_advice() -> None:
    note = "decode-0 has drifted from its profile h200--x: decode steps 50 % slower."
    lines = shown(replace(BUSY, notes=(note,)), 100).splitlines()
    assert f"! {note}" in lines[-2]


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_tables_of_the_roles_stand_in_line(width: int) -> None:
    prefill, decode = (table.heading.plain for table in role_tables(BUSY, width))
    ends = [{match.end() for match in re.finditer(r"\S+", line)} for line in (prefill, decode)]
    assert prefill.index("state") == decode.index("state")
    assert len(ends[0] & ends[1]) >= 4


@pytest.mark.parametrize("width", [30, 40, 50, 60])
def test_a_number_is_left_out_rather_than_cut(width: int) -> None:
    for status in (BUSY, BROKEN):
        for table in role_tables(status, width):
            assert not any("…" in line.plain for line in table.lines())
