"""Rules on a running deployment: its supervisor, engines, router, queues, logs and ports. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pdctl.deployment.flags import parse_version
from pdctl.deployment.sglang_flags import router_options
from pdctl.doctor.agreement import AGREEMENT
from pdctl.doctor.deployment_facts import DeploymentFacts, EngineReport
from pdctl.doctor.records import Check, CheckOutcome
from pdctl.hosts import is_loopback
from pdctl.units import format_number_of, format_share

FULL = 0.9  # use of decode's KV at which SGLang begins to retract requests
MANY_WAITING = 4
NO_GET_LOAD_SINCE = (0, 5, 16)
LONG_TIMEOUT_S = 1800
LONG_OPEN_S = 60

DeploymentRule = Callable[[DeploymentFacts], Iterator[Check]]


def _supervised(facts: DeploymentFacts) -> Iterator[Check]:
    if facts.supervised is None:
        return
    if facts.supervised:
        yield Check("supervisor", "pass", f"The supervisor of {facts.name} is running.")
        return
    text = f"The supervisor of {facts.name} is gone, so nothing restarts a process that dies."
    yield Check("supervisor", "fail", text, f"pdctl up --resume --name {facts.name}")


def _answers(facts: DeploymentFacts) -> Iterator[Check]:
    silent = [engine for engine in facts.engines if not engine.info]
    if not facts.engines:
        yield Check("engines", "fail", "There are no engines.", "pdctl up")
    elif not silent:
        yield Check(
            "engines", "pass", f"{format_number_of(len(facts.engines), 'engine', 'answer')}."
        )
    yield from map(_silent, silent)


def _silent(engine: EngineReport) -> Check:
    name, phase = engine.name, engine.target.phase
    if engine.died_of is not None:
        why = engine.died_of
        text = f"{name} is not running. {why.text} Its log says: {why.line}"
        return Check("engines", "fail", text, why.fix, why.source)
    loading = phase in ("starting", "loading", "registering")
    outcome: CheckOutcome = "warn" if loading else "fail"
    detail = f" ({engine.target.detail})" if engine.target.detail else ""
    return Check(
        "engines",
        outcome,
        f"{name} at {engine.target.url} does not answer; it is {phase}{detail}.",
        f"pdctl logs {name}",
    )


def _alive(facts: DeploymentFacts) -> Iterator[Check]:
    if not facts.router.alive:
        text = f"The router at {facts.router_url} does not answer."
        yield Check(
            "router_alive", "fail", text, "pdctl logs router; PDCTL_API_KEY=... if it needs a key"
        )
    elif not facts.router.ready:
        text = f"The router at {facts.router_url} has no healthy engine of every role."
        yield Check("router_alive", "fail", text, "pdctl status")
    else:
        yield Check("router_alive", "pass", f"The router at {facts.router_url} is ready.")


def _registered(facts: DeploymentFacts) -> Iterator[Check]:
    if facts.workers is None:
        if facts.router.alive:
            text = "The router does not list its engines."
            yield Check("registered", "unknown", text, "PDCTL_API_KEY=... if it needs a key")
        return
    rows = {row.url: row for row in facts.workers}
    missing = [e.name for e in facts.engines if e.info and e.target.url not in rows]
    ill = [e.name for e in facts.engines if (r := rows.get(e.target.url)) and not r.is_healthy]
    urls = {e.target.url for e in facts.engines}
    strangers = [url for url in rows if url not in urls]
    if missing:
        text = f"The router does not list {', '.join(missing)}."
        yield Check("registered", "fail", text, "pdctl logs --events")
    if ill:
        text = f"The router considers {', '.join(ill)} unhealthy."
        yield Check("registered", "fail", text, f"pdctl logs {ill[0]}")
    if strangers:
        text = f"The router also lists engines of unknown origin: {', '.join(strangers)}."
        yield Check("registered", "warn", text, "a key for the router: PDCTL_API_KEY=...")
    if not (missing or ill or strangers):
        yield Check(
            "registered",
            "pass",
            f"The router considers every engine healthy ({len(rows)} of {len(rows)}).",
        )


def _breakers(facts: DeploymentFacts) -> Iterator[Check]:
    """Check circuit breakers. Only the router's metrics show an open one; /readiness does not."""
    names = {engine.target.url: engine.name for engine in facts.engines}
    tripped = [
        f"{names.get(url, url)} {state}"
        for url, state in facts.router.breakers.items()
        if state != "closed" and url in names
    ]
    if tripped:
        text = (
            f"The router skips engines whose circuit breaker is not closed: {', '.join(tripped)}."
        )
        fix = "pdctl logs router shows the first failure; the router retries by itself"
        yield Check("breakers", "fail", text, fix, "sglang#25811, InferenceX#2255")
    elif facts.router.breakers:
        yield Check(
            "breakers", "pass", f"{len(facts.router.breakers)} circuit breakers are closed."
        )
    elif facts.router.alive:
        text = "The router's metrics do not show its circuit breakers (they do after a request)."
        fix = "after some requests; --metrics-port PORT for a router that pdctl did not start"
        yield Check("breakers", "unknown", text, fix)


