"""The time that communication inside an engine takes: tensor-parallel and expert-parallel.

Each function answers with (seconds per step, seconds per token of the step).
"""

import math
from dataclasses import replace
from typing import Literal, NamedTuple

from pdctl.inspection.llm_size import state_bytes
from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.memory import attention_tp, sent_bytes_per_token, sent_window_bytes_per_token
from pdctl.perf_model.records import Link, Parallelism

# Shares of a link's rate that KV reaches.
# rdma: InferSim (50 GB/s x 0.8). pcie: assumed as rdma. tcp: assumed, one stream per engine.
# nvlink: measured between two H200s (NIXL over UCX, pages of one token): four transfers of
# 2312 MiB in all took 34.2 ms, BASE_S of each included, which leaves 100 of 450 GB/s
KV_COPY_RDMA_EFFICIENCY = 0.80
KV_COPY_PCIE_EFFICIENCY = 0.80
TCP_EFFICIENCY = 0.70
KV_COPY_NVLINK_EFFICIENCY = 100 / 450
NVLINK_LIMIT_BYTES_PER_S = 100e9
ASSUMED_RDMA_BYTES_PER_S = 50e9
TCP_BYTES_PER_S = 25e9 / 8  # a 25 Gbit/s port, where RDMA is unknown
# handshake, descriptors and two polls: 1-3 ms each way measured on H200, SGLang 0.5.15
BASE_S = 2.5e-3
TCP_BASE_S = 4e-3


def assumed_cluster(cluster: Cluster) -> Cluster:
    """The cluster with an RDMA rate between its nodes where none is known.

    Source: 400 Gbit/s per GPU is what HGX and DGX nodes with NVLink are built with.
    """
    if cluster.num_nodes == 1 or cluster.rdma_bytes_per_s or not cluster.gpu.peer_bytes_per_s:
        return cluster
    return replace(cluster, rdma_bytes_per_s=ASSUMED_RDMA_BYTES_PER_S)


def link_between_engines(cluster: Cluster, parallelism: Parallelism) -> Link:
    """The link a deployment on this cluster sends KV over.

    NVLink or PCIe while an engine pair fits one node, RDMA between nodes, TCP where the RDMA
    rate between several nodes is unknown.
    """
    if cluster.num_nodes == 1:
        return local_link(cluster)
    if cluster.rdma_bytes_per_s:
        return rdma_link(cluster.rdma_bytes_per_s)
    return tcp_link(TCP_BYTES_PER_S / max(1, parallelism.num_gpus))


def local_link(cluster: Cluster) -> Link:
    """The link between two GPUs of one node."""
    if cluster.gpu.peer_bytes_per_s:
        rate = min(
            KV_COPY_NVLINK_EFFICIENCY * cluster.gpu.peer_bytes_per_s, NVLINK_LIMIT_BYTES_PER_S
        )
        return Link("nvlink", rate, BASE_S, "100 GB/s measured between two H200s, NIXL over UCX")
    rate = KV_COPY_PCIE_EFFICIENCY * cluster.gpu.pcie_bytes_per_s
    return Link("pcie", rate, BASE_S, "PCIe rate x 0.8, assumed")


def rdma_link(bytes_per_s: float) -> Link:
    """One RDMA port per GPU; bytes_per_s: its nominal rate, 50e9 for 400 Gbit/s."""
    return Link("rdma", KV_COPY_RDMA_EFFICIENCY * bytes_per_s, BASE_S, "RDMA x 0.8: InferSim")


def tcp_link(bytes_per_s: float) -> Link:
    """A share of a node's Ethernet; bytes_per_s: its nominal rate for this GPU."""
    return Link("tcp", TCP_EFFICIENCY * bytes_per_s, TCP_BASE_S, "TCP rate x 0.7, assumed")


def kv_token_s(
    llm: Llm, parallelism: Parallelism, link: Link, kv_dtype_bytes: float | None = None
) -> float:
    """Seconds one token's KV and index take, over all links of the engine at once.

    Each GPU sends its own shard: GQA's heads over the attention group, layers over the
    pipeline; MLA's latent is whole on each GPU and one sends it. Attention-DP ranks send apart.
    kv_dtype_bytes: None takes what the checkpoint says.
    Ignores: that a request belongs to one rank, so a single one sees one rank's links.
    """
    size = kv_dtype_bytes or llm.kv_dtype_bytes
    rank_bytes = sent_bytes_per_token(llm, parallelism, size)
    copies = _copies(llm, parallelism)
    return rank_bytes / copies / parallelism.pp / parallelism.dp / link.bytes_per_s


