"""What is wrong with a running deployment: rules over what its parts said. Pure."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from pdctl.deployment.checks import router_options
from pdctl.deployment.flags import parse_version
from pdctl.doctor.agreement import AGREEMENT
from pdctl.doctor.deployment_facts import DeploymentFacts, EngineSeen
from pdctl.doctor.records import Check, Outcome
from pdctl.hosts import is_loopback
from pdctl.units import format_share

FULL = 0.9  # of decode's KV: about where SGLang begins to retract
MANY_WAITING = 4


def _transfers(seen: DeploymentFacts) -> Iterator[Check]:
    counted = [
        (e.name, e.transfer_failures) for e in seen.engines if e.transfer_failures is not None
    ]
    failed = [(name, num) for name, num in counted if num]
    if failed:
        text = ", ".join(f"{name} {num:.0f}" for name, num in failed)
        yield Check(
            "transfer_failures",
            "warn",
            f"KV transfers or handshakes have failed since the start: {text}.",
            "--transfer-backend nixl; pdctl logs of that engine says what failed",
            "sglang#23272, #7118",
        )
    elif counted:
        yield Check("transfer_failures", "pass", "No KV transfer has failed since the start.")
    elif seen.of_role("prefill"):
        text = "No engine counts failed KV transfers: it has no metrics."
        yield Check("transfer_failures", "unknown", text, "--args --enable-metrics")


def _decode_bound(seen: DeploymentFacts) -> Iterator[Check]:
    """Prefill that waits for decode to make room: more load only makes TTFT grow."""
    waiting = _sum(seen.of_role("prefill"), "bootstrap")
    prealloc = _sum(seen.of_role("decode"), "prealloc")
    usage = _mean(seen.of_role("decode"), "kv_usage")
    if waiting is None or prealloc is None:
        return
    if prealloc < MANY_WAITING or waiting < MANY_WAITING:
        yield Check("decode_room", "pass", f"{waiting:.0f} requests wait for room on decode.")
        return
    source = "sglang#11809, #10110"
    text = f"{waiting:.0f} requests wait on prefill for room on decode, whose KV is"
    if usage is not None and usage < FULL / 2:
        text = f"{text} only {format_share(usage)} full."
        fix = "--decode-args '--num-reserved-decode-tokens 128', or doctor's other findings"
        yield Check("decode_room", "warn", text, fix, source)
        return
    yield Check(
        "decode_room",
        "warn",
        f"{text} {format_share(usage)} full.",
        "pdctl scale: more decode",
        source,
    )


def _retracted(seen: DeploymentFacts) -> Iterator[Check]:
    engines = (*seen.of_role("decode"), *seen.of_role("colocated"))
    num = _sum(engines, "retracted")
    if num:
        text = f"{num:.0f} running requests were thrown out for lack of KV memory."
        fix = "--decode-args '--num-reserved-decode-tokens 1024', or more decode engines"
        yield Check("retracted", "warn", text, fix, "sglang#6860, #19881")
    elif num is not None:
        yield Check("retracted", "pass", "No request is retracted for lack of KV memory.")


def _stale(seen: DeploymentFacts) -> Iterator[Check]:
    late = [
        f"{e.name} {e.scrape.age_s:.0f} s"
        for e in seen.engines
        if e.scrape is not None and e.scrape.sample is not None and e.scrape.age_s > 5
    ]
    if late:
        text = f"Numbers are old, so a scheduler may hang: {', '.join(late)}."
        yield Check("stale", "warn", text, "pdctl logs of that engine; it is restarted by itself")


def _values(engines: Sequence[EngineSeen], name: str) -> list[float]:
    samples = [e.scrape.sample for e in engines if e.scrape is not None]
    found = (getattr(sample, name) for sample in samples if sample is not None)
    return [float(value) for value in found if value is not None]


def _sum(engines: Sequence[EngineSeen], name: str) -> float | None:
    values = _values(engines, name)
    return sum(values) if values else None


def _mean(engines: Sequence[EngineSeen], name: str) -> float | None:
    values = _values(engines, name)
    return sum(values) / len(values) if values else None


QUEUES: tuple[Callable[[DeploymentFacts], Iterator[Check]], ...] = (
    _transfers,
    _decode_bound,
    _retracted,
    _stale,
)

NO_GET_LOAD_SINCE = (0, 5, 16)
LONG_TIMEOUT_S = 1800
LONG_OPEN_S = 60


def _alive(seen: DeploymentFacts) -> Iterator[Check]:
    if not seen.router.alive:
        text = f"The router does not answer at {seen.router_url}."
        yield Check("router_alive", "fail", text, "pdctl logs router; PDCTL_API_KEY if it has one")
    elif not seen.router.ready:
        text = f"The router at {seen.router_url} has no healthy engine of every role."
        yield Check("router_alive", "fail", text, "pdctl status")
    else:
        yield Check("router_alive", "pass", f"The router at {seen.router_url} is ready.")


def _registered(seen: DeploymentFacts) -> Iterator[Check]:
    if seen.workers is None:
        if seen.router.alive:
            text = "The router does not say which engines it has."
            yield Check("registered", "unknown", text, "PDCTL_API_KEY=... if it asks for a key")
        return
    rows = {row.url: row for row in seen.workers}
    missing = [e.name for e in seen.engines if e.info and e.target.url not in rows]
    ill = [e.name for e in seen.engines if (r := rows.get(e.target.url)) and not r.is_healthy]
    urls = {e.target.url for e in seen.engines}
    strangers = [url for url in rows if url not in urls]
    if missing:
        text = f"The router does not have {', '.join(missing)}."
        yield Check("registered", "fail", text, "pdctl logs --events")
    if ill:
        text = f"The router holds {', '.join(ill)} for unhealthy."
        yield Check("registered", "fail", text, f"pdctl logs {ill[0]}")
    if strangers:
        text = f"The router also has engines nobody here started: {', '.join(strangers)}."
        yield Check("registered", "warn", text, "a key for the router: PDCTL_API_KEY=...")
    if not (missing or ill or strangers):
        yield Check("registered", "pass", f"The router has all {len(rows)} engines as healthy.")


def _breakers(seen: DeploymentFacts) -> Iterator[Check]:
    """An open breaker shows nowhere but in the router's metrics: /readiness stays ready."""
    names = {engine.target.url: engine.name for engine in seen.engines}
    tripped = [
        f"{names.get(url, url)} {state}"
        for url, state in seen.router.breakers.items()
        if state != "closed" and url in names
    ]
    if tripped:
        text = f"Circuit breakers are not closed: {', '.join(tripped)}; the router skips these."
        fix = "pdctl logs router for the first failure; it tries again by itself"
        yield Check("breakers", "fail", text, fix, "sglang#25811, InferenceX#2255")
    elif seen.router.breakers:
        yield Check("breakers", "pass", f"{len(seen.router.breakers)} circuit breakers are closed.")
    elif seen.router.alive:
        text = "The router's metrics do not show its circuit breakers (they do after a request)."
        fix = "after some requests; --metrics-port PORT of a router that pdctl did not start"
        yield Check("breakers", "unknown", text, fix)


