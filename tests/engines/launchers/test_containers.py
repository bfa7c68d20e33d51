"""Engines in containers: a real podman and apptainer where there are some, and docker's parser."""

import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pdctl.deployment import containers
from pdctl.deployment.records import Container, ContainerRuntime, ProcessSpec
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
HOST_PATHS = [path for path in HOST if Path(path).exists() and path != "/"]
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


def podman_image(folder: Path) -> str:
    """Import an image of empty directories."""
    archive = folder / "empty.tar"
    with tarfile.open(archive, "w") as tar:
        for name in ("proc", "dev", "tmp"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    podman("import", str(archive), IMAGE)
    return IMAGE


def apptainer_image(folder: Path) -> str:
    """Make the same as a directory, which apptainer calls a sandbox."""
    image = folder / "sandbox"
    for name in ("proc", "dev", "tmp", "etc", *(path.strip("/") for path in HOST_PATHS)):
        (image / name).mkdir(parents=True, exist_ok=True)
    return str(image)


@pytest.fixture(scope="module", params=["podman", "apptainer"])
def empty(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Container]:
    """A container of an empty image; skips where its runtime is missing or cannot run one."""
    runtime: ContainerRuntime = request.param
    if shutil.which(runtime) is None:
        pytest.skip(f"{runtime} not installed")
    folder = tmp_path_factory.mktemp("image")
    image = podman_image(folder) if runtime == "podman" else apptainer_image(folder)
    mounts = tuple(f"{path}:{path}:ro" for path in HOST_PATHS)
    made = Container(runtime, image, mounts=mounts, ulimits=(), gpus=False)
    tried = subprocess.run(
        containers.run(made, ("true",)), capture_output=True, text=True, check=False
    )
    if tried.returncode:
        pytest.skip(f"{runtime} runs no container here: {tried.stderr.strip()[-200:]}")
    yield made
    if runtime == "podman":
        podman("rmi", IMAGE)


@pytest.fixture
def launcher(tmp_path: Path, empty: Container) -> Iterator[LocalLauncher]:
    made = LocalLauncher(RUN_ID, cwd=str(tmp_path), death_signal=None)
    yield made
    made.sweep()
    until(lambda: not present(empty))


def engine(tmp_path: Path, empty: Container) -> ProcessSpec:
    return replace(
        spec("prefill-0", "prefill", 0),
        argv=(sys.executable, "-c", ENGINE),
        env={"ROLE": "prefill"},
        log=tmp_path / "log",
        container=empty,
    )


def present(empty: Container) -> list[str]:
    """The containers of this test, running or not; of apptainer, whose have no name, processes."""
    if empty.runtime == "podman":
        return podman("ps", "--all", "--quiet", "--filter", f"name={NAME}").split()
    running = psutil.process_iter(["cmdline"])
    return [str(one.pid) for one in running if ENGINE in (one.info["cmdline"] or ())]


@pytest.mark.slow
def test_an_engine_in_a_container_drains_and_leaves_its_exit_code(
    launcher: LocalLauncher, tmp_path: Path, empty: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCTL_API_KEY", "not-for-argv")
    wanted = engine(tmp_path, empty)
    handle = launcher.start(wanted).handle
    until(lambda: "serves prefill not-for-argv" in wanted.log.read_text())
    assert "not-for-argv" not in wanted.log.read_text().splitlines()[0]
    assert len(present(empty)) == 1
    launcher.terminate(handle)
    until(lambda: launcher.poll(handle) is not None)
    ended = launcher.poll(handle)
    assert ended is not None
    assert ended.code == 3
    assert "drained" in wanted.log.read_text()
    until(lambda: not present(empty))


@pytest.mark.slow
@pytest.mark.parametrize("how", ["kill", "sweep"])
def test_a_killed_client_takes_its_container_with_it(
    launcher: LocalLauncher, tmp_path: Path, empty: Container, how: str
) -> None:
    wanted = engine(tmp_path, empty)
    handle = launcher.start(wanted).handle
    until(lambda: "serves prefill" in wanted.log.read_text())
    launcher.kill(handle) if how == "kill" else launcher.sweep()
    until(lambda: launcher.poll(handle) is not None)
    until(lambda: not present(empty))


@pytest.mark.slow
def test_a_start_removes_what_an_earlier_one_left(
    launcher: LocalLauncher, tmp_path: Path, empty: Container
) -> None:
    if empty.runtime == "apptainer":
        pytest.skip("apptainer's containers have no names, and leave nothing but processes")
    argv = containers.run(empty, ("sleep", "300"), name=NAME)
    podman(argv[1], "--detach", *argv[2:])
    (old,) = present(empty)
    wanted = engine(tmp_path, empty)
    handle = launcher.start(wanted).handle
    until(lambda: "serves prefill" in wanted.log.read_text())
    (new,) = present(empty)
    assert new != old
    launcher.kill(handle)
    until(lambda: launcher.poll(handle) is not None)


@pytest.mark.slow
def test_a_command_runs_in_an_image_and_a_missing_image_is_not_pulled(
    launcher: LocalLauncher, empty: Container
) -> None:
    argv = (sys.executable, "-c", "print(6 * 7)")
    assert launcher.run(HERE, argv, timeout_s=60.0, container=empty) == "42\n"
    absent = replace(empty, image="localhost/nowhere:1")
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
