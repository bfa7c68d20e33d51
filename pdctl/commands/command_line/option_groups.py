"""The options of long verbs in groups, so that --help can be read. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

ROLE_SIZES = tuple(
    f"{role}_{size}" for role in ("prefill", "decode") for size in ("tp", "pp", "dp", "ep")
)
# verb -> heading -> names of the options' parameters, in the order in which they are shown
GROUPS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "plan": {
        "GPUs and model": ("gpus", "gpu_file", "on", "profile"),
        "Requests": (
            *("trace", "time_unit", "lengths", "isl", "osl", "isl_cv", "osl_cv", "rate"),
            *("concurrency", "prefix_hit", "from_url", "window", "skip_bad", "api_key_file"),
        ),
        "Service levels": ("ttft", "tpot", "attainment", "fewest"),
        "Layouts to consider": (
            *("total", "tp", "pp", "dp", "ep", *ROLE_SIZES),
            *("spec_draft_tokens", "spec_accept_length", "seed"),
        ),
        "SGLang's settings": (
            *("attention_backend", "chunked_prefill_size", "mem_fraction_static"),
            *("kv_cache_dtype", "quantization", "page_size", "mamba_full_memory_ratio"),
            *("mamba_radix_cache_strategy", "policy", "args", "prefill_args", "decode_args"),
            *("scheduler_recv_interval", "release"),
        ),
    },
    "up": {
        "What to start": (
            *("file", "prefill", "total", "engine", "gpus", "name", "sim_speed"),
            *("on", "place"),
        ),
        "Engines": (
            *("tp", "pp", "dp", "ep", *ROLE_SIZES, "args", "prefill_args"),
            *("decode_args", "transfer_backend", "python", "trust_remote_code"),
            "no_request_times",
        ),
        "Router": ("host", "port", "policy", "router_args", "api_key_file"),
        "What to observe": ("ttft", "tpot", "metrics_endpoint", "otlp", "no_what_if"),
        "How to start": ("detach", "timeout", "resume", "dry_run"),
    },
    "measure": {
        "Requests": (
            *("isl", "osl", "isl_cv", "osl_cv", "rate", "concurrency", "prefix_hit", "trace"),
            *("time_unit", "duration", "repeats", "find_knee", "connections", "seed"),
        ),
        "Service levels": ("ttft", "tpot", "attainment"),
        "What to measure": ("total", "prefill", "target", "engine", "gpus", "profile"),
        "Engines": (
            *("tp", "pp", "dp", "ep", "args", "prefill_args", "decode_args"),
            *("transfer_backend", "python", "timeout", "api_key_file"),
        ),
    },
    "calibrate": {
        "What to measure": (
            *("url", "transfer", "from_url", "window", "from_logs", "budget", "earlier"),
        ),
        "Engines": (
            *("tp", "pp", "dp", "ep", "engine", "gpus", "args", "decode_args"),
            *("transfer_backend", "python", "sim_speed", "timeout", "api_key_file"),
        ),
    },
}
OTHERS = "Other options"  # of a verb with groups: what no group names


def grouped(verb: str, parameters: Iterable[Any]) -> dict[str, list[Any]]:
    """The options under their headings; those that no group names come last."""
    left = {one.name: one for one in parameters}
    found = {
        heading: [left.pop(name) for name in names if name in left]
        for heading, names in GROUPS.get(verb, {}).items()
    }
    heading = OTHERS if found else "Options"
    return {**found, heading: list(left.values())}
