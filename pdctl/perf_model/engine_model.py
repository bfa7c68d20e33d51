"""One engine: its step times, its KV capacity, its limits; or why it cannot be."""

from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.memory import (
    check_parallelism,
    chunked_prefill_size,
    kv_capacity_tokens,
    max_running_requests,
    mem_fraction_static,
    weight_bytes_per_gpu,
)
from pdctl.perf_model.records import EngineModel, Link, Parallelism, Profile, Role
from pdctl.perf_model.roofline import step_times
from pdctl.units import format_bytes

# an engine that cannot hold one prompt of a chunk is of no use
MIN_KV_TOKENS = 2048


def engine_model(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    role: Role,
    *,
    profile: Profile | None = None,
    link: Link | None = None,
    attention_backend: str | None = None,
    chunk: int | None = None,
    max_running: int | None = None,
    max_total_tokens: int | None = None,
    mem_fraction: float | None = None,
    max_context: int | None = None,
    page_size: int = 1,
    reserved_decode_tokens: int = 512,
    radix_cache: bool | None = None,
    mixed_chunk: bool = False,
    verify_tokens: int = 1,
    accept_length: float = 1.0,
    kv_dtype_bytes: float = 2.0,
    prefill_graphs: bool = True,
    decode_graphs: bool = True,
    graph_batch: int | None = None,
    two_batch_overlap: bool = False,
) -> EngineModel | None:
    """The engine SGLang would be with these limits (its defaults where None), or None.

    None: weights, or weights and MIN_KV_TOKENS of KV, do not fit; does_not_fit_reason says why.
    Raises InvalidInput if the parallelism does not fit the LLM's shape.
    """
    if does_not_fit_reason(llm, cluster, parallelism, role, mem_fraction=mem_fraction, chunk=chunk):
        return None
    capacity = kv_capacity_tokens(
        llm,
        cluster.gpu,
        parallelism,
        role,
        mem_fraction=mem_fraction,
        kv_dtype_bytes=kv_dtype_bytes,
        page_size=page_size,
        max_total_tokens=max_total_tokens,
        chunk=chunk,
        graph_batch=graph_batch,
        verify_tokens=verify_tokens,
    )
    context = max_context or llm.max_context or 131072
    speculative = verify_tokens > 1
    return EngineModel(
        role=role,
        parallelism=parallelism,
        times=step_times(
            llm,
            cluster,
            parallelism,
            role,
            profile=profile,
            link=link,
            attention_backend=attention_backend,
            verify_tokens=verify_tokens,
            kv_dtype_bytes=kv_dtype_bytes,
            prefill_graphs=prefill_graphs,
            decode_graphs=decode_graphs,
            graph_batch=graph_batch,
            two_batch_overlap=two_batch_overlap,
        ),
        kv_capacity_tokens=capacity,
        max_running_requests=max_running
        or max_running_requests(capacity, context, speculative=speculative, dp=parallelism.dp),
        chunked_prefill_size=chunk or chunked_prefill_size(cluster.gpu, parallelism.dp),
        max_context=context,
        page_size=page_size,
        reserved_decode_tokens=reserved_decode_tokens,
        radix_cache=role != "decode" if radix_cache is None else radix_cache,
        mixed_chunk=mixed_chunk,
        verify_tokens=verify_tokens,
        accept_length=accept_length,
    )


def does_not_fit_reason(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    role: Role,
    *,
    mem_fraction: float | None = None,
    chunk: int | None = None,
) -> str | None:
    """Why this engine cannot run, in one sentence; None: it fits.

    Raises InvalidInput if the parallelism does not fit the LLM's shape.
    """
    check_parallelism(llm, parallelism)
    if parallelism.num_gpus > cluster.num_gpus:
        return f"one engine takes {parallelism.num_gpus} GPUs and there are {cluster.num_gpus}"
    gpu = cluster.gpu
    fraction = mem_fraction or mem_fraction_static(llm, gpu, parallelism, role, chunk=chunk)
    weights = weight_bytes_per_gpu(llm, parallelism)
    usable = gpu.memory_bytes * fraction
    shown = f"{llm.name} at tp {parallelism.tp}"
    if weights > usable:
        return (
            f"{shown} puts {format_bytes(weights)} of weights on each GPU; "
            f"{gpu.name} has {format_bytes(max(0.0, usable))} for weights and KV"
        )
    tokens = kv_capacity_tokens(llm, gpu, parallelism, role, mem_fraction=mem_fraction, chunk=chunk)
    if tokens < MIN_KV_TOKENS:
        return (
            f"{shown} leaves room for {max(0, tokens)} tokens of KV beside "
            f"{format_bytes(weights)} of weights on {gpu.name}; at least {MIN_KV_TOKENS} are needed"
        )
    return None
