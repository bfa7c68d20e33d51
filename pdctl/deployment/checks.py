"""Check the SGLang flags that a user adds: refuse conflicts, and warn of known problems."""

from collections.abc import Iterator, Mapping, Sequence

from pdctl.deployment.records import Deployment
from pdctl.deployment.refused_pairs import refused_pair
from pdctl.deployment.serving import check_checkpoint, serving_of
from pdctl.deployment.sglang_flags import (
    ALIASES,
    REMOVED,
    SGLANG_RELEASE,
    FlagTable,
    Version,
    engine_table,
    options,
    router_options,
    router_table,
)
from pdctl.errors import InvalidInput
from pdctl.hosts import is_loopback
from pdctl.inspection.records import Llm
from pdctl.perf_model.memory import check_parallelism
from pdctl.perf_model.records import Parallelism, Role

_SIZES = "pdctl sets it from the engine's tp, pp, dp and ep"
_PORTS = "pdctl picks a free port for every engine and passes it to the router"
_PS = "anyone on this machine could read the key in ps"
# flag -> the reason why an engine's args must not contain it
ENGINE_FLAGS: Mapping[str, str] = {
    "--model-path": "the model is the deployment's own `model`",
    "--host": "pdctl picks the address at which the router reaches the engine",
    "--port": _PORTS,
    "--nccl-port": _PORTS,
    "--dist-init-addr": _PORTS,
    "--disaggregation-bootstrap-port": _PORTS,
    "--disaggregation-mode": "pdctl sets it from the engine's role",
    "--disaggregation-transfer-backend": "both roles must agree: set transfer_backend instead",
    "--tp-size": _SIZES,
    "--pp-size": _SIZES,
    "--dp-size": _SIZES,
    "--attn-dp-size": _SIZES,
    "--enable-dp-attention": _SIZES,
    "--ep-size": _SIZES,
    "--base-gpu-id": "pdctl assigns GPUs through CUDA_VISIBLE_DEVICES",
    "--gpu-id-step": "pdctl assigns GPUs through CUDA_VISIBLE_DEVICES",
    "--nnodes": "pdctl decides how many machines an engine spans",
    "--node-rank": "pdctl decides how many machines an engine spans",
    "--trust-remote-code": "it runs code from the model's repository: set trust_remote_code",
    "--api-key": _PS,
    "--admin-api-key": _PS,
    "--config": "pdctl cannot check flags in a file: list them in args",
}
_ROUTER_OWN = "pdctl adds and removes engines while the router runs"
ROUTER_FLAGS: Mapping[str, str] = {
    "--host": "set the router's host",
    "--port": "set the router's port",
    "--policy": "set the router's policy",
    "--prometheus-host": "pdctl reads the router's metrics there",
    "--prometheus-port": "pdctl picks a free port",
    "--pd-disaggregation": "pdctl sets it from the roles of the engines",
    "--prefill": _ROUTER_OWN,
    "--decode": _ROUTER_OWN,
    "--worker-urls": _ROUTER_OWN,
    "--service-discovery": _ROUTER_OWN,
    "--mini-lb": "it cannot add engines while it runs",
    "--dp-aware": "with prefill and decode split, sglang-router 0.3 then answers 502",
    "--api-key": _PS,
    "--control-plane-api-keys": _PS,
}
# if these differ between the roles, the first request crashes or returns garbage
EQUAL_ON_BOTH_ROLES = (
    "--page-size",
    "--kv-cache-dtype",
    "--context-length",
    "--quantization",
    "--served-model-name",
    "--dtype",
    "--revision",
    "--disaggregation-decode-allocation-policy",
    "--disaggregation-enable-kv-checksum",
)
TRACES_SINCE: Version = (0, 5, 10)  # earlier releases have another flag, or none
NOT_ON_PREFILL = (
    "--disaggregation-decode-enable-radix-cache",
    "--disaggregation-decode-enable-offload-kvcache",
)
NOT_ON_DECODE = ("--enable-kv-cache-sharding", "--enable-dsa-cache-layer-split")


