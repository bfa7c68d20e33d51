"""Rules on settings that engines must share; SGLang fails only at the first request. Pure."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from pdctl.deployment.records import role_of_mode
from pdctl.doctor.deployment_facts import DeploymentFacts, EngineReport
from pdctl.doctor.records import Check, CheckOutcome
from pdctl.hosts import is_loopback

# field of /server_info -> check id, name, and outcome if engines differ
MUST_AGREE: dict[str, tuple[str, str, CheckOutcome]] = {
    "page_size": ("page_size", "page size", "fail"),
    "kv_cache_dtype": ("kv_dtype", "KV dtype", "fail"),
    "model_path": ("same_model", "model", "fail"),
    "quantization": ("same_quantization", "quantization", "warn"),
    "version": ("same_version", "SGLang version", "warn"),
    "disaggregation_transfer_backend": ("same_backend", "KV transfer backend", "fail"),
    "context_length": ("context_length", "context length", "warn"),
}
MAX_SIZE = 1e15  # an engine that reports a larger size is not to be trusted
SPLIT_ROLES = ("prefill", "decode")
_MLA = ("deepseekv2", "deepseekv3", "deepseekv32", "kimik2", "longcat", "glm4moelite", "minicpm3")


def _settings(facts: DeploymentFacts) -> Iterator[Check]:
    engines = [engine for engine in facts.engines if engine.info]
    for key, (id_, what, outcome) in MUST_AGREE.items():
        values: dict[str, list[str]] = defaultdict(list)
        for engine in engines:
            if engine.info.get(key) is not None:
                values[str(engine.info[key])].append(engine.name)
        if len(values) == 1:
            yield Check(id_, "pass", f"All engines have the {what} {next(iter(values))}.")
        elif values:
            text = "; ".join(f"{value} on {', '.join(names)}" for value, names in values.items())
            flag = f"--{key.replace('_', '-')}"
            fix = (
                f"--args '{flag} VALUE' for both roles"
                if outcome == "fail"
                else "pdctl down, pdctl up"
            )
            yield Check(id_, outcome, f"Engines differ in {what}: {text}.", fix, "sglang#14439")


def _roles(facts: DeploymentFacts) -> Iterator[Check]:
    wrong = [
        f"{e.name} runs as {role_of_mode(e.role) or e.role}"
        for e in facts.engines
        if e.role and role_of_mode(e.role) != e.target.role
    ]
    listed = {row.url: row.role for row in facts.workers or ()}
    wrong += [
        f"the router lists {e.name} as {listed[e.target.url]}"
        for e in facts.engines
        if e.target.url in listed and listed[e.target.url] != e.target.role
    ]
    if not wrong and any(e.role for e in facts.engines):
        yield Check("roles", "pass", "Every engine runs in the role that the router lists.")
    elif wrong:
        text = f"Roles differ: {'; '.join(wrong)}. The router never checks this."
        yield Check("roles", "fail", text, "pdctl down, pdctl up", "seen in sglang-router 0.3.2")


def _registries(facts: DeploymentFacts) -> Iterator[Check]:
    """Check that each bootstrap port leads to its engine; if not, KV silently goes elsewhere."""
    prefill = [e for e in facts.of_role("prefill") if e.bootstrap_port]
    problems = [problem for engine in prefill if (problem := _registry_problem(engine))]
    ports = [(e.host, e.bootstrap_port) for e in prefill]
    twice = sorted({str(port) for host, port in ports if ports.count((host, port)) > 1})
    if twice:
        problems.append(f"several engines use bootstrap port {', '.join(twice)}")
    if problems:
        fix = "pdctl down, pdctl up: gives every engine its own bootstrap port"
        text = f"Bootstrap ports lead to wrong engines: {'; '.join(problems)}."
        yield Check("registries", "fail", text, fix, "sglang#11747")
    elif prefill:
        text = f"Every bootstrap registry leads to its own engine: {len(prefill)} in all."
        yield Check("registries", "pass", text)


def _registry_problem(engine: EngineReport) -> str:
    where = f"the registry of {engine.name} on port {engine.bootstrap_port}"
    if engine.registry is None:
        return f"{where} does not answer"
    named, own = engine.registry.get("prefill_http_port"), engine.target.url.rpartition(":")[2]
    if named is None or str(named) == own:
        return ""
    return f"{where} points to port {named} instead of {own}, so KV goes to another engine"


def _bootstrap_ports(facts: DeploymentFacts) -> Iterator[Check]:
    listed = {row.url: row for row in facts.workers or () if row.role == "prefill"}
    known = [e for e in facts.engines if e.target.url in listed and e.bootstrap_port]
    wrong = [
        f"{e.name} uses {e.bootstrap_port}, the router {listed[e.target.url].bootstrap_port}"
        for e in known
        if listed[e.target.url].bootstrap_port != e.bootstrap_port
    ]
    if wrong:
        text = f"Bootstrap ports differ: {'; '.join(wrong)}. Requests to these engines hang."
        yield Check("bootstrap_ports", "fail", text, "pdctl down, pdctl up", "sglang#11747")
    elif known:
        yield Check("bootstrap_ports", "pass", "The router knows every bootstrap port.")


def _capacity(facts: DeploymentFacts) -> Iterator[Check]:
    """Check prompt limits. If a prompt is too long for prefill, decode answers garbage."""
    for engine in facts.of_role("prefill"):
        holds, most = _number(engine, "max_total_num_tokens"), _number(engine, "max_req_input_len")
        if holds and most and holds < most:
            yield Check(
                "capacity",
                "warn",
                f"{engine.name} accepts prompts of {most:,.0f} tokens but holds only {holds:,.0f}.",
                f"--args '--context-length {int(holds)}' for both roles",
                "sglang#30233",
            )
            return
    inputs = {role: _least(facts.of_role(role), "max_req_input_len") for role in SPLIT_ROLES}
    prefill, decode = (inputs[role] for role in SPLIT_ROLES)
    if prefill and decode and abs(prefill - decode) > 64:
        text = f"Prefill accepts prompts of {prefill:,.0f} tokens, decode of {decode:,.0f}."
        fix = f"--args '--context-length {int(min(prefill, decode))}' for both roles"
        yield Check("capacity", "warn", text, fix, "sglang#30233")
    elif prefill and decode:
        text = f"Both roles accept prompts of {min(prefill, decode):,.0f} tokens."
        yield Check("capacity", "pass", text)


def _attention_tp(facts: DeploymentFacts) -> Iterator[Check]:
    sizes = {
        role: {_attention_ranks(e) for e in facts.of_role(role)} - {None} for role in SPLIT_ROLES
    }
    if not all(sizes.values()) or sizes["prefill"] == sizes["decode"]:
        return
    shapes = {name.lower() for e in facts.engines for name in e.architectures}
    if any(name.startswith(_MLA) for name in shapes):
        return
    prefill, decode = (", ".join(map(str, sorted(sizes[r], key=str))) for r in SPLIT_ROLES)
    yield Check(
        "attention_tp",
        "warn",
        f"Prefill spreads attention over {prefill} GPUs and decode over {decode}. Re-slicing KV"
        " heads between them is slow, and under load it can crash.",
        "equal --prefill-tp and --decode-tp, or SGLANG_DISAGG_STAGING_BUFFER=1 in both roles' env",
        "sglang#15674",
    )


def _attention_ranks(engine: EngineReport) -> int | None:
    """Number of GPUs over which one attention replica is spread."""
    tp = _number(engine, "tp_size")
    return None if tp is None else int(tp // _attention_dp(engine))


def _attention_dp(engine: EngineReport) -> float:
    """Number of attention-DP ranks; SGLang before 0.5.23 has no attn_dp_size."""
    dp = _number(engine, "attn_dp_size")
    if dp is None and engine.info.get("enable_dp_attention"):
        dp = _number(engine, "dp_size")
    return max(dp or 1, 1)


def _parallelism(facts: DeploymentFacts) -> Iterator[Check]:
    for engine in facts.of_role("prefill"):
        if (pp := _number(engine, "pp_size") or 1) > 1:
            text = f"{engine.name} has pp {pp:.0f}; pp 8 has added seconds to TTFT at any load."
            yield Check("pipelined_prefill", "warn", text, "--prefill-tp instead", "sglang#34815")
        dp = _number(engine, "dp_size") or 1
        if dp > 1 and not engine.info.get("enable_dp_attention"):
            text = f"{engine.name} has plain data parallelism {dp:.0f}: requests can conflict."
            fix = "--dp (inside tp), or more engines"
            yield Check("data_parallel_prefill", "warn", text, fix, "sglang#29725")


def _dispatch(facts: DeploymentFacts) -> Iterator[Check]:
    """Check that DeepEP's low-latency buffers hold the largest decode batch of a rank."""
    for engine in facts.of_role("decode"):
        if engine.info.get("moe_a2a_backend") != "deepep" or engine.spec is None:
            continue
        name = "SGLANG_DEEPEP_NUM_MAX_DISPATCH_TOKENS_PER_RANK"
        most = int(engine.spec.env.get(name, "128")) if _is_count(engine.spec.env, name) else 128
        running = (_number(engine, "max_running_requests") or 0) / _attention_dp(engine)
        if running > most:
            text = (
                f"{engine.name} runs {running:.0f} requests per rank; DeepEP's buffers hold {most}."
            )
            fix = f"env: {{{name}: {running:.0f}}} under decode in pd.yaml"
            yield Check("deepep_dispatch", "fail", text, fix, "sglang#6017")


