"""What is wrong with the router of a deployment. Pure."""

from collections.abc import Callable, Iterator

from pdctl.deployment.extra_args import options
from pdctl.deployment.flags import parse_version
from pdctl.engines.doctor.records import Check
from pdctl.status.doctor_facts import Seen

NO_GET_LOAD_SINCE = (0, 5, 16)
LONG_TIMEOUT_S = 1800
LONG_OPEN_S = 60


def _alive(seen: Seen) -> Iterator[Check]:
    if not seen.router.alive:
        text = f"The router does not answer at {seen.router_url}."
        yield Check("router_alive", "fail", text, "pdctl logs router; PDCTL_API_KEY if it has one")
    elif not seen.router.ready:
        text = f"The router at {seen.router_url} has no healthy engine of every role."
        yield Check("router_alive", "fail", text, "pdctl status")
    else:
        yield Check("router_alive", "pass", f"The router at {seen.router_url} is ready.")


def _registered(seen: Seen) -> Iterator[Check]:
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


def _breakers(seen: Seen) -> Iterator[Check]:
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
        yield Check("breakers", "unknown", text, "pdctl status after some requests")


def _policy(seen: Seen) -> Iterator[Check]:
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


def _waits(seen: Seen) -> Iterator[Check]:
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


def _open_time(seen: Seen) -> Iterator[Check]:
    flags = _flags(seen)
    open_s = _seconds(flags.get("--cb-timeout-duration-secs"), LONG_OPEN_S)
    if flags and open_s >= LONG_OPEN_S:
        text = (
            f"A tripped circuit breaker stays open for {open_s:.0f} s, longer than clients retry."
        )
        fix = "--router-args '--cb-timeout-duration-secs 15'"
        yield Check("breaker_time", "warn", text, fix, "sglang#25811")


def _dp_aware(seen: Seen) -> Iterator[Check]:
    if "--dp-aware" in _flags(seen) and seen.of_role("prefill"):
        text = "--dp-aware with prefill and decode split answers 502 in sglang-router 0.3."
        yield Check("dp_aware", "fail", text, "remove --dp-aware", "sglang#26237, smg#1522")


def _flags(seen: Seen) -> dict[str, str]:
    argv = seen.router_spec.argv if seen.router_spec else ()
    first = next((i for i, token in enumerate(argv) if token.startswith("--")), len(argv))
    return options(argv[first:])


def _seconds(text: str | None, usual: int) -> float:
    return float(text) if text and text.isdecimal() else float(usual)


ROUTER: tuple[Callable[[Seen], Iterator[Check]], ...] = (
    _alive,
    _registered,
    _breakers,
    _policy,
    _waits,
    _open_time,
    _dp_aware,
)
