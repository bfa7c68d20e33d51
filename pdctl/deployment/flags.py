"""The command lines of engines and router, for each version of SGLang."""

import re
from collections.abc import Iterable, Sequence

from pdctl.deployment.records import MODES, Deployment, Ports, ProcessSpec, RolePlan
from pdctl.deployment.serving import serving_of, simulated_speculation
from pdctl.deployment.sglang_flags import Version, options
from pdctl.hosts import in_url
from pdctl.perf_model.memory import usual_serving
from pdctl.perf_model.records import Parallelism, Role

POLICIES = ("cache_aware", "round_robin", "random", "power_of_two", "manual")
# SGLang's /health runs a token and can wait behind a long prefill; /ready answers at once
READY_SINCE: Version = (0, 5, 23)
REQUEST_TIMES_FLAG = "--enable-request-time-stats-logging"  # since 0.4.7


def router_argv(
    deployment: Deployment,
    ports: Ports,
    *,
    address: str,
    listen_on: str | None = None,
    pdctl_python: str,
    version: Version | None,
) -> tuple[str, ...]:
    """The command of the router. It starts without engines; pdctl adds them over REST when ready.

    The router notices a dead engine within about 15 s instead of 3 min, and retries an open circuit
    breaker after 15 s instead of 60, before clients give up. It logs warnings only: at level info
    it writes two lines per request.

    Args:
        address: of its node; serves its metrics.
        listen_on: where clients reach it; None: the host that the deployment names.
        version: the engines' SGLang; None if unknown.

    Source: sglang_router/router_args.py 0.3.2.
    """
    router = deployment.router
    policy = policy_of(deployment)
    split = ("--pd-disaggregation",) if "prefill" in deployment.roles else ()
    ready = version is not None and version >= READY_SINCE
    return (
        *(pdctl_python, "-m", "sglang_router.launch_router", *split),
        *("--host", in_url(listen_on or router.host), "--port", str(router.port)),
        *("--prometheus-host", address, "--prometheus-port", str(ports.metrics)),
        *(("--policy", policy) if policy else ()),
        *("--health-check-interval-secs", "5", "--health-check-timeout-secs", "10"),
        *(("--health-check-endpoint", "/ready") if ready else ()),
        *("--cb-timeout-duration-secs", "15"),
        *("--worker-startup-check-interval", "1"),
        *("--log-level", "warn"),
        *traces_flags(deployment.observe.traces),
        *router.args,
    )


def policy_of(deployment: Deployment) -> str | None:
    """The routing policy: the user's, else round_robin for a split deployment.

    None means the router's default, cache_aware. It keeps shared prefixes on one colocated engine,
    but picks prefill and decode engines at random. Source: docs/decisions/0014.
    """
    return deployment.router.policy or ("round_robin" if "prefill" in deployment.roles else None)


def with_engines(router: ProcessSpec, engines: Sequence[ProcessSpec]) -> tuple[str, ...]:
    """The router's command with its engines as arguments, for running without pdctl."""
    flags: list[str] = []
    for engine in engines:
        if engine.role == "prefill":
            flags += ["--prefill", engine.url, str(engine.bootstrap_port)]
        elif engine.role == "decode":
            flags += ["--decode", engine.url]
    colocated = [engine.url for engine in engines if engine.role == "colocated"]
    if colocated:
        flags += ["--worker-urls", *colocated]
    return (*router.argv, *flags)


def traces_flags(endpoint: str) -> tuple[str, ...]:
    """The flags that make engines and router send spans to an OTLP collector.

    Source: srt/server_args.py of SGLang 0.5.10, 0.5.15 and 0.5.23; router_args.py 0.3.2.
    """
    return ("--enable-trace", "--otlp-traces-endpoint", endpoint) if endpoint else ()


FLAG = "--enable-pd-role-switch"
ROLE_SWITCH_SINCE: Version = (0, 5, 23)
# backends whose KV manager can be rebuilt at run time
BACKENDS = ("mooncake", "mooncake_tcp", "ascend", "mori")
_REFUSED_WITH = {
    "--speculative-algorithm": "speculative decoding",
    "--dcp-size": "decode context parallelism",
    "--enable-hisparse": "HiSparse",
    "--disaggregation-decode-host-receive-threshold": "decode host receive",
}


def role_switch_obstacle(
    deployment: Deployment, *, version: Version | None, backend: str | None
) -> str:
    """Why the engines of this deployment cannot switch roles at run time; "" if they can.

    Args:
        version: SGLang's; ignored for simulated engines, which switch as 0.5.23 does.
        backend: of KV transfer; ignored for simulated engines.

    Source: arg_groups/pd_disaggregation_hook.py and disaggregation/role_switch.py of SGLang 0.5.23.
    """
    plans = [deployment.roles[role] for role in _SPLIT if role in deployment.roles]
    if len(plans) < len(_SPLIT):
        return "colocated engines have no role to switch"
    if deployment.engine == "sglang":
        if version is None or version < ROLE_SWITCH_SINCE:
            return "SGLang switches roles at run time only from 0.5.23 on"
        if backend not in BACKENDS:
            return f"KV transfer over {backend} cannot be rebuilt at run time"
    if plans[0].parallelism != plans[1].parallelism:
        return "prefill and decode engines differ in size"
    return next((reason for plan in plans if (reason := _refusal(plan))), "")


