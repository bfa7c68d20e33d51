"""Expand a deployment into the flat list of processes that launchers and exports take."""

import sys
from collections.abc import Mapping
from pathlib import Path

from pdctl.deployment.checks import Version, check_args
from pdctl.deployment.flags import (
    engine_argv,
    engine_env,
    parse_version,
    role_switch_obstacle,
    router_argv,
    simulated_argv,
)
from pdctl.deployment.hosts import LOOPBACK, reachable
from pdctl.deployment.records import HERE, Deployment, Ports, ProcessSpec
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.records import SglangInstall
from pdctl.perf_model.records import Role

# after SIGTERM SGLang drains without limit, then needs up to 20 s; simulated engines need neither
STOP_GRACE_S = {"sglang": 60.0, "sim": 10.0}
ROUTER_STOP_GRACE_S = 30.0
ALL_HERE: Mapping[str, str] = {}
THIS_MACHINE: Mapping[str, str] = {HERE: LOOPBACK}


def expand(
    deployment: Deployment,
    *,
    gpus: Mapping[str, tuple[int, ...]],
    ports: Mapping[str, Ports],
    log_dir: Path,
    install: SglangInstall | None = None,
    backend: str | None = None,
    pdctl_python: str = sys.executable,
    nodes: Mapping[str, str] = ALL_HERE,
    addresses: Mapping[str, str] = THIS_MACHINE,
) -> tuple[ProcessSpec, ...]:
    """Every process of a deployment, router first, fully resolved.

    Args:
        gpus: the GPUs of each engine, as `place_engines` chose them.
        ports: the ports of the router and each engine, as `plan_ports` chose them.
        install: the SGLang to run; not needed for simulated engines.
        backend: the KV transfer backend that `choose_backend` picked; not needed for simulated
            or colocated engines.
        pdctl_python: the interpreter that runs the router and simulated engines.
        nodes: the node of each process by name; those it leaves out run on this machine.
        addresses: where the processes of each node listen.

    Raises:
        InvalidInput: the user's extra flags conflict with pdctl's or with each other.
        EnvironmentProblem: SGLang is needed and not installed.
    """
    version = parse_version(install.version) if install else None
    check_args(deployment, version)

    def address(name: str) -> str:
        return addresses[nodes.get(name, HERE)]

    can_switch = not role_switch_obstacle(deployment, version=version, backend=backend)
    engines = tuple(
        ProcessSpec(
            name=name,
            role=role,
            argv=_argv(
                deployment, role, ports[name], install, backend, pdctl_python, address(name)
            ),
            env=_env(deployment, role, gpus[name], version, backend, address(name)),
            gpus=gpus[name],
            host=address(name),
            port=ports[name].http,
            log=log_dir / f"{name}.log",
            bootstrap_port=ports[name].bootstrap if role == "prefill" else None,
            stop_grace_s=STOP_GRACE_S[deployment.engine],
            can_switch_role=can_switch,
            node=nodes.get(name, HERE),
        )
        for name, role in deployment.engine_names.items()
    )
    router = _router(
        deployment,
        ports["router"],
        log_dir,
        version,
        pdctl_python,
        nodes.get("router", HERE),
        address("router"),
    )
    return (router, *engines)


def _router(
    deployment: Deployment,
    ports: Ports,
    log_dir: Path,
    version: Version | None,
    python: str,
    node: str,
    address: str,
) -> ProcessSpec:
    # on another machine nobody could reach the loopback address that is the default
    listen_on = deployment.router.host if node == HERE else address
    return ProcessSpec(
        name="router",
        role="router",
        argv=router_argv(
            deployment,
            ports,
            address=address,
            listen_on=listen_on,
            pdctl_python=python,
            version=version,
        ),
        env={"PYTHONUNBUFFERED": "1"},
        gpus=(),
        host=reachable(listen_on),
        port=ports.http,
        log=log_dir / "router.log",
        metrics_port=ports.metrics,
        stop_grace_s=ROUTER_STOP_GRACE_S,
        node=node,
    )


def _argv(
    deployment: Deployment,
    role: Role,
    ports: Ports,
    install: SglangInstall | None,
    backend: str | None,
    pdctl_python: str,
    address: str,
) -> tuple[str, ...]:
    if deployment.engine == "sim":
        return simulated_argv(deployment, role, ports, address=address, pdctl_python=pdctl_python)
    if install is None or install.version is None:
        raise EnvironmentProblem(
            f"SGLang is not installed in {install.python if install else 'any known Python'}.",
            hint="pip install 'pdctl[sglang]', or --python VENV/bin/python, or --engine sim",
            code="no_sglang",
        )
    return engine_argv(
        deployment,
        role,
        ports,
        address=address,
        python=install.python,
        version=parse_version(install.version),
        backend=backend,
    )


def _env(
    deployment: Deployment,
    role: Role,
    gpus: tuple[int, ...],
    version: Version | None,
    backend: str | None,
    address: str,
) -> dict[str, str]:
    added = deployment.roles[role].env
    if deployment.engine == "sim":
        return {"PYTHONUNBUFFERED": "1", **added}
    usual = engine_env(role, gpus, address=address, version=version, backend=backend)
    return {**usual, **added}
