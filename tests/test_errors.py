"""Every error has a code from one list."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from pdctl.errors import (
    CODES,
    EngineFailed,
    EnvironmentProblem,
    ExitCode,
    InvalidInput,
    NotReady,
    PdctlError,
    StateConflict,
    nearest,
)
from tests.code_trees import nodes

ROOT = Path(__file__).parent.parent
KINDS = (InvalidInput, EnvironmentProblem, EngineFailed, NotReady, StateConflict)


def _codes_of(path: Path) -> Iterator[str]:
    """Every literal that a call in the file gives as `code`."""
    for node in nodes(path):
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                if keyword.arg == "code":
                    literals = (n for n in ast.walk(keyword.value) if isinstance(n, ast.Constant))
                    # `"a" if role == "router" else "b"`: what is compared with is no code
                    compared = {
                        id(n)
                        for c in ast.walk(keyword.value)
                        if isinstance(c, ast.Compare)
                        for n in ast.walk(c)
                    }
                    yield from (str(n.value) for n in literals if id(n) not in compared)


def test_every_code_that_is_raised_is_in_the_list_and_the_list_has_no_other() -> None:
    raised = {code for path in (ROOT / "pdctl").rglob("*.py") for code in _codes_of(path)}
    usual = {kind.usual_code for kind in KINDS}
    assert raised | usual == set(CODES)


def test_an_error_without_a_code_has_that_of_its_kind() -> None:
    assert InvalidInput("Bad.").code == "bad_value"
    assert {kind("x").code for kind in KINDS} <= set(CODES)
    assert NotReady("Late.", code="not_ready").exit_code == ExitCode.NOT_READY


def test_every_kind_of_error_is_tested_here() -> None:
    direct = set(PdctlError.__subclasses__())
    assert direct == set(KINDS)


def test_the_page_of_exit_codes_lists_the_same_codes() -> None:
    page = (ROOT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `([a-z_]+)` \| (.+?) \|$", page, flags=re.MULTILINE))
    assert listed == CODES
    numbers = re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)
    assert [int(n) for n in numbers] == [code.value for code in ExitCode]


def test_the_beginning_of_a_word_means_that_word() -> None:
    assert nearest("exit", ("explain", "exit-codes")) == "exit-codes"
    assert nearest("plna", ("plan", "up")) == "plan"
    assert nearest("s", ("status", "scale")) == ""
