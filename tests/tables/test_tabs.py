"""Screens as lines with tabs."""

import pytest
from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pdctl.doctor.records import Check
from pdctl.tables.tabs import doctor_lines, tab_lines


def test_a_table_is_a_line_of_names_and_a_line_per_row_with_one_tab_between_cells() -> None:
    table = Table("NAME", "STATE")
    table.add_row("chat", Text("serving:  all well", style="green"))
    table.add_row("a\tb", "x\ny")
    view = Group(Text("Headline"), Text(), table)
    lines = ["Headline", "", "NAME\tSTATE", "chat\tserving: all well", "a b\tx y"]
    assert list(tab_lines(view)) == lines


def test_a_screen_that_has_no_lines_is_refused() -> None:
    with pytest.raises(TypeError):
        list(tab_lines(Padding("x", 1)))


def test_every_check_is_one_line() -> None:
    check = Check("gpus", "fail", "No GPU\nanswers.", "reboot", "sglang#1", "chat")
    head, line = doctor_lines([check])
    assert head.count("\t") == line.count("\t") == 5
    assert line == "chat\tfail\tgpus\tNo GPU answers.\treboot\tsglang#1"
