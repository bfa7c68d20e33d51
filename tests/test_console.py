"""Output to stdout and stderr."""

import io
import json
import sys

import pytest
from rich.table import Table
from rich.text import Text

from pdctl import console
from pdctl.errors import EnvironmentProblem, ExitCode, InvalidInput
from pdctl.units import parse_rate_rps


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


class Terminal(io.StringIO):
    """A terminal on which these lines are typed, and which keeps what is written."""

    def isatty(self) -> bool:
        return True


def typed(monkeypatch: pytest.MonkeyPatch, *lines: str) -> Terminal:
    monkeypatch.delenv("PDCTL_NO_INPUT", raising=False)
    monkeypatch.setattr(sys, "stdin", Terminal("".join(f"{line}\n" for line in lines)))
    written = Terminal()
    monkeypatch.setattr(sys, "stderr", written)
    return written


def test_an_answer_that_cannot_be_used_is_asked_again_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = typed(monkeypatch, "often", "")

    def check(text: str) -> float:
        return parse_rate_rps(text, flag="--rate")

    question = "Requests per second?"
    answer = console.ask(question, default="2", flag="--rate", no_input=False, check=check)
    assert answer == "2"
    assert "'often' is not a rate. (--rate 12" in written.getvalue()
    assert written.getvalue().count("Requests per second? [2]") == 2


def test_a_question_of_yes_or_no_takes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    written = typed(monkeypatch, "e", "maybe", "No")
    assert not console.ask_yes("Start simulated engines instead?", default="y", flag="--engine sim")
    assert written.getvalue().count("is neither y nor n") == 2
    typed(monkeypatch, "")
    assert console.ask_yes("Start?", default="y", flag="--yes")


def test_an_answer_that_never_comes_names_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch)
    with pytest.raises(InvalidInput) as caught:
        console.ask("Model?", default="", flag="MODEL", no_input=False)
    assert caught.value.hint == "add MODEL"


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


@pytest.mark.parametrize(("columns", "width"), [("0", console.PIPED_WIDTH), ("1", 20), ("x", 4000)])
def test_columns_that_are_no_width_are_no_reason_to_fail(
    columns: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", "0")
    assert console.out().width == width
    assert console.out().height > 0


def test_lines_for_programs_replace_the_screen_off_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.show("ls", [], as_json=False, render=lambda: Text("screen"), lines=lambda: ["a\tb"])
    assert capsys.readouterr().out == "a\tb\n"


def test_a_locale_without_utf_8_gets_lookalikes(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding in ("ascii", "latin-1"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        console.prepare_streams()
        stream.write("● up · 3 µs … ✗ 字\n")
        stream.flush()
        written = stream.buffer.getvalue().decode(encoding)
        assert written.startswith("* up ")
        assert written.endswith(". x ?\n")


def test_a_dumb_terminal_cannot_redraw(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert console.can_redraw(Terminal())
    assert not console.can_redraw(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not console.can_redraw(Terminal())
