"""A deployment as the flat list of processes that every launcher and export takes."""

import sys
from collections.abc import Mapping
from pathlib import Path

from pdctl.deployment.checks import Version, check_args
from pdctl.deployment.flags import (
    ENGINE_HOST,
    engine_argv,
    engine_env,
    parse_version,
    role_switch_obstacle,
    router_argv,
    simulated_argv,
)
from pdctl.deployment.records import Deployment, Ports, ProcessSpec
from pdctl.errors import EnvironmentProblem
from pdctl.hosts import LOOPBACK, LOOPBACK_NAMES, reachable_in_url
from pdctl.inspection.records import SglangInstall
from pdctl.perf_model.records import Role

# SIGTERM drains SGLang without bound, then takes it up to 20 s; a simulated engine needs neither
STOP_GRACE_S = {"sglang": 60.0, "sim": 10.0}
ROUTER_STOP_GRACE_S = 30.0


def expand(
    deployment: Deployment,
    *,
    gpus: Mapping[str, tuple[int, ...]],
    ports: Mapping[str, Ports],
    log_dir: Path,
    install: SglangInstall | None = None,
    backend: str | None = None,
    pdctl_python: str = sys.executable,
) -> tuple[ProcessSpec, ...]:
    """Every process of a deployment, the router first, fully resolved.

    Args:
        gpus: of each engine, as `assign_gpus` gave them.
        ports: of the router and each engine, as `plan_ports` gave them.
        install: the SGLang to run; not needed for simulated engines.
        backend: of KV transfer, as `choose_backend` named it; not needed for simulated engines
            nor colocated ones.
        pdctl_python: the interpreter that runs the router and simulated engines.

    Raises:
        InvalidInput: the user's extra flags conflict with pdctl's or with each other.
        EnvironmentProblem: SGLang is needed and not installed.
    """
    version = parse_version(install.version) if install else None
    check_args(deployment, version)
    can_switch = not role_switch_obstacle(deployment, version=version, backend=backend)
    engines = tuple(
        ProcessSpec(
            name=name,
            role=role,
            argv=_argv(deployment, role, ports[name], install, backend, pdctl_python),
            env=_env(deployment, role, gpus[name], version, backend),
            gpus=gpus[name],
            host=ENGINE_HOST,
            port=ports[name].http,
            log=log_dir / f"{name}.log",
            bootstrap_port=ports[name].bootstrap if role == "prefill" else None,
            stop_grace_s=STOP_GRACE_S[deployment.engine],
            can_switch_role=can_switch,
        )
        for name, role in deployment.engine_names.items()
    )
    return (_router(deployment, ports["router"], log_dir, version, pdctl_python), *engines)


def _router(
    deployment: Deployment, ports: Ports, log_dir: Path, version: Version | None, python: str
) -> ProcessSpec:
    return ProcessSpec(
        name="router",
        role="router",
        argv=router_argv(deployment, ports, pdctl_python=python, version=version),
        env=_router_env(deployment),
        gpus=(),
        host=reachable_in_url(deployment.router.host),
        port=ports.http,
        log=log_dir / "router.log",
        metrics_port=ports.metrics,
        stop_grace_s=ROUTER_STOP_GRACE_S,
    )


def _router_env(deployment: Deployment) -> dict[str, str]:
    """With simulated engines, keep the router from asking huggingface.co for a tokenizer.

    Source: sglang_router 0.3.2 downloads the tokenizer of every model that an engine reports and
    that is no local folder; hf-hub reads HF_ENDPOINT, and nothing listens on port 1.
    """
    env = {"PYTHONUNBUFFERED": "1"}
    if deployment.engine == "sim":
        env |= {"HF_ENDPOINT": f"http://{LOOPBACK}:1", "NO_PROXY": ",".join(LOOPBACK_NAMES)}
    return env


def _argv(
    deployment: Deployment,
    role: Role,
    ports: Ports,
    install: SglangInstall | None,
    backend: str | None,
    pdctl_python: str,
) -> tuple[str, ...]:
    if deployment.engine == "sim":
        return simulated_argv(deployment, role, ports, pdctl_python=pdctl_python)
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
) -> dict[str, str]:
    added = deployment.roles[role].env
    if deployment.engine == "sim":
        return {"PYTHONUNBUFFERED": "1", **added}
    return {**engine_env(role, gpus, version=version, backend=backend), **added}
