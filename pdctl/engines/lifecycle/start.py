"""From a deployment to processes: choose GPUs and ports, write launch.json, start a supervisor."""

import fcntl
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pdctl.deployment.checks import cautions, check_llm
from pdctl.deployment.expand import expand
from pdctl.deployment.flags import named_ports, opened_ports, parse_version, ports_of
from pdctl.deployment.nics import with_nics
from pdctl.deployment.pd_yaml import deployment_yaml
from pdctl.deployment.placement.places import Place
from pdctl.deployment.ports import plan_ports
from pdctl.deployment.ranks import with_followers
from pdctl.deployment.records import Deployment, Ports, ProcessSpec
from pdctl.deployment.resources import choose_backend
from pdctl.engines import state
from pdctl.engines.clients.api_key import api_key
from pdctl.engines.launchers.protocol import Launcher
from pdctl.engines.launchers.registry import LOCAL, launcher_named
from pdctl.engines.lifecycle import running
from pdctl.engines.lifecycle.images import sglang_in_images
from pdctl.engines.lifecycle.node_hardware import gpus_of_nodes, rdma_of_nodes
from pdctl.engines.lifecycle.place import cautions_there, placed_engines
from pdctl.engines.lifecycle.preflight import check_equal, check_network
from pdctl.engines.lifecycle.stage import not_copied, with_copy
from pdctl.engines.lifecycle.supervisor_process import SupervisorProcess, start_supervisor
from pdctl.engines.listen_address import listen_address
from pdctl.engines.records import Launch
from pdctl.engines.state import logs_dir
from pdctl.engines.supervision.side_processes import check_free, sends_spans
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.hosts import reachable_in_url
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Gpu, Llm, RdmaPort, SglangInstall
from pdctl.paths import state_home, working_directory

NUM_RETIRED_PORTS = 40  # out of the hundred in a band
ALONE_WAIT_S = 10.0
PLANNING_ADDRESS = "\0pdctl-planning"  # abstract: no file, gone with its process


@dataclass(frozen=True)
class Prepared:
    """Everything resolved, nothing started. kv_path: how KV moves, in words; "" if it does not."""

    deployment: Deployment  # with the KV backend, which engines that are added later must use too
    specs: tuple[ProcessSpec, ...]  # router first
    version: str | None  # of SGLang; None: simulated
    gpu_name: str
    kv_path: str
    warnings: tuple[str, ...]
    backend: str | None = None  # of KV transfer
    launcher: str = LOCAL


def launch(
    prepared: Prepared,
    *,
    detached: bool,
    ready_timeout_s: float,
) -> SupervisorProcess:
    """Start a supervisor for a deployment.

    Raises StateConflict if the name is running; EnvironmentProblem if its metrics' port is taken.
    """
    name = prepared.deployment.name
    check_free(prepared.deployment.observe.metrics)
    state.make_state_dir(name)
    held = _lock_free_name(name)
    try:
        wanted = write_start_files(prepared, detached=detached, ready_timeout_s=ready_timeout_s)
        return SupervisorProcess(wanted, start_supervisor(name, held, is_tied=not detached))
    finally:
        os.close(held)


@contextmanager
def started_deployment(
    deployment: Deployment,
    *,
    detached: bool,
    ready_timeout_s: float,
    launcher: str = LOCAL,
    check: Callable[[Prepared], None] = lambda prepared: None,
) -> Iterator[tuple[Prepared, SupervisorProcess]]:
    """Prepare a deployment and start its supervisor; hold its ports while the block runs.

    The ports are held before another command can choose them, and until their servers listen.
    check: called last before the start; raises where the nodes cannot run what is prepared.
    Raises what `prepare`, `check` and `launch` raise.
    """
    with ExitStack() as held:
        with planning():
            prepared = prepare(deployment, launcher=launcher)
            held.enter_context(holding(prepared.launcher, prepared.specs))
            check(prepared)
            supervisor = launch(prepared, detached=detached, ready_timeout_s=ready_timeout_s)
        yield prepared, supervisor


