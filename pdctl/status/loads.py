"""Read /v1/loads of SGLang 0.5.15 to 0.5.23, and /get_load of older ones. Pure."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pdctl.perf_model.records import Role
from pdctl.status.records import Counters, EngineSample

_ROLES: dict[object, Role] = {"prefill": "prefill", "decode": "decode", "null": "colocated"}

LARGEST = 1e18  # of any number believed: sums over ranks stay finite

Loads = tuple[EngineSample, Counters, float]  # sample, counters, age of the sample in seconds


def parse_loads(body: bytes, role: Role, at_s: float) -> Loads | None:
    """What GET /v1/loads says, summed over data-parallel ranks; None if it is not such a page.

    The role the engine states wins over `role` (it may have been switched). Its age is measured
    on its own clock; without a timestamp of its own (0.5.15) it is taken as fresh.
    """
    page = _json(body)
    ranks = page.get("loads") if isinstance(page, dict) else None
    ranks = [rank for rank in ranks if isinstance(rank, dict)] if isinstance(ranks, list) else []
    if not ranks or not isinstance(page, dict):
        return None
    role = _role(ranks[0], role)
    age_s = _age_s(page, ranks)
    return _sample(ranks, role, at_s - age_s), _counters(ranks), age_s


def parse_get_load(body: bytes, role: Role, at_s: float) -> EngineSample | None:
    """What GET /get_load says (SGLang before 0.5.15); None if it is not such a page."""
    ranks = _json(body)
    if (
        not isinstance(ranks, list)
        or not all(isinstance(rank, dict) for rank in ranks)
        or not ranks
    ):
        return None
    total, waiting = _sum(ranks, "num_reqs"), _sum(ranks, "num_waiting_reqs")
    running = None if total is None or waiting is None else max(0, total - waiting)
    return EngineSample(at_s=at_s, role=role, running=running, waiting=waiting)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _role(rank: Mapping[str, Any], role: Role) -> Role:
    section = rank.get("disaggregation")
    mode = section.get("mode") if isinstance(section, dict) else None
    return _ROLES.get(mode, role) if isinstance(mode, str) else role


def _age_s(page: Mapping[str, Any], ranks: Sequence[Mapping[str, Any]]) -> float:
    taken = [value for rank in ranks if (value := _number(rank.get("timestamp"))) is not None]
    answered = page.get("timestamp")
    if not taken or not isinstance(answered, str):
        return 0.0
    try:
        now = datetime.fromisoformat(answered.replace("Z", "+00:00"))
    except ValueError:
        return 0.0
    return max(0.0, now.timestamp() - min(taken)) if now.tzinfo else 0.0


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if abs(number) <= LARGEST else None


def _values(ranks: Sequence[Mapping[str, Any]], *path: str) -> list[float]:
    found = []
    for rank in ranks:
        value: Any = rank
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        number = _number(value)
        if number is not None:
            found.append(number)
    return found


def _total(ranks: Sequence[Mapping[str, Any]], *path: str) -> float | None:
    values = _values(ranks, *path)
    return sum(values) if values else None


def _sum(ranks: Sequence[Mapping[str, Any]], *path: str) -> int | None:
    total = _total(ranks, *path)
    return None if total is None else round(total)


def _sample(ranks: Sequence[Mapping[str, Any]], role: Role, at_s: float) -> EngineSample:
    prefill, decode = role == "prefill", role == "decode"
    speeds = [speed for speed in _disagg_values(ranks, "kv_transfer_speed_gb_s") if speed > 0]
    running = None if prefill else _sum(ranks, "num_running_reqs")
    return EngineSample(
        at_s=at_s,
        role=role,
        running=running,
        waiting=_sum(ranks, "queues", "waiting"),
        bootstrap=_disagg(ranks, "prefill_bootstrap_queue_reqs") if prefill else None,
        inflight=_disagg(ranks, "prefill_inflight_queue_reqs") if prefill else None,
        prealloc=_disagg(ranks, "decode_prealloc_queue_reqs") if decode else None,
        transfer=_disagg(ranks, "decode_transfer_queue_reqs") if decode else None,
        retracted=_sum(ranks, "queues", "retracted"),
        kv_usage=_kv_usage(ranks),
        tokens_per_s=None if prefill else live_speed(_total(ranks, "gen_throughput"), running),
        transfer_gb_per_s=sum(speeds) / len(speeds) if speeds and prefill else None,
    )


def live_speed(tokens_per_s: float | None, running: int | None) -> float | None:
    """What gen_throughput tells of now: SGLang leaves its last value standing once idle."""
    return 0.0 if tokens_per_s is not None and running == 0 else tokens_per_s


def _disagg(ranks: Sequence[Mapping[str, Any]], name: str) -> int | None:
    return _sum(ranks, "disaggregation", name)


def _disagg_values(ranks: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return _values(ranks, "disaggregation", name)


def _kv_usage(ranks: Sequence[Mapping[str, Any]]) -> float | None:
    usage = _values(ranks, "token_usage")
    return min(1.0, max(0.0, sum(usage) / len(usage))) if usage else None


def _counters(ranks: Sequence[Mapping[str, Any]]) -> Counters:
    moments = [rank["decode_moments"] for rank in ranks if _is_moments(rank.get("decode_moments"))]
    busy_us = _total(ranks, "total_prefill_busy_us")
    sums = [sum(column) for column in zip(*moments, strict=True)] if moments else None
    return Counters(
        prefill_tokens=_total(ranks, "total_prefill_uncached_tokens"),
        prefill_busy_s=None if busy_us is None else busy_us / 1e6 / len(ranks),
        decode_steps=sums[0] if sums else None,
        decode_b=sums[1] if sums else None,
        decode_t=sums[2] / 1e6 if sums else None,
        decode_bt=sums[4] / 1e6 if sums else None,
        decode_g=sums[5] if sums else None,
    )


def _is_moments(value: object) -> bool:
    """[Σ1, Σb, Σt, Σb², Σbt, Σg] over decode steps, t in µs."""
    if not isinstance(value, list) or len(value) != 6:
        return False
    return all(_number(one) is not None for one in value)
