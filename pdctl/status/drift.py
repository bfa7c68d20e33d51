"""Detect engines whose step times have drifted from their profile. Pure."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pdctl.perf_model.records import Role, StepTimes
from pdctl.perf_model.simulator.steps import decode_step_s, pairs, prefill_s
from pdctl.status.rates import delta, is_reset
from pdctl.status.records import CounterSample

WINDOW_S = 60.0  # the period of steps that is compared
LEAST_DECODE_STEPS = 200
LEAST_PREFILL_TOKENS = 5000
LEAST_SHARE = 0.15  # queues and neighbours explain smaller differences


@dataclass(frozen=True)
class LiveSteps:
    """Step totals of one engine over a period.

    context_tokens: mean KV tokens that running requests used. requests: requests that began in it.
    """

    role: Role
    prefill_tokens: float
    prefill_busy_s: float
    requests: float
    decode_steps: float
    decode_batch: float
    decode_step_s: float
    context_tokens: float


@dataclass(frozen=True)
class Drift:
    """Difference between live and profiled times, as shares: 0.3 means 30 % slower.

    None: too little was observed, or the times agree.
    """

    prefill: float | None
    decode: float | None


def drift(live: LiveSteps, times: StepTimes, chunk: int, *, band: float) -> Drift:
    """The distance of live steps from the range that `times` allows; twice its band is tolerated.

    The range of prefill runs from one prompt per step to full steps. Each decode step of a
    colocated engine may have waited for the prefill before it.
    Ignores: attention over cached prefixes, requests that began before the period.
    """
    allowed = max(LEAST_SHARE, 2 * band)
    return Drift(_prefill(live, times, chunk, allowed), _decode(live, times, allowed))


def sentence(found: Drift, name: str, profile: str) -> str:
    """The drift as a sentence; "" without drift."""
    parts = [
        f"{what} steps {abs(share) * 100:.0f} % {'slower' if share > 0 else 'faster'}"
        for what, share in (("prefill", found.prefill), ("decode", found.decode))
        if share is not None
    ]
    if not parts:
        return ""
    return (
        f"{name} has drifted from its profile {profile}: {' and '.join(parts)}. "
        "pdctl calibrate measures it again."
    )


def _prefill(live: LiveSteps, times: StepTimes, chunk: int, allowed: float) -> float | None:
    tokens = live.prefill_tokens
    if tokens < LEAST_PREFILL_TOKENS or live.requests < 1:
        return None
    each = min(tokens / live.requests, float(chunk))
    full = min(tokens, float(chunk))
    alone_s = tokens / each * prefill_s(times, each, pairs(each))
    together_s = tokens / full * prefill_s(times, full, tokens and full * each / 2)
    low, high = sorted((alone_s, together_s))
    return _outside(live.prefill_busy_s, low, high, allowed)


def _decode(live: LiveSteps, times: StepTimes, allowed: float) -> float | None:
    if live.decode_steps < LEAST_DECODE_STEPS or live.decode_batch < 0.5:
        return None
    low = decode_step_s(times, live.decode_batch, live.context_tokens)
    waits = live.prefill_busy_s / live.decode_steps if live.role == "colocated" else 0.0
    return _outside(live.decode_step_s, low, low + waits, allowed)


def _outside(seen: float, low: float, high: float, allowed: float) -> float | None:
    if seen > high * (1 + allowed):
        return seen / high - 1
    if seen < low * (1 - allowed):
        return seen / low - 1
    return None


@dataclass(frozen=True)
class Expected:
    """The step times that a profile predicts for one engine.

    kv_tokens: its KV capacity. dp: attention-DP ranks. band: relative error of the profile.
    """

    role: Role
    profile: str
    times: StepTimes
    chunk: int
    kv_tokens: int
    dp: int
    band: float


class DriftSample(NamedTuple):
    """The counters of one engine at `at_s` (Unix seconds). kv_usage: 0..1; None: unknown."""

    at_s: float
    counters: CounterSample
    kv_usage: float | None


def remember(seen: deque[DriftSample], one: DriftSample) -> None:
    """Append a sample. Keeps the last WINDOW_S, and nothing from before a restart."""
    if seen and is_reset(seen[-1].counters, one.counters):
        seen.clear()
    seen.append(one)
    while len(seen) > 2 and seen[1].at_s <= one.at_s - WINDOW_S:
        seen.popleft()


def is_enough(seen: Sequence[DriftSample]) -> bool:
    """True if the samples span a whole window and the engine counts its steps."""
    if len(seen) < 2 or seen[-1].at_s - seen[0].at_s < WINDOW_S:
        return False
    return seen[-1].counters.prefill_busy_s is not None


def drifted(
    name: str, seen: Sequence[DriftSample], requests: float | None, expected: Expected
) -> str:
    """A sentence on the drift of an engine in this window; "" without drift.

    requests: requests that began in the window. None: unknown; compares only decode steps then.
    Ignores: decode with several attention-DP ranks, because each rank has its own KV usage.
    """
    first, last = seen[0].counters, seen[-1].counters
    usage = _usage_of_steps(seen)
    known = usage is not None and expected.dp == 1
    steps = (delta(first.decode_steps, last.decode_steps) or 0.0) if known else 0.0
    live = LiveSteps(
        role=expected.role,
        prefill_tokens=delta(first.prefill_tokens, last.prefill_tokens) or 0.0,
        prefill_busy_s=delta(first.prefill_busy_s, last.prefill_busy_s) or 0.0,
        requests=requests or 0.0,
        decode_steps=steps,
        decode_batch=(delta(first.decode_b, last.decode_b) or 0.0) / steps if steps else 0.0,
        decode_step_s=(delta(first.decode_t, last.decode_t) or 0.0) / steps if steps else 0.0,
        context_tokens=expected.kv_tokens * (usage or 0.0),
    )
    found = drift(live, expected.times, expected.chunk, band=expected.band)
    return sentence(found, name, expected.profile)


def _usage_of_steps(seen: Sequence[DriftSample]) -> float | None:
    """Mean KV usage over decode steps: each sample has the weight of the steps before it."""
    total = weighted = 0.0
    for before, after in pairwise(seen):
        steps = delta(before.counters.decode_steps, after.counters.decode_steps) or 0.0
        if steps and after.kv_usage is not None:
            total += steps
            weighted += steps * after.kv_usage
    return weighted / total if total else None