def write_start_files(prepared: Prepared, *, detached: bool, ready_timeout_s: float) -> Launch:
    """Write desired.yaml and launch.json for a supervisor to run. Call with the name locked."""
    deployment = prepared.deployment
    directory = state.make_state_dir(deployment.name)
    _clear_last_run(deployment.name, directory)
    wanted = Launch(
        run_id=uuid.uuid4().hex,
        boot_id=state.boot_id(),
        host=state.host_name(),
        name=deployment.name,
        layout=deployment.layout,
        model=deployment.model,
        endpoint=_endpoint(prepared.specs[0]),
        detached=detached,
        cwd=working_directory(),
        launched_at=time.time(),
        ready_timeout_s=ready_timeout_s,
        specs=prepared.specs,
        launcher=prepared.launcher,
        has_key=api_key() is not None,
        metrics_endpoint=deployment.observe.metrics,
        spans_endpoint=deployment.observe.traces,
        what_if=deployment.can_replay,
    )
    _write(wanted, deployment, directory)
    return wanted


def change(
    prepared: Prepared,
    *,
    leaving: tuple[ProcessSpec, ...] = (),
    changes: tuple[str, ...] = (),
    drain_s: float | None = None,
) -> Launch:
    """Give the supervisor of a running deployment a new target.

    It starts new processes, drains and stops those missing from the target, and keeps the rest.
    Call inside `planning()`, with what `prepare(deployment, present=...)` returned.
    leaving: running processes outside the target. changes: sentences for the event log.
    Raises StateConflict if no supervisor runs.
    """
    deployment, specs = prepared.deployment, prepared.specs
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
        previous_layout=(
            current.previous_layout if deployment.layout == current.layout else current.layout
        ),
    )
    _write(wanted, deployment, state.state_dir(name))
    return wanted


def _retired_ports(current: Launch, specs: tuple[ProcessSpec, ...]) -> tuple[int, ...]:
    """Bootstrap ports that decode engines may still associate with a prefill engine that left."""
    kept = {spec.bootstrap_port for spec in specs}
    gone = [spec.bootstrap_port for spec in current.specs if spec.bootstrap_port]
    left = [p for p in (*current.retired_ports, *gone) if p is not None and p not in kept]
    return tuple(dict.fromkeys(left))[-NUM_RETIRED_PORTS:]


def _write(wanted: Launch, deployment: Deployment, directory: Path) -> None:
    """Write desired.yaml, then launch.json, which the supervisor follows."""
    state.write_private(directory / "desired.yaml", deployment_yaml(deployment))
    state.write_launch(wanted)


def _lock_free_name(name: str) -> int:
    running.refuse_running(name)
    held = state.lock(name)
    if held is None:  # another `pdctl up` came first
        raise running.already_running(name)
    return held


def _clear_last_run(name: str, directory: Path) -> None:
    state.clear_state(name)
    (directory / "events.jsonl").unlink(missing_ok=True)
    shutil.rmtree(directory / "logs", ignore_errors=True)
    state.make_state_dir(name)


@contextmanager
def holding(launcher: str, specs: Iterable[ProcessSpec]) -> Iterator[None]:
    """Hold the ports of these processes while the block runs."""
    there = launcher_named(launcher)
    with ExitStack() as held:
        for spec in specs:
            served, unshared = opened_ports(spec)
            held.enter_context(there.hold_ports(spec.node, served, unshared=unshared))
        yield


def _endpoint(router: ProcessSpec) -> str:
    """The URL that programs use, also where the router listens on every address."""
    return f"http://{reachable_in_url(router.host)}:{router.port}"


NOWHERE: Mapping[str, ProcessSpec] = {}


