"""Does a profile still describe the machine? Live step times against it. Pure.

Other clocks, another version, another kernel: what an engine counts of its own steps tells.
"""

from dataclasses import dataclass

from pdctl.perf_model.records import Role, StepTimes
from pdctl.perf_model.steps import decode_step_s, pairs, prefill_s

LEAST_DECODE_STEPS = 200
LEAST_PREFILL_TOKENS = 5000
LEAST_SHARE = 0.15  # less is within what queues and neighbours do


@dataclass(frozen=True)
class LiveSteps:
    """What one engine counted over some time.

    context_tokens: mean KV in use by running requests. requests: that began in that time.
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
    """Live over profile, as shares: 0.3 for 30 % slower. None: too little was seen, or it fits."""

    prefill: float | None
    decode: float | None

    @property
    def is_any(self) -> bool:
        return self.prefill is not None or self.decode is not None


def drift(live: LiveSteps, times: StepTimes, chunk: int, *, band: float) -> Drift:
    """By how much are live steps outside of what `times` allows, beyond twice its band?

    Prefill lies between every prompt in a step of its own and full steps; a colocated engine's
    decode steps may each wait for the prefill before them.
    Ignores: cached prefixes' share of attention, requests that began before.
    """
    allowed = max(LEAST_SHARE, 2 * band)
    return Drift(_prefill(live, times, chunk, allowed), _decode(live, times, allowed))


def sentence(found: Drift, name: str, profile: str) -> str:
    """What to tell a person; "" when nothing drifted."""
    parts = [
        f"{what} steps {abs(share) * 100:.0f} % {'slower' if share > 0 else 'faster'}"
        for what, share in (("prefill", found.prefill), ("decode", found.decode))
        if share is not None
    ]
    if not parts:
        return ""
    return (
        f"{name} no longer runs as {profile} has it: {' and '.join(parts)}. "
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
