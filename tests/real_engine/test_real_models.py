"""The table of models that SGLang has a class for is that of the SGLang installed here."""

import ast

import pytest

from pdctl.inspection.sglang_models import SERVED
from tests.real_engine.installed import HOME, missing

pytestmark = [
    pytest.mark.real_engine,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


def test_the_models_that_are_served_are_those_that_sglang_names() -> None:
    (folder,) = (HOME / "venv").glob("lib/python3*/site-packages/sglang/srt/models")
    named: set[str] = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            if any(isinstance(one, ast.Name) and one.id == "EntryClass" for one in targets):
                assert isinstance(node, ast.Assign)
                named |= {one.id for one in ast.walk(node.value) if isinstance(one, ast.Name)}
    assert named == SERVED
