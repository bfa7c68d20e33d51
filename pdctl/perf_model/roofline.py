"""Compile an LLM on GPUs under a parallelism down to one StepTimes record."""

from dataclasses import replace
from typing import Any

from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.collectives import pipeline_handover_s
from pdctl.perf_model.decode_cost import decode_cost
from pdctl.perf_model.efficiencies import PREFILL_START_S, REQUEST_S
from pdctl.perf_model.memory import check_parallelism, decode_graph_batch
from pdctl.perf_model.prefill_cost import launch_s, prefill_cost
from pdctl.perf_model.profile_checks import check_gpu
from pdctl.perf_model.rates import rates
from pdctl.perf_model.records import (
    SGLANG_DEFAULTS,
    Link,
    Parallelism,
    Profile,
    Role,
    Serving,
    StepTimes,
)
from pdctl.perf_model.shards import mean_shard
from pdctl.perf_model.transfer import assumed_cluster, kv_token_s, link_between_engines


def step_times(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    role: Role,
    *,
    profile: Profile | None = None,
    link: Link | None = None,
    serving: Serving | None = None,
    **changes: Any,
) -> StepTimes:
    """How long do the steps of one engine take?

    profile: measured factors on these roofline coefficients; its attention backend is taken.
    link: what KV travels over; by default the one between two engines of this cluster, whose
    RDMA rate is assumed where it is not known.
    changes: fields of Serving, over those of `serving`.

    Raises InvalidInput if the parallelism does not fit the LLM's shape, or the profile is another
    GPU's. Source: docs/equations.md; constants in efficiencies.py, collectives.py, transfer.py.
    """
    check_parallelism(llm, parallelism)
    cluster = assumed_cluster(cluster)
    serving = replace(serving or SGLANG_DEFAULTS, **changes)
    route = link or link_between_engines(cluster, parallelism)
    if profile:
        check_gpu(profile, cluster.gpu.name)
        serving = replace(serving, attention_backend=profile.attention_backend)
    times = _roofline(llm, cluster, parallelism, role, route, serving)
    return profile.scaled(times) if profile else times


def _roofline(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    role: Role,
    route: Link,
    serving: Serving,
) -> StepTimes:
    per_gpu = rates(llm, cluster.gpu, serving.attention_backend)
    part = mean_shard(llm, parallelism)
    handover = pipeline_handover_s(llm, cluster, parallelism)
    prefill = prefill_cost(llm, cluster, part, per_gpu, parallelism, serving)
    decode = decode_cost(llm, cluster, part, per_gpu, parallelism, role, serving)
    share, pp = _expert_share(llm), parallelism.pp
    return StepTimes(
        prefill_base_s=prefill.base_s / pp,
        prefill_token_s=prefill.token_s / pp,
        prefill_pair_s=prefill.pair_s / pp,
        prefill_weight_s=prefill.weight_s / pp,
        prefill_row_s=(prefill.row_s + handover.token_s) / pp,
        prefill_expert_share=share,
        prefill_cached_weight=per_gpu.cached_weight,
        prefill_cached_tokens=per_gpu.cached_tokens,
        decode_base_s=decode.base_s + handover.step_s,
        decode_dense_s=decode.dense_s,
        decode_split_s=decode.split_s,
        decode_wave_batch=decode.wave_batch,
        decode_weight_s=decode.weight_s,
        decode_request_s=decode.request_s + handover.token_s * serving.verify_tokens,
        decode_latency_s=decode.latency_s,
        decode_context_s=decode.context_s,
        decode_compute_s=decode.compute_s,
        eager_s=launch_s(llm),
        decode_graph_batch=_graph_batch(cluster, parallelism, serving),
        prefill_graphs=serving.prefill_graphs,
        transfer_base_s=route.base_s,
        transfer_token_s=kv_token_s(llm, parallelism, route, serving.kv_dtype_bytes),
        expert_share=1 - (1 - share) ** (serving.verify_tokens / pp),
        stages=pp,
        request_s=REQUEST_S,
        prefill_start_s=PREFILL_START_S,
    )


def _graph_batch(cluster: Cluster, parallelism: Parallelism, serving: Serving) -> int:
    """Graphs are captured per attention-DP rank; the engine's batch is spread over them."""
    if not serving.decode_graphs:
        return 0
    return parallelism.dp * (serving.graph_batch or decode_graph_batch(cluster.gpu, parallelism.tp))


def _expert_share(llm: Llm) -> float:
    return llm.experts.experts_per_token / llm.experts.num_experts if llm.experts else 1.0
