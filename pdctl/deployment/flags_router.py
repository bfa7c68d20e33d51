"""sglang-router's command line."""

from collections.abc import Sequence

from pdctl.deployment.extra_args import Version
from pdctl.deployment.records import Deployment, Ports, ProcessSpec

LOOPBACK = "127.0.0.1"
POLICIES = ("cache_aware", "round_robin", "random", "power_of_two", "manual")
# SGLang's /health runs a token and can wait behind a long prefill; /ready answers at once
READY_SINCE: Version = (0, 5, 23)


def router_argv(
    deployment: Deployment, ports: Ports, *, pdctl_python: str, version: Version | None
) -> tuple[str, ...]:
    """The command of the router, started without engines: they are added over REST when ready.

    A dead engine is noticed in some 15 s instead of 3 min, and a circuit breaker that opened is
    tried again after 15 s instead of 60, which is less than clients retry for. Its log holds
    warnings only: at info it writes two lines per request, of users and of pdctl alike.

    Args:
        version: SGLang's of the engines; None: unknown.

    Source: sglang_router/router_args.py 0.3.2.
    """
    router = deployment.router
    policy = policy_of(deployment)
    split = ("--pd-disaggregation",) if "prefill" in deployment.roles else ()
    ready = version is not None and version >= READY_SINCE
    return (
        *(pdctl_python, "-m", "sglang_router.launch_router", *split),
        *("--host", router.host, "--port", str(router.port)),
        *("--prometheus-host", LOOPBACK, "--prometheus-port", str(ports.metrics)),
        *(("--policy", policy) if policy else ()),
        *("--health-check-interval-secs", "5", "--health-check-timeout-secs", "10"),
        *(("--health-check-endpoint", "/ready") if ready else ()),
        *("--cb-timeout-duration-secs", "15"),
        *("--worker-startup-check-interval", "1"),
        *("--log-level", "warn"),
        *router.args,
    )


def policy_of(deployment: Deployment) -> str | None:
    """The routing policy: as asked for, else taking turns where prefill is split from decode.

    None: the router's own default, cache_aware, which keeps prefixes together among colocated
    engines; of prefill and decode engines it draws at random. Source: docs/decisions/0014.
    """
    return deployment.router.policy or ("round_robin" if "prefill" in deployment.roles else None)


def with_engines(router: ProcessSpec, engines: Sequence[ProcessSpec]) -> tuple[str, ...]:
    """The router's command with its engines listed, for starting everything without pdctl."""
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