def _is_count(env: object, name: str) -> bool:
    return isinstance(env, dict) and str(env.get(name, "")).isdecimal()


def _reach(facts: DeploymentFacts) -> Iterator[Check]:
    """Check that decode can reach prefill. The router passes on the host in prefill's URL."""
    hosts = {role: {e.host for e in facts.of_role(role)} for role in SPLIT_ROLES}
    near = [host for host in hosts["prefill"] if is_loopback(host)]
    if near and any(not is_loopback(host) for host in hosts["decode"]):
        text = f"Prefill is registered as {near[0]}, which decode on another machine cannot reach."
        fix = "--host with an address of that machine, for prefill engines"
        yield Check("reachable", "fail", text, fix, "Mooncake#2154")


def _backend(facts: DeploymentFacts) -> Iterator[Check]:
    names = {str(e.info.get("disaggregation_transfer_backend")) for e in facts.of_role("prefill")}
    if facts.has_rdma is False and names & {"mooncake"}:
        yield Check(
            "transfer_path",
            "warn",
            "Without an RDMA port, Mooncake moves KV over TCP, which fails under load.",
            "--transfer-backend nixl",
            "sglang#7118, #15665",
        )


def _number(engine: EngineReport, key: str) -> float | None:
    """A size that the engine reports. None if it reports none, or an impossible one."""
    scheduler = engine.info.get("scheduler_info")
    for found in (engine.info, scheduler if isinstance(scheduler, dict) else {}):
        value = found.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if 0 <= value <= MAX_SIZE:
            return float(value)
    return None


def _least(engines: Sequence[EngineReport], key: str) -> float | None:
    known = [value for e in engines if (value := _number(e, key)) is not None]
    return min(known) if known else None


# the order in which `doctor` shows the checks
AGREEMENT: tuple[Callable[[DeploymentFacts], Iterator[Check]], ...] = (
    _roles,
    _registries,
    _bootstrap_ports,
    _settings,
    _capacity,
    _attention_tp,
    _parallelism,
    _dispatch,
    _reach,
    _backend,
)
