"""What is wrong with a running deployment: rules over what its parts said. Pure."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from pdctl.engines.doctor.records import Check, Outcome
from pdctl.status.doctor_agreement import AGREEMENT
from pdctl.status.doctor_facts import EngineSeen, Seen, is_loopback
from pdctl.status.doctor_queues import QUEUES
from pdctl.status.doctor_router import ROUTER


def deployment_checks(seen: Seen) -> tuple[Check, ...]:
    """Every check of a running deployment that can be made from what it said."""
    rules: tuple[Rule, ...] = (_supervised, _answers, *AGREEMENT, *ROUTER, *QUEUES, _logs, _exposed)
    found = [check for rule in rules for check in rule(seen)]
    return tuple(replace(check, deployment=seen.name) for check in found)


Rule = Callable[[Seen], Iterator[Check]]


def _supervised(seen: Seen) -> Iterator[Check]:
    if seen.supervised is None:
        return
    if seen.supervised:
        yield Check("supervisor", "pass", f"The supervisor of {seen.name} lives.")
        return
    text = f"The supervisor of {seen.name} is gone: what dies now is not started again."
    yield Check("supervisor", "fail", text, f"pdctl up --resume --name {seen.name}")


def _answers(seen: Seen) -> Iterator[Check]:
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


def _logs(seen: Seen) -> Iterator[Check]:
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


def _exposed(seen: Seen) -> Iterator[Check]:
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


def _router_host(seen: Seen) -> str | None:
    argv = seen.router_spec.argv if seen.router_spec else ()
    return argv[argv.index("--host") + 1] if "--host" in argv[:-1] else None
