"""A deployment as the processes it comes to on this machine, at this moment."""

import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdctl.deployment.checks import cautions
from pdctl.deployment.expand import expand
from pdctl.deployment.flags import named_ports, parse_version, ports_of
from pdctl.deployment.pd_yaml import write_deployment
from pdctl.deployment.records import Deployment, ProcessSpec
from pdctl.deployment.resources import (
    assign_more_gpus,
    choose_backend,
    crossing,
    needs_gpus,
    plan_ports,
)
from pdctl.engines import state
from pdctl.engines.clients.api_key import api_key
from pdctl.engines.lifecycle import running
from pdctl.engines.listen_address import listen_address
from pdctl.engines.records import Launch
from pdctl.engines.state import logs_dir
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.gpus import query_gpus, query_rdma_ports, visible_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Gpu, Llm, SglangInstall
from pdctl.inspection.sglang import query_sglang
from pdctl.paths import state_home
from pdctl.perf_model.memory import check_parallelism

NUM_RETIRED_PORTS = 40  # of the hundred in a band
_SHIM = Path(__file__).parents[1] / "exec_shim.py"
_GUARD = Path(__file__).parents[1] / "guard.py"


@dataclass(frozen=True)
class SupervisorProcess:
    """The supervisor that was started for a launch."""

    launch: Launch
    child: "subprocess.Popen[bytes]"  # the supervisor, or its guard
    started_at: float = field(default_factory=time.time)  # Unix seconds

    def is_alive(self) -> bool:
        return self.child.poll() is None

    def ask_to_stop(self, *, now: bool = False) -> None:
        """Router out, requests finish, engines end; or kill everything at once."""
        if self.is_alive():
            self.child.send_signal(signal.SIGINT if now else signal.SIGTERM)


def launch(
    deployment: Deployment,
    specs: tuple[ProcessSpec, ...],
    *,
    detached: bool,
    ready_timeout_s: float,
) -> SupervisorProcess:
    """Start a supervisor for a deployment. Raises StateConflict if the name is running."""
    name = deployment.name
    directory = state.make_state_dir(name)
    held = _lock_free_name(name)
    try:
        _clear_last_run(name, directory)
        wanted = Launch(
            run_id=uuid.uuid4().hex,
            boot_id=state.boot_id(),
            name=name,
            layout=deployment.layout,
            model=deployment.model,
            endpoint=specs[0].url,
            detached=detached,
            cwd=os.getcwd(),
            launched_at=time.time(),
            ready_timeout_s=ready_timeout_s,
            specs=specs,
        )
        _write(wanted, deployment, directory)
        return SupervisorProcess(wanted, _start_supervisor(name, held, tied=not detached))
    finally:
        os.close(held)


def change(
    deployment: Deployment,
    specs: tuple[ProcessSpec, ...],
    *,
    leaving: tuple[ProcessSpec, ...] = (),
    changes: tuple[str, ...] = (),
    drain_s: float | None = None,
) -> Launch:
    """Have the supervisor of a running deployment go over to other processes.

    It starts what is new, drains and stops what is missing from `specs`, and leaves alone what is
    in both. Call inside `planning()`, with specs that `prepare(deployment, present=...)` gave.
    leaving: what runs and is not among them. changes: what happens and why, for the event log.
    Raises StateConflict if no supervisor runs.
    """
    name = deployment.name
    current = state.read_launch(name)
    if current is None or not state.is_supervised(name):
        raise running.not_running(name)
    wanted = replace(
        current,
        layout=deployment.layout,
        specs=specs,
        revision=current.revision + 1,
        changes=changes,
        leaving=leaving,
        drain_s=current.drain_s if drain_s is None else drain_s,
        retired_ports=_retired_ports(current, specs),
        previous_layout=current.layout,
    )
    _write(wanted, deployment, state.state_dir(name))
    return wanted


def _retired_ports(current: Launch, specs: tuple[ProcessSpec, ...]) -> tuple[int, ...]:
    """Ports that decode engines may still hold for those of a prefill engine that has left."""
    kept = {spec.bootstrap_port for spec in specs}
    gone = [spec.bootstrap_port for spec in current.specs if spec.bootstrap_port]
    left = [p for p in (*current.retired_ports, *gone) if p is not None and p not in kept]
    return tuple(dict.fromkeys(left))[-NUM_RETIRED_PORTS:]