def check_args(deployment: Deployment, version: Version | None = None) -> None:
    """Check the flags that the user added to each process.

    Args:
        version: SGLang's; None if unknown, which skips the check for removed flags.

    Raises:
        InvalidInput: a flag that pdctl sets itself (also as --flag=value, an alias or an
            abbreviation), that is abbreviated to several flags, that this SGLang has removed, that
            its role rejects alone or beside another, that has a value SGLang does not accept, alone
            or beside another, or whose value differs between the roles although it must not. Also
            traces that this SGLang cannot send.
    """
    for role, plan in deployment.roles.items():
        given = options(plan.args)
        _refuse_owned(plan.args, ENGINE_FLAGS, f"{role}.args")
        _refuse_ambiguous(plan.args, engine_table(), f"{role}.args")
        _refuse_removed(given, version, f"{role}.args")
        _refuse_misplaced(given, role)
        _refuse_pairs(given, role, version)
        serving_of(plan.args)
        if version == SGLANG_RELEASE:
            _refuse_values(given, engine_table(), f"{role}.args")
    _check_router(deployment.router.args)
    _refuse_differences(deployment)
    if deployment.observe.traces and version is not None and version < TRACES_SINCE:
        raise InvalidInput(
            f"SGLang {'.'.join(map(str, version))} has no --otlp-traces-endpoint.",
            hint="pip install -U sglang, or leave out --otlp",
        )


def check_llm(deployment: Deployment, llm: Llm) -> None:
    """Raise InvalidInput where SGLang asserts that it cannot cut or read this LLM so."""
    for plan in deployment.roles.values():
        check_parallelism(llm, plan.parallelism)
        check_checkpoint(llm, plan.args)


def _refuse_owned(args: Sequence[str], owned: Mapping[str, str], where: str) -> None:
    for token in args:
        name = token.partition("=")[0]
        flag = _owned(name, owned) if name.startswith("--") else None
        if flag is not None:
            raise InvalidInput(
                f"{name} cannot be set in {where}: {owned[flag]}.",
                hint=_instead(flag, where),
                code="conflicting_flag",
            )


def _owned(name: str, owned: Mapping[str, str]) -> str | None:
    """The flag of `owned` that `name` spells: in full, as an alias or abbreviated."""
    spellings = {**{flag: flag for flag in owned}, **ALIASES}
    if name in spellings:
        return spellings[name] if spellings[name] in owned else None
    begun = (flag for spelled, flag in spellings.items() if spelled.startswith(name))
    return next((flag for flag in begun if flag in owned), None)


def _instead(flag: str, where: str) -> str:
    role = where.partition(".")[0]
    if flag in ("--tp-size", "--pp-size", "--attn-dp-size", "--ep-size", "--dp-size"):
        size = "dp" if "dp" in flag else flag[2:4]
        return f"{role}: {{{size}: N}} in pd.yaml, or --{size} N"
    return f"remove it from {where}"


def _refuse_removed(given: Mapping[str, str], version: Version | None, where: str) -> None:
    for name in given:
        removed_in, instead = REMOVED.get(name, ((), ""))
        if version is not None and removed_in and version >= removed_in:
            shown = ".".join(map(str, version))
            raise InvalidInput(
                f"SGLang {shown} has no {name}, found in {where}.", hint=f"use {instead}"
            )


def _check_router(args: Sequence[str]) -> None:
    _refuse_owned(args, ROUTER_FLAGS, "router.args")
    _refuse_ambiguous(args, router_table(), "router.args")
    _refuse_values(router_options(args), router_table(), "router.args")


def _refuse_ambiguous(args: Sequence[str], table: FlagTable, where: str) -> None:
    for name in (token.partition("=")[0] for token in args if token.startswith("--")):
        meant = table.meant_by(name)
        if len(meant) > 1 and name not in ALIASES and name not in REMOVED:
            shown = f"{', '.join(meant[:5])}{', ...' if len(meant) > 5 else ''}"
            raise InvalidInput(
                f"{name} in {where} may be any of {shown}.",
                hint=f"write the whole flag: {meant[0]}",
                code="ambiguous_flag",
            )


