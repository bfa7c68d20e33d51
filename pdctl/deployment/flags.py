"""SGLang's command line for one engine. With flags_router and extra_args, all that knows flags."""

import re
from collections.abc import Iterable, Mapping

from pdctl.deployment.extra_args import Version, options
from pdctl.deployment.records import Deployment, Ports, ProcessSpec
from pdctl.deployment.role_switch import FLAG as ROLE_SWITCH
from pdctl.deployment.role_switch import role_switch_obstacle
from pdctl.perf_model.records import Parallelism, Role

ENGINE_HOST = "127.0.0.1"
# dp attention got a flag of its own; the old pair warns from here on
ATTN_DP_SIZE_SINCE: Version = (0, 5, 23)
MOONCAKE_TCP_SINCE: Version = (0, 5, 15)


def parse_version(text: str | None) -> Version | None:
    """The numbers of "0.5.23.post1" as (0, 5, 23); None for none or an unreadable one."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text or "")
    return tuple(int(part) for part in match.groups()) if match else None


def engine_argv(
    deployment: Deployment,
    role: Role,
    ports: Ports,
    *,
    python: str,
    version: Version | None,
    backend: str | None,
) -> tuple[str, ...]:
    """The command of one SGLang engine.

    Args:
        python: the interpreter that has SGLang.
        version: SGLang's; None is taken as the oldest pdctl knows, whose flags newer ones accept.
        backend: of KV transfer, as `choose_backend` named it; unused for colocated engines.

    Source: srt/server_args.py of SGLang 0.5.10, 0.5.15 and 0.5.23.
    """
    plan = deployment.roles[role]
    return (
        *(python, "-m", "sglang.launch_server"),
        *("--model-path", deployment.model),
        *("--host", ENGINE_HOST, "--port", str(ports.http)),
        *("--nccl-port", str(ports.nccl)),
        *("--dist-init-addr", f"{ENGINE_HOST}:{ports.dist_init}"),
        *parallelism_flags(plan.parallelism, version),
        *_disaggregation(role, ports, version, backend),
        *_role_switch(deployment, version, backend),
        *(("--trust-remote-code",) if deployment.trust_remote_code else ()),
        "--enable-metrics",
        *plan.args,
    )


def engine_env(
    role: Role, gpus: tuple[int, ...], *, version: Version | None, backend: str | None
) -> dict[str, str]:
    """What one SGLang engine's environment gets on top of the launcher's.

    SGLANG_HOST_IP keeps the sockets that move KV off the network: --host does not reach them.
    """
    env = {"PYTHONUNBUFFERED": "1", "SGLANG_HOST_IP": ENGINE_HOST}
    if gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # NVML's, which the numbers are from
    if role == "colocated" or backend is None or not backend.startswith("mooncake"):
        return env
    if role == "prefill":
        # without it one failed transfer shuts a decode engine out until it restarts
        env["SGLANG_ENABLE_FAILED_SESSION_PROBE"] = "true"
    if backend == "mooncake_tcp":
        # without it every request opens some 180 connections and ephemeral ports run out
        env["MC_TCP_ENABLE_CONNECTION_POOL"] = "1"
        if _before(version, MOONCAKE_TCP_SINCE):
            env["MC_FORCE_TCP"] = "1"
    return env


def parallelism_flags(parallelism: Parallelism, version: Version | None) -> tuple[str, ...]:
    """tp, pp, attention dp and ep, as this version of SGLang spells them; sizes of 1 are left out.

    Ignores: plain data parallelism, which is more engines here.
    """
    flags: list[str] = []
    if parallelism.tp > 1:
        flags += ["--tp-size", str(parallelism.tp)]
    if parallelism.pp > 1:
        flags += ["--pp-size", str(parallelism.pp)]
    if parallelism.dp > 1 and _before(version, ATTN_DP_SIZE_SINCE):
        flags += ["--dp-size", str(parallelism.dp), "--enable-dp-attention"]
    elif parallelism.dp > 1:
        flags += ["--attn-dp-size", str(parallelism.dp)]
    if parallelism.ep > 1:
        flags += ["--ep-size", str(parallelism.ep)]
    return tuple(flags)


def simulated_argv(
    deployment: Deployment, role: Role, ports: Ports, *, pdctl_python: str
) -> tuple[str, ...]:
    """The command of one simulated engine."""
    plan = deployment.roles[role]
    bootstrap: tuple[str, ...] = ()
    if role != "colocated":
        bootstrap = ("--disaggregation-bootstrap-port", str(ports.bootstrap))
    return (
        *(pdctl_python, "-m", "pdctl.engines.sim"),
        *("--model-path", deployment.model),
        *("--sim-gpus", deployment.gpus or f"{deployment.num_gpus}xH200"),
        *("--sim-speed", f"{deployment.sim_speed:g}"),
        *("--host", ENGINE_HOST, "--port", str(ports.http)),
        *("--disaggregation-mode", _mode(role), *bootstrap),
        *_role_switch(deployment, None, None),
        *parallelism_flags(plan.parallelism, None),
        "--enable-metrics",
        *plan.args,
    )


def ports_of(engine: ProcessSpec) -> Ports:
    """The ports in the command line of an engine that pdctl expanded."""
    given = options(engine.argv[3:])
    dist_init = given.get("--dist-init-addr", "").rpartition(":")[2]
    return Ports(
        http=engine.port,
        bootstrap=_number(given.get("--disaggregation-bootstrap-port")),
        nccl=_number(given.get("--nccl-port")),
        dist_init=_number(dist_init),
    )


def named_ports(specs: Iterable[ProcessSpec]) -> frozenset[int]:
    """Every number in these command lines that may be a port, alone or behind a host."""
    tails = {arg.rpartition(":")[2] for spec in specs for arg in spec.argv}
    return frozenset(int(n) for n in tails if n.isdecimal() and len(n) <= 5)


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def _disaggregation(
    role: Role, ports: Ports, version: Version | None, backend: str | None
) -> tuple[str, ...]:
    if role == "colocated":
        return ()
    assert backend is not None, "prefill and decode engines need a KV transfer backend"
    if backend == "mooncake_tcp" and _before(version, MOONCAKE_TCP_SINCE):
        backend = "mooncake"
    return (
        *("--disaggregation-mode", _mode(role)),
        *("--disaggregation-transfer-backend", backend),
        # decode engines with dp attention open the port too, and all would open SGLang's default
        *("--disaggregation-bootstrap-port", str(ports.bootstrap)),
    )


def _role_switch(
    deployment: Deployment, version: Version | None, backend: str | None
) -> tuple[str, ...]:
    """With it every engine has a bootstrap registry of its own, and can change its role."""
    return (
        () if role_switch_obstacle(deployment, version=version, backend=backend) else (ROLE_SWITCH,)
    )


def _mode(role: Role) -> str:
    modes: Mapping[Role, str] = {"colocated": "null", "prefill": "prefill", "decode": "decode"}
    return modes[role]


def _before(version: Version | None, since: Version) -> bool:
    return version is None or version < since
