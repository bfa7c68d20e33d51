"""Sentences and commands on narrow terminals."""

import shlex
import subprocess

import pytest

from pdctl.text_lines import hint_lines, shell_lines, wrapped

COMMAND = "printf '%s|' 'two words' --flag \"x y\" a-word-that-is-wider-than-the-terminal -o 'it'"


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_a_shell_reads_the_lines_as_the_one_command(width: int) -> None:
    text = "\n".join(shell_lines(COMMAND, width, head="  "))
    printed = [
        subprocess.run(["sh", "-c", one], capture_output=True, text=True, check=True).stdout
        for one in (text, COMMAND)
    ]
    assert printed[0] == printed[1]


@pytest.mark.parametrize("width", [20, 40, 60, 200])
def test_lines_fit_unless_a_word_is_wider_than_the_terminal(width: int) -> None:
    longest = max(map(len, shlex.split(COMMAND)))
    for line in shell_lines(COMMAND, width, head="next   "):
        assert len(line) <= max(width, longest + len("next   ") + 4 + len(" \\"))


def test_a_flag_keeps_its_value_where_both_fit_in_a_line() -> None:
    lines = shell_lines("pdctl up m --prefill 2 --total 4 --dry-run --trace /a/long/path", 30)
    assert lines == [
        "pdctl up m --prefill 2 \\",
        "    --total 4 --dry-run \\",
        "    --trace /a/long/path",
    ]
    too_long = "/a/longer/path/to/a/trace"
    assert shell_lines(f"pdctl --trace {too_long}", 20) == ["pdctl --trace \\", f"    {too_long}"]


def test_a_command_that_fits_stays_on_one_line() -> None:
    assert shell_lines("pdctl up", 80, head="  next   ") == ["  next   pdctl up"]


def test_sentences_are_wrapped_between_words_with_their_indent() -> None:
    assert wrapped("  one two three", 9) == "  one two\n  three"
    assert wrapped("error: one two", 11, indent=7) == "error: one\n       two"
    assert wrapped("a\n\nb", 9) == "a\n\nb"
    assert wrapped("/a/path-that-is/wider", 5) == "/a/path-that-is/wider"


def test_a_hint_breaks_between_its_alternatives_where_it_can() -> None:
    hint = "--prefill 2 --total 8, or --prefill 0 for colocated engines; pdctl up --help"
    assert hint_lines(hint, 60, indent=7).split("\n") == [
        "--prefill 2 --total 8,",
        "       or --prefill 0 for colocated engines; pdctl up --help",
    ]
    assert hint_lines(hint, 200, indent=7) == hint


def test_a_hint_wider_than_the_terminal_breaks_between_words_and_loses_no_letter() -> None:
    hint = "don't give --args '--kv-cache-dtype fp8_e4m3' to one role; one of cache_aware, random"
    lines = hint_lines(hint, 40, indent=7).split("\n       ")
    assert " ".join(lines) == hint
    assert any("'--kv-cache-dtype fp8_e4m3'" in line for line in lines)
    assert all(len(line) <= 33 for line in lines)


def test_a_number_keeps_its_unit() -> None:
    assert (
        wrapped("at most 10 % of 12 GB/s and 5 suns", 9) == "at most\n10 % of\n12 GB/s\nand 5\nsuns"
    )
