"""A small model of a split deployment that writes its requests as SGLang logs them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pdctl.engines.request_times import RequestLog, request_log

Fault = Literal[
    "prefill_queue",
    "long_neighbour",
    "slow_prefill",
    "decode_kv_full",
    "decode_queue",
    "slow_link",
    "bootstrap",
    "retry",
]
FAULTS: tuple[Fault, ...] = (
    *("prefill_queue", "long_neighbour", "slow_prefill", "decode_kv_full"),
    *("decode_queue", "slow_link", "bootstrap", "retry"),
)
Version = Literal["0.5.10", "0.5.15", "0.5.23"]
VERSIONS: tuple[Version, ...] = ("0.5.10", "0.5.15", "0.5.23")
START_S = 1_790_239_000.0
BASE_S, TOKEN_S, MIB_PER_TOKEN, GIB_PER_S = 0.010, 20e-6, 0.12, 20.0


@dataclass
class Sent:
    """A request and the truth about it. Times are true; engines' clocks are applied when logged."""

    rid: str
    at_s: float
    tokens: int
    output: int
    prefill: int
    decode: int
    slowness: float = 1.0  # of its prefill
    link: float = 1.0  # slowness of its transfer
    bootstrap_s: float = 0.002
    allocation_s: float = 0.001
    decode_queue_s: float = 0.004
    retries: int = 0
    batched_with: "Sent | None" = None
    has_decode: bool = True
    room: int = 0
    marks: dict[str, float] = field(default_factory=dict)

    @property
    def ttft_s(self) -> float:
        return self.marks["decoding"] - self.at_s


@dataclass(frozen=True)
class History:
    """Logs of a window in which one fault befell `victim`. engine: whose fault it is."""

    fault: Fault
    victim: Sent
    engine: str
    sent: tuple[Sent, ...]
    logs: tuple[RequestLog, ...]
    skew_s: float


def history(
    seed: int, fault: Fault, *, version: Version = "0.5.23", skew_s: float = 0.0
) -> History:
    """A window of about 150 healthy requests on 2P2D, and one with a fault."""
    chance = random.Random(seed)
    sent = _healthy(chance)
    victim = chance.choice(sent[60:90])
    sent = _inject(fault, victim, sent, chance)
    run(sent, chance)
    at = "decode" if fault in ("decode_kv_full", "decode_queue", "bootstrap") else "prefill"
    engine = f"{at}-{victim.decode if at == 'decode' else victim.prefill}"
    return History(fault, victim, engine, tuple(sent), logs(sent, version, skew_s), skew_s)