def _refuse_pairs(given: Mapping[str, str], role: Role, version: Version | None) -> None:
    pair = refused_pair(role, given, version)
    if pair is None:
        return
    beside = f" {'without' if pair.without else 'with'} {pair.other}" if pair.other else ""
    add = f"add {pair.other} to {role}.args, or " if pair.without else ""
    raise InvalidInput(
        f"SGLang does not start a {role} engine with {pair.flag}{beside}: {pair.reason}",
        hint=f"{add}remove {pair.flag} from {role}.args",
        code="conflicting_flag",
    )


def _refuse_values(given: Mapping[str, str], table: FlagTable, where: str) -> None:
    for name, value in given.items():
        choices = table.choices.get(name, ())
        if choices and not set(value.split()) <= set(choices):
            raise InvalidInput(
                f"{name} in {where} does not take {value!r}.",
                hint=f"one of {', '.join(choices)}",
                code="bad_flag_value",
            )


def unknown_values(deployment: Deployment) -> tuple[tuple[str, str], ...]:
    """Each flag and value that the release of the table does not take, once per pair.

    For an SGLang of another or an unknown release, which may take it.
    """
    found = {
        (name, value)
        for plan in deployment.roles.values()
        for name, value in options(plan.args).items()
        if not set(value.split()) <= set(engine_table().choices.get(name, value.split()))
    }
    return tuple(sorted(found))


def unknown_flags(deployment: Deployment) -> tuple[str, ...]:
    """Flags of engines that the release of the table does not have; others may."""
    given = {name for plan in deployment.roles.values() for name in options(plan.args)}
    known = (*ALIASES.values(), *REMOVED)
    return tuple(n for n in sorted(given) if n not in known and not engine_table().meant_by(n))


def _refuse_misplaced(given: Mapping[str, str], role: Role) -> None:
    misplaced = {"prefill": NOT_ON_PREFILL, "decode": NOT_ON_DECODE}.get(role, ())
    for name in misplaced:
        if name in given:
            other = "decode" if role == "prefill" else "prefill"
            raise InvalidInput(
                f"{name} is a flag for {other} engines; {role} engines do not accept it.",
                hint=f"move it to {other}.args",
            )


def _refuse_differences(deployment: Deployment) -> None:
    if "prefill" not in deployment.roles:
        return
    prefill = options(deployment.roles["prefill"].args)
    decode = options(deployment.roles["decode"].args)
    for name in EQUAL_ON_BOTH_ROLES:
        if prefill.get(name) != decode.get(name):
            raise InvalidInput(
                f"{name} must be the same on prefill ({_shown(prefill, name)}) "
                f"and decode ({_shown(decode, name)}).",
                hint=f"set {name} once, under the top-level args: in pd.yaml",
            )


