import os
import sys
from pathlib import Path

import pytest

from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection import sglang_probe
from pdctl.inspection.sglang import query_sglang


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Another interpreter: this one behind a script, seeing only the packages put beside it."""
    script = tmp_path / "bin" / "python3"
    script.parent.mkdir()
    (tmp_path / "site").mkdir()
    script.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/site exec {sys.executable} -S "$@"\n')
    script.chmod(0o755)
    return script


def install(python: Path, distribution: str, version: str) -> None:
    folder = python.parent.parent / "site" / f"{distribution}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
    )


def add_module(python: Path, *parts: str) -> None:
    folder = python.parent.parent / "site"
    for part in parts[:-1]:
        folder = folder / part
        folder.mkdir(exist_ok=True)
        (folder / "__init__.py").write_text("raise RuntimeError('imported')\n")
    (folder / f"{parts[-1]}.py").write_text("raise RuntimeError('imported')\n")


def test_another_python_says_its_versions_and_backends_without_importing_them(python: Path) -> None:
    install(python, "sglang", "0.5.23")
    install(python, "sglang_router", "0.3.2")
    add_module(python, "mooncake", "engine")
    add_module(python, "nixl_cu12", "_api")
    found = query_sglang(str(python))
    assert (found.version, found.router_version) == ("0.5.23", "0.3.2")
    assert found.backends == ("mooncake", "nixl")
    assert found.python == str(python)


def test_a_package_without_the_needed_module_is_no_backend(python: Path) -> None:
    add_module(python, "mooncake", "store")
    found = query_sglang(str(python))
    assert found.backends == ()
    assert found.version is None


def test_this_python_is_asked_in_process() -> None:
    found = query_sglang(sys.executable)
    assert found.python == sys.executable
    assert found.router_version is not None


def test_without_a_choice_a_python_on_path_with_sglang_is_found(
    python: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sglang_probe.version("sglang") is not None:
        pytest.skip("this interpreter has SGLang itself")
    install(python, "sglang", "0.5.23")
    monkeypatch.setenv("PATH", f"{python.parent}{os.pathsep}{os.environ['PATH']}")
    found = query_sglang(None)
    assert (found.python, found.version) == (str(python), "0.5.23")


def test_without_a_choice_and_without_sglang_it_is_this_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sglang_probe.version("sglang") is not None:
        pytest.skip("this interpreter has SGLang itself")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = query_sglang(None)
    assert (found.python, found.version) == (sys.executable, None)


@pytest.mark.parametrize("typed", ["/no/such/python", "", "no-such-python", "a\0b"])
def test_a_python_that_is_not_there_is_bad_input(typed: str) -> None:
    with pytest.raises(InvalidInput, match="--python") as caught:
        query_sglang(typed)
    assert "VENV/bin/python" in caught.value.hint


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("echo boom >&2; exit 3", "boom"),
        ("exit 0", "said nothing"),
        ("echo not json", "did not run"),
        ("echo 7", "said nothing"),
    ],
)
def test_a_python_that_does_not_work_is_a_problem_of_the_environment(
    tmp_path: Path, body: str, why: str
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\n{body}\n")
    script.chmod(0o755)
    with pytest.raises(EnvironmentProblem, match=why):
        query_sglang(str(script))
