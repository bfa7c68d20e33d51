"""What is known to go badly with a deployment that can nevertheless be started."""

from collections.abc import Iterator

from pdctl.deployment.extra_args import Version, options
from pdctl.deployment.records import Deployment
from pdctl.inspection.records import Llm
from pdctl.perf_model.records import Parallelism, Role

OLDEST: Version = (0, 5, 10)
NEWEST: Version = (0, 5, 23)
_BOTH: tuple[Role, Role] = ("prefill", "decode")
STAGING_BUFFER_BACKENDS = ("mooncake", "nixl")


def cautions(
    deployment: Deployment,
    *,
    llm: Llm | None = None,
    version: Version | None = None,
    backend: str | None = None,
    has_key: bool = False,
) -> tuple[str, ...]:
    """One sentence per thing that SGLang or the router is known to do badly here.

    Args:
        llm: None: not known, so what depends on it is said with its condition.
        version: SGLang's; None: not known.
        backend: of KV transfer, once chosen.
        has_key: engines and router ask for an API key.

    Source: SGLang issues 15674 (different tp), 34815 (pp prefill), 14439 (page size), 32070
        (power_of_two), 15665 (TCP transfer); each is named with its sentence.
    Ignores: what only a running engine shows.
    """
    found = (
        _wide_bind(deployment, has_key),
        _different_tp(deployment, llm, backend),
        _pipelined_prefill(deployment),
        _page_size(deployment),
        _power_of_two(deployment),
        _cache_aware(deployment),
        _slow_transfer(backend),
        _other_version(version),
    )
    return tuple(sentence for part in found for sentence in part)


def _wide_bind(deployment: Deployment, has_key: bool) -> Iterator[str]:
    host, port = deployment.router.host, deployment.router.port
    if host in ("127.0.0.1", "localhost", "::1"):
        return
    stays = "Engines and their bootstrap ports, which ask nobody for a key, stay on loopback."
    if has_key:
        yield (
            f"The router listens on {host}, unencrypted: whoever reaches port {port} can try keys"
            f" and read /v1/models and /engine_metrics without one. {stays}"
        )
        return
    yield (
        f"The router listens on {host}: whoever reaches port {port} can send requests and add or"
        f" remove engines; PDCTL_API_KEY or --api-key-file makes it ask for a key. {stays}"
    )


def _different_tp(deployment: Deployment, llm: Llm | None, backend: str | None) -> Iterator[str]:
    if "prefill" not in deployment.roles or (llm is not None and llm.attention == "mla"):
        return
    prefill, decode = (_attention_tp(deployment.roles[r].parallelism) for r in _BOTH)
    if prefill == decode or "SGLANG_DISAGG_STAGING_BUFFER" in deployment.roles["prefill"].env:
        return
    unless = "" if llm is not None else " unless the model has MLA attention"
    fix = (
        "; SGLANG_DISAGG_STAGING_BUFFER=1 in both roles' env helps"
        if backend in STAGING_BUFFER_BACKENDS
        else ""
    )
    yield (
        f"Prefill spreads attention over {prefill} GPUs and decode over {decode}: SGLang then"
        f" re-slices every KV head, slowly and at times fatally under load{unless}"
        f" (sglang#15674){fix}."
    )


def _pipelined_prefill(deployment: Deployment) -> Iterator[str]:
    prefill = deployment.roles.get("prefill")
    if prefill is not None and prefill.parallelism.pp > 1:
        yield (
            f"Prefill with pp {prefill.parallelism.pp} agrees on each request around the pipeline:"
            " seconds of TTFT at any load were seen with pp 8 (sglang#34815)."
        )


def _page_size(deployment: Deployment) -> Iterator[str]:
    if "prefill" not in deployment.roles:
        return
    prefill, decode = (options(deployment.roles[role].args) for role in _BOTH)
    name = "--attention-backend"
    if "--page-size" not in prefill and prefill.get(name) != decode.get(name):
        yield (
            "Prefill and decode have different attention backends, whose page sizes may differ:"
            " set --page-size for both, or the first request fails (sglang#14439)."
        )


def _power_of_two(deployment: Deployment) -> Iterator[str]:
    if deployment.router.policy == "power_of_two":
        yield (
            "The policy power_of_two asks engines for /get_load, which new SGLang no longer has:"
            " it then picks at random (sglang#32070)."
        )


def _cache_aware(deployment: Deployment) -> Iterator[str]:
    if deployment.router.policy == "cache_aware" and "prefill" in deployment.roles:
        yield (
            "With prefill split from decode the router's cache_aware keeps no prefixes and picks"
            " at random: round_robin, the default here, spreads better."
        )


def _slow_transfer(backend: str | None) -> Iterator[str]:
    if backend == "mooncake_tcp":
        yield (
            "KV moves over TCP: good for a smoke test, slow and fragile under load"
            " (sglang#15665). NIXL uses NVLink where there is no RDMA: pip install nixl."
        )


def _other_version(version: Version | None) -> Iterator[str]:
    if version is not None and not OLDEST <= version <= NEWEST:
        shown, oldest, newest = (".".join(map(str, v)) for v in (version, OLDEST, NEWEST))
        yield f"SGLang {shown} is outside {oldest} to {newest}, whose flags pdctl knows."


def _attention_tp(parallelism: Parallelism) -> int:
    return parallelism.tp // parallelism.dp
