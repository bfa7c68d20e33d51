"""GET /metrics: SGLang's names and labels in Prometheus' text format.

Written by hand: prometheus_client costs 59 ms of CPU at start-up, and nothing here needs it.
"""

from collections.abc import Iterator, Mapping

from pdctl.engines.sim.engine import Engine
from pdctl.engines.sim.flags import MODES, SimFlags
from pdctl.engines.sim.record import Histogram, LoadSnapshot

Labels = Mapping[str, str]
TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition(flags: SimFlags, engine: Engine) -> str:
    """The whole page."""
    engine_type = "dynamic" if flags.role_switch else MODES[flags.role].replace("null", "unified")
    tokenizer = {"engine_type": engine_type, "model_name": flags.served_name}
    scheduler = {**tokenizer, "moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}
    published = engine.record.gauges
    if published is None or engine.queues.queues.running == 0:
        published = engine.record.snapshot(engine.queues, engine.now_s())
    lines = [
        *_gauges(scheduler, published, engine),
        *_counters(scheduler, tokenizer, engine),
        *_histograms(scheduler, tokenizer, engine),
    ]
    return "\n".join(lines) + "\n"


def _gauges(labels: Labels, snapshot: LoadSnapshot, engine: Engine) -> Iterator[str]:
    queues = snapshot.queues
    usage = snapshot.used_tokens / max(snapshot.capacity_tokens, 1)
    free = snapshot.capacity_tokens - snapshot.used_tokens - snapshot.evictable_tokens
    values: dict[str, float] = {
        "num_running_reqs": queues.running,
        "num_queue_reqs": queues.waiting,
        "num_grammar_queue_reqs": 0,
        "num_used_tokens": snapshot.used_tokens,
        "token_usage": round(usage, 2),
        "full_token_usage": usage,
        "kv_available_tokens": free,
        "kv_evictable_tokens": snapshot.evictable_tokens,
        "kv_used_tokens": snapshot.used_tokens,
        "max_total_num_tokens": snapshot.capacity_tokens,
        "utilization": -1.0 if engine.role == "prefill" else usage,
        "gen_throughput": snapshot.gen_throughput,
        "cache_hit_rate": snapshot.cache_hit_rate,
        "decode_sum_seq_lens": snapshot.context_tokens,
        "num_prefill_bootstrap_queue_reqs": queues.bootstrap,
        "num_prefill_inflight_queue_reqs": queues.inflight,
        "num_decode_prealloc_queue_reqs": queues.prealloc,
        "num_decode_transfer_queue_reqs": queues.transfer,
        "pending_prealloc_token_usage": 0,
        "num_retracted_reqs": queues.retracted,
        "page_size": engine.model.page_size,
        "context_len": engine.model.max_context,
    }
    for name, value in values.items():
        yield f"# TYPE sglang:{name} gauge"
        yield f"sglang:{name}{_braces(labels)} {float(value)}"


def _counters(scheduler: Labels, tokenizer: Labels, engine: Engine) -> Iterator[str]:
    record = engine.record
    streaming = {**tokenizer, "is_streaming": "true"}
    rows: tuple[tuple[str, Labels, float], ...] = (
        ("num_bootstrap_failed_reqs_total", scheduler, record.num_bootstrap_failed),
        ("num_transfer_failed_reqs_total", scheduler, record.num_transfer_failed),
        ("num_prefill_retries_total", scheduler, 0),
        ("num_retracted_requests_total", scheduler, engine.queues.num_retracted),
        ("prompt_tokens_total", streaming, record.prompt_tokens),
        ("generation_tokens_total", streaming, record.generated_tokens),
        ("cached_tokens_total", {**tokenizer, "cache_source": "device"}, record.cached_tokens),
        ("num_requests_total", streaming, record.num_requests),
        ("num_aborted_requests_total", tokenizer, record.num_aborted),
        ("realtime_tokens_total", {**scheduler, "mode": "prefill_compute"}, record.prefill_tokens),
        ("realtime_tokens_total", {**scheduler, "mode": "prefill_cache"}, record.cached_tokens),
        ("realtime_tokens_total", {**scheduler, "mode": "decode"}, record.generated_tokens),
    )
    last = ""
    for name, labels, value in rows:
        if name != last:
            yield f"# TYPE sglang:{name.removesuffix('_total')} counter"
        yield f"sglang:{name}{_braces(labels)} {float(value)}"
        last = name


def _histograms(scheduler: Labels, tokenizer: Labels, engine: Engine) -> Iterator[str]:
    record = engine.record
    streaming = {**tokenizer, "is_streaming": "true"}
    yield from _histogram("queue_time_seconds", scheduler, record.queue_s)
    if engine.role != "prefill":  # SGLang's prefill engines never observe these
        yield from _histogram("time_to_first_token_seconds", streaming, record.ttft_s)
        yield from _histogram("inter_token_latency_seconds", tokenizer, record.itl_s)
        yield from _histogram("request_time_per_output_token_seconds", tokenizer, record.tpot_s)
    yield from _histogram("e2e_request_latency_seconds", streaming, record.e2e_s)
    yield from _histogram("prompt_tokens_histogram", tokenizer, record.prompt_lengths)
    yield from _histogram("generation_tokens_histogram", tokenizer, record.output_lengths)
    if engine.role == "prefill":
        yield from _histogram("kv_transfer_speed_gb_s", scheduler, record.transfer_speed)
        yield from _histogram("kv_transfer_latency_ms", scheduler, record.transfer_latency_ms)
    yield "# TYPE sglang:per_stage_req_latency_seconds histogram"
    for stage, histogram in record.stages.items():
        labels = {**scheduler, "stage": stage}
        yield from _rows("per_stage_req_latency_seconds", labels, histogram)


def _histogram(name: str, labels: Labels, histogram: Histogram) -> Iterator[str]:
    yield f"# TYPE sglang:{name} histogram"
    yield from _rows(name, labels, histogram)


def _rows(name: str, labels: Labels, histogram: Histogram) -> Iterator[str]:
    total = 0
    for bound, count in zip((*histogram.bounds, None), histogram.counts, strict=True):
        total += count
        le = "+Inf" if bound is None else str(float(bound))
        yield f"sglang:{name}_bucket{_braces({**labels, 'le': le})} {float(total)}"
    yield f"sglang:{name}_sum{_braces(labels)} {histogram.sum}"
    yield f"sglang:{name}_count{_braces(labels)} {float(total)}"


def _braces(labels: Labels) -> str:
    inside = ",".join(f'{key}="{_escaped(value)}"' for key, value in labels.items())
    return "{" + inside + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
