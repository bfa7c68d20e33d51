"""Information endpoints of a simulated engine: the JSON and metrics pages of SGLang 0.5.23."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

from pdctl.deployment.records import MODES
from pdctl.engines.sim.engine import Engine
from pdctl.engines.sim.flags import SimFlags
from pdctl.engines.sim.record import HistogramCounter, LoadSnapshot, StatePool
from pdctl.inspection.llm_size import moved_bytes
from pdctl.inspection.records import Llm

Labels = Mapping[str, str]
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SGLANG_VERSION = "0.5.23"
# batch sizes for which a decode engine captures CUDA graphs by default on a large GPU
DECODE_GRAPH_BATCHES = (1, 2, 4, 8, 12, *range(16, 257, 8))


@dataclass(frozen=True)
class Identity:
    """Constants of an engine's life. Memory in GB of 2^30 bytes, as SGLang counts it."""

    flags: SimFlags
    llm: Llm
    gpu_name: str
    weight_gb: float
    kv_gb: float
    started_at: float  # Unix seconds

    def moved_bytes(self, prompt_tokens: int) -> float:
        """Bytes that a prompt's transfer takes to decode: KV, index, windows and state."""
        return moved_bytes(self.llm, prompt_tokens)


def exposition(flags: SimFlags, engine: Engine) -> str:
    """The whole page of GET /metrics."""
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
    usage, states = snapshot.usage, snapshot.states or StatePool(0, 0)
    free = snapshot.capacity_tokens - snapshot.used_tokens - snapshot.evictable_tokens
    values: dict[str, float] = {
        "num_running_reqs": queues.running,
        "num_queue_reqs": queues.waiting,
        "num_grammar_queue_reqs": 0,
        "num_used_tokens": snapshot.used_tokens,
        "token_usage": round(usage, 2),
        "full_token_usage": snapshot.kv_usage,
        "mamba_usage": states.usage,
        "mamba_available_tokens": states.slots - states.used,
        "mamba_evictable_tokens": 0,
        "mamba_used_tokens": states.used,
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
    if engine.role != "prefill":  # prefill engines of SGLang never observe these
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


def _histogram(name: str, labels: Labels, histogram: HistogramCounter) -> Iterator[str]:
    yield f"# TYPE sglang:{name} histogram"
    yield from _rows(name, labels, histogram)


def _rows(name: str, labels: Labels, histogram: HistogramCounter) -> Iterator[str]:
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


def model_info(identity: Identity, engine: Engine) -> dict[str, object]:
    """GET /model_info."""
    flags, llm = identity.flags, identity.llm
    return {
        "model_path": flags.model,
        "served_model_name": flags.served_name,
        "tokenizer_path": flags.model,
        "is_generation": True,
        "preferred_sampling_params": None,
        "weight_version": "default",
        "load_format": "dummy",
        "reasoning_parser": None,
        "tool_call_parser": None,
        "disaggregation_mode": MODES[engine.role],
        "has_image_understanding": False,
        "has_audio_understanding": False,
        "model_type": llm.architecture.removesuffix("ForCausalLM").lower(),
        "architectures": [llm.architecture],
        "is_simulated": True,
    }


def server_info(identity: Identity, engine: Engine, status: str) -> dict[str, object]:
    """GET /server_info: resolved flags, and one internal state. Limits are those of one rank."""
    arguments = _arguments(identity, engine)
    model = engine.model
    ranks = model.parallelism.dp
    uptime_s = round(time.time() - identity.started_at, 3)
    internal = {
        **arguments,
        "world_size": model.parallelism.num_gpus,
        "effective_max_running_requests_per_dp": model.max_running_requests // ranks,
        "last_gen_throughput": engine.record.gen_throughput,
        **({"avg_spec_accept_length": model.accept_length} if model.verify_tokens > 1 else {}),
        "memory_usage": {
            "weight": identity.weight_gb,
            "kvcache": identity.kv_gb,
            "token_capacity": model.kv_capacity_tokens // ranks,
            "graph": {"decode": 0.5 if engine.role != "prefill" else 0.0},
        },
        "disaggregation_mode": MODES[engine.role],
        "decode_cuda_graph_bs": list(DECODE_GRAPH_BATCHES) if engine.role != "prefill" else [],
        "decode_cuda_graph_memory_gb": 0.5 if engine.role != "prefill" else 0.0,
    }
    return {
        **arguments,
        "launch_command": " ".join(("python -m pdctl.engines.sim", *identity.flags.argv)),
        "status": status,
        "max_total_num_tokens": model.kv_capacity_tokens // ranks,
        "max_req_input_len": model.max_context - 6,
        "startup_time": uptime_s,
        "kv_events": None,
        "internal_states": [internal],
        "version": SGLANG_VERSION,
        "is_simulated": True,
    }


def _arguments(identity: Identity, engine: Engine) -> dict[str, object]:
    flags, model = identity.flags, engine.model
    return {
        "model_path": flags.model,
        "tokenizer_path": flags.model,
        "served_model_name": flags.served_name,
        "host": flags.host,
        "port": flags.port,
        "tp_size": flags.tp,
        "pp_size": flags.pp,
        "dp_size": 1,
        "speculative_num_draft_tokens": model.verify_tokens if model.verify_tokens > 1 else None,
        "attn_dp_size": flags.dp,
        "ep_size": flags.ep,
        "load_balance_method": model.balance,
        "disaggregation_mode": MODES[flags.role],
        "disaggregation_bootstrap_port": flags.bootstrap_port,
        "disaggregation_transfer_backend": "simulated",
        "enable_pd_role_switch": flags.role_switch,
        "chunked_prefill_size": model.chunked_prefill_size // model.parallelism.dp,
        "max_prefill_tokens": 16384,
        "max_running_requests": model.max_running_requests,
        "max_total_tokens": flags.max_total_tokens,
        "num_reserved_decode_tokens": model.reserved_decode_tokens,
        "context_length": model.max_context,
        "page_size": model.page_size,
        "kv_cache_dtype": "auto",
        "quantization": identity.llm.quantization,
        "schedule_policy": "fcfs",
        "disable_radix_cache": not model.radix_cache,
        "disable_overlap_schedule": not flags.overlap,
        "enable_mixed_chunk": model.mixed_chunk,
        "scheduler_recv_interval": model.receive_interval,
        "enable_metrics": flags.metrics,
        "skip_tokenizer_init": False,
    }


def published_load(engine: Engine) -> LoadSnapshot:
    """The state that SGLang publishes: current when idle, every 15 decode steps when busy."""
    published = engine.record.loads
    if published is None or engine.queues.queues.running == 0:
        return engine.record.snapshot(engine.queues, engine.now_s())
    return published


def loads(identity: Identity, engine: Engine) -> dict[str, object]:
    """GET /v1/loads. Times are wall-clock seconds; counters in µs use the engine's own clock."""
    snapshot = published_load(engine)
    age_s = (engine.now_s() - snapshot.at_s) / engine.speed
    now = time.time()
    return {
        "timestamp": datetime.fromtimestamp(now, timezone.utc).isoformat(),
        "version": SGLANG_VERSION,
        "accelerator": identity.gpu_name,
        "num_accelerators": engine.model.parallelism.num_gpus,
        "loads": [_load(identity, engine, snapshot, now - age_s)],
    }


def _load(
    identity: Identity, engine: Engine, snapshot: LoadSnapshot, at: float
) -> dict[str, object]:
    queues, record, usage = snapshot.queues, engine.record, snapshot.usage
    return {
        "timestamp": at,
        "dp_rank": 0,
        # SGLang reports the running batch here, which is always empty on a prefill engine
        "num_running_reqs": 0 if engine.role == "prefill" else queues.running,
        "num_waiting_reqs": queues.num_waiting,
        "num_waiting_uncached_tokens": 0,
        "num_used_tokens": snapshot.used_tokens,
        "num_total_tokens": snapshot.used_tokens,
        "num_active_tokens": snapshot.context_tokens,
        "num_prealloc_ready_tokens": 0,
        "max_total_num_tokens": snapshot.capacity_tokens,
        "max_running_requests": engine.model.max_running_requests,
        "token_usage": round(usage, 4),
        "gen_throughput": snapshot.gen_throughput,
        "cache_hit_rate": round(snapshot.cache_hit_rate, 4),
        "utilization": -1.0 if engine.role == "prefill" else round(usage, 4),
        "total_prefill_uncached_tokens": record.prefill_tokens,
        "total_prefill_busy_us": round(record.prefill_busy_s * 1e6),
        "decode_moments": record.moments,
        "memory": {
            "weight_gb": identity.weight_gb,
            "kv_cache_gb": identity.kv_gb,
            "graph_gb": 0.5,
            "token_capacity": snapshot.capacity_tokens,
        },
        "disaggregation": {
            "mode": MODES[engine.role],
            "prefill_bootstrap_queue_reqs": queues.bootstrap,
            "prefill_inflight_queue_reqs": queues.inflight,
            "decode_prealloc_queue_reqs": queues.prealloc,
            "decode_transfer_queue_reqs": queues.transfer,
            "decode_retracted_queue_reqs": queues.retracted,
            "kv_transfer_speed_gb_s": record.transfer_gb_per_s,
            "kv_transfer_latency_ms": record.transfer_ms,
        },
        "queues": {
            "waiting": queues.waiting,
            "grammar": 0,
            "paused": 0,
            "retracted": queues.retracted,
            "prealloc_ready": 0,
        },
    }
