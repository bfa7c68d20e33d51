"""Output to stdout and stderr."""

import json

import pytest
from rich.table import Table
from rich.text import Text

from pdctl import console
from pdctl.errors import EnvironmentProblem, ExitCode, InvalidInput


def test_a_failure_is_a_sentence_and_a_hint_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    problem = EnvironmentProblem("No GPU here.", hint="--gpus 8xH100")
    console.print_failure("plan", problem, as_json=False)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: No GPU here.\nhint:  --gpus 8xH100\n"


def test_a_failure_in_json_is_the_same_envelope_as_an_answer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.print_failure("plan", InvalidInput("Bad.", hint="--isl 1", code="isl"), as_json=True)
    console.print_json("plan", {"x": 1})
    failed, answered = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert failed.keys() == answered.keys()
    assert failed["error"] == {"code": "isl", "message": "Bad.", "hint": "--isl 1"}
    assert answered["data"] == {"x": 1}
    assert answered["error"] is None


def test_infinity_never_leaves_as_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        console.print_json("plan", float("inf"))


def test_control_sequences_in_a_log_line_do_not_reach_the_terminal() -> None:
    assert console.printable("a\x1b[31mred\x07\n\tb\x9b2J") == "a[31mred\n\tb2J"


def test_a_missing_value_is_an_error_naming_the_flag_where_nobody_can_be_asked() -> None:
    with pytest.raises(InvalidInput) as caught:
        console.ask("Mean prompt length?", default="4096", flag="--isl N", no_input=True)
    assert caught.value.hint == "add --isl N"
    assert caught.value.exit_code == ExitCode.BAD_INPUT


def test_control_sequences_in_a_table_do_not_reach_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    table = Table("MODEL")
    table.add_row(Text("m\x1b]0;title\x07\x1b[2J\u202eevil", style="red"))
    console.out().print(table, "\x1b[31mplain", Text("x\rhidden"))
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x07", "\u202e", "\r"} & set(shown)
    assert "evil" in shown
    assert "hidden" in shown


def test_nothing_is_wrapped_or_padded_in_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("NAME", "TEXT")
    table.add_row("a", "word " * 60)
    console.out().print(Text("long " * 100), table)
    shown = capsys.readouterr().out.splitlines()
    assert all(line == line.rstrip() for line in shown)
    assert shown[0].split() == ["long"] * 100
    assert sum("word" in line for line in shown) == 1


def test_a_pipe_with_columns_is_as_wide_as_they_say(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    console.out().print(Text("long " * 100))
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 60


def test_lines_for_programs_replace_the_screen_off_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.show("ls", [], as_json=False, render=lambda: Text("screen"), lines=lambda: ["a\tb"])
    assert capsys.readouterr().out == "a\tb\n"
