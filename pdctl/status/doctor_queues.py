"""What the queues and counters of a running deployment tell at one look. Pure."""

from collections.abc import Callable, Iterator, Sequence

from pdctl.engines.doctor.records import Check
from pdctl.status.doctor_facts import EngineSeen, Seen
from pdctl.units import format_share

FULL = 0.9  # of decode's KV: about where SGLang begins to retract
MANY_WAITING = 4


def _transfers(seen: Seen) -> Iterator[Check]:
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


def _decode_bound(seen: Seen) -> Iterator[Check]:
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


def _retracted(seen: Seen) -> Iterator[Check]:
    engines = (*seen.of_role("decode"), *seen.of_role("colocated"))
    num = _sum(engines, "retracted")
    if num:
        text = f"{num:.0f} running requests were thrown out for lack of KV memory."
        fix = "--decode-args '--num-reserved-decode-tokens 1024', or more decode engines"
        yield Check("retracted", "warn", text, fix, "sglang#6860, #19881")
    elif num is not None:
        yield Check("retracted", "pass", "No request is retracted for lack of KV memory.")


def _stale(seen: Seen) -> Iterator[Check]:
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


QUEUES: tuple[Callable[[Seen], Iterator[Check]], ...] = (
    _transfers,
    _decode_bound,
    _retracted,
    _stale,
)
