"""What a simulated engine says of itself: the JSON of SGLang 0.5.23's information endpoints."""

import time
from dataclasses import dataclass
from datetime import datetime, timezone

from pdctl.engines.sim.engine import Engine
from pdctl.engines.sim.flags import MODES, SimFlags
from pdctl.engines.sim.record import LoadSnapshot
from pdctl.inspection.records import Llm

SGLANG_VERSION = "0.5.23"
# what a decode engine captures by default on a large GPU
DECODE_GRAPH_BATCHES = (1, 2, 4, 8, 12, *range(16, 257, 8))


@dataclass(frozen=True)
class Identity:
    """What does not change over an engine's life. Memory in GB as SGLang counts it (2^30)."""

    flags: SimFlags
    llm: Llm
    gpu_name: str
    weight_gb: float
    kv_gb: float
    kv_bytes_per_token: float
    started_at: float  # Unix seconds


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
    """GET /server_info: resolved flags, and one internal state."""
    arguments = _arguments(identity, engine)
    model = engine.model
    uptime_s = round(time.time() - identity.started_at, 3)
    internal = {
        **arguments,
        "world_size": model.parallelism.num_gpus,
        "effective_max_running_requests_per_dp": model.max_running_requests,
        "last_gen_throughput": engine.record.gen_throughput,
        "memory_usage": {
            "weight": identity.weight_gb,
            "kvcache": identity.kv_gb,
            "token_capacity": model.kv_capacity_tokens,
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
        "max_total_num_tokens": model.kv_capacity_tokens,
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
        "attn_dp_size": flags.dp,
        "ep_size": flags.ep,
        "load_balance_method": "follow_bootstrap_room"
        if flags.role == "prefill"
        else "round_robin",
        "disaggregation_mode": MODES[flags.role],
        "disaggregation_bootstrap_port": flags.bootstrap_port,
        "disaggregation_transfer_backend": "simulated",
        "enable_pd_role_switch": flags.role_switch,
        "chunked_prefill_size": model.chunked_prefill_size,
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
        "enable_metrics": flags.metrics,
        "skip_tokenizer_init": False,
    }


def current(engine: Engine) -> LoadSnapshot:
    """The state as SGLang publishes it: at once when idle, every 15 decode steps when busy."""
    published = engine.record.loads
    if published is None or engine.queues.queues.running == 0:
        return engine.record.snapshot(engine.queues, engine.now_s())
    return published


def loads(identity: Identity, engine: Engine) -> dict[str, object]:
    """GET /v1/loads. Times are wall-clock seconds; counters in µs are of the engine's own clock."""
    snapshot = current(engine)
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
    queues, record = snapshot.queues, engine.record
    usage = snapshot.used_tokens / max(snapshot.capacity_tokens, 1)
    return {
        "timestamp": at,
        "dp_rank": 0,
        # of a prefill engine SGLang counts its running batch here, which nobody ever enters
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