def _policy(seen: DeploymentFacts) -> Iterator[Check]:
    versions = [parse_version(str(e.info.get("version"))) for e in seen.engines if e.info]
    lacks = any(version is not None and version >= NO_GET_LOAD_SINCE for version in versions)
    if lacks and "power_of_two" in _flags(seen).values():
        yield Check(
            "policy",
            "warn",
            "The policy power_of_two asks engines for /get_load, which this SGLang no longer has:"
            " it picks at random.",
            "--policy cache_aware or --policy round_robin",
            "sglang#32070",
        )


def _waits(seen: DeploymentFacts) -> Iterator[Check]:
    """The router answers only when both legs have: a client can hang for its whole time limit."""
    flags = _flags(seen)
    if not seen.of_role("prefill") or not flags:
        return
    limit_s = _seconds(flags.get("--request-timeout-secs"), LONG_TIMEOUT_S)
    text = f"After a failed prefill a client waits for decode to give up, at most {limit_s:.0f} s"
    source = "sglang#24159, #29482"
    if limit_s >= LONG_TIMEOUT_S:
        fix = "--router-args '--request-timeout-secs 600', above your longest answer"
        yield Check("request_timeout", "warn", f"{text}.", fix, source)
    else:
        yield Check("request_timeout", "pass", f"{text}.", source=source)


def _open_time(seen: DeploymentFacts) -> Iterator[Check]:
    flags = _flags(seen)
    open_s = _seconds(flags.get("--cb-timeout-duration-secs"), LONG_OPEN_S)
    if flags and open_s >= LONG_OPEN_S:
        text = (
            f"A tripped circuit breaker stays open for {open_s:.0f} s, longer than clients retry."
        )
        fix = "--router-args '--cb-timeout-duration-secs 15'"
        yield Check("breaker_time", "warn", text, fix, "sglang#25811")


def _dp_aware(seen: DeploymentFacts) -> Iterator[Check]:
    if "--dp-aware" in _flags(seen) and seen.of_role("prefill"):
        text = "--dp-aware with prefill and decode split answers 502 in sglang-router 0.3."
        yield Check("dp_aware", "fail", text, "remove --dp-aware", "sglang#26237, smg#1522")


