"""A copy of a model on a disk of this machine."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pdctl.engines.launchers.model_copy import ModelCopy
from pdctl.engines.launchers.protocol import Copied
from pdctl.errors import EnvironmentProblem
from tests.e2e.cli import until


@pytest.fixture
def model(tmp_path: Path) -> Path:
    made = tmp_path / "shared" / "llama"
    (made / "vision").mkdir(parents=True)
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"w" * 5000)
    (made / "vision" / "weights.bin").write_bytes(b"v" * 100)
    return made


def finished(source: Path, target: Path) -> Copied:
    copy = ModelCopy(source, target)
    until(lambda: copy.progress().is_done)
    return copy.progress()


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.rglob("[!.]*")}


def test_a_copy_has_every_file_and_a_second_one_copies_nothing(model: Path, tmp_path: Path) -> None:
    local = tmp_path / "nvme" / "llama"
    assert finished(model, local) == Copied(5102, 5102, is_done=True)
    assert (local / "vision" / "weights.bin").read_bytes() == b"v" * 100
    before = times(local)
    finished(model, local)
    assert times(local) == before


def test_what_differs_is_copied_again_and_what_left_is_removed(model: Path, tmp_path: Path) -> None:
    local = tmp_path / "llama"
    finished(model, local)
    (model / "config.json").write_text("[]")  # as long as before
    (local / "model.safetensors").write_bytes(b"cut")
    (local / "old.safetensors").write_bytes(b"stale")
    finished(model, local)
    assert (local / "config.json").read_text() == "[]"
    assert (local / "model.safetensors").stat().st_size == 5000
    assert not (local / "old.safetensors").exists()


class _Usage(NamedTuple):
    free: int


def test_a_full_disk_is_found_before_anything_is_copied(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: _Usage(5000))
    copy = ModelCopy(model, tmp_path / "nvme" / "llama")
    with pytest.raises(EnvironmentProblem, match="nvme has 4.88 KiB free, and the copy of"):
        until(lambda: copy.progress().is_done)
    assert times(tmp_path / "nvme" / "llama") == {}


def test_a_disk_that_cannot_be_written_is_a_problem(model: Path, tmp_path: Path) -> None:
    (tmp_path / "nvme").write_text("a file")
    copy = ModelCopy(model, tmp_path / "nvme" / "llama")
    with pytest.raises(OSError, match="nvme"):
        until(lambda: copy.progress().is_done)


def test_a_copy_ends_with_its_program(tmp_path: Path) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "endless.safetensors").symlink_to("/dev/zero")
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from pdctl.engines.launchers import model_copy\n"
        "model_copy._files = lambda folder: [('endless.safetensors', 0)]\n"
        "copy = model_copy.ModelCopy(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "while not copy.progress().done_bytes: time.sleep(0.01)\n"
    )
    argv = (sys.executable, "-c", code, str(tmp_path / "llama"), str(tmp_path / "copy"))
    assert subprocess.run(argv, timeout=30, check=False).returncode == 0
    shutil.rmtree(tmp_path / "copy")


def test_a_model_of_one_file_is_copied_into_the_folder_once(tmp_path: Path) -> None:
    (tmp_path / "llama.gguf").write_bytes(b"g" * 300)
    local = tmp_path / "nvme"
    assert finished(tmp_path / "llama.gguf", local) == Copied(300, 300, is_done=True)
    assert (local / "llama.gguf").read_bytes() == b"g" * 300
    before = times(local)
    finished(tmp_path / "llama.gguf", local)
    assert times(local) == before
