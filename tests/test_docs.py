"""The examples of docs/ and of every --help: pdctl accepts their flags, and the shell blocks run.

tests/test_tour.py runs the tour; tests/e2e/test_examples.py runs the examples of --help.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from pdctl.cli import app
from tests.doc_examples import (
    PAGES,
    ROOT,
    commands_in_text,
    commands_of_docs,
    commands_of_help,
    words_of,
)

# pages whose shell blocks run as they stand, each in a folder of its own
RUN = ("completion", "exit-codes", "gpus", "json")
_BLOCK = re.compile(r"^```(sh|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
EXAMPLES = [*commands_of_docs(), *commands_in_text(), *commands_of_help()]


def _page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("where", "line"), EXAMPLES, ids=lambda text: text[:60])
def test_pdctl_accepts_the_flags_of_every_example(where: str, line: str) -> None:
    words = words_of(line)
    group = typer.main.get_command(app)
    context = group.make_context("pdctl", list(words), resilient_parsing=True)
    if not words or words[0].startswith("-"):
        return
    command = group.get_command(context, words[0])  # type: ignore[attr-defined]
    assert command is not None, f"{where}: {line}"
    command.make_context(words[0], words[1:], parent=context)


def test_examples_are_found_on_every_kind_of_page() -> None:
    pages = {where for where, _ in EXAMPLES}
    assert {"README.md", "tour.md", "slurm.md", "kubernetes.md", "plan --help"} <= pages
    assert pages <= {path.name for path in PAGES} | {where for where, _ in commands_of_help()}


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_the_shell_blocks_of_a_page_run_and_print_what_it_shows(name: str, tmp_path: Path) -> None:
    own_bin = tmp_path / "bin"
    own_bin.mkdir()
    (own_bin / "pdctl").write_text(f'#!/bin/sh\nexec {sys.executable} -m pdctl "$@"\n')
    (own_bin / "pdctl").chmod(0o755)
    env = {
        **os.environ,
        "PATH": f"{own_bin}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PDCTL_STATE_HOME": str(tmp_path / "state"),
        "HOME": str(tmp_path),
        "NO_COLOR": "1",
    }
    for kind, block in _BLOCK.findall(_page(name)):
        commands, shown = _split(kind, block)
        done = subprocess.run(
            [shutil.which("bash") or "sh", "-c", commands],
            cwd=tmp_path,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert "Traceback" not in done.stderr
        if kind == "console":
            assert done.stdout.splitlines() == shown
        else:
            assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"


def _split(kind: str, block: str) -> tuple[str, list[str]]:
    """The commands of a block, and the lines that it shows as their output."""
    if kind == "sh":
        return block, []
    lines = block.splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return "\n".join(commands), [line for line in lines if not line.startswith("$ ")]


def test_no_text_installs_pdctl_from_an_index_that_does_not_have_it() -> None:
    pages = [*(ROOT / "pdctl").rglob("*.py"), *(ROOT / "docs").glob("*.md"), ROOT / "README.md"]
    named = re.compile(r"pip install (-\S+ )*'?pdctl")
    assert named.search("pip install -U pdctl")
    assert not [page for page in pages if named.search(page.read_text(encoding="utf-8"))]