def state_s(llm: Llm, parallelism: Parallelism, link: Link) -> float:
    """Seconds a request's state takes, over all links of its attention group at once.

    Source: sglang 0.5.23 disaggregation/utils.py: state is cut by tp like its heads.
    """
    held = state_bytes(llm) / attention_tp(parallelism)
    return held / parallelism.pp / link.bytes_per_s


def window_token_s(
    llm: Llm, parallelism: Parallelism, link: Link, kv_dtype_bytes: float | None = None
) -> float:
    """Seconds one token takes in the layers whose windows SGLang trims.

    kv_dtype_bytes: None takes what the checkpoint says.
    """
    size = kv_dtype_bytes or llm.kv_dtype_bytes
    rank_bytes = sent_window_bytes_per_token(llm, parallelism, size)
    copies = _copies(llm, parallelism)
    return rank_bytes / copies / parallelism.pp / parallelism.dp / link.bytes_per_s


def _copies(llm: Llm, parallelism: Parallelism) -> float:
    """GPUs of one attention group that hold the same KV and share the sending."""
    group = attention_tp(parallelism)
    return 1.0 if llm.attention == "mla" else max(1.0, group / llm.num_kv_heads)


# Shares of the nominal rate. nvlink: NCCL's and SGLang 0.5.9's own all-reduce of 64 to 256 MiB in
# AIConfigurator's tables: on H100 and H200 0.62, 0.72 and 0.92 with 2, 4 and 8 GPUs, on B200 0.55,
# 0.65 and 0.68 of twice the rate. rdma: InferSim.
ALL_REDUCE_NVLINK_EFFICIENCY = 0.80
ALL_REDUCE_NVLINK5_EFFICIENCY = 0.65
NVLINK4_BYTES_PER_S = 450e9
ALL_REDUCE_PCIE_EFFICIENCY = 0.60  # assumed: peer copies staged through host memory on many boards
ALL_REDUCE_RDMA_EFFICIENCY = 0.80
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


Dispatch = Literal["normal", "low_latency"]


class Cost(NamedTuple):
    """Seconds per step and seconds per token of the engine's step."""

    step_s: float
    token_s: float


def collectives(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    *,
    dispatch: Dispatch | None,
    prefill: bool,
) -> Cost:
    """All communication of one step over all layers, pipeline handovers apart.

    dispatch: DeepEP's mode; prefill and colocated engines use the normal one. None: no DeepEP.
    prefill: the step computes prompts, of which each attention-DP rank has its own number.
    """
    if dispatch is None or llm.experts is None:
        return all_reduce(llm, cluster, parallelism, uneven=prefill)
    moe_layers = llm.num_layers - llm.experts.num_dense_layers
    # DeepEP replaces the reduction after the experts; attention groups still reduce their own
    own = all_reduce(llm, cluster, parallelism, attention_only=True)
    moved = all_to_all(llm, cluster, parallelism, normal=dispatch == "normal")
    return Cost(own.step_s + moe_layers * moved.step_s, own.token_s + moe_layers * moved.token_s)


def all_reduce(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    *,
    attention_only: bool = False,
    uneven: bool = False,
) -> Cost:
    """Two all-reduces per layer of hidden_size bf16 values per token.

    Attention-DP gathers before the MLP and scatters after it: the same bytes as one all-reduce.
    uneven: ranks have different numbers of tokens, which SGLang brings together by an all-reduce
        and reduces by another.
    Source: ring all-reduce, 2·(n − 1)/n of the bytes over the slowest link of the group; sglang
    layers/dp_attention.py, SUM_LEN for prompts.
    Ignores: overlap with computation; NVLink multicast.
    """
    seconds, per_token = 0.0, 0.0
    groups = [attention_tp(parallelism)] if attention_only else _groups(parallelism)
    for size in groups:
        if size > 1:
            kind, rate = group_link(cluster, size)
            is_attention = size == attention_tp(parallelism)
            num = llm.num_layers * (1 if is_attention or not uneven else 2)
            seconds += num * ALL_REDUCE_S[kind]
            moved = 2 * (size - 1) / size * llm.hidden_size * 2.0
            per_token += num * moved * (1 / parallelism.dp if is_attention else 1.0) / rate
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
        return "rdma", ALL_REDUCE_RDMA_EFFICIENCY * rate
    if cluster.gpu.peer_bytes_per_s:
        nominal = cluster.gpu.peer_bytes_per_s
        wide = nominal > NVLINK4_BYTES_PER_S
        share = ALL_REDUCE_NVLINK5_EFFICIENCY if wide else ALL_REDUCE_NVLINK_EFFICIENCY
        return "nvlink", share * nominal
    return "pcie", ALL_REDUCE_PCIE_EFFICIENCY * cluster.gpu.pcie_bytes_per_s
