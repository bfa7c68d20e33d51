"""Whether the engines of a deployment fit together. SGLang finds out at the first request. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from pdctl.deployment.records import role_of_mode
from pdctl.doctor.deployment_facts import DeploymentFacts, EngineSeen
from pdctl.doctor.records import Check, Outcome
from pdctl.hosts import is_loopback

# field of /server_info -> id, what it is, and how bad a difference is
SAME: dict[str, tuple[str, str, Outcome]] = {
    "page_size": ("page_size", "page size", "fail"),
    "kv_cache_dtype": ("kv_dtype", "KV dtype", "fail"),
    "model_path": ("same_model", "model", "fail"),
    "quantization": ("same_quantization", "quantization", "warn"),
    "version": ("same_version", "SGLang version", "warn"),
    "disaggregation_transfer_backend": ("same_backend", "KV transfer backend", "fail"),
    "context_length": ("context_length", "context length", "warn"),
}
LARGEST = 1e15  # of any size an engine states
_MLA = ("deepseekv2", "deepseekv3", "deepseekv32", "kimik2", "longcat", "glm4moelite", "minicpm3")


def _same(seen: DeploymentFacts) -> Iterator[Check]:
    engines = [engine for engine in seen.engines if engine.info]
    for key, (id_, what, outcome) in SAME.items():
        values: dict[str, list[str]] = defaultdict(list)
        for engine in engines:
            if engine.info.get(key) is not None:
                values[str(engine.info[key])].append(engine.name)
        if len(values) == 1:
            yield Check(id_, "pass", f"All engines have the {what} {next(iter(values))}.")
        elif values:
            text = "; ".join(f"{value} on {', '.join(names)}" for value, names in values.items())
            flag = f"--{key.replace('_', '-')}"
            fix = f"--args '{flag} VALUE' for both roles" if outcome == "fail" else "pdctl up again"
            yield Check(id_, outcome, f"The {what} differs: {text}.", fix, "sglang#14439")


def _roles(seen: DeploymentFacts) -> Iterator[Check]:
    wrong = [
        f"{e.name} runs as {role_of_mode(e.role) or e.role}"
        for e in seen.engines
        if e.role and role_of_mode(e.role) != e.target.role
    ]
    listed = {row.url: row.role for row in seen.workers or ()}
    wrong += [
        f"the router has {e.name} as {listed[e.target.url]}"
        for e in seen.engines
        if e.target.url in listed and listed[e.target.url] != e.target.role
    ]
    if not wrong and any(e.role for e in seen.engines):
        yield Check("roles", "pass", "Every engine runs in the role the router has it for.")
    elif wrong:
        text = f"{'; '.join(wrong)}: the router never checks."
        yield Check("roles", "fail", text, "pdctl down, pdctl up", "seen with sglang-router 0.3.2")


def _registries(seen: DeploymentFacts) -> Iterator[Check]:
    """Two prefill engines on one bootstrap port do not crash; KV goes to the wrong one."""
    prefill = [e for e in seen.of_role("prefill") if e.bootstrap_port]
    problems = [problem for engine in prefill if (problem := _registry_problem(engine))]
    ports = [(e.host, e.bootstrap_port) for e in prefill]
    twice = sorted({str(port) for host, port in ports if ports.count((host, port)) > 1})
    if twice:
        problems.append(f"several engines have the bootstrap port {', '.join(twice)}")
    if problems:
        fix = "pdctl down, pdctl up: every engine gets a bootstrap port of its own"
        yield Check("registries", "fail", f"{'; '.join(problems)}.", fix, "sglang#11747")
    elif prefill:
        yield Check("registries", "pass", f"{len(prefill)} bootstrap registries name themselves.")


def _registry_problem(engine: EngineSeen) -> str:
    where = f"the registry of {engine.name} on port {engine.bootstrap_port}"
    if engine.registry is None:
        return f"{where} does not answer"
    named, own = engine.registry.get("prefill_http_port"), engine.target.url.rpartition(":")[2]
    if named is None or str(named) == own:
        return ""
    return f"{where} names port {named}, not {own}: KV goes to another engine"


def _bootstrap_ports(seen: DeploymentFacts) -> Iterator[Check]:
    listed = {row.url: row for row in seen.workers or () if row.role == "prefill"}
    known = [e for e in seen.engines if e.target.url in listed and e.bootstrap_port]
    wrong = [
        f"{e.name} has {e.bootstrap_port}, the router {listed[e.target.url].bootstrap_port}"
        for e in known
        if listed[e.target.url].bootstrap_port != e.bootstrap_port
    ]
    if wrong:
        text = f"The bootstrap port differs: {'; '.join(wrong)}; every request through it hangs."
        yield Check("bootstrap_ports", "fail", text, "pdctl down, pdctl up", "sglang#11747")
    elif known:
        yield Check("bootstrap_ports", "pass", "The router has every bootstrap port right.")


def _capacity(seen: DeploymentFacts) -> Iterator[Check]:
    """What prefill cannot hold it aborts, and decode answers with garbage."""
    for engine in seen.of_role("prefill"):
        holds, most = _number(engine, "max_total_num_tokens"), _number(engine, "max_req_input_len")
        if holds and most and holds < most:
            yield Check(
                "capacity",
                "warn",
                f"{engine.name} takes prompts of {most:,.0f} tokens and holds {holds:,.0f}.",
                f"--args '--context-length {int(holds)}' for both roles",
                "sglang#30233",
            )
            return
    inputs = {role: _least(seen.of_role(role), "max_req_input_len") for role in _SPLIT}
    prefill, decode = (inputs[role] for role in _SPLIT)
    if prefill and decode and abs(prefill - decode) > 64:
        text = f"Prefill takes prompts of {prefill:,.0f} tokens, decode of {decode:,.0f}."
        fix = f"--args '--context-length {int(min(prefill, decode))}' for both roles"
        yield Check("capacity", "warn", text, fix, "sglang#30233")
    elif prefill and decode:
        text = f"Both roles take prompts of {min(prefill, decode):,.0f} tokens."
        yield Check("capacity", "pass", text)


_SPLIT = ("prefill", "decode")


def _attention_tp(seen: DeploymentFacts) -> Iterator[Check]:
    sizes = {
        role: {_spread(e) for e in seen.of_role(role)} - {None} for role in ("prefill", "decode")
    }
    if not all(sizes.values()) or sizes["prefill"] == sizes["decode"]:
        return
    shapes = {name.lower() for e in seen.engines for name in e.architectures}
    if any(name.startswith(_MLA) for name in shapes):
        return
    prefill, decode = (", ".join(map(str, sorted(sizes[r], key=str))) for r in _SPLIT)
    yield Check(
        "attention_tp",
        "warn",
        f"Prefill spreads attention over {prefill} GPUs and decode over {decode}: KV heads are"
        " re-sliced, slowly and at times fatally under load.",
        "--prefill-tp and --decode-tp alike, or SGLANG_DISAGG_STAGING_BUFFER=1 in both roles' env",
        "sglang#15674",
    )


def _spread(engine: EngineSeen) -> int | None:
    tp, dp = _number(engine, "tp_size"), _number(engine, "attn_dp_size")
    if tp is None:
        return None
    if dp is None and engine.info.get("enable_dp_attention"):
        dp = _number(engine, "dp_size")
    return int(tp // max(dp or 1, 1))


def _parallelism(seen: DeploymentFacts) -> Iterator[Check]:
    for engine in seen.of_role("prefill"):
        if (pp := _number(engine, "pp_size") or 1) > 1:
            text = f"{engine.name} has pp {pp:.0f}: seconds of TTFT at any load were seen with 8."
            yield Check("pipelined_prefill", "warn", text, "--prefill-tp instead", "sglang#34815")
        dp = _number(engine, "dp_size") or 1
        if dp > 1 and not engine.info.get("enable_dp_attention"):
            text = f"{engine.name} has plain data parallelism of {dp:.0f}: requests can conflict."
            fix = "--dp (inside tp), or more engines"
            yield Check("data_parallel_prefill", "warn", text, fix, "sglang#29725")


def _dispatch(seen: DeploymentFacts) -> Iterator[Check]:
    """DeepEP's low-latency buffers must hold the largest decode batch of a rank."""
    for engine in seen.of_role("decode"):
        if engine.info.get("moe_a2a_backend") != "deepep" or engine.spec is None:
            continue
        name = "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"
        most = int(engine.spec.env.get(name, "128")) if _is_count(engine.spec.env, name) else 128
        running = (_number(engine, "max_running_requests") or 0) / (
            _number(engine, "attn_dp_size") or 1
        )
        if running > most:
            text = (
                f"{engine.name} runs {running:.0f} requests a rank, DeepEP's buffers hold {most}."
            )
            fix = f"env: {{{name}: {running:.0f}}} under decode in pd.yaml"
            yield Check("deepep_dispatch", "fail", text, fix, "sglang#6017")


