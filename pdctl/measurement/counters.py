"""What an engine of SGLang 0.5.23 and later counts of its own steps, from GET /v1/loads.

Source: managers/scheduler.py: `decode_moments` are sums over decode steps (1, b, t, b², bt, g) of
batch b, time t in µs and generated tokens g; `total_prefill_busy_us` is from launch to result.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

LOADS_PATH = "/v1/loads?include=core,disagg,queues,memory"


@dataclass(frozen=True)
class Counted:
    """Totals since the engine's start. Of several attention-DP ranks: their sums, times their mean.

    steps, b, t_s, bb, bt_s, g: over decode steps.
    """

    prefill_tokens: float
    prefill_busy_s: float
    steps: float = 0.0
    b: float = 0.0
    t_s: float = 0.0
    bb: float = 0.0
    bt_s: float = 0.0
    g: float = 0.0

    def since(self, earlier: "Counted") -> "Counted":
        """What was counted in between; negative after a restart."""
        names = [f.name for f in fields(Counted)]
        return Counted(**{n: getattr(self, n) - getattr(earlier, n) for n in names})

    @property
    def batch(self) -> float:
        """Mean batch of a decode step."""
        return self.b / self.steps if self.steps else 0.0

    @property
    def step_s(self) -> float:
        """Mean time of a decode step."""
        return self.t_s / self.steps if self.steps else 0.0


@dataclass(frozen=True)
class Load:
    """One answer of /v1/loads. counted: None where this version of SGLang does not count."""

    counted: Counted | None
    running: int
    waiting: int
    transfer_s: float  # of the last KV transfer; prefill engines only
    used_tokens: int


def parse_load(body: bytes) -> Load | None:
    """The load on a page of /v1/loads; None if it is not such a page."""
    try:
        page = json.loads(body)
    except (ValueError, RecursionError):
        return None
    ranks = page.get("loads") if isinstance(page, dict) else None
    if not isinstance(ranks, list) or not ranks or not all(isinstance(r, dict) for r in ranks):
        return None
    return Load(
        counted=_counted(ranks),
        running=round(_total(ranks, "num_running_reqs")),
        waiting=round(_total(ranks, "num_waiting_reqs")),
        transfer_s=max(_number(_part(r).get("kv_transfer_latency_ms")) for r in ranks) / 1e3,
        used_tokens=round(_total(ranks, "num_used_tokens")),
    )


def _counted(ranks: Sequence[Mapping[str, Any]]) -> Counted | None:
    if any("total_prefill_busy_us" not in rank for rank in ranks):
        return None
    num = len(ranks)
    sums = [0.0] * 6
    for rank in ranks:
        moments = rank.get("decode_moments")
        if isinstance(moments, list) and len(moments) == 6:
            sums = [a + _number(b) for a, b in zip(sums, moments, strict=True)]
    steps, b, t, bb, bt, g = sums
    return Counted(
        prefill_tokens=_total(ranks, "total_prefill_uncached_tokens"),
        prefill_busy_s=_total(ranks, "total_prefill_busy_us") / 1e6 / num,
        steps=steps / num,
        b=b,
        t_s=t / 1e6 / num,
        bb=bb * num,
        bt_s=bt / 1e6,
        g=g,
    )


def _part(rank: Mapping[str, Any]) -> Mapping[str, Any]:
    found = rank.get("disaggregation")
    return found if isinstance(found, dict) else {}


def _total(ranks: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(_number(rank.get(name)) for rank in ranks)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0.0
    return float(value)