def _healthy(chance: random.Random) -> list[Sent]:
    at_s, sent = START_S, []
    for n in range(150):
        at_s += chance.expovariate(18.0)
        tokens = int(chance.lognormvariate(7.3, 0.6))
        sent.append(Sent(f"r{n:03d}", at_s, tokens, chance.randint(8, 200), n % 2, n // 2 % 2))
    return sent


def _inject(fault: Fault, victim: Sent, sent: list[Sent], chance: random.Random) -> list[Sent]:
    """The same requests, with a fault that befalls `victim`, and those that cause it."""
    late_s = chance.uniform(0.5, 4.0)
    if fault == "prefill_queue":
        return [*sent, *_burst(victim, chance)]
    if fault == "long_neighbour":
        return [*sent, _neighbour(victim, chance)]
    if fault == "retry" and chance.random() < 0.5:
        return [*sent, _failed_attempt(victim, late_s)]
    link_s = victim.tokens * MIB_PER_TOKEN / 1024 / GIB_PER_S
    changed: dict[Fault, dict[str, float]] = {
        "slow_prefill": {"slowness": chance.uniform(20.0, 60.0)},
        "decode_kv_full": {"allocation_s": late_s},
        "decode_queue": {"decode_queue_s": late_s},
        "slow_link": {"link": late_s / link_s},
        "bootstrap": {"bootstrap_s": late_s},
        "retry": {"retries": 2, "slowness": 30.0},
    }
    for name, value in changed[fault].items():
        setattr(victim, name, value)
    return sent


def _burst(victim: Sent, chance: random.Random) -> list[Sent]:
    """Many requests just before the victim, on its prefill engine."""
    return [
        Sent(
            f"b{n}",
            victim.at_s - n * 1e-3,
            int(chance.lognormvariate(7.3, 0.3)),
            20,
            victim.prefill,
            n % 2,
        )
        for n in range(chance.randint(20, 40))
    ]


def _neighbour(victim: Sent, chance: random.Random) -> Sent:
    """A long prompt just before the victim, half of the time in its batch."""
    at_s = victim.at_s - chance.uniform(0.001, 0.1)
    long = Sent("long", at_s, chance.randint(50_000, 120_000), 20, victim.prefill, 0)
    victim.batched_with = long if chance.random() < 0.5 else None
    return long


def _failed_attempt(victim: Sent, late_s: float) -> Sent:
    """The victim's first attempt, on an engine that failed; the victim becomes the second."""
    failed = Sent(victim.rid, victim.at_s, victim.tokens, 1, victim.prefill, 0, has_decode=False)
    victim.at_s += late_s
    return failed


def run(sent: Sequence[Sent], chance: random.Random) -> None:
    """Play the requests: prefill engines serve in order of arrival, one batch at a time.

    Steps vary by 10 %, and a busy prefill engine notices a request up to 50 ms late.
    """
    free = {0: 0.0, 1: 0.0}
    for n, one in enumerate(sorted(sent, key=lambda s: (s.at_s, s.rid))):
        one.room = 7_000_000_000_000_000_000 + n
        busy_s = max(0.0, free[one.prefill] - one.at_s)
        noticed = one.at_s + chance.uniform(0.0, min(busy_s, 0.05))
        known = one.at_s + one.bootstrap_s
        allocated = known + one.allocation_s
        other = one.batched_with
        start = other.marks["start"] if other else max(allocated, free[one.prefill])
        start = max(start, allocated, noticed)
        tokens = one.tokens + (other.tokens if other else 0)
        computed = start + (BASE_S + TOKEN_S * tokens) * one.slowness * chance.gauss(1, 0.1)
        sent_s = one.tokens * MIB_PER_TOKEN / 1024 / GIB_PER_S * one.link
        free[one.prefill] = max(free[one.prefill], computed)
        decoding = computed + sent_s + one.decode_queue_s
        one.marks = {
            "noticed": noticed,
            "known": known,
            "allocated": allocated,
            "start": start,
            "computed": computed,
            "arrived": computed + sent_s,
            "decoding": decoding,
            "end": decoding + one.output * 0.010,
        }


def logs(sent: Sequence[Sent], version: Version, skew_s: float) -> tuple[RequestLog, ...]:
    """The engines' logs, read. skew_s: how far the clocks of decode engines are ahead."""
    lines = log_lines(sent, version, skew_s)
    return tuple(
        request_log((line.encode() for line in lines[name]), name) for name in sorted(lines)
    )


def log_lines(
    sent: Sequence[Sent], version: Version = "0.5.23", skew_s: float = 0.0
) -> dict[str, list[str]]:
    """The lines of every engine's log, by its name."""
    lines: dict[str, list[str]] = {}
    for one in sorted(sent, key=lambda s: s.marks["arrived"]):
        lines.setdefault(f"prefill-{one.prefill}", []).append(prefill_line(one, version))
    for one in sorted(sent, key=lambda s: s.marks["end"]):
        if one.has_decode:
            lines.setdefault(f"decode-{one.decode}", []).append(decode_line(one, version, skew_s))
    return lines


def prefill_line(one: Sent, version: Version, skew_s: float = 0.0) -> str:
    m = one.marks
    ready = max(m["allocated"], m["noticed"])
    mib = one.tokens * MIB_PER_TOKEN
    speed = mib / 1024 / (m["arrived"] - m["computed"])
    clock = _clock(version, m["noticed"] + skew_s)
    queue = f"queue_duration={_ms(m['start'] - ready)}"
    forward = f"forward_duration={_ms(m['arrived'] - m['start'])}"
    head = _head(one, version, "prefill", 1)
    if version == "0.5.10":
        found = (
            f"bootstrap_queue_duration({_ms(ready - m['noticed'])}) "
            f"= bootstrap({_ms(ready - m['noticed'])}) + alloc_wait(0.00ms); "
            f"{queue}, {forward}, {clock}, transfer_speed={speed:.2f}GB/s, "
            f"transfer_total={mib:.2f}MB, #retries={one.retries}"
        )
    else:
        retries = f", #retries={one.retries}" if version == "0.5.15" else ""
        found = (
            f"bootstrap_duration={_ms(ready - m['noticed'])}, {queue}, {forward}, {clock}, "
            f"transfer_speed={speed:.2f} GB/s, transfer_total={mib:.2f} MB{retries}"
        )
    return _line(m["arrived"] + skew_s, head, found)


def decode_line(one: Sent, version: Version, skew_s: float = 0.0) -> str:
    m = one.marks
    clock = _clock(version, one.at_s + skew_s)
    rest = (
        f"queue_duration={_ms(m['decoding'] - m['arrived'])}, "
        f"forward_duration={_ms(m['end'] - m['decoding'])}, {clock}"
    )
    known, waited = _ms(m["known"] - one.at_s), _ms(m["allocated"] - m["known"])
    transfer = f"transfer_duration={_ms(m['arrived'] - m['allocated'])}"
    if version == "0.5.10":
        found = (
            f"prealloc_queue_duration({_ms(m['allocated'] - one.at_s)}) = bootstrap({known}) "
            f"+ alloc_wait({waited}); {transfer}; {rest}"
        )
    else:
        found = f"bootstrap_duration={known}, alloc_wait_duration={waited}, {transfer}, {rest}"
    return _line(m["end"] + skew_s, _head(one, version, "decode", one.output), found)


def _head(one: Sent, version: Version, role: str, output: int) -> str:
    room = f"rid={one.rid if role == 'decode' else 'p-' + one.rid}, bootstrap_room={one.room}"
    if not one.has_decode:
        room = f"rid={one.rid}, bootstrap_room={one.room}"
    if version == "0.5.10":
        lengths = f"input len={one.tokens}, output len={output}"
        return f"Req Time Stats({room}, {lengths}, type={role})"
    lengths = f"input_len={one.tokens}, cached_input_len=0, output_len={output}"
    attempts = f", attempts={one.retries + 1}" if version == "0.5.23" else ""
    return f"ReqTimeStats({room}, {lengths}{attempts}, type={role})"


def _line(at_s: float, head: str, found: str) -> str:
    return f"[{datetime.fromtimestamp(at_s):%Y-%m-%d %H:%M:%S} TP0] {head}: {found}"


def _clock(version: Version, at_s: float) -> str:
    """0.5.10 counts from the start of the machine."""
    return f"start={at_s - START_S + 500:.3f}" if version == "0.5.10" else f"entry_time={at_s:.3f}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}ms"
