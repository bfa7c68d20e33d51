"""A deployment as the processes it comes to on this machine, at this moment."""

import fcntl
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from pdctl.deployment.backend import choose_backend
from pdctl.deployment.cautions import cautions
from pdctl.deployment.expand import expand
from pdctl.deployment.flags import named_ports, parse_version, ports_of
from pdctl.deployment.placement import crossing, needs_gpus
from pdctl.deployment.ports import plan_ports
from pdctl.deployment.records import Deployment, ProcessSpec
from pdctl.engines import running, state
from pdctl.engines.api_key import api_key
from pdctl.engines.more_gpus import assign_more_gpus
from pdctl.engines.port_holds import is_held
from pdctl.engines.state import logs_dir
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.gpus import query_gpus, visible_gpus
from pdctl.inspection.links import query_rdma_ports
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Gpu, Llm, SglangInstall
from pdctl.inspection.sglang import query_sglang
from pdctl.perf_model.memory import check_parallelism


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
    home = state.state_home()
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


def is_free(port: int) -> bool:
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
        return port not in taken and is_free(port) and (is_asked_for or not is_held(port))

    return lambda port: port == own or can_be_had(port)


def _reserved_ports() -> frozenset[int]:
    """Ports of running deployments, whose engines may not listen yet."""
    launches = [found for name in running.names() if (found := state.read_launch(name))]
    specs = [spec for launch in launches for spec in (*launch.specs, *launch.leaving)]
    retired = {port for launch in launches for port in launch.retired_ports}
    return named_ports(specs) | retired