_SPLIT: tuple[Role, ...] = ("prefill", "decode")


def differing_flags(deployment: Deployment) -> tuple[str, ...]:
    """The user's flags that differ between the roles; an engine keeps those of its first role."""
    prefill, decode = (options(deployment.roles[role].args) for role in _SPLIT)
    return tuple(
        flag for flag in sorted({*prefill, *decode}) if prefill.get(flag) != decode.get(flag)
    )


def _refusal(plan: RolePlan) -> str:
    """The setting of a role that SGLang does not rebuild in a role switch; "" if there is none."""
    if plan.parallelism.ep > 1:
        return "expert parallelism is not rebuilt at run time"
    if plan.parallelism.pp > 1:
        return "pipeline parallelism is not rebuilt at run time"
    given = options(plan.args)
    if given.get("--moe-a2a-backend", "none") != "none":
        return "MoE all-to-all is not rebuilt at run time"
    if given.get("--disaggregation-decode-allocation-policy") == "prefill_complete":
        return "--disaggregation-decode-allocation-policy prefill_complete rules it out"
    if "SGLANG_DISAGG_STAGING_BUFFER" in plan.env:
        return "SGLANG_DISAGG_STAGING_BUFFER rules it out"
    return next(
        (f"{words} is not rebuilt at run time" for f, words in _REFUSED_WITH.items() if f in given),
        "",
    )


# attention dp got its own flag; the old pair of flags warns from this version on
ATTN_DP_SIZE_SINCE: Version = (0, 5, 23)
MOONCAKE_TCP_SINCE: Version = (0, 5, 15)


def parse_version(text: str | None) -> Version | None:
    """The version "0.5.23.post1" as (0, 5, 23); None if it is missing or unreadable."""
    match = re.match(r"(\d+)\.(\d+)\.(\d+)", text or "")
    return tuple(int(part) for part in match.groups()) if match else None


def engine_argv(
    deployment: Deployment,
    role: Role,
    ports: Ports,
    *,
    address: str,
    python: str,
    version: Version | None,
    backend: str | None,
) -> tuple[str, ...]:
    """The command of one SGLang engine.

    Args:
        address: of its node, where it listens.
        python: the interpreter that has SGLang.
        version: SGLang's; None means the oldest known one, whose flags newer versions accept.
        backend: of KV transfer, as `choose_backend` named it; unused for colocated engines.

    Source: srt/server_args.py of SGLang 0.5.10, 0.5.15 and 0.5.23.
    """
    plan = deployment.roles[role]
    return (
        *(python, "-m", "sglang.launch_server"),
        *("--model-path", deployment.model),
        *("--host", address, "--port", str(ports.http)),
        *("--nccl-port", str(ports.nccl)),
        *("--dist-init-addr", f"{address}:{ports.dist_init}"),
        *parallelism_flags(plan.parallelism, version),
        *_disaggregation(role, ports, version, backend),
        *_role_switch(deployment, version, backend),
        *(("--trust-remote-code",) if deployment.trust_remote_code else ()),
        "--enable-metrics",
        *_request_times(deployment, plan),
        *traces_flags(deployment.observe.traces),
        *usual_flags(role, plan),
        *plan.args,
    )


def engine_env(
    role: Role,
    gpus: tuple[int, ...],
    *,
    plan: RolePlan,
    address: str,
    version: Version | None,
    backend: str | None,
) -> dict[str, str]:
    """The environment variables of one SGLang engine, added to the launcher's own.

    SGLANG_HOST_IP binds the sockets that move KV to `address`; --host does not affect them.
    """
    env = {"PYTHONUNBUFFERED": "1", "SGLANG_HOST_IP": address, **_buffers(role, plan)}
    if gpus:
        env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, gpus))
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # the order of NVML, which numbers them
    if role == "colocated" or backend is None or not backend.startswith("mooncake"):
        return env
    if role == "prefill":
        # without it, one failed transfer blacklists a decode engine until it restarts
        env["SGLANG_ENABLE_FAILED_SESSION_PROBE"] = "true"
    if backend == "mooncake_tcp":
        # without it, every request opens about 180 connections and ephemeral ports run out
        env["MC_TCP_ENABLE_CONNECTION_POOL"] = "1"
        if _before(version, MOONCAKE_TCP_SINCE):
            env["MC_FORCE_TCP"] = "1"
    return env