def _write(wanted: Launch, deployment: Deployment, directory: Path) -> None:
    """The choice for people first: the supervisor acts on launch.json."""
    desired = directory / "desired.yaml"
    write_deployment(deployment, desired)
    desired.chmod(0o600)
    state.write_launch(wanted)


def resume(name: str) -> SupervisorProcess | None:
    """A new supervisor for a detached deployment that lost its own; None if it has one."""
    wanted = state.read_launch(name)
    held = state.lock(name)
    if held is None:
        return None
    try:
        if wanted is None:
            raise running.not_running(name)
        return SupervisorProcess(wanted, _start_supervisor(name, held, tied=False))
    finally:
        os.close(held)


def _lock_free_name(name: str) -> int:
    running.refuse_running(name)
    held = state.lock(name)
    if held is None:  # another `up` was faster
        raise running.already_running(name)
    return held


def _clear_last_run(name: str, directory: Path) -> None:
    state.clear_state(name)
    (directory / "events.jsonl").unlink(missing_ok=True)
    shutil.rmtree(directory / "logs", ignore_errors=True)
    state.make_state_dir(name)


def _start_supervisor(name: str, lock_fd: int, *, tied: bool) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that Ctrl-C reaches only the command.

    tied: the kernel ends it when this command dies. Otherwise a guard starts it again when
    something kills it.
    """
    argv = [sys.executable, "-m", "pdctl.engines.daemon", name, "--lock-fd", str(lock_fd)]
    wrapper = [str(_SHIM), str(os.getpid()), str(int(signal.SIGTERM))] if tied else [str(_GUARD)]
    log = state.logs_dir(name) / "supervisor.log"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    written = os.open(log, flags, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", *wrapper, *argv],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            start_new_session=True,
            pass_fds=[lock_fd],
        )
    finally:
        os.close(written)


def is_held(port: int) -> bool:
    """Whether somebody has this port, although a server might still be able to listen on it.

    True too for a minute after a server closed connections there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


@contextmanager
def holding(specs: Iterable[ProcessSpec]) -> Iterator[None]:
    """Hold the HTTP and bootstrap ports of these processes while the block runs.

    Ignores: ports of NCCL, torch and the router's metrics, whose servers may not share a port.
    """
    with ExitStack() as sockets:
        for spec in specs:
            for port in (spec.port, spec.bootstrap_port):
                if port is not None:
                    _hold(port, sockets)
        yield


def _hold(port: int, sockets: ExitStack) -> None:
    held = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(("", port))
    except OSError:
        return  # it was taken just now: its engine will say so


@dataclass(frozen=True)
class Prepared:
    """What would be started. kv_path: how KV moves, in words; "" where it does not."""

    deployment: Deployment
    specs: tuple[ProcessSpec, ...]  # router first
    version: str | None  # of SGLang; None: simulated
    gpu_name: str
    kv_path: str
    warnings: tuple[str, ...]
    backend: str | None = None  # of KV transfer


NOWHERE: Mapping[str, ProcessSpec] = {}


def prepare(
    deployment: Deployment,
    *,
    present: tuple[ProcessSpec, ...] = (),
    places: Mapping[str, ProcessSpec] = NOWHERE,
) -> Prepared:
    """Resolve GPUs, ports, SGLang and the KV backend of a deployment.

    present: what runs of it already; processes of the same name stay exactly as they are.
    places: new engine -> the one whose ports and GPUs it takes over, which is not in `present`.

    Raises EnvironmentProblem where this machine lacks one of them, InvalidInput where the
    deployment asks for what cannot be. Call inside `planning()` unless nothing will be started.
    """
    address = listen_address(deployment.router.host)
    deployment = replace(deployment, router=replace(deployment.router, host=address))
    install = _install(deployment)
    gpus = _gpus_here() if needs_gpus(deployment) else ()
    llm = _llm(deployment)
    held = (*present, *(replace(spec, name=name) for name, spec in places.items()))
    assigned = assign_more_gpus(deployment, held, gpus)
    backend, kv_path = _kv_path(deployment, install, gpus)
    stays = {spec.name: spec for spec in present}
    planned = plan_ports(deployment, _is_usable(deployment, stays.get("router")))
    specs = expand(
        deployment,
        gpus=assigned,
        ports={**planned, **{name: ports_of(spec) for name, spec in places.items()}},
        log_dir=logs_dir(deployment.name),
        install=install,
        backend=backend,
    )
    return Prepared(
        # engines that are added later must move KV in the same way
        deployment=replace(deployment, transfer_backend=backend or deployment.transfer_backend),
        specs=tuple(stays.get(spec.name, spec) for spec in specs),
        version=install.version if install else None,
        gpu_name=gpus[0].name if gpus else "",
        kv_path=kv_path,
        warnings=(
            *crossing(assigned, gpus),
            *cautions(
                deployment,
                llm=llm,
                version=parse_version(install.version) if install else None,
                backend=backend,
                has_key=api_key() is not None,
            ),
        ),
        backend=backend,
    )