def _flags(seen: DeploymentFacts) -> dict[str, str]:
    argv = seen.router_spec.argv if seen.router_spec else ()
    first = next((i for i, token in enumerate(argv) if token.startswith("--")), len(argv))
    return router_options(argv[first:])


def _seconds(text: str | None, usual: int) -> float:
    return float(text) if text and text.isdecimal() else float(usual)


ROUTER: tuple[Callable[[DeploymentFacts], Iterator[Check]], ...] = (
    _alive,
    _registered,
    _breakers,
    _policy,
    _waits,
    _open_time,
    _dp_aware,
)


def deployment_checks(seen: DeploymentFacts) -> tuple[Check, ...]:
    """Every check of a running deployment that can be made from what it said."""
    rules: tuple[Rule, ...] = (_supervised, _answers, *AGREEMENT, *ROUTER, *QUEUES, _logs, _exposed)
    found = [check for rule in rules for check in rule(seen)]
    return tuple(replace(check, deployment=seen.name) for check in found)


Rule = Callable[[DeploymentFacts], Iterator[Check]]


def _supervised(seen: DeploymentFacts) -> Iterator[Check]:
    if seen.supervised is None:
        return
    if seen.supervised:
        yield Check("supervisor", "pass", f"The supervisor of {seen.name} lives.")
        return
    text = f"The supervisor of {seen.name} is gone: what dies now is not started again."
    yield Check("supervisor", "fail", text, f"pdctl up --resume --name {seen.name}")


def _answers(seen: DeploymentFacts) -> Iterator[Check]:
    silent = [engine for engine in seen.engines if not engine.info]
    if not seen.engines:
        yield Check("engines", "fail", "There are no engines.", "pdctl up")
    elif not silent:
        yield Check("engines", "pass", f"{len(seen.engines)} engines answer.")
    yield from map(_silent, silent)


def _silent(engine: EngineSeen) -> Check:
    name, phase = engine.name, engine.target.phase
    if engine.died_of is not None:
        why = engine.died_of
        text = f"{name} does not run: {why.text} Its log says: {why.line}"
        return Check("engines", "fail", text, why.fix, why.source)
    loading = phase in ("starting", "loading", "registering")
    outcome: Outcome = "warn" if loading else "fail"
    detail = f" ({engine.target.detail})" if engine.target.detail else ""
    return Check(
        "engines",
        outcome,
        f"{name} at {engine.target.url} does not answer; it is {phase}{detail}.",
        f"pdctl logs {name}",
    )


def _logs(seen: DeploymentFacts) -> Iterator[Check]:
    parts = [(engine.name, engine.troubles) for engine in seen.engines]
    told = False
    for name, troubles in (*parts, ("router", seen.router_troubles)):
        for one in troubles:
            told = True
            times = f"{one.count} lines like" if one.count > 1 else "line"
            text = f"{name}: {one.text} Its log has the {times}: {one.line[:160]}"
            yield Check(f"log_{one.id}", "warn", text, one.fix, one.source)
    if not told and seen.supervised is not None:
        yield Check("logs", "pass", "No log tells of failed transfers, timeouts or retractions.")


def _exposed(seen: DeploymentFacts) -> Iterator[Check]:
    """Who can reach what: bootstrap registries and the sockets of KV ask nobody for a key."""
    open_to = [e for e in seen.engines if not is_loopback(str(e.info.get("host") or "127.0.0.1"))]
    if open_to:
        names = ", ".join(e.name for e in open_to)
        ports = ", ".join(str(e.bootstrap_port) for e in open_to if e.bootstrap_port) or "none"
        text = (
            f"{names} listen on every network: bootstrap ports ({ports}) and KV sockets take"
            " anybody's word, with or without an API key."
        )
        yield Check("exposed_engines", "warn", text, "a firewall, or --host 127.0.0.1")
    host = _router_host(seen)
    if host is None or is_loopback(host):
        if not open_to:
            yield Check("exposed", "pass", "Everything listens on this machine only.")
        return
    if seen.has_key:
        yield Check("exposed", "pass", f"The router listens on {host} and asks for an API key.")
        return
    text = f"The router listens on {host} without an API key: anyone there may add engines to it."
    yield Check("exposed", "warn", text, "PDCTL_API_KEY=... or --api-key-file, then pdctl up")


def _router_host(seen: DeploymentFacts) -> str | None:
    argv = seen.router_spec.argv if seen.router_spec else ()
    return argv[argv.index("--host") + 1] if "--host" in argv[:-1] else None
