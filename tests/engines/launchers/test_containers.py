"""Engines in containers: a real podman where there is one, and the parser of docker."""

import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment import containers
from pdctl.deployment.records import Container, ProcessSpec
from pdctl.engines.launchers.local import LocalLauncher
from pdctl.engines.launchers.protocol import HERE
from pdctl.errors import EnvironmentProblem
from tests.e2e.cli import until
from tests.engines.world import spec

IMAGE = "localhost/pdctl-test:1"
RUN_ID = "c0ffee" * 5
NAME = f"pdctl-prefill-0-{RUN_ID[:12]}"
# the image is empty: programs come from the host
HOST = dict.fromkeys(("/usr", "/lib", "/lib64", "/bin", "/opt", sys.base_prefix, sys.prefix))
EMPTY = Container(
    "podman",
    IMAGE,
    mounts=tuple(f"{path}:{path}:ro" for path in HOST if Path(path).exists() and path != "/"),
    ulimits=(),
    gpus=False,
)
ENGINE = """
import os, signal, sys, time
def leave(*_): print("drained", flush=True); sys.exit(3)
signal.signal(signal.SIGTERM, leave)
print("serves", os.environ["ROLE"], os.environ.get("PDCTL_API_KEY", "no key"), flush=True)
time.sleep(300)
"""


def podman(*argv: str) -> str:
    done = subprocess.run(["podman", *argv], capture_output=True, text=True, check=False)
    return done.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An image of empty directories; skips where podman is missing or cannot run a container."""
    if shutil.which("podman") is None:
        pytest.skip("podman not installed: apt-get install podman crun")
    archive = tmp_path_factory.mktemp("image") / "empty.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("proc", "dev", "tmp"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
    podman("import", str(archive), IMAGE)
    argv = containers.run(EMPTY, ("true",))
    tried = subprocess.run(argv, capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"podman runs no container here: {tried.stderr.strip()[-200:]}")
    yield IMAGE
    podman("rmi", IMAGE)


@pytest.fixture
def launcher(tmp_path: Path, image: str) -> Iterator[LocalLauncher]:
    made = LocalLauncher(RUN_ID, cwd=str(tmp_path), death_signal=None)
    yield made
    made.sweep()
    until(lambda: not present())


def engine(tmp_path: Path) -> ProcessSpec:
    return replace(
        spec("prefill-0", "prefill", 0),
        argv=(sys.executable, "-c", ENGINE),
        env={"ROLE": "prefill"},
        log=tmp_path / "log",
        container=EMPTY,
    )


def present() -> list[str]:
    """The containers of this test, running or not."""
    return podman("ps", "--all", "--quiet", "--filter", f"name={NAME}").split()


@pytest.mark.slow
def test_an_engine_in_a_container_drains_and_leaves_its_exit_code(
    launcher: LocalLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCTL_API_KEY", "not-for-argv")
    wanted = engine(tmp_path)
    handle = launcher.start(wanted).handle
    until(lambda: "serves prefill not-for-argv" in wanted.log.read_text())
    assert "not-for-argv" not in wanted.log.read_text().splitlines()[0]
    assert len(present()) == 1
    launcher.terminate(handle)
    until(lambda: launcher.poll(handle) is not None)
    ended = launcher.poll(handle)
    assert ended is not None
    assert ended.code == 3
    assert "drained" in wanted.log.read_text()
    until(lambda: not present())


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "sweep"])
def test_a_killed_client_takes_its_container_with_it(
    launcher: LocalLauncher, tmp_path: Path, how: str
) -> None:
    wanted = engine(tmp_path)
    handle = launcher.start(wanted).handle
    until(lambda: "serves prefill" in wanted.log.read_text())
    launcher.kill(handle) if how == "kill" else launcher.sweep()
    until(lambda: launcher.poll(handle) is not None)
    until(lambda: not present())


@pytest.mark.slow
def test_a_start_removes_what_an_earlier_one_left(launcher: LocalLauncher, tmp_path: Path) -> None:
    podman(*containers.run(EMPTY, ("sleep", "300"), name=NAME)[1:2], "--detach",
           *containers.run(EMPTY, ("sleep", "300"), name=NAME)[2:])  # fmt: skip
    (old,) = present()
    wanted = engine(tmp_path)
    handle = launcher.start(wanted).handle
    until(lambda: "serves prefill" in wanted.log.read_text())
    (new,) = present()
    assert new != old
    launcher.kill(handle)
    until(lambda: launcher.poll(handle) is not None)


@pytest.mark.slow
def test_a_command_runs_in_an_image_and_a_missing_image_is_not_pulled(
    launcher: LocalLauncher,
) -> None:
    argv = (sys.executable, "-c", "print(6 * 7)")
    assert launcher.run(HERE, argv, timeout_s=60.0, container=EMPTY) == "42\n"
    absent = replace(EMPTY, image="localhost/nowhere:1")
    started = time.monotonic()
    with pytest.raises(EnvironmentProblem):
        launcher.run(HERE, argv, timeout_s=60.0, container=absent)
    assert time.monotonic() - started < 60.0


@pytest.mark.slow
def test_docker_understands_every_flag() -> None:
    if shutil.which("docker") is None:
        pytest.skip("no docker here, not even its client")
    full = Container("docker", "image", devices=("/dev/infiniband",), shared_memory="64g",
                     mounts=("/a:/b:ro",))  # fmt: skip
    argv = containers.run(full, ("true",), name="pdctl-test", variables=("PDCTL_RUN",))
    for argument, is_known in (("--pull=never", True), ("--no-such-flag", False)):
        told = subprocess.run(
            [*argv[:2], argument, *argv[2:]], capture_output=True, text=True, check=False
        )
        refused = ("unknown flag" in told.stderr, "invalid" in told.stderr)
        assert refused == (not is_known, False)