@contextmanager
def planning() -> Iterator[None]:
    """Hold this while ports and GPUs are chosen and until launch.json names them."""
    home = state_home()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = os.open(home / ".planning", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as problem:
        raise state.unwritable(home, problem) from problem
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield
    finally:
        os.close(held)


def is_port_free(port: int) -> bool:
    """Whether a server can listen on this port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _llm(deployment: Deployment) -> Llm | None:
    """The model's shape, its parallelism checked; None where SGLang will download the model."""
    try:
        llm = read_llm(deployment.model)
    except InvalidInput as problem:
        if problem.code == "unknown_model" and deployment.engine == "sglang":
            return None
        raise
    if llm.path is None and deployment.engine == "sglang":
        raise InvalidInput(
            f"{deployment.model} is a bundled shape without weights.",
            hint="pdctl up with a directory or a Hugging Face id, or --engine sim to rehearse",
            code="no_weights",
        )
    for plan in deployment.roles.values():
        check_parallelism(llm, plan.parallelism)
    return llm


def _install(deployment: Deployment) -> SglangInstall | None:
    if deployment.engine == "sim":
        return None
    install = query_sglang(deployment.python)
    if install.version is None:
        raise EnvironmentProblem(
            f"SGLang is not installed in {install.python}.",
            hint="pip install 'pdctl[sglang]', or --python VENV/bin/python, or --engine sim",
            code="no_sglang",
        )
    return install


def _gpus_here() -> tuple[Gpu, ...]:
    """The GPUs CUDA_VISIBLE_DEVICES leaves, those of deployments still loading marked as taken."""
    owners = {
        index: name
        for name in running.names()
        if (launch := state.read_launch(name))
        for spec in (*launch.specs, *launch.leaving)
        if "CUDA_VISIBLE_DEVICES" in spec.env
        for index in spec.gpus
    }
    return tuple(
        replace(gpu, problem=f"deployment {owners[gpu.index]}")
        if gpu.problem is None and gpu.index in owners
        else gpu
        for gpu in visible_gpus(query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    )


def _kv_path(
    deployment: Deployment, install: SglangInstall | None, gpus: tuple[Gpu, ...]
) -> tuple[str | None, str]:
    if install is None or "prefill" not in deployment.roles:
        return None, ""
    return choose_backend(
        install,
        requested=deployment.transfer_backend,
        rdma=any(port.state == "ACTIVE" for port in query_rdma_ports()),
        nvlink=any(gpu.nvlink_peers for gpu in gpus),
    )


def _is_usable(deployment: Deployment, router: ProcessSpec | None) -> Callable[[int], bool]:
    """Whether a port can be had; the port of a router that stays counts as one."""
    taken = _reserved_ports()
    own = router.port if router is not None else None

    def can_be_had(port: int) -> bool:
        # the router's was asked for by number and may have been left a moment ago
        is_asked_for = port == deployment.router.port
        return port not in taken and is_port_free(port) and (is_asked_for or not is_held(port))

    return lambda port: port == own or can_be_had(port)


def _reserved_ports() -> frozenset[int]:
    """Ports of running deployments, whose engines may not listen yet."""
    launches = [found for name in running.names() if (found := state.read_launch(name))]
    specs = [spec for launch in launches for spec in (*launch.specs, *launch.leaving)]
    retired = {port for launch in launches for port in launch.retired_ports}
    return named_ports(specs) | retired
