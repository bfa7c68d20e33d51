"""The few Prometheus families status needs, out of a page of hundreds. Pure.

docs/decisions/0010-own-readers-in-status.md says why not prometheus_client.parser.
"""

import math
import re
from collections.abc import Iterator, Mapping

from pdctl.perf_model.records import Role
from pdctl.status.loads import LARGEST, live_speed
from pdctl.status.records import Counters, EngineSample, Histogram

_GAUGES = (
    "num_running_reqs",
    "num_queue_reqs",
    "token_usage",
    "gen_throughput",
    "num_prefill_bootstrap_queue_reqs",
    "num_prefill_inflight_queue_reqs",
    "num_decode_prealloc_queue_reqs",
    "num_decode_transfer_queue_reqs",
)
_COUNTERS = (
    "realtime_tokens_total",
    "num_requests_total",
    "num_transfer_failed_reqs_total",
    "num_bootstrap_failed_reqs_total",
)
_HISTOGRAMS = ("time_to_first_token_seconds", "inter_token_latency_seconds")
_ROUTER = (
    "smg_worker_cb_state",
    "smg_router_requests_total",
)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_BREAKERS = {0: "closed", 1: "open", 2: "half-open"}

Series = tuple[str, dict[str, str], float]


def _pattern(prefix: str, names: tuple[str, ...]) -> "re.Pattern[str]":
    labels = r'\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}'
    return re.compile(rf"^{prefix}({'|'.join(names)})(?:{labels})? +(\S+)", re.MULTILINE)


_ENGINE_LINE = _pattern(
    "sglang:", (*_GAUGES, *_COUNTERS, *(f"{name}_bucket" for name in _HISTOGRAMS))
)
_ROUTER_LINE = _pattern("", _ROUTER)


def _series(pattern: "re.Pattern[str]", page: str) -> Iterator[Series]:
    for name, labels, text in pattern.findall(page):
        try:
            value = float(text)
        except ValueError:
            continue
        yield name, dict(_LABEL.findall(labels)), value


def parse_engine_metrics(page: str, role: Role, at_s: float) -> tuple[EngineSample, Counters]:
    """What an engine's /metrics says; None for whatever is not there.

    Ranks of tensor parallelism repeat the same numbers and are counted once; ranks of data
    parallelism are added up.
    """
    sums: dict[str, float] = {}
    buckets: dict[str, dict[float, float]] = {}
    for name, labels, value in _series(_ENGINE_LINE, page):
        if labels.get("tp_rank", "0") != "0" or not abs(value) <= LARGEST:
            continue
        if name.endswith("_bucket"):
            bound = _bound(labels)
            if bound is not None:
                family = buckets.setdefault(name, {})
                family[bound] = family.get(bound, 0.0) + value
        else:
            key = f"{name}:{labels['mode']}" if "mode" in labels else name
            sums[key] = sums.get(key, 0.0) + value
    return _sample(sums, role, at_s), _counters(sums, buckets)


def _bound(labels: Mapping[str, str]) -> float | None:
    try:
        return float(labels["le"])
    except (KeyError, ValueError):
        return None


def _sample(sums: Mapping[str, float], role: Role, at_s: float) -> EngineSample:
    def count(name: str) -> int | None:
        return round(sums[name]) if name in sums else None

    prefill, decode = role == "prefill", role == "decode"
    running = None if prefill else count("num_running_reqs")
    return EngineSample(
        at_s=at_s,
        role=role,
        running=running,
        waiting=count("num_queue_reqs"),
        bootstrap=count("num_prefill_bootstrap_queue_reqs") if prefill else None,
        inflight=count("num_prefill_inflight_queue_reqs") if prefill else None,
        prealloc=count("num_decode_prealloc_queue_reqs") if decode else None,
        transfer=count("num_decode_transfer_queue_reqs") if decode else None,
        kv_usage=sums.get("token_usage"),
        tokens_per_s=None if prefill else live_speed(sums.get("gen_throughput"), running),
        requests_total=sums.get("num_requests_total"),
    )


def _counters(sums: Mapping[str, float], buckets: Mapping[str, Mapping[float, float]]) -> Counters:
    failed = [
        sums[name]
        for name in ("num_transfer_failed_reqs_total", "num_bootstrap_failed_reqs_total")
        if name in sums
    ]
    return Counters(
        prefill_tokens=sums.get("realtime_tokens_total:prefill_compute"),
        cached_tokens=sums.get("realtime_tokens_total:prefill_cache"),
        decode_tokens=sums.get("realtime_tokens_total:decode"),
        requests=sums.get("num_requests_total"),
        transfer_failures=sum(failed) if failed else None,
        ttft=_histogram(buckets.get("time_to_first_token_seconds_bucket")),
        itl=_histogram(buckets.get("inter_token_latency_seconds_bucket")),
    )


def _histogram(buckets: Mapping[float, float] | None) -> Histogram | None:
    return tuple(sorted(buckets.items())) if buckets else None


def parse_router_metrics(page: str) -> tuple[float | None, dict[str, str]]:
    """Requests the router has taken, and the circuit breaker of each engine by its URL."""
    requests: float | None = None
    breakers: dict[str, str] = {}
    for name, labels, value in _series(_ROUTER_LINE, page):
        if name == "smg_worker_cb_state":
            state = _BREAKERS.get(int(value)) if math.isfinite(value) else None
            if state is not None and "worker" in labels:
                breakers[labels["worker"].rstrip("/")] = state
        elif abs(value) <= LARGEST:
            requests = (requests or 0.0) + value
    return requests, breakers
