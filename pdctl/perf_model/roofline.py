"""Compile an LLM on GPUs under a parallelism down to one StepTimes record."""

from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.collectives import collectives, pipeline_handover_s
from pdctl.perf_model.decode_cost import decode_cost
from pdctl.perf_model.memory import check_parallelism, decode_graph_batch
from pdctl.perf_model.prefill_cost import PrefillCost, launch_s, prefill_cost
from pdctl.perf_model.profile_checks import check_gpu
from pdctl.perf_model.rates import rates
from pdctl.perf_model.records import Link, Parallelism, Profile, Role, StepTimes
from pdctl.perf_model.shards import mean_shard
from pdctl.perf_model.transfer import kv_token_s, link_between_engines


def step_times(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    role: Role,
    *,
    profile: Profile | None = None,
    link: Link | None = None,
    attention_backend: str | None = None,
    verify_tokens: int = 1,
    kv_dtype_bytes: float = 2.0,
    prefill_graphs: bool = True,
    decode_graphs: bool = True,
    graph_batch: int | None = None,
    two_batch_overlap: bool = False,
) -> StepTimes:
    """How long do the steps of one engine take?

    profile: measured factors on these roofline coefficients; its attention backend is taken.
    link: what KV travels over; by default the one between two engines of this cluster.
    verify_tokens: of speculative decoding, per request and step.
    prefill_graphs: False for the prefill engine of SGLang 0.5.15 and before, which runs eager.
    graph_batch: largest batch of a rank with a decode graph; by default SGLang's for this GPU.
    two_batch_overlap: SGLang's flag of that name: communication hides behind computation.

    Raises InvalidInput if the parallelism does not fit the LLM's shape, or the profile is another
    GPU's. Source: docs/equations.md; constants in efficiencies.py, collectives.py and transfer.py.
    """
    check_parallelism(llm, parallelism)
    if profile:
        check_gpu(profile, cluster.gpu.name)
    backend = attention_backend or (profile.attention_backend if profile else None)
    per_gpu = rates(llm, cluster.gpu, backend)
    part = mean_shard(llm, parallelism)
    handover = pipeline_handover_s(llm, cluster, parallelism)
    low_latency = collectives(llm, cluster, parallelism, normal=role != "decode")
    normal = collectives(llm, cluster, parallelism, normal=True)
    prefill = _one_stage(
        prefill_cost(
            llm,
            part,
            per_gpu,
            parallelism,
            normal,
            eager=not prefill_graphs,
            overlap=two_batch_overlap,
        ),
        parallelism.pp,
        handover.token_s,
    )
    decode = decode_cost(
        llm,
        part,
        per_gpu,
        parallelism,
        low_latency,
        bf16_flops=cluster.gpu.bf16_flops,
        verify_tokens=verify_tokens,
        kv_dtype_bytes=kv_dtype_bytes,
    )
    captured = graph_batch or decode_graph_batch(cluster.gpu, parallelism.tp)
    route = link or link_between_engines(cluster, parallelism)
    share = _expert_share(llm)
    times = StepTimes(
        prefill_base_s=prefill.base_s,
        prefill_token_s=prefill.token_s,
        prefill_pair_s=prefill.pair_s,
        prefill_floor_s=prefill.floor_s,
        prefill_weight_s=prefill.weight_s,
        prefill_expert_share=share,
        decode_base_s=decode.base_s + handover.step_s,
        decode_weight_s=decode.weight_s,
        decode_request_s=decode.request_s + handover.token_s * verify_tokens,
        decode_latency_s=decode.latency_s,
        decode_context_s=decode.context_s,
        decode_compute_s=decode.compute_s,
        decode_eager_s=launch_s(llm),
        decode_graph_batch=parallelism.dp * captured if decode_graphs else 0,
        transfer_base_s=route.base_s,
        transfer_token_s=kv_token_s(llm, parallelism, route, kv_dtype_bytes),
        expert_share=1 - (1 - share) ** (verify_tokens / parallelism.pp),
        stages=parallelism.pp,
    )
    return profile.scaled(times) if profile else times


def _expert_share(llm: Llm) -> float:
    return llm.experts.experts_per_token / llm.experts.num_experts if llm.experts else 1.0


def _one_stage(cost: PrefillCost, pp: int, handover_token_s: float) -> PrefillCost:
    return PrefillCost(
        base_s=cost.base_s / pp,
        token_s=(cost.token_s + handover_token_s) / pp,
        pair_s=cost.pair_s / pp,
        weight_s=cost.weight_s / pp,
        floor_s=cost.floor_s / pp,
    )