def _policy(facts: DeploymentFacts) -> Iterator[Check]:
    versions = [parse_version(str(e.info.get("version"))) for e in facts.engines if e.info]
    lacks = any(version is not None and version >= NO_GET_LOAD_SINCE for version in versions)
    if lacks and "power_of_two" in _flags(facts).values():
        yield Check(
            "policy",
            "warn",
            "The policy power_of_two needs /get_load, which this SGLang no longer has. The router"
            " therefore picks engines at random.",
            "--policy cache_aware or --policy round_robin",
            "sglang#32070",
        )


def _waits(facts: DeploymentFacts) -> Iterator[Check]:
    """Check the request timeout. The router waits for both engines, so a client can hang for it."""
    flags = _flags(facts)
    if not facts.of_role("prefill") or not flags:
        return
    limit_s = _seconds(flags.get("--request-timeout-secs"), LONG_TIMEOUT_S)
    text = f"If prefill fails, the client waits up to {limit_s:.0f} s until decode gives up"
    source = "sglang#24159, #29482"
    if limit_s >= LONG_TIMEOUT_S:
        fix = "--router-args '--request-timeout-secs 600', or more if your answers take longer"
        yield Check("request_timeout", "warn", f"{text}.", fix, source)
    else:
        yield Check("request_timeout", "pass", f"{text}.", source=source)


def _open_time(facts: DeploymentFacts) -> Iterator[Check]:
    flags = _flags(facts)
    open_s = _seconds(flags.get("--cb-timeout-duration-secs"), LONG_OPEN_S)
    if flags and open_s >= LONG_OPEN_S:
        text = f"A tripped circuit breaker stays open for {open_s:.0f} s; clients give up sooner."
        fix = "--router-args '--cb-timeout-duration-secs 15'"
        yield Check("breaker_time", "warn", text, fix, "sglang#25811")


def _dp_aware(facts: DeploymentFacts) -> Iterator[Check]:
    if "--dp-aware" in _flags(facts) and facts.of_role("prefill"):
        text = "With --dp-aware and split prefill and decode, sglang-router 0.3 answers HTTP 502."
        yield Check("dp_aware", "fail", text, "remove --dp-aware", "sglang#26237, smg#1522")


def _flags(facts: DeploymentFacts) -> dict[str, str]:
    argv = facts.router_spec.argv if facts.router_spec else ()
    first = next((i for i, token in enumerate(argv) if token.startswith("--")), len(argv))
    return router_options(argv[first:])


def _seconds(text: str | None, default: int) -> float:
    return float(text) if text and text.isdecimal() else float(default)


def _transfers(facts: DeploymentFacts) -> Iterator[Check]:
    counted = [
        (e.name, e.transfer_failures) for e in facts.engines if e.transfer_failures is not None
    ]
    failed = [(name, num) for name, num in counted if num]
    if failed:
        text = ", ".join(f"{name} {num:.0f}" for name, num in failed)
        yield Check(
            "transfer_failures",
            "warn",
            f"KV transfers or handshakes have failed since the start: {text}.",
            "--transfer-backend nixl; pdctl logs ENGINE shows the failure",
            "sglang#23272, #7118",
        )
    elif counted:
        yield Check("transfer_failures", "pass", "No KV transfer has failed since the start.")
    elif facts.of_role("prefill"):
        text = "Engines without metrics do not count failed KV transfers."
        yield Check("transfer_failures", "unknown", text, "--args --enable-metrics")


def _decode_bound(facts: DeploymentFacts) -> Iterator[Check]:
    """Check for prefill that waits for room on decode. More load then only raises TTFT."""
    waiting = _sum(facts.of_role("prefill"), "bootstrap")
    prealloc = _sum(facts.of_role("decode"), "prealloc")
    usage = _mean(facts.of_role("decode"), "kv_usage")
    if waiting is None or prealloc is None:
        return
    if prealloc < MANY_WAITING or waiting < MANY_WAITING:
        yield Check("decode_room", "pass", f"Requests that wait for room on decode: {waiting:.0f}.")
        return
    source = "sglang#11809, #10110"
    text = f"{waiting:.0f} prefilled requests wait for room on decode, whose KV cache is"
    if usage is not None and usage < FULL / 2:
        text = f"{text} only {format_share(usage)} full."
        fix = "--decode-args '--num-reserved-decode-tokens 128', or the fixes of other checks"
        yield Check("decode_room", "warn", text, fix, source)
        return
    yield Check(
        "decode_room",
        "warn",
        f"{text} {format_share(usage)} full.",
        "pdctl scale, with more decode engines",
        source,
    )


