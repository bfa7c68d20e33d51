"""One engine: its step times, its KV capacity, its limits; or why it cannot be."""

from dataclasses import replace
from typing import Any

from pdctl.inspection.records import Cluster, Llm
from pdctl.inspection.sglang_models import page_tokens
from pdctl.perf_model.memory import (
    check_parallelism,
    chunked_prefill_size,
    kv_capacity_tokens,
    max_running_requests,
    mem_fraction_static,
    running_cap,
    slots_each,
    state_slots,
    usual_serving,
    weight_bytes_per_gpu,
)
from pdctl.perf_model.records import (
    SGLANG_DEFAULTS,
    Balance,
    EngineModel,
    Link,
    Parallelism,
    Profile,
    Role,
    Serving,
)
from pdctl.perf_model.roofline import step_times
from pdctl.units import format_bytes

MIN_KV_TOKENS = 2048  # an engine that cannot hold one such prompt is of no use
UNKNOWN_CONTEXT = 131072


def engine_model(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    role: Role,
    *,
    profile: Profile | None = None,
    link: Link | None = None,
    serving: Serving | None = None,
    **limits: Any,
) -> EngineModel | None:
    """The engine SGLang would be when served so, or None.

    limits: fields of Serving, over those of `serving`.
    None: weights, or weights and MIN_KV_TOKENS of KV, do not fit; does_not_fit_reason says why.
    Raises InvalidInput if the parallelism does not fit the LLM's shape.
    """
    serving = usual_serving(replace(serving or SGLANG_DEFAULTS, **limits), parallelism, role)
    if does_not_fit_reason(llm, cluster, parallelism, role, serving=serving):
        return None
    capacity = kv_capacity_tokens(llm, cluster.gpu, parallelism, role, serving)
    context = serving.max_context or llm.max_context or UNKNOWN_CONTEXT
    speculative = serving.verify_tokens > 1
    wanted = serving.max_running or max_running_requests(
        capacity, context, speculative=speculative, dp=parallelism.dp
    )
    cap = running_cap(llm, cluster.gpu, parallelism, role, serving)
    return EngineModel(
        role=role,
        parallelism=parallelism,
        times=step_times(
            llm, cluster, parallelism, role, profile=profile, link=link, serving=serving
        ),
        kv_capacity_tokens=capacity,
        max_running_requests=min(wanted, cap) if cap is not None else wanted,
        chunked_prefill_size=_chunk(serving, cluster, parallelism, context),
        max_context=context,
        page_size=max(serving.page_size, page_tokens(llm.architecture)),
        reserved_decode_tokens=serving.reserved_decode_tokens,
        radix_cache=role != "decode" if serving.radix_cache is None else serving.radix_cache,
        mixed_chunk=serving.mixed_chunk,
        verify_tokens=serving.verify_tokens,
        accept_length=serving.accept_length,
        receive_interval=serving.receive_interval,
        state_slots=state_slots(llm, cluster.gpu, parallelism, role, serving),
        slots_per_request=slots_each(llm, role, serving),
        balance=serving.balance or usual_balance(role),
    )


def usual_balance(role: Role) -> Balance:
    """SGLang's default --load-balance-method.

    Source: sglang arg_groups/serving_hook.py (0.5.23), server_args.py (0.5.15).
    """
    return "follow_bootstrap_room" if role == "prefill" else "round_robin"


def _chunk(serving: Serving, cluster: Cluster, parallelism: Parallelism, context: int) -> int:
    """Tokens of one prefill step; where prompts are not cut, a whole context on each rank."""
    chunk = serving.chunk or chunked_prefill_size(cluster.gpu)
    return chunk if chunk > 0 else context * parallelism.dp


def does_not_fit_reason(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    role: Role,
    *,
    serving: Serving | None = None,
) -> str | None:
    """Why this engine cannot run, as a clause; None: it fits.

    Raises InvalidInput if the parallelism does not fit the LLM's shape.
    """
    check_parallelism(llm, parallelism)
    serving = usual_serving(serving or SGLANG_DEFAULTS, parallelism, role)
    if parallelism.num_gpus > cluster.num_gpus:
        return f"one engine takes {parallelism.num_gpus} GPUs and there are {cluster.num_gpus}"
    gpu = cluster.gpu
    weights = weight_bytes_per_gpu(llm, parallelism)
    usable = gpu.memory_bytes * mem_fraction_static(llm, gpu, parallelism, role, serving)
    shown = f"{llm.name} at tp {parallelism.tp}"
    if weights > usable:
        return (
            f"{shown} puts {format_bytes(weights)} of weights on each GPU; "
            f"{gpu.name} has {format_bytes(max(0.0, usable))} for weights and KV"
        )
    uncapped = replace(serving, max_total_tokens=None)
    tokens = kv_capacity_tokens(llm, gpu, parallelism, role, uncapped)
    if tokens < MIN_KV_TOKENS:
        return (
            f"{shown} leaves room for {max(0, tokens)} tokens of KV beside "
            f"{format_bytes(weights)} of weights on {gpu.name}; at least {MIN_KV_TOKENS} are needed"
        )
    if running_cap(llm, gpu, parallelism, role, serving) == 0:
        return (
            f"{shown} leaves no room for the state of one request beside "
            f"{format_bytes(weights)} of weights on {gpu.name}"
        )
    return None
