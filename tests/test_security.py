"""Calls that must not appear anywhere in the code."""

import ast
from functools import cache
from pathlib import Path

from tests.code_trees import nodes

PACKAGE = Path(__file__).parent.parent / "pdctl"
FILES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "input"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open"),
    *("tempfile.mktemp", "os.tempnam"),
}
ALLOWED = {
    # a forked child sends its result to its parent through a pipe
    ("commands/parallel.py", "pickle.loads"),
    # reads a line with editing and history; Python 3 evaluates nothing of it
    ("commands/walk/prompt.py", "input"),
}


def test_no_file_runs_what_it_reads() -> None:
    found = [(_shown(path), name) for path in FILES for name in _called(path) & FORBIDDEN]
    assert sorted(found) == sorted(ALLOWED)


def test_no_file_starts_a_shell() -> None:
    shells = [
        _shown(path)
        for path in FILES
        for call in _calls(path)
        for keyword in call.keywords
        if keyword.arg == "shell" and ast.unparse(keyword.value) != "False"
    ]
    assert shells == []


def _shown(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def _called(path: Path) -> set[str]:
    return {ast.unparse(call.func) for call in _calls(path)}


@cache
def _calls(path: Path) -> list[ast.Call]:
    return [node for node in nodes(path) if isinstance(node, ast.Call)]
