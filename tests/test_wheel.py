"""The built wheel carries everything a plan needs, far from the checkout."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _run(*command: str, cwd: Path) -> str:
    env = {**os.environ, "PDCTL_PLAIN_PYTHON": "1"}  # tests/compiled.sh is for the other kind
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; dependencies are borrowed from this one."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    _run(sys.executable, *build, "--wheel-dir", str(folder), str(ROOT), cwd=folder)
    (wheel,) = folder.glob("pdctl-*-none-any.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / "bin" / "python"
    install = ("-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel))
    _run(sys.executable, *install, cwd=folder)
    (site,) = (folder / "env" / "lib").glob("python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "env" / "bin"


def test_the_wheel_runs_from_its_own_files(installed: Path, tmp_path: Path) -> None:
    where = _run(
        str(installed / "python"), "-c", "import pdctl; print(pdctl.__file__)", cwd=tmp_path
    )
    assert str(installed.parent) in where


@pytest.mark.slow
def test_a_bundled_model_is_planned_without_a_download(installed: Path, tmp_path: Path) -> None:
    command = ("plan", "deepseek-r1", "--gpus", "4x8xH200", "--isl", "8000", "--osl", "500")
    printed = _run(str(installed / "pdctl"), *command, "--rate", "5", "--json", cwd=tmp_path)
    answer = json.loads(printed)
    assert answer["status"] == "ok"
    assert answer["data"]["verdict"] in {"pd", "colocated", "too_close"}


def test_the_wheel_has_the_pages_of_help(installed: Path, tmp_path: Path) -> None:
    assert "exit-codes" in _run(str(installed / "pdctl"), "help", cwd=tmp_path)
    assert "# Glossary" in _run(str(installed / "pdctl"), "help", "glossary", cwd=tmp_path)


def test_the_page_of_releases_names_the_command_that_there_is() -> None:
    page = (ROOT / "docs" / "release.md").read_text(encoding="utf-8")
    script = ROOT / ".build" / "release.sh"
    assert "bash .build/release.sh" in page
    assert "auditwheel repair" in script.read_text(encoding="utf-8")
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False)
    assert done.returncode == 0
