"""Do engines under watch still take their steps as their profile has it? Pure."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from pdctl.perf_model.drift import LiveSteps, drift, sentence
from pdctl.perf_model.records import Role, StepTimes
from pdctl.status.rates import delta, is_reset
from pdctl.status.records import Counters

WINDOW_S = 60.0  # so many seconds of steps are compared


@dataclass(frozen=True)
class Expected:
    """What a profile says of one engine. kv_tokens: its KV capacity; dp: attention-DP ranks."""

    role: Role
    profile: str
    times: StepTimes
    chunk: int
    kv_tokens: int
    dp: int
    band: float


class Seen(NamedTuple):
    """What one engine had counted at one time (Unix seconds). kv_usage: 0..1, None: unknown."""

    at_s: float
    counters: Counters
    kv_usage: float | None


def remember(seen: deque[Seen], one: Seen) -> None:
    """Keep the last WINDOW_S of what an engine counted, and nothing from before a restart."""
    if seen and is_reset(seen[-1].counters, one.counters):
        seen.clear()
    seen.append(one)
    while len(seen) > 2 and seen[1].at_s <= one.at_s - WINDOW_S:
        seen.popleft()


def is_enough(seen: Sequence[Seen]) -> bool:
    """Whether a whole window was seen of an engine that counts its steps."""
    if len(seen) < 2 or seen[-1].at_s - seen[0].at_s < WINDOW_S:
        return False
    return seen[-1].counters.prefill_busy_s is not None


def drifted(name: str, seen: Sequence[Seen], requests: float | None, expected: Expected) -> str:
    """The sentence on an engine whose steps in this window its profile does not explain; or "".

    requests: that began in the window; None: unknown, then only decode steps are compared.
    Ignores: decode of several attention-DP ranks, whose KV usage is each rank's own.
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


def _usage_of_steps(seen: Sequence[Seen]) -> float | None:
    """KV usage as the decode steps met it: each look counts by the steps since the one before."""
    total = weighted = 0.0
    for before, after in pairwise(seen):
        steps = delta(before.counters.decode_steps, after.counters.decode_steps) or 0.0
        if steps and after.kv_usage is not None:
            total += steps
            weighted += steps * after.kv_usage
    return weighted / total if total else None
