"""What communication inside an engine costs: tensor-parallel and expert-parallel.

Each function answers with (seconds per step, seconds per token of the step).
"""

import math
from typing import NamedTuple

from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.records import Parallelism
from pdctl.perf_model.shards import attention_tp

# Shares of the nominal rate. Source: InferSim (NVLink and RDMA x 0.8).
NVLINK_EFFICIENCY = 0.80
PCIE_EFFICIENCY = 0.60  # assumed: peer copies staged through host memory on many boards
RDMA_EFFICIENCY = 0.80
DEFAULT_RDMA_BYTES_PER_S = 50e9 / 2  # 200 Gbit/s, where a cluster does not say
# Latency of one small all-reduce. Source: one-shot kernels in CUDA graphs, 6-10 µs on 8 GPUs over
# NVLink; NCCL over PCIe and RDMA 20-40 µs. Assumed from published all-reduce benchmarks.
ALL_REDUCE_S = {"nvlink": 8e-6, "pcie": 25e-6, "rdma": 40e-6}
# DeepEP README, H800, 128 tokens per rank, low latency: dispatch 77-194 µs, combine 114-360 µs
# for 8-128 ranks; the part that does not depend on bytes.
LOW_LATENCY_A2A_S = 60e-6
NORMAL_A2A_S = 150e-6
# bytes per value: dispatch in FP8 with scales, combine in bf16
DISPATCH_BYTES = 1.0 + 4 / 128
COMBINE_BYTES = 2.0


class Cost(NamedTuple):
    """Seconds per step and seconds per token of the engine's step."""

    step_s: float
    token_s: float


def collectives(llm: Llm, cluster: Cluster, parallelism: Parallelism, *, normal: bool) -> Cost:
    """All communication of one step over all layers, pipeline handovers apart.

    normal: DeepEP's normal mode, which prefill and colocated engines use; else low latency.
    """
    reduce = all_reduce(llm, cluster, parallelism)
    if parallelism.ep <= 1 or parallelism.dp <= 1 or llm.experts is None:
        return reduce
    moe_layers = llm.num_layers - llm.experts.num_dense_layers
    # DeepEP replaces the reduction after the experts; attention groups still reduce their own
    own = all_reduce(llm, cluster, parallelism, attention_only=True)
    moved = all_to_all(llm, cluster, parallelism, normal=normal)
    return Cost(own.step_s + moe_layers * moved.step_s, own.token_s + moe_layers * moved.token_s)


def all_reduce(
    llm: Llm, cluster: Cluster, parallelism: Parallelism, *, attention_only: bool = False
) -> Cost:
    """Two all-reduces per layer of hidden_size bf16 values per token.

    Attention-DP gathers before the MLP and scatters after it: the same bytes as one all-reduce.
    Source: ring all-reduce, 2·(n − 1)/n of the bytes over the slowest link of the group.
    Ignores: overlap with computation; NVLink multicast.
    """
    seconds, per_token = 0.0, 0.0
    groups = [attention_tp(parallelism)] if attention_only else _groups(parallelism)
    for size in groups:
        if size > 1:
            kind, rate = group_link(cluster, size)
            seconds += llm.num_layers * ALL_REDUCE_S[kind]
            moved = 2 * (size - 1) / size * llm.hidden_size * 2.0
            share = 1 / parallelism.dp if size == attention_tp(parallelism) else 1.0
            per_token += llm.num_layers * moved * share / rate
    return Cost(seconds, per_token)


def _groups(parallelism: Parallelism) -> list[int]:
    return [attention_tp(parallelism), parallelism.tp]


def all_to_all(llm: Llm, cluster: Cluster, parallelism: Parallelism, *, normal: bool) -> Cost:
    """Dispatch to experts and combine, of one layer.

    Normal mode sends a token once to each node it needs over RDMA and fans out over NVLink; low
    latency sends it once per expert. The bytes of one of the engine's tokens leave one of its
    ep GPUs. Source: DeepEP README; InferSim comm.py.
    Ignores: overlap with computation (two-batch overlap), uneven routing.
    """
    assert llm.experts is not None
    value_bytes = llm.hidden_size * (DISPATCH_BYTES + COMBINE_BYTES)
    kind, rate = group_link(cluster, parallelism.ep)
    experts = min(llm.experts.experts_per_token, parallelism.ep)
    nodes = math.ceil(parallelism.ep / cluster.gpus_per_node)
    if normal:
        # group-limited routing keeps a token within four nodes (DeepSeek-V3 report, 3.2.2)
        remote = min(experts, nodes, 4) * (nodes - 1) / nodes
        _, local_rate = group_link(cluster, min(parallelism.ep, cluster.gpus_per_node))
        seconds = value_bytes * (remote / rate + experts / nodes / local_rate)
        return Cost(NORMAL_A2A_S, seconds / parallelism.ep)
    remote_share = (nodes - 1) / nodes if kind == "rdma" else 1.0
    return Cost(LOW_LATENCY_A2A_S, value_bytes * experts * remote_share / rate / parallelism.ep)


def pipeline_handover_s(llm: Llm, cluster: Cluster, parallelism: Parallelism) -> Cost:
    """Activations passed between pipeline stages."""
    if parallelism.pp <= 1:
        return Cost(0.0, 0.0)
    kind, rate = group_link(cluster, parallelism.num_gpus)
    hops = parallelism.pp - 1
    return Cost(hops * ALL_REDUCE_S[kind], hops * llm.hidden_size * 2.0 / parallelism.tp / rate)


def group_link(cluster: Cluster, size: int) -> tuple[str, float]:
    """Kind and bytes/s per GPU of the slowest link in a group of `size` GPUs."""
    if size > cluster.gpus_per_node:
        rate = cluster.rdma_bytes_per_s or DEFAULT_RDMA_BYTES_PER_S
        return "rdma", RDMA_EFFICIENCY * rate
    if cluster.gpu.peer_bytes_per_s:
        return "nvlink", NVLINK_EFFICIENCY * cluster.gpu.peer_bytes_per_s
    return "pcie", PCIE_EFFICIENCY * cluster.gpu.pcie_bytes_per_s
