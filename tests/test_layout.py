"""The folder listing tells the story: import arrows, who may touch what, and sizes."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pdctl"
FILES = sorted(PACKAGE.rglob("*.py"))
STAGES = (
    "inspection",
    "workload",
    "perf_model",
    "verdict",
    "deployment",
    "engines",
    "status",
    "doctor",
    "measurement",
)
BASE = ("errors", "units", "paths")
FRONT = ("cli", "console", "tables", "commands")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
# library -> the top-level parts of pdctl that may import it
ONLY_IN = {
    "typer": {"cli", "commands"},
    "rich": {"cli", "commands", "console", "tables"},
    "pynvml": {"inspection"},
    "subprocess": {"doctor", "engines", "inspection"},
    "signal": {"engines", "commands"},
    "ray": {"engines"},
    "aiohttp": {"engines", "measurement"},
    "http": {"doctor", "engines", "status", "measurement"},
    "urllib": {"doctor", "engines", "status", "measurement", "commands"},
}


def _part(path: Path) -> str:
    relative = path.relative_to(PACKAGE).with_suffix("").parts
    return relative[0]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def _allowed(part: str) -> set[str]:
    if part in STAGES:
        return {*BASE, *STAGES[: STAGES.index(part) + 1]}
    if part in BASE:
        return set(BASE)
    return {*BASE, *STAGES, *FRONT}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_stage_imports_only_stages_to_its_left(path: Path) -> None:
    part = _part(path)
    inside = {name.split(".")[1] for name in _imports(path) if name.startswith("pdctl.")}
    wrong = inside - _allowed(part)
    assert not wrong, f"{part} may not import {sorted(wrong)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_library_is_touched_only_where_it_belongs(path: Path) -> None:
    part = _part(path)
    roots = {name.split(".")[0] for name in _imports(path)}
    wrong = {lib for lib in roots & ONLY_IN.keys() if part not in ONLY_IN[lib]}
    assert not wrong, f"{part} may not import {sorted(wrong)}"


def test_there_is_no_import_cycle() -> None:
    graph = {_module(path): {n for n in _imports(path) if n.startswith("pdctl")} for path in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in done:
            return
        for target in graph.get(module, ()):
            visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE_LINES, f"{lines} lines"
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            start = node.body[0].lineno if _part(path) == "commands" else node.lineno
            length = node.end_lineno - start + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name}: {length} lines"