def _retracted(facts: DeploymentFacts) -> Iterator[Check]:
    engines = (*facts.of_role("decode"), *facts.of_role("colocated"))
    num = _sum(engines, "retracted")
    if num:
        text = f"SGLang has retracted {num:.0f} running requests for lack of KV memory."
        fix = "--decode-args '--num-reserved-decode-tokens 1024', or more decode engines"
        yield Check("retracted", "warn", text, fix, "sglang#6860, #19881")
    elif num is not None:
        yield Check("retracted", "pass", "SGLang has retracted no request for lack of KV memory.")


def _stale(facts: DeploymentFacts) -> Iterator[Check]:
    late = [
        f"{e.name} {e.scrape.age_s:.0f} s"
        for e in facts.engines
        if e.scrape is not None and e.scrape.sample is not None and e.scrape.age_s > 5
    ]
    if late:
        text = f"A scheduler may hang; its figures are old: {', '.join(late)}."
        yield Check(
            "stale", "warn", text, "pdctl logs ENGINE; the supervisor restarts an engine that hangs"
        )


def _values(engines: Sequence[EngineReport], name: str) -> list[float]:
    samples = [e.scrape.sample for e in engines if e.scrape is not None]
    found = (getattr(sample, name) for sample in samples if sample is not None)
    return [float(value) for value in found if value is not None]


def _sum(engines: Sequence[EngineReport], name: str) -> float | None:
    values = _values(engines, name)
    return sum(values) if values else None


def _mean(engines: Sequence[EngineReport], name: str) -> float | None:
    values = _values(engines, name)
    return sum(values) / len(values) if values else None


def _logs(facts: DeploymentFacts) -> Iterator[Check]:
    parts = [(engine.name, engine.troubles) for engine in facts.engines]
    has_trouble = False
    for name, troubles in (*parts, ("router", facts.router_troubles)):
        for one in troubles:
            has_trouble = True
            times = f"{one.count} of these" if one.count > 1 else "this line"
            text = f"{name}: {one.text} Its log has {times}: {one.line[:160]}"
            yield Check(f"log_{one.id}", "warn", text, one.fix, one.source)
    if not has_trouble and facts.supervised is not None:
        yield Check(
            "logs", "pass", "No log shows exceptions, failed transfers, timeouts or retractions."
        )


def _exposed(facts: DeploymentFacts) -> Iterator[Check]:
    """Check open ports. Bootstrap registries and KV sockets never ask for a key."""
    open_to = [e for e in facts.engines if not is_loopback(str(e.info.get("host") or "127.0.0.1"))]
    if open_to:
        names = ", ".join(e.name for e in open_to)
        ports = ", ".join(str(e.bootstrap_port) for e in open_to if e.bootstrap_port) or "none"
        text = (
            f"{names} listen on every network. Bootstrap ports ({ports}) and KV sockets accept"
            " anyone, with or without an API key."
        )
        yield Check("exposed_engines", "warn", text, "a firewall, or --host 127.0.0.1")
    host = _router_host(facts)
    if host is None or is_loopback(host):
        if not open_to:
            yield Check("exposed", "pass", "Everything listens on this machine only.")
        return
    if facts.has_key:
        yield Check("exposed", "pass", f"The router listens on {host} and demands an API key.")
        return
    text = (
        f"The router listens on {host} without an API key, so anyone there can add engines to it."
    )
    yield Check("exposed", "warn", text, "PDCTL_API_KEY=... or --api-key-file, then pdctl up")


def _router_host(facts: DeploymentFacts) -> str | None:
    argv = facts.router_spec.argv if facts.router_spec else ()
    return argv[argv.index("--host") + 1] if "--host" in argv[:-1] else None


# the order in which `doctor` shows the checks
RULES: tuple[DeploymentRule, ...] = (
    _supervised,
    _answers,
    *AGREEMENT,
    _alive,
    _registered,
    _breakers,
    _policy,
    _waits,
    _open_time,
    _dp_aware,
    _transfers,
    _decode_bound,
    _retracted,
    _stale,
    _logs,
    _exposed,
)


def deployment_checks(facts: DeploymentFacts) -> tuple[Check, ...]:
    """All checks of a running deployment, from facts about it."""
    found = [check for rule in RULES for check in rule(facts)]
    return tuple(replace(check, deployment=facts.name) for check in found)