def _is_count(env: object, name: str) -> bool:
    return isinstance(env, dict) and str(env.get(name, "")).isdecimal()


def _reach(seen: DeploymentFacts) -> Iterator[Check]:
    """The router gives decode the host part of prefill's URL as it stands."""
    hosts = {role: {e.host for e in seen.of_role(role)} for role in _SPLIT}
    near = [host for host in hosts["prefill"] if is_loopback(host)]
    if near and any(not is_loopback(host) for host in hosts["decode"]):
        text = f"Prefill is registered as {near[0]}, which decode on another machine cannot reach."
        fix = "--host with an address of that machine, for prefill engines"
        yield Check("reachable", "fail", text, fix, "Mooncake#2154")


def _backend(seen: DeploymentFacts) -> Iterator[Check]:
    names = {str(e.info.get("disaggregation_transfer_backend")) for e in seen.of_role("prefill")}
    if seen.has_rdma is False and names & {"mooncake"}:
        yield Check(
            "transfer_path",
            "warn",
            "Mooncake moves KV without an RDMA port: over TCP, which fails under load.",
            "--transfer-backend nixl",
            "sglang#7118, #15665",
        )


def _number(engine: EngineSeen, key: str) -> float | None:
    """A size that an engine states; None where it states none, or nothing a size can be."""
    scheduler = engine.info.get("scheduler_info")
    for found in (engine.info, scheduler if isinstance(scheduler, dict) else {}):
        value = found.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if 0 <= value <= LARGEST:
            return float(value)
    return None


def _least(engines: Sequence[EngineSeen], key: str) -> float | None:
    known = [value for e in engines if (value := _number(e, key)) is not None]
    return min(known) if known else None


AGREEMENT: tuple[Callable[[DeploymentFacts], Iterator[Check]], ...] = (
    _roles,
    _registries,
    _bootstrap_ports,
    _same,
    _capacity,
    _attention_tp,
    _parallelism,
    _dispatch,
    _reach,
    _backend,
)
