"""Import arrows, libraries, sizes and the map of the code: one test per rule, over all files."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.code_trees import nodes, tree

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
BASE = ("errors", "hosts", "units", "paths")
FRONT = ("cli", "console", "json_schema", "text_lines", "tables", "commands")
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_FUNCTION_LINES = 8
MAX_FILES_IN_A_FOLDER = 20
# "What of it is left": a relative clause where English has a noun or an imperative
RIDDLES = {"What", "Whether", "How", "Of", "That", "Which", "Who", "Where", "When", "Between"}
# what starts a process, and what every export offers (and the verb that calls them)
SHARED_NAMES = {"main", "render"}
# library -> the top-level parts of pdctl that may import it
ONLY_IN = {
    "typer": {"cli", "commands"},
    "rich": {"cli", "commands", "console", "tables"},
    "pynvml": {"inspection"},
    "subprocess": {"engines", "doctor", "inspection"},
    "signal": {"engines", "commands"},
    "ray": {"engines"},
    "aiohttp": {"engines", "measurement"},
    "http": {"engines", "status", "doctor", "measurement"},
    "urllib": {"engines", "status", "doctor", "measurement", "commands"},
}


def test_a_stage_imports_only_stages_to_its_left() -> None:
    wrong = [
        f"{_shown(path)} imports {name}"
        for path in FILES
        for name in _imports(path)
        if name.startswith("pdctl.") and name.split(".")[1] not in _allowed(_part(path))
    ]
    assert not wrong


def test_a_library_is_imported_only_where_it_belongs() -> None:
    wrong = [
        f"{_shown(path)} imports {name}"
        for path in FILES
        for name in _imports(path)
        if _part(path) not in ONLY_IN.get(name.split(".")[0], {_part(path)})
    ]
    assert not wrong


def test_there_is_no_import_cycle() -> None:
    modules = {_module(path) for path in FILES}
    graph = {_module(path): {n for n in _imports(path) if n in modules} for path in FILES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail, module))
        if module in done:
            return
        for target in graph[module]:
            visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_an_imported_module_is_seen_in_either_form(tmp_path: Path) -> None:
    path = tmp_path / "either.py"
    path.write_text("from pdctl.engines import state\nfrom pdctl.units import positive\n")
    assert _imports(path) == ("pdctl.engines.state", "pdctl.units")


def test_files_stay_short_enough_to_read_in_one_go() -> None:
    long = {_shown(path): n for path in FILES if (n := _num_lines(path)) > MAX_FILE_LINES}
    assert not long


def test_functions_stay_short() -> None:
    lengths = [(n, f"{_shown(path)}:{name}") for path in FILES for name, n in _functions(path)]
    assert not [where for n, where in lengths if n > MAX_FUNCTION_LINES]
    assert sorted(n for n, _ in lengths)[len(lengths) // 2] <= MAX_MEDIAN_FUNCTION_LINES


def test_a_public_name_means_one_thing() -> None:
    modules = {n: {path for path in FILES if n in _public(path)} for f in FILES for n in _public(f)}
    assert not {
        name: sorted(map(_shown, paths))
        for name, paths in modules.items()
        if len(paths) > 1 and name not in SHARED_NAMES
    }


def test_a_docstring_begins_with_a_noun_or_an_imperative() -> None:
    wrong = [
        f"{_shown(path)}: {text.splitlines()[0]}"
        for path in FILES
        for text in _docstrings(path)
        if text.split()[0] in RIDDLES
    ]
    assert not wrong


def test_a_folder_holds_no_more_files_than_a_listing_shows_at_once() -> None:
    folders = {path.parent for path in FILES}
    full = {_shown(d): n for d in folders if (n := len(list(d.glob("*.py")))) > _most(d)}
    assert not full


def test_architecture_lists_every_module_once() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", page, flags=re.MULTILINE)
    named = {str(path.relative_to(PACKAGE)) for path in FILES if path.name != "__init__.py"}
    assert sorted(listed) == sorted(named)


def _most(folder: Path) -> int:
    """Commands have two files per verb: one for its options and one for its work."""
    return MAX_FILES_IN_A_FOLDER + 18 if folder.name == "commands" else MAX_FILES_IN_A_FOLDER


def _shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _part(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _num_lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


@cache
def _imports(path: Path) -> tuple[str, ...]:
    """Every module that a file imports. `from package import module` names the module."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _is_module(inner) else node.module or ""


@cache
def _is_module(name: str) -> bool:
    path = ROOT / name.replace(".", "/")
    return name.startswith("pdctl.") and (path.is_dir() or path.with_suffix(".py").exists())


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of a file with their lengths. A verb's long list of options does not count."""
    for node in nodes(path):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            start = node.body[0].lineno if _part(path) == "commands" else node.lineno
            yield node.name, (node.end_lineno or start) - start + 1


@cache
def _public(path: Path) -> frozenset[str]:
    """The functions and classes that other modules may import."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names = (node.name for node in tree(path).body if isinstance(node, kinds))
    return frozenset(name for name in names if not name.startswith("_"))


def _docstrings(path: Path) -> Iterator[str]:
    kinds = ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    texts = (ast.get_docstring(node) for node in nodes(path) if isinstance(node, kinds))
    return (text for text in texts if text)


def _allowed(part: str) -> set[str]:
    if part in STAGES:
        return {*BASE, *STAGES[: STAGES.index(part) + 1]}
    if part in BASE:
        return set(BASE)
    return {*BASE, *STAGES, *FRONT}


def test_the_simulators_folder_is_what_gets_compiled() -> None:
    listed = re.findall(r'"(pdctl/perf_model/\S+\.py)"', (ROOT / "pyproject.toml").read_text())
    folder = PACKAGE / "perf_model" / "simulator"
    assert listed == sorted(
        str(path.relative_to(ROOT)) for path in folder.glob("*.py") if path.stem != "__init__"
    )
