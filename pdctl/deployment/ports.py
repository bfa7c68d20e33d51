"""The ports of each process: a band for each kind."""

from collections.abc import Callable, Iterator, Mapping

from pdctl.deployment.records import HERE, Deployment, Ports
from pdctl.errors import EnvironmentProblem

# SGLang derives dist_init + 1 ... + 6 for its own sockets under attention data parallelism
DIST_INIT_PORTS = 7
STEP = 10
BAND = 1000
HTTP_FROM = 20000
BOOTSTRAP_FROM = 21000
NCCL_FROM = 23000
DIST_INIT_FROM = 24000
DIST_INIT_BAND = 5000  # 500 engines
ROUTER_METRICS_FROM = 29000


def plan_ports(
    deployment: Deployment,
    is_free: Callable[[int], bool],
    *,
    owners: Mapping[int, str] | None = None,
    router_node: str = HERE,
) -> dict[str, Ports]:
    """The ports of the router ("router") and of each engine, by name.

    Each kind of port has a band, in steps of 10 until these are used up. The bands lie below 32768,
    where Linux's ephemeral ports begin, and outside 10002-19999, which Ray's workers use. Two
    prefill engines with the same bootstrap port would not crash but mix up their KV, so every
    engine has its own.

    Args:
        is_free: tells whether a port is available on every node; the router's on its own.
        owners: names of the deployments that hold ports, by port.
        router_node: the node of the router.

    Raises:
        EnvironmentProblem: the router's port is in use, or a band has no free port left.
    """
    router_port = deployment.router.port
    if not is_free(router_port):
        owner = (owners or {}).get(router_port, "")
        raise _router_port_taken(router_port, is_free, router_node, owner)

    def usable(port: int) -> bool:
        return port != router_port and is_free(port)

    metrics = _band("the router's metrics", ROUTER_METRICS_FROM, usable)
    http = _band("HTTP", HTTP_FROM, usable)
    bootstrap = _band("the bootstrap registry", BOOTSTRAP_FROM, usable)
    dist_init = _band(
        *("torch.distributed", DIST_INIT_FROM, usable), size=DIST_INIT_BAND, width=DIST_INIT_PORTS
    )
    nccl = _band("NCCL", NCCL_FROM, usable)
    planned = {"router": Ports(http=router_port, metrics=next(metrics))}
    for name in deployment.engine_names:
        planned[name] = Ports(
            http=next(http),
            bootstrap=next(bootstrap),
            nccl=next(nccl),
            dist_init=next(dist_init),
        )
    return planned


def _band(
    kind: str, first: int, is_free: Callable[[int], bool], *, size: int = BAND, width: int = 1
) -> Iterator[int]:
    for start in range(first, first + STEP - width + 1, width):
        for port in range(start, first + size, STEP):
            if all(is_free(p) for p in range(port, port + width)):
                yield port
    raise EnvironmentProblem(
        f"No port between {first} and {first + size - 1} is free for {kind}.",
        hint="pdctl ls, then pdctl down NAME for deployments you no longer need",
        code="port_in_use",
    )


def _router_port_taken(
    port: int, is_free: Callable[[int], bool], node: str, owner: str
) -> EnvironmentProblem:
    other = next((p for p in range(port + 1, min(port + 100, 65536)) if is_free(p)), None)
    by = f" by the deployment {owner}" if owner else ""
    hint = f"--port {other}" if other else "--port N with a free port"
    return EnvironmentProblem(
        f"The router's port {port} is already in use{by}{f' on {node}' if node else ''}.",
        hint=f"{hint}, or pdctl down {owner}" if owner else hint,
        code="port_in_use",
    )