def prepare(
    deployment: Deployment,
    *,
    present: tuple[ProcessSpec, ...] = (),
    places: Mapping[str, ProcessSpec] = NOWHERE,
    launcher: str = LOCAL,
    without: Collection[str] = (),
    is_for_later: bool = False,
) -> Prepared:
    """Resolve nodes, GPUs, ports, SGLang and the KV backend of a deployment.

    present: its running processes; those that the deployment still names stay as they are.
    places: new engine -> the engine, not in `present`, whose ports and GPUs it takes over.
    launcher: a name in the registry. without: nodes off the network, which get no new engine.
    is_for_later: nothing starts now, so the router's port may be in use.
    Raises EnvironmentProblem if a node lacks one of them, InvalidInput if the deployment cannot
    run. Call inside `planning()` unless nothing will be started.
    """
    deployment = _on_its_address(deployment)
    there = launcher_named(launcher)
    nodes = tuple(node for node in there.nodes() if node not in without)
    install = _install(deployment, there, nodes)
    gpus = gpus_of_nodes(deployment, there, nodes)
    llm, unread = _llm(deployment)
    placed = placed_engines(deployment, (*present, *_named(places)), gpus, there)
    warned = (*unread, *check_equal(deployment, install, there, _used(nodes, placed)))
    rdma = rdma_of_nodes(deployment, there, nodes)
    backend, kv_path = _kv_path(deployment, install, placed, gpus, rdma)
    stays = {spec.name: spec for spec in present}
    planned = _planned_ports(deployment, there, nodes, is_for_later or "router" in stays)
    addresses = _addresses(there, present, nodes)
    loaded = with_copy(deployment, there, _used(nodes, placed))
    bare = expand(
        loaded,
        gpus={name: place.gpus for name, place in placed.items()},
        nodes={"router": nodes[0], **{name: p.node for name, p in placed.items()}},
        addresses=addresses,
        ports={**planned, **{name: ports_of(spec) for name, spec in places.items()}},
        log_dir=logs_dir(deployment.name),
        install=install,
        backend=backend,
    )
    ranked = (_with_ranks(spec, placed, addresses) for spec in bare)
    specs = tuple(stays.get(s.name) or with_nics(s, gpus, rdma) for s in ranked)
    warned += check_network(deployment, specs, {*stays, *places}, there, rdma)
    return Prepared(
        deployment=replace(deployment, transfer_backend=backend or deployment.transfer_backend),
        specs=specs,
        version=install.version if install else None,
        gpu_name=next((gpu.name for found in gpus.values() for gpu in found), ""),
        kv_path=kv_path,
        warnings=(
            *warned,
            *not_copied(deployment, loaded, nodes),
            *cautions_there(deployment, placed, gpus, there),
            *_cautions(deployment, llm, install, backend),
        ),
        backend=backend,
        launcher=launcher,
    )


def _cautions(
    deployment: Deployment, llm: Llm | None, install: SglangInstall | None, backend: str | None
) -> Iterator[str]:
    version = parse_version(install.version) if install else None
    has_key = api_key() is not None
    yield from cautions(deployment, llm=llm, version=version, backend=backend, has_key=has_key)
    if deployment.observe.traces and not sends_spans():
        packages = "opentelemetry-sdk opentelemetry-exporter-otlp-proto-grpc"
        yield f"pdctl sends no spans of its own without its extra: pip install {packages}."


def _on_its_address(deployment: Deployment) -> Deployment:
    address = listen_address(deployment.router.host)
    return replace(deployment, router=replace(deployment.router, host=address))


def _addresses(
    launcher: Launcher, present: tuple[ProcessSpec, ...], nodes: tuple[str, ...]
) -> dict[str, str]:
    """The address of each node: that of its engines, so that a deployment stays on one network."""
    known = {spec.node: spec.host for spec in present if spec.role != "router"}
    new = (node for node in nodes if node not in known)
    return {**known, **{node: launcher.address(node) for node in new}}


def _named(places: Mapping[str, ProcessSpec]) -> Iterator[ProcessSpec]:
    """The engines whose places are taken over, under the names of those that take them."""
    return (replace(spec, name=name) for name, spec in places.items())


def _used(nodes: Sequence[str], placed: Mapping[str, Place]) -> tuple[str, ...]:
    return tuple(n for n in nodes if any(n in place.nodes for place in placed.values()))


def _with_ranks(
    spec: ProcessSpec, placed: Mapping[str, Place], addresses: Mapping[str, str]
) -> ProcessSpec:
    others = placed[spec.name].others if spec.name in placed else ()
    return with_followers(spec, others, addresses)


