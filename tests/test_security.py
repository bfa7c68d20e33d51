"""What must not be in the code at all, wherever it is written."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "pdctl"
FILES = sorted(PACKAGE.rglob("*.py"))
FORBIDDEN = {
    *("eval", "exec", "compile", "__import__", "input"),
    *("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"),
    *("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("pickle.load", "pickle.loads", "marshal.load", "marshal.loads", "shelve.open"),
    *("tempfile.mktemp", "os.tempnam"),
}
# what a child forked for the purpose answers its parent through a pipe
ALLOWED = {("commands/parallel.py", "pickle.loads")}


def _calls(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_runs_what_it_reads(path: Path) -> None:
    relative = str(path.relative_to(PACKAGE))
    names = {ast.unparse(call.func) for call in _calls(path)}
    assert not {n for n in names & FORBIDDEN if (relative, n) not in ALLOWED}
    shells = [
        keyword.arg
        for call in _calls(path)
        for keyword in call.keywords
        if keyword.arg == "shell" and ast.unparse(keyword.value) != "False"
    ]
    assert shells == []