def parallelism_flags(parallelism: Parallelism, version: Version | None) -> tuple[str, ...]:
    """The flags for tp, pp, attention dp and ep in this version of SGLang. Sizes of 1 are omitted.

    Ignores: plain data parallelism, for which pdctl starts more engines.
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


def usual_flags(role: Role, plan: RolePlan) -> tuple[str, ...]:
    """The settings that pdctl gives engines, as `plan` assumes them, where the user gives none."""
    given = serving_of(plan.args)
    usual = usual_serving(given, plan.parallelism, role)
    settings = (
        ("--chunked-prefill-size", given.chunk, usual.chunk),
        ("--mem-fraction-static", given.mem_fraction, usual.mem_fraction),
        ("--max-running-requests", given.max_running, usual.max_running),
    )
    return tuple(
        word for flag, before, now in settings if now != before for word in (flag, str(now))
    )


def _buffers(role: Role, plan: RolePlan) -> dict[str, str]:
    """The size of DeepEP's buffers: a step with more rows on one rank ends the engine."""
    if role == "prefill" or options(plan.args).get("--moe-a2a-backend") != "deepep":
        return {}
    usual = usual_serving(serving_of(plan.args), plan.parallelism, role)
    if usual.max_running is None:
        return {}
    rows = -(-usual.max_running // plan.parallelism.dp) * usual.verify_tokens
    return {"SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK": str(rows)}


def simulated_argv(
    deployment: Deployment, role: Role, ports: Ports, *, address: str, pdctl_python: str
) -> tuple[str, ...]:
    """The command of one simulated engine."""
    plan = deployment.roles[role]
    planned = deployment.planned
    profile = planned.profile if planned else None
    gpus = deployment.gpus or (planned.gpus if planned else f"{deployment.num_gpus}xH200")
    described = planned.file_of(gpus) if planned else None
    bootstrap: tuple[str, ...] = ()
    if role != "colocated":
        bootstrap = ("--disaggregation-bootstrap-port", str(ports.bootstrap))
    return (
        *(pdctl_python, "-m", "pdctl.engines.sim"),
        *("--model-path", deployment.model),
        *("--sim-gpus", gpus),
        *(("--sim-gpu-file", described) if described else ()),
        *(("--sim-profile", profile) if profile else ()),
        *("--sim-speed", f"{deployment.sim_speed:g}"),
        *("--host", address, "--port", str(ports.http)),
        *("--disaggregation-mode", MODES[role], *bootstrap),
        *_role_switch(deployment, None, None),
        *parallelism_flags(plan.parallelism, None),
        "--enable-metrics",
        *_request_times(deployment, plan),
        *simulated_speculation(planned),
        *usual_flags(role, plan),
        *plan.args,
    )


def ports_of(engine: ProcessSpec) -> Ports:
    """The ports in the command line of an engine that `expand` made."""
    given = options(engine.argv[3:])
    dist_init = given.get("--dist-init-addr", "").rpartition(":")[2]
    return Ports(
        http=engine.port,
        bootstrap=_number(given.get("--disaggregation-bootstrap-port")),
        nccl=_number(given.get("--nccl-port")),
        dist_init=_number(dist_init),
    )


def opened_ports(spec: ProcessSpec) -> tuple[frozenset[int], frozenset[int]]:
    """The ports that a process opens: those that a server shares, and the others.

    A decode engine that can change its role opens its bootstrap port too. Of the ports of
    torch.distributed only the first, which stands for its whole group.
    """
    own = Ports(spec.port) if spec.role == "router" else ports_of(spec)
    shared = (spec.port, spec.bootstrap_port, own.bootstrap)
    others = (spec.metrics_port, own.nccl, own.dist_init)
    return frozenset(filter(None, shared)), frozenset(filter(None, others))


def named_ports(specs: Iterable[ProcessSpec]) -> frozenset[int]:
    """Every number in these command lines that could be a port, alone or after a host."""
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
        *("--disaggregation-mode", MODES[role]),
        *("--disaggregation-transfer-backend", backend),
        # decode engines with dp attention open this port too; the default would collide
        *("--disaggregation-bootstrap-port", str(ports.bootstrap)),
    )


def _role_switch(
    deployment: Deployment, version: Version | None, backend: str | None
) -> tuple[str, ...]:
    """The flag that gives every engine a bootstrap registry and lets it switch roles."""
    return () if role_switch_obstacle(deployment, version=version, backend=backend) else (FLAG,)


def _request_times(deployment: Deployment, plan: RolePlan) -> tuple[str, ...]:
    """The flag for one log line per request, unless it is refused or the user gives it."""
    is_wanted = deployment.request_times and REQUEST_TIMES_FLAG not in plan.args
    return (REQUEST_TIMES_FLAG,) if is_wanted else ()


def _before(version: Version | None, since: Version) -> bool:
    return version is None or version < since