@contextmanager
def planning() -> Iterator[None]:
    """Hold the lock for choosing ports and GPUs, until launch.json names them."""
    home = state_home()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        held = os.open(home / ".planning", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as problem:
        raise state.unwritable(home, problem) from problem
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with _alone_on_this_network():
            yield
    finally:
        os.close(held)


@contextmanager
def _alone_on_this_network() -> Iterator[None]:
    """Keep other users, and other state directories, from choosing the same ports meanwhile.

    An abstract socket address exists once per network namespace, as ports do. Anyone may take it,
    so nobody waits for it longer than ALONE_WAIT_S.
    """
    with socket.socket(socket.AF_UNIX) as lock:
        deadline = time.monotonic() + ALONE_WAIT_S
        while not _bound(lock) and time.monotonic() < deadline:
            time.sleep(0.01)
        yield


def _bound(lock: socket.socket) -> bool:
    try:
        lock.bind(PLANNING_ADDRESS)
    except OSError:
        return False
    return True


def _llm(deployment: Deployment) -> tuple[Llm | None, tuple[str, ...]]:
    """The model, checked against sizes and flags, and warnings.

    None, with a warning, for a shape that pdctl cannot read: SGLang decides. None too for a model
    that SGLang will download.
    """
    try:
        llm = read_llm(deployment.model)
    except InvalidInput as problem:
        if deployment.engine == "sim" or problem.code == "no_config_json":
            raise
        if problem.code == "unknown_model":
            return None, ()
        said = problem.message.rstrip(".")
        return None, (f"pdctl cannot read this model's shape, so it checks no sizes: {said}.",)
    if llm.path is None and deployment.engine == "sglang":
        raise InvalidInput(
            f"{deployment.model} is a bundled model description without weights.",
            hint="pdctl up DIRECTORY or a Hugging Face id; --engine sim to rehearse",
            code="no_weights",
        )
    check_llm(deployment, llm)
    return llm, ()


def _install(
    deployment: Deployment, launcher: Launcher, nodes: tuple[str, ...]
) -> SglangInstall | None:
    """The SGLang of the first node. Ignores: nodes that have another one."""
    if deployment.engine == "sim":
        return None
    if deployment.container is not None:
        return sglang_in_images(deployment, launcher, nodes[:1])
    install = launcher.sglang(nodes[0], deployment.python)
    if install.version is None:
        raise EnvironmentProblem(
            f"SGLang is not installed in {install.python}.",
            hint="pip install sglang, or --python VENV/bin/python, or --engine sim",
            code="no_sglang",
        )
    return install


def _kv_path(
    deployment: Deployment,
    install: SglangInstall | None,
    placed: Mapping[str, Place],
    gpus: Mapping[str, tuple[Gpu, ...]],
    rdma: Mapping[str, tuple[RdmaPort, ...]],
) -> tuple[str | None, str]:
    """The KV backend and how KV moves, in words. RDMA counts only if every node has it."""
    if install is None or "prefill" not in deployment.roles:
        return None, ""
    return choose_backend(
        install,
        requested=deployment.transfer_backend,
        rdma=all(any(p.state == "ACTIVE" for p in rdma.get(node, ())) for node in gpus),
        nvlink=_share_nvlink(placed, gpus),
    )


def _share_nvlink(placed: Mapping[str, Place], gpus: Mapping[str, tuple[Gpu, ...]]) -> bool:
    """True if all engines are on one node that has NVLink."""
    used = {node for place in placed.values() for node in place.nodes}
    return len(used) == 1 and any(gpu.nvlink_peers for node in used for gpu in gpus[node])


def _planned_ports(
    deployment: Deployment,
    launcher: Launcher,
    nodes: tuple[str, ...],
    keeps_router: bool,
) -> Mapping[str, Ports]:
    """Ports that are free on every node; the router's on its own, unless it keeps that."""
    owners = _port_owners()

    def is_usable(port: int) -> bool:
        # the user chose the router's by number and may have left it a moment ago
        is_strict = port != deployment.router.port
        where = nodes if is_strict else nodes[:1]
        is_free = launcher.is_port_free
        return port not in owners and all(is_free(n, port, is_strict=is_strict) for n in where)

    return plan_ports(
        deployment,
        lambda port: (keeps_router and port == deployment.router.port) or is_usable(port),
        owners=owners,
        router_node=nodes[0],
    )


def _port_owners() -> dict[int, str]:
    """The running deployment that each port belongs to, also before its engines listen."""
    owners: dict[int, str] = {}
    for name in running.names():
        if launch := state.read_launch(name):
            ports = named_ports((*launch.specs, *launch.leaving)) | {*launch.retired_ports}
            owners |= dict.fromkeys(ports, name)
    return owners
