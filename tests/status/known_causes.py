"""Seeded setups of the queue model whose cause is known because the setup makes it so."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pdctl.deployment.records import Counts
from pdctl.status.records import Cause
from tests.status.queue_model import Setup


@dataclass(frozen=True)
class Known:
    """A setup, its cause, and the limits its requests are judged by."""

    kind: str
    cause: Cause
    setup: Setup
    tpot_slo_s: float | None
    tpot_s: float
    ttft_s: float = 5.0


def known_causes(num_each: int, first: int = 0) -> Iterator[Known]:
    """`num_each` setups of every kind, each from its own seed, beginning with seed `first`."""
    for number, make in enumerate(_KINDS):
        for index in range(first, first + num_each):
            yield make(random.Random(100_000 * number + index))


def changed(setup: Setup, change: Counts) -> Setup:
    """The setup with the engine counts of `change`, as `pdctl scale` resolves them."""
    total = change.total or setup.num_prefill + setup.num_decode
    prefill = change.prefill if change.prefill is not None else setup.num_prefill
    decode = change.decode if change.decode is not None else total - prefill
    return replace(setup, num_prefill=prefill, num_decode=decode)


def _batch(setup: Setup, rate_rps: float) -> float:
    """Running requests per decode engine, without a limit: Little's law, with ITL linear in it."""
    flow = rate_rps / setup.num_decode * setup.output_tokens
    return flow * setup.gap_s / max(0.05, 1 - flow * setup.gap_per_request_s)


def _itl_s(setup: Setup, batch: float) -> float:
    return setup.gap_s + setup.gap_per_request_s * batch


def _base(rnd: random.Random, prefill_load: float, least: int = 1) -> Setup:
    """A deployment whose prefill is busy for `prefill_load`; decode and link have ample room."""
    num_prefill, num_decode = rnd.randint(least, 6), rnd.randint(least, 6)
    prefill_s = rnd.uniform(0.08, 0.6)
    rate_rps = prefill_load * num_prefill / prefill_s
    gap_s = rnd.uniform(0.008, 0.02)
    tokens = rnd.uniform(100, 400)
    flow = rate_rps / num_decode * tokens
    setup = Setup(
        seed=rnd.randrange(1 << 30),
        num_prefill=num_prefill,
        num_decode=num_decode,
        rate_rps=rate_rps,
        prefill_s=prefill_s,
        output_tokens=tokens,
        gap_s=gap_s,
        gap_per_request_s=rnd.uniform(0.1, 0.35) / flow,
        slots=1,
        link_rps=max(4.0, rate_rps * rnd.uniform(4, 20)),
        sample_s=rnd.choice((1.0, 5.0)),
    )
    batch = _batch(setup, rate_rps)
    return replace(setup, slots=round(batch / rnd.uniform(0.2, 0.55)) + 12)


def _known(kind: str, cause: Cause, setup: Setup, slo_s: float | None = None) -> Known:
    tpot_s = slo_s or 1.6 * _itl_s(setup, _batch(setup, setup.rate_rps))
    return Known(kind, cause, setup, slo_s, tpot_s)


def _loose_slo(rnd: random.Random, setup: Setup) -> float | None:
    """None, or a TPOT limit well above what decode needs at this rate."""
    batch = _batch(setup, setup.rate_rps)
    loose_s = 1.6 * _itl_s(setup, batch + 1)  # engines that run a request have more than the mean
    return rnd.choice((None, loose_s))


def _healthy(rnd: random.Random) -> Known:
    setup = _base(rnd, rnd.uniform(0.15, 0.65))
    return _known("healthy", "healthy", setup, _loose_slo(rnd, setup))


def _healthy_ramp(rnd: random.Random) -> Known:
    setup = replace(_base(rnd, rnd.uniform(0.15, 0.5)), ramp=rnd.uniform(0.7, 1.25))
    return _known("healthy, rate changes", "healthy", setup, _loose_slo(rnd, setup))


def _healthy_hot(rnd: random.Random) -> Known:
    setup = replace(_base(rnd, rnd.uniform(0.15, 0.6), least=2), hot=rnd.uniform(1.5, 3.0))
    return _known("healthy, one decode engine busier", "healthy", replace(setup, slots=500))


def _healthy_bursts(rnd: random.Random) -> Known:
    setup = replace(_base(rnd, rnd.uniform(0.15, 0.55)), burst_s=rnd.uniform(3, 12))
    return _known("healthy, bursts", "healthy", replace(setup, slots=2 * setup.slots))


def _prefill_bound(rnd: random.Random) -> Known:
    setup = _base(rnd, rnd.uniform(1.25, 1.9))
    queued = setup.rate_rps * 110 / setup.num_decode  # what waits for prefill holds decode's KV
    setup = replace(setup, slots=round(setup.slots + queued))
    return _known("prefill too small", "prefill_bound", setup, _loose_slo(rnd, setup))


def _prefill_bound_kv_full(rnd: random.Random) -> Known:
    setup = _base(rnd, rnd.uniform(1.4, 2.0))
    queued = 20 * setup.num_prefill / setup.num_decode + 0.3 * _batch(setup, setup.rate_rps)
    setup = replace(setup, output_tokens=60.0)
    batch = _batch(setup, setup.rate_rps)
    setup = replace(setup, slots=round(batch + max(queued, 2 * batch)) + 4)
    return _known("prefill too small, its queue fills decode's KV", "prefill_bound", setup)


