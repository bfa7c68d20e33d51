"""Expand a deployment into the flat list of processes that launchers and exports take."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pdctl.deployment.checks import check_args
from pdctl.deployment.containers import container_of
from pdctl.deployment.flags import (
    engine_argv,
    engine_env,
    parse_version,
    role_switch_obstacle,
    router_argv,
    simulated_argv,
)
from pdctl.deployment.records import HERE, Deployment, Ports, ProcessSpec
from pdctl.deployment.sglang_flags import Version
from pdctl.errors import EnvironmentProblem
from pdctl.hosts import LOOPBACK, LOOPBACK_NAMES, reachable_in_url
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
    common = _Common(deployment, install, version, backend, pdctl_python, log_dir)

    def address(name: str) -> str:
        return addresses[nodes.get(name, HERE)]

    router = common.router(ports["router"], nodes.get("router", HERE), address("router"))
    engines = (
        common.engine(name, role, ports[name], gpus[name], nodes.get(name, HERE), address(name))
        for name, role in deployment.engine_names.items()
    )
    return (router, *engines)


@dataclass(frozen=True)
class _Common:
    """Settings shared by all processes. python: runs the router and simulated engines."""

    deployment: Deployment
    install: SglangInstall | None
    version: Version | None
    backend: str | None
    python: str
    log_dir: Path

    def router(self, ports: Ports, node: str, address: str) -> ProcessSpec:
        # the default, loopback, would be unreachable on another machine
        listen_on = self.deployment.router.host if node == HERE else address
        return ProcessSpec(
            name="router",
            role="router",
            argv=router_argv(
                self.deployment,
                ports,
                address=address,
                listen_on=listen_on,
                pdctl_python=self.python,
                version=self.version,
            ),
            env=_router_env(self.deployment),
            gpus=(),
            host=reachable_in_url(listen_on),
            port=ports.http,
            log=self.log_dir / "router.log",
            metrics_port=ports.metrics,
            stop_grace_s=ROUTER_STOP_GRACE_S,
            node=node,
        )

    def engine(
        self,
        name: str,
        role: Role,
        ports: Ports,
        gpus: tuple[int, ...],
        node: str,
        address: str,
    ) -> ProcessSpec:
        obstacle = role_switch_obstacle(self.deployment, version=self.version, backend=self.backend)
        return ProcessSpec(
            name=name,
            role=role,
            argv=self._argv(role, ports, address),
            env=self._env(role, gpus, address),
            gpus=gpus,
            host=address,
            port=ports.http,
            log=self.log_dir / f"{name}.log",
            bootstrap_port=ports.bootstrap if role == "prefill" else None,
            stop_grace_s=STOP_GRACE_S[self.deployment.engine],
            can_switch_role=not obstacle,
            node=node,
            container=container_of(self.deployment, role) if self.install else None,
        )

    def _argv(self, role: Role, ports: Ports, address: str) -> tuple[str, ...]:
        if self.deployment.engine == "sim":
            return simulated_argv(
                self.deployment, role, ports, address=address, pdctl_python=self.python
            )
        if self.install is None or self.install.version is None:
            where = self.install.python if self.install else "any known Python"
            raise EnvironmentProblem(
                f"SGLang is not installed in {where}.",
                hint="pip install sglang, or --python VENV/bin/python, or --engine sim",
                code="no_sglang",
            )
        return engine_argv(
            self.deployment,
            role,
            ports,
            address=address,
            python=self.install.python,
            version=self.version,
            backend=self.backend,
        )

    def _env(self, role: Role, gpus: tuple[int, ...], address: str) -> dict[str, str]:
        plan = self.deployment.roles[role]
        if self.deployment.engine == "sim":
            return {"PYTHONUNBUFFERED": "1", **plan.env}
        usual = engine_env(
            role,
            gpus,
            plan=plan,
            address=address,
            version=self.version,
            backend=self.backend,
        )
        return {**usual, **plan.env}


def _router_env(deployment: Deployment) -> dict[str, str]:
    """With simulated engines, keep the router from asking huggingface.co for a tokenizer.

    Source: sglang_router 0.3.2 downloads the tokenizer of every model that an engine reports and
    that is not a local folder; hf-hub reads HF_ENDPOINT, and nothing listens on port 1.
    """
    env = {"PYTHONUNBUFFERED": "1"}
    if deployment.engine == "sim":
        env |= {"HF_ENDPOINT": f"http://{LOOPBACK}:1", "NO_PROXY": ",".join(LOOPBACK_NAMES)}
    return env
