"""Screens at the widths of terminals, with colours and without: nothing overflows or is cut."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from rich.cells import cell_len
from rich.console import Console, RenderableType

from pdctl.doctor.records import Check
from pdctl.measurement.arms import compare_arms
from pdctl.measurement.compare import Compared
from pdctl.tables.deployments import doctor_view, ls_view, ready_view, up_view
from pdctl.tables.measure import measure_view
from pdctl.tables.plan import plan_view
from pdctl.tables.status import status_view
from pdctl.tables.status_live import View, live_frame
from pdctl.workload.records import Slo
from tests.measurement.test_arms import SLO, played, results
from tests.status.fleets import BROKEN, BUSY
from tests.tables.test_deployments import NOW, STATE
from tests.tables.test_plan import verdict
from tests.verdict.examples import question

CHECKS = (
    Check("locked_memory", "fail", "This machine locks 8 MiB. " * 4, "ulimit -l unlimited", "x#1"),
    Check("engines", "pass", "8 engines answer.", deployment="chat"),
)
SERVING = replace(STATE, phase="serving", ready_after_s=48.0, first_request_ttft_s=0.081)
KILLED = replace(
    STATE.processes[2], phase="backoff", detail="was killed (SIGKILL); restarting 10 s later"
)
FIGURES = tuple(Compared(f"last token p{q}", "s", 0.45, 0.5) for q in (50, 90, 99))


@cache
def measured() -> RenderableType:
    """The screen of two arms, whose bootstrap takes a while."""
    loads = [played("colocated", bad_every=3), played("pd")]
    arms = [replace(arm, figures=FIGURES) for arm in results(loads)]
    return measure_view(arms, compare_arms(arms, loads, SLO), SLO)


SCREENS: dict[str, Callable[[int], RenderableType]] = {
    "plan": lambda width: plan_view(question(slo=Slo(5.0, 0.04)), verdict()),
    "up": lambda width: up_view("chat", STATE, NOW, 24),
    "killed": lambda width: up_view("chat", replace(STATE, processes=(KILLED,)), NOW, 24),
    "ready": lambda width: ready_view(SERVING, is_foreground=True, width=width),
    "status": lambda width: live_frame(BUSY, View(), width, 24).lines,
    "broken": lambda width: status_view(BROKEN, width),
    "ls": lambda width: ls_view([SERVING], NOW, width),
    "doctor": lambda width: doctor_view(CHECKS),
    "measure": lambda width: measured(),
}


def shown(view: RenderableType, width: int, *, colour: bool) -> list[str]:
    """The lines of a screen on a terminal of 24 rows, without their colours."""
    file = io.StringIO()
    console = Console(
        file=file, width=width, height=24, force_terminal=True, no_color=not colour, markup=False
    )
    console.print(view, soft_wrap=False)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue()).splitlines()


@pytest.mark.parametrize("colour", [True, False], ids=["colour", "plain"])
@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", SCREENS)
def test_nothing_overflows_or_is_cut(name: str, width: int, colour: bool) -> None:
    lines = shown(SCREENS[name](width), width, colour=colour)
    assert max(map(cell_len, lines)) <= width
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_says_the_same_without_colours(name: str, width: int) -> None:
    view = SCREENS[name](width)
    assert shown(view, width, colour=True) == shown(view, width, colour=False)


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_large_deployment_folds_into_24_rows(width: int) -> None:
    engines = tuple(
        replace(one, target=replace(one.target, name=f"{one.target.role}-{i}"))
        for i in range(16)
        for one in BUSY.engines[:3:2]
    )
    large = replace(BUSY, engines=engines)
    lines = shown(live_frame(large, View(), width, 24).lines, width, colour=False)
    assert len(lines) <= 24
    assert "q" in lines[-1]
    assert any("more, all well" in line for line in lines)
    assert any("▲" in line for line in lines)


def test_a_large_start_folds_the_processes_that_serve() -> None:
    many = tuple(
        replace(STATE.processes[1], name=f"prefill-{i}", phase="loading" if i == 39 else "serving")
        for i in range(40)
    )
    lines = shown(up_view("chat", replace(STATE, processes=many), NOW, 24), 80, colour=False)
    assert len(lines) <= 24
    assert any("prefill-39" in line for line in lines)
    assert any("more: 22 up" in line for line in lines)
