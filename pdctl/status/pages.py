"""Parse the load and metrics pages of SGLang and its router. Pure.

Source: /v1/loads of SGLang 0.5.15 to 0.5.23, /get_load of older versions.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

from pdctl.deployment.records import role_of_mode
from pdctl.perf_model.records import Role
from pdctl.status.records import CounterSample, EngineSample, Histogram


@dataclass(frozen=True)
class EngineCounters:
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

    def since(self, earlier: "EngineCounters") -> "EngineCounters":
        """The difference to an earlier sample; negative after a restart."""
        names = [f.name for f in fields(EngineCounters)]
        return EngineCounters(**{n: getattr(self, n) - getattr(earlier, n) for n in names})

    @property
    def batch(self) -> float:
        """Mean batch of a decode step."""
        return self.b / self.steps if self.steps else 0.0

    @property
    def step_s(self) -> float:
        """Mean time of a decode step."""
        return self.t_s / self.steps if self.steps else 0.0


@dataclass(frozen=True)
class EngineLoad:
    """One answer of /v1/loads. counted: None if this version of SGLang has no counters."""

    counted: EngineCounters | None
    running: int
    waiting: int
    transfer_s: float  # of the last KV transfer; prefill engines only
    used_tokens: int


def parse_load(body: bytes) -> EngineLoad | None:
    """The load in a page of /v1/loads; None if the page is something else."""
    ranks = _ranks(_json(body))
    if not ranks:
        return None
    latencies = _disagg_values(ranks, "kv_transfer_latency_ms")
    return EngineLoad(
        counted=_counted(ranks),
        running=_sum(ranks, "num_running_reqs") or 0,
        waiting=_sum(ranks, "num_waiting_reqs") or 0,
        transfer_s=max(latencies, default=0.0) / 1e3,
        used_tokens=_sum(ranks, "num_used_tokens") or 0,
    )


def _ranks(page: Any) -> list[dict[str, Any]]:
    """The data-parallel ranks in a page of /v1/loads; none if it is something else."""
    ranks = page.get("loads") if isinstance(page, dict) else None
    return [rank for rank in ranks if isinstance(rank, dict)] if isinstance(ranks, list) else []


def _counted(ranks: Sequence[Mapping[str, Any]]) -> EngineCounters | None:
    found, num = _counters(ranks), len(ranks)
    if any("total_prefill_busy_us" not in rank for rank in ranks):
        return None
    squares = _moment_sums(ranks)[3]
    return EngineCounters(
        prefill_tokens=found.prefill_tokens or 0.0,
        prefill_busy_s=found.prefill_busy_s or 0.0,
        steps=(found.decode_steps or 0.0) / num,
        b=found.decode_b or 0.0,
        t_s=(found.decode_t or 0.0) / num,
        bb=squares * num,
        bt_s=found.decode_bt or 0.0,
        g=found.decode_g or 0.0,
    )


LARGEST_SHARE = 1.5  # usage is a share; more of it is another unit or no usage
LARGEST = 1e18  # of any number believed, none of which is negative: sums over ranks stay finite

Loads = tuple[EngineSample, CounterSample, float]  # sample, counters, age of the sample in seconds


def parse_loads(body: bytes, role: Role, at_s: float) -> Loads | None:
    """Parse GET /v1/loads, summed over data-parallel ranks; None if the page is something else.

    The role in the page overrides `role`, because an engine can switch. The engine's own clock
    gives the age; a page without a timestamp (0.5.15) counts as fresh.
    """
    page = _json(body)
    ranks = _ranks(page)
    if not ranks:
        return None
    role = _role(ranks[0], role)
    age_s = _age_s(page, ranks)
    return _sample(ranks, role, at_s - age_s), _counters(ranks), age_s


def parse_get_load(body: bytes, role: Role, at_s: float) -> EngineSample | None:
    """Parse GET /get_load (SGLang before 0.5.15); None if the page is something else."""
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
    return (role_of_mode(mode) or role) if isinstance(mode, str) and mode else role


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
    return number if 0 <= number <= LARGEST else None


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
    latencies = [found for found in _disagg_values(ranks, "kv_transfer_latency_ms") if found > 0]
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
        transfer_latency_s=max(latencies) / 1e3 if latencies and prefill else None,
    )


def live_speed(tokens_per_s: float | None, running: int | None) -> float | None:
    """Current gen_throughput. SGLang keeps the last value when it becomes idle."""
    return 0.0 if tokens_per_s is not None and running == 0 else tokens_per_s


def _disagg(ranks: Sequence[Mapping[str, Any]], name: str) -> int | None:
    return _sum(ranks, "disaggregation", name)


def _disagg_values(ranks: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return _values(ranks, "disaggregation", name)


def _kv_usage(ranks: Sequence[Mapping[str, Any]]) -> float | None:
    return _mean_share(_values(ranks, "token_usage"))


def _mean_share(usage: Sequence[float]) -> float | None:
    """The mean of the shares that can be shares; None without any."""
    believed = [share for share in usage if share <= LARGEST_SHARE]
    return min(1.0, sum(believed) / len(believed)) if believed else None


def _counters(ranks: Sequence[Mapping[str, Any]]) -> CounterSample:
    busy_us = _total(ranks, "total_prefill_busy_us")
    counts_steps = any(_is_moments(rank.get("decode_moments")) for rank in ranks)
    steps, b, t_us, _, bt_us, g = _moment_sums(ranks)
    return CounterSample(
        prefill_tokens=_total(ranks, "total_prefill_uncached_tokens"),
        prefill_busy_s=None if busy_us is None else busy_us / 1e6 / len(ranks),
        decode_steps=steps if counts_steps else None,
        decode_b=b if counts_steps else None,
        decode_t=t_us / 1e6 if counts_steps else None,
        decode_bt=bt_us / 1e6 if counts_steps else None,
        decode_g=g if counts_steps else None,
    )


def _moment_sums(ranks: Sequence[Mapping[str, Any]]) -> list[float]:
    """[Σ1, Σb, Σt, Σb², Σbt, Σg] over the decode steps of all ranks, t in µs; zeros without any."""
    moments = [rank["decode_moments"] for rank in ranks if _is_moments(rank.get("decode_moments"))]
    return [float(sum(column)) for column in zip(*moments, strict=True)] if moments else [0.0] * 6


def _is_moments(value: object) -> bool:
    if not isinstance(value, list) or len(value) != 6:
        return False
    return all(_number(one) is not None for one in value)


# Slots of a hybrid model's state pool; their sum is 0 where there is none
_STATE_POOL = ("mamba_used_tokens", "mamba_available_tokens", "mamba_evictable_tokens")
_GAUGES = (
    "num_running_reqs",
    "num_queue_reqs",
    "token_usage",
    "full_token_usage",
    *_STATE_POOL,
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
_HISTOGRAMS = (
    "time_to_first_token_seconds",
    "inter_token_latency_seconds",
    "request_time_per_output_token_seconds",
)
_BREAKER_STATES = ("smg_worker_cb_state", "sgl_router_cb_state")  # the latter up to router 0.2
_ROUTER = (*_BREAKER_STATES, "smg_router_requests_total", "sgl_router_requests_total")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_BREAKERS = {0: "closed", 1: "open", 2: "half-open"}

Series = tuple[str, dict[str, str], float]


def _pattern(prefix: str, names: tuple[str, ...]) -> "re.Pattern[str]":
    labels = r'\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\}'
    return re.compile(rf"^{prefix}({'|'.join(names)})(?:{labels})?[ \t]+(\S+)", re.MULTILINE)


_ENGINE_LINE = _pattern(
    "sglang[:_]", (*_GAUGES, *_COUNTERS, *(f"{name}_bucket" for name in _HISTOGRAMS))
)
_ROUTER_LINE = _pattern("", _ROUTER)


def _series(pattern: "re.Pattern[str]", page: str) -> Iterator[Series]:
    """The believable values of a page; of a series that it repeats, the last one."""
    last = {(name, labels): text for name, labels, text in pattern.findall(page)}
    for (name, labels), text in last.items():
        try:
            value = float(text)
        except ValueError:
            continue
        if 0 <= value <= LARGEST:
            yield name, dict(_LABEL.findall(labels)), value


def parse_engine_metrics(page: str, role: Role, at_s: float) -> tuple[EngineSample, CounterSample]:
    """Parse an engine's /metrics; None for every number that is missing.

    Ranks of tensor, pipeline and context parallelism repeat the numbers of one data-parallel rank
    and are counted once. Data-parallel ranks are added up, but for KV usage, which is their mean.

    Source: observability/metrics_collector.py of SGLang 0.5.23: the first attention rank of every
        data-parallel rank writes, all ranks with --enable-metrics-for-all-schedulers and under
        context parallelism (sgl-project/sglang#31896); dp_rank is there under both kinds of data
        parallelism, and tp_rank counts on across attention DP and context parallelism.
    """
    values: dict[str, list[float]] = {}
    buckets: dict[str, dict[float, float]] = {}
    for name, labels, value in _once_per_rank(_series(_ENGINE_LINE, page)):
        if name.endswith("_bucket"):
            bound = _bound(labels)
            if bound is not None:
                family = buckets.setdefault(name, {})
                family[bound] = family.get(bound, 0.0) + value
        else:
            key = f"{name}:{labels['mode']}" if "mode" in labels else name
            values.setdefault(key, []).append(value)
    sums = {key: sum(found) for key, found in values.items()}
    for name in ("token_usage", "full_token_usage"):
        sums.pop(name, None)
        if (share := _mean_share(values.get(name, ()))) is not None:
            sums[name] = share
    return _metrics_sample(sums, role, at_s), _metrics_counters(sums, buckets)


def _once_per_rank(series: Iterable[Series]) -> Iterator[Series]:
    """The series of the first pipeline and tensor rank of every data-parallel rank."""
    believed = [one for one in series if not _is_part(one)]
    first: dict[tuple[str, str], tuple[int, int]] = {}
    for name, labels, _ in believed:
        key = (name, labels.get("dp_rank", ""))
        first[key] = min(first.get(key, _place(labels)), _place(labels))
    for name, labels, value in believed:
        if _place(labels) == first[name, labels.get("dp_rank", "")]:
            yield name, labels, value


def _is_part(series: Series) -> bool:
    """Part of a gauge by priority, whose total is the series of no priority."""
    name, labels, _ = series
    return name in _GAUGES and bool(labels.get("priority"))


def _place(labels: Mapping[str, str]) -> tuple[int, int]:
    pp, tp = (labels.get(name, "0") for name in ("pp_rank", "tp_rank"))
    return (int(pp) if pp.isdecimal() else 0, int(tp) if tp.isdecimal() else 0)


def _bound(labels: Mapping[str, str]) -> float | None:
    try:
        return float(labels["le"])
    except (KeyError, ValueError):
        return None


def _metrics_sample(sums: Mapping[str, float], role: Role, at_s: float) -> EngineSample:
    def count(name: str) -> int | None:
        return round(sums[name]) if name in sums else None

    prefill, decode = role == "prefill", role == "decode"
    running = None if prefill else count("num_running_reqs")
    states = _state_usage(sums)
    return EngineSample(
        at_s=at_s,
        role=role,
        running=running,
        waiting=count("num_queue_reqs"),
        bootstrap=count("num_prefill_bootstrap_queue_reqs") if prefill else None,
        inflight=count("num_prefill_inflight_queue_reqs") if prefill else None,
        prealloc=count("num_decode_prealloc_queue_reqs") if decode else None,
        transfer=count("num_decode_transfer_queue_reqs") if decode else None,
        kv_usage=sums.get("token_usage" if states is None else "full_token_usage"),
        state_usage=states,
        tokens_per_s=None if prefill else live_speed(sums.get("gen_throughput"), running),
        requests_total=sums.get("num_requests_total"),
    )


def _state_usage(sums: Mapping[str, float]) -> float | None:
    """Share of the state pool in use; None for a model without one."""
    used, *others = (max(0.0, sums.get(name, 0.0)) for name in _STATE_POOL)
    slots = used + sum(others)
    return used / slots if slots else None


def with_pools(sample: EngineSample, gauges: EngineSample | None) -> EngineSample:
    """A sample of /v1/loads, with the pools of a hybrid model from the last page of /metrics.

    Source: managers/scheduler_components/observability/pool_stats_observer.py of SGLang 0.5.23:
    /v1/loads has one usage, which is that of the fuller pool.
    """
    if gauges is None or gauges.state_usage is None:
        return sample
    return replace(sample, state_usage=gauges.state_usage, kv_usage=gauges.kv_usage)


def _metrics_counters(
    sums: Mapping[str, float], buckets: Mapping[str, Mapping[float, float]]
) -> CounterSample:
    failed = [
        sums[name]
        for name in ("num_transfer_failed_reqs_total", "num_bootstrap_failed_reqs_total")
        if name in sums
    ]
    return CounterSample(
        prefill_tokens=sums.get("realtime_tokens_total:prefill_compute"),
        cached_tokens=sums.get("realtime_tokens_total:prefill_cache"),
        decode_tokens=sums.get("realtime_tokens_total:decode"),
        requests=sums.get("num_requests_total"),
        transfer_failures=sum(failed) if failed else None,
        ttft=_histogram(buckets.get("time_to_first_token_seconds_bucket")),
        itl=_histogram(buckets.get("inter_token_latency_seconds_bucket")),
        tpot=_histogram(buckets.get("request_time_per_output_token_seconds_bucket")),
    )


def _histogram(buckets: Mapping[float, float] | None) -> Histogram | None:
    return tuple(sorted(buckets.items())) if buckets else None


def parse_router_metrics(page: str) -> tuple[float | None, dict[str, str]]:
    """Requests that the router has accepted, and each engine's circuit breaker by URL."""
    requests: float | None = None
    breakers: dict[str, str] = {}
    for name, labels, value in _series(_ROUTER_LINE, page):
        if name in _BREAKER_STATES:
            state = _BREAKERS.get(int(value))
            if state is not None and "worker" in labels:
                breakers[labels["worker"].rstrip("/")] = state
        else:
            requests = (requests or 0.0) + value
    return requests, breakers