def _shown(given: Mapping[str, str], name: str) -> str:
    return given[name] or "set" if name in given else "not set"


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
    """One sentence for each known problem of SGLang or the router with this deployment.

    Args:
        llm: the model; None if unknown, in which case warnings state their condition.
        version: SGLang's; None if unknown.
        backend: the KV transfer backend, once chosen.
        has_key: engines and router require an API key.

    Source: SGLang issues 15674 (different tp), 34815 (pp prefill), 14439 (page size), 32070
        (power_of_two), 15665 (TCP transfer); each sentence names its issue.
    Ignores: problems that show only in a running engine.
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
        _values(deployment, version),
    )
    return tuple(sentence for part in found for sentence in part)


def _wide_bind(deployment: Deployment, has_key: bool) -> Iterator[str]:
    host, port = deployment.router.host, deployment.router.port
    if is_loopback(host):
        return
    stays = "Engines and their bootstrap ports, which need no key, listen on loopback only."
    if has_key:
        yield (
            f"The router listens on {host} without encryption: anyone who reaches port {port} can"
            f" try keys, and read /v1/models and /engine_metrics without one. {stays}"
        )
        return
    yield (
        f"The router listens on {host}: anyone who reaches port {port} can send requests and add or"
        f" remove engines. PDCTL_API_KEY or --api-key-file makes it require a key. {stays}"
    )


def _different_tp(deployment: Deployment, llm: Llm | None, backend: str | None) -> Iterator[str]:
    if "prefill" not in deployment.roles or (llm is not None and llm.attention == "mla"):
        return
    prefill, decode = (_attention_tp(deployment.roles[r].parallelism) for r in _BOTH)
    if prefill == decode or "SGLANG_DISAGG_STAGING_BUFFER" in deployment.roles["prefill"].env:
        return
    unless = "" if llm is not None else " unless the model has MLA attention"
    fix = (
        ". Set SGLANG_DISAGG_STAGING_BUFFER=1 in the env of both roles to avoid this"
        if backend in STAGING_BUFFER_BACKENDS
        else ""
    )
    yield (
        f"Prefill splits attention over {prefill} GPUs and decode over {decode}: SGLang then"
        f" re-slices every KV head, which is slow and sometimes crashes under load{unless}"
        f" (sglang#15674){fix}."
    )


def _pipelined_prefill(deployment: Deployment) -> Iterator[str]:
    prefill = deployment.roles.get("prefill")
    if prefill is not None and prefill.parallelism.pp > 1:
        yield (
            f"Prefill with pp {prefill.parallelism.pp} synchronises every request across the"
            " pipeline stages: with pp 8 this added seconds of TTFT at any load (sglang#34815)."
        )


def _page_size(deployment: Deployment) -> Iterator[str]:
    if "prefill" not in deployment.roles:
        return
    prefill, decode = (options(deployment.roles[role].args) for role in _BOTH)
    name = "--attention-backend"
    if "--page-size" not in prefill and prefill.get(name) != decode.get(name):
        yield (
            "Prefill and decode use different attention backends, whose page sizes may differ:"
            " set --page-size on both, or the first request may fail (sglang#14439)."
        )


def _power_of_two(deployment: Deployment) -> Iterator[str]:
    if "power_of_two" in _policies(deployment):
        yield (
            "The policy power_of_two needs /get_load, which recent versions of SGLang have"
            " removed: it then picks engines at random (sglang#32070)."
        )


def _policies(deployment: Deployment) -> tuple[str | None, ...]:
    """The policies asked for, by policy: or among the router's own flags."""
    given = router_options(deployment.router.args)
    flags = ("--policy", "--prefill-policy", "--decode-policy")
    return (deployment.router.policy, *(given.get(flag) for flag in flags))


def _values(deployment: Deployment, version: Version | None) -> Iterator[str]:
    newest = ".".join(map(str, NEWEST))
    for flag in unknown_flags(deployment):
        yield f"SGLang {newest} has no {flag}; other releases may."
    if version == NEWEST:  # refused by check_flags
        return
    for flag, value in unknown_values(deployment):
        yield f"SGLang {newest} does not take {value!r} for {flag}; other releases may."


def _cache_aware(deployment: Deployment) -> Iterator[str]:
    if "cache_aware" in _policies(deployment) and "prefill" in deployment.roles:
        yield (
            "In a split deployment the router's cache_aware policy ignores prefixes and picks"
            " engines at random: round_robin, the default, balances load better."
        )


def _slow_transfer(backend: str | None) -> Iterator[str]:
    if backend == "mooncake_tcp":
        yield (
            "KV moves over TCP, which is fine for a smoke test but slow and fragile under load"
            " (sglang#15665). NIXL can use NVLink without RDMA: pip install nixl."
        )


def _other_version(version: Version | None) -> Iterator[str]:
    if version is not None and not OLDEST <= version <= NEWEST:
        shown, oldest, newest = (".".join(map(str, v)) for v in (version, OLDEST, NEWEST))
        yield f"SGLang {shown} is outside the range {oldest} to {newest} that pdctl supports."


def _attention_tp(parallelism: Parallelism) -> int:
    return parallelism.tp // parallelism.dp