def _decode_kv(rnd: random.Random) -> Known:
    """Decode whose KV carries 60 to 80 % of the rate, and at least eight requests an engine."""
    while True:
        setup = _base(rnd, rnd.uniform(0.15, 0.6))
        rate_rps = rnd.uniform(0.6, 0.8) * setup.rate_rps
        resident_s = 2 * setup.prefill_s + 2 / setup.link_rps
        slots = _batch(setup, rate_rps) + rate_rps / setup.num_decode * resident_s
        if slots >= 8:
            setup = replace(setup, slots=int(slots))
            return _known("decode's KV too small", "decode_bound", setup)


def _decode_slo(rnd: random.Random) -> Known:
    setup = _base(rnd, rnd.uniform(0.15, 0.6))
    itl_s = _itl_s(setup, _batch(setup, setup.rate_rps))
    slo_s = max(setup.gap_s * 0.98, itl_s * rnd.uniform(0.7, 0.85))
    return _known("decode over its SLO", "decode_bound", setup, slo_s)


def _overloaded(rnd: random.Random) -> Known:
    setup = _base(rnd, rnd.uniform(1.3, 1.8))
    load = setup.rate_rps * setup.prefill_s / setup.num_prefill
    queued = setup.rate_rps * 110 / setup.num_decode
    setup = replace(setup, slots=round(setup.slots + queued))
    itl_s = _itl_s(setup, _batch(setup, setup.rate_rps / load))
    return _known("both too small", "overloaded", setup, itl_s * rnd.uniform(0.7, 0.85))


def _network(rnd: random.Random) -> Known:
    setup = _base(rnd, rnd.uniform(0.2, 0.7))
    setup = replace(setup, link_rps=setup.rate_rps * rnd.uniform(0.4, 0.75))
    queued = setup.rate_rps * 70 / setup.num_decode
    setup = replace(setup, slots=round(setup.slots + queued))
    return _known("link too slow", "network_bound", setup, _loose_slo(rnd, setup))


def _stuck(rnd: random.Random) -> Known:
    setup = _base(rnd, rnd.uniform(0.2, 0.7))
    engines = max(setup.num_prefill, setup.num_decode)
    leak = min(0.5, max(rnd.uniform(0.05, 0.3), 16 * engines / (setup.rate_rps * 60)))
    held = leak * setup.rate_rps * 110 / setup.num_decode
    setup = replace(setup, leak=leak, slots=round(setup.slots + 1.3 * held))
    return _known("transfers leak on prefill", "stuck_transfers", setup, _loose_slo(rnd, setup))


def _stuck_on_decode(rnd: random.Random) -> Known:
    known = _stuck(rnd)
    setup = replace(known.setup, leak_on_decode=True)
    return replace(known, kind="transfers leak on decode", setup=setup)


def _frozen(rnd: random.Random) -> Known:
    setup = replace(_base(rnd, rnd.uniform(0.3, 0.7)), frozen=True)
    setup = replace(setup, slots=max(setup.slots, 20))
    return _known("transfers frozen", "stuck_transfers", setup)


def _sick_prefill(rnd: random.Random) -> Known:
    factor, setup = rnd.uniform(2.5, 5.0), _base(rnd, 0.6, least=2)
    healthy = setup.num_prefill - 1 + 1 / factor  # engines' worth of prefill that is left
    rate_rps = 1.15 * healthy / setup.prefill_s
    setup = replace(setup, rate_rps=rate_rps, slow=(("prefill-0", factor),))
    queued = rate_rps * 60 / setup.num_decode
    setup = replace(setup, slots=round(setup.slots * 2 + queued), link_rps=4 * rate_rps)
    return _known("one slow prefill engine", "sick_engine", setup)


def _sick_decode(rnd: random.Random) -> Known:
    setup = _base(rnd, rnd.uniform(0.2, 0.6), least=2)
    setup = replace(setup, slow=(("decode-0", rnd.uniform(2.0, 4.0)),), slots=setup.slots * 6)
    return _known("one slow decode engine", "sick_engine", setup)


def _dead(rnd: random.Random) -> Known:
    setup = _base(rnd, rnd.uniform(0.2, 0.9))
    return _known("one dead engine", "sick_engine", replace(setup, dead="prefill-0"))


def _misconfigured(rnd: random.Random) -> Known:
    known = _decode_kv(rnd)
    slots = round(known.setup.slots * rnd.uniform(2.5, 4))
    setup = replace(known.setup, slots=slots, held=1 - known.setup.slots / slots)
    return _known("decode hands out too little KV", "misconfigured", setup)


def _too_short(rnd: random.Random) -> Known:
    setup = replace(_base(rnd, rnd.uniform(0.2, 1.6)), watched_s=rnd.uniform(5, 50))
    return _known("watched too short", "not_enough_evidence", setup)


def _too_few(rnd: random.Random) -> Known:
    setup = _base(rnd, 0.3)
    setup = replace(setup, rate_rps=rnd.uniform(0.01, 0.06))
    return _known("too few requests", "not_enough_evidence", setup)


_KINDS: tuple[Callable[[random.Random], Known], ...] = (
    _healthy,
    _healthy_ramp,
    _healthy_hot,
    _healthy_bursts,
    _prefill_bound,
    _prefill_bound_kv_full,
    _decode_kv,
    _decode_slo,
    _overloaded,
    _network,
    _stuck,
    _stuck_on_decode,
    _frozen,
    _sick_prefill,
    _sick_decode,
    _dead,
    _misconfigured,
    _too_short,
    _too_few,
)
