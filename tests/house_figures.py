"""Sizes and ties of the package's modules: python -m tests.house_figures"""

import ast
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
Function = ast.FunctionDef | ast.AsyncFunctionDef
SHORT_FILE_LINES = 60
LONG_FUNCTION_LINES = 60


def figures() -> list[tuple[str, float]]:
    """List each figure with its value."""
    files = sorted((ROOT / "pdctl").rglob("*.py"))
    trees = {_module(path): ast.parse(path.read_text(encoding="utf-8")) for path in files}
    lines = [path.read_text(encoding="utf-8").count("\n") for path in files]
    lengths = [_length(node) for tree in trees.values() for node in _functions(tree)]
    edges = {(name, to) for name, tree in trees.items() for to in _targets(tree, set(trees))}
    importers = Counter(to for name, to in edges if name != to)
    return [
        ("files", len(files)),
        ("lines", sum(lines)),
        (f"files under {SHORT_FILE_LINES} lines", sum(n < SHORT_FILE_LINES for n in lines)),
        ("modules with exactly one importer", sum(n == 1 for n in importers.values())),
        (
            f"functions over {LONG_FUNCTION_LINES} lines",
            sum(n > LONG_FUNCTION_LINES for n in lengths),
        ),
        ("median function length", statistics.median(lengths)),
        ("public names defined in more than one module", len(_doubles(trees))),
        ("import edges", len(edges)),
        ("function-level imports", sum(map(_inner_imports, trees.values()))),
    ]


def _module(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    return name.removesuffix(".__init__")


def _functions(tree: ast.Module) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def _length(node: Function) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def _targets(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Modules of the package that a module imports, `from package import module` included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            yield from inner or {node.module}


def _doubles(trees: dict[str, ast.Module]) -> set[str]:
    where = defaultdict(set)
    for module, tree in trees.items():
        for name in _public(tree):
            where[name].add(module)
    return {name for name, places in where.items() if len(places) > 1}


def _public(tree: ast.Module) -> Iterator[str]:
    """Functions and classes at a module's top, without a leading underscore."""
    for node in tree.body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name


def _inner_imports(tree: ast.Module) -> int:
    """Count import statements inside functions."""
    imports = {
        id(inner)
        for node in _functions(tree)
        for inner in ast.walk(node)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    }
    return len(imports)


if __name__ == "__main__":
    for what, value in figures():
        print(f"{what:46} {value:8,g}")  # noqa: T201
