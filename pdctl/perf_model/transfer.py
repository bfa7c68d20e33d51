"""How long does KV take from a prefill engine to a decode engine?

SGLang sends a chunk's KV when its forward is done, while the next chunk computes; the last
chunk and the first token go last. So only the last chunk's transfer adds to the latency.
"""

from dataclasses import replace

from pdctl.inspection.llm_size import num_kv_layers
from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.records import Link, Parallelism, StepTimes
from pdctl.perf_model.shards import attention_tp, kv_layer_bytes

# Shares of a link's rate that KV reaches.
# rdma: InferSim (50 GB/s x 0.8). pcie: assumed as rdma. tcp: assumed, one stream per engine.
# nvlink: measured between two H200s (NIXL over UCX, pages of one token): four transfers of
# 2312 MiB in all took 34.2 ms, BASE_S of each included, which leaves 100 of 450 GB/s
RDMA_EFFICIENCY = 0.80
PCIE_EFFICIENCY = 0.80
TCP_EFFICIENCY = 0.70
NVLINK_EFFICIENCY = 100 / 450
NVLINK_LIMIT_BYTES_PER_S = 100e9
ASSUMED_RDMA_BYTES_PER_S = 50e9
TCP_BYTES_PER_S = 25e9 / 8  # a 25 Gbit/s port, where RDMA is unknown
# handshake, descriptors and two polls: 1-3 ms each way measured on H200, SGLang 0.5.15
BASE_S = 2.5e-3
TCP_BASE_S = 4e-3


def kv_transfer_s(times: StepTimes, tokens: float) -> float:
    """Seconds until the KV of `tokens` tokens has arrived, on an idle link."""
    return times.transfer_base_s + times.transfer_token_s * tokens


def exposed_tokens(prompt_tokens: int, cached_tokens: int, chunk: int) -> int:
    """Tokens of the last chunk: the ones whose transfer a request waits for.

    Source: sglang disaggregation/prefill.py sends each chunk after its own forward.
    Ignores: a transfer slower than prefill, whose earlier chunks queue up behind it.
    """
    new = max(1, prompt_tokens - cached_tokens)
    return (new - 1) % chunk + 1


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
    """Between two GPUs of one node."""
    if cluster.gpu.peer_bytes_per_s:
        rate = min(NVLINK_EFFICIENCY * cluster.gpu.peer_bytes_per_s, NVLINK_LIMIT_BYTES_PER_S)
        return Link("nvlink", rate, BASE_S, "100 GB/s measured between two H200s, NIXL over UCX")
    rate = PCIE_EFFICIENCY * cluster.gpu.pcie_bytes_per_s
    return Link("pcie", rate, BASE_S, "PCIe rate x 0.8, assumed")


def rdma_link(bytes_per_s: float) -> Link:
    """One RDMA port per GPU; bytes_per_s: its nominal rate, 50e9 for 400 Gbit/s."""
    return Link("rdma", RDMA_EFFICIENCY * bytes_per_s, BASE_S, "RDMA x 0.8: InferSim")


def tcp_link(bytes_per_s: float) -> Link:
    """A share of a node's Ethernet; bytes_per_s: its nominal rate for this GPU."""
    return Link("tcp", TCP_EFFICIENCY * bytes_per_s, TCP_BASE_S, "TCP rate x 0.7, assumed")


def kv_token_s(
    llm: Llm, parallelism: Parallelism, link: Link, kv_dtype_bytes: float = 2.0
) -> float:
    """Seconds one token's KV takes, over all links of the engine at once.

    Each GPU sends its own shard: GQA's heads over the attention group, layers over the
    pipeline; MLA's latent is whole on each GPU and one sends it. Attention-DP ranks send apart.
    Ignores: that a request belongs to one rank, so a single one sees one rank's links.
    """
    rank_bytes = kv_layer_bytes(llm, parallelism, kv_dtype_bytes) * num_kv_layers(llm)
    copies = _copies(llm, parallelism)
    return rank_bytes / copies / parallelism.pp / parallelism.dp / link.bytes_per_s


def _copies(llm: Llm, parallelism: Parallelism) -> float:
    """GPUs of one attention group that hold the same KV and share the sending."""
    group = attention_tp(parallelism)
    return 1.0 if llm.attention == "mla" else max(1.0, group / llm.num_kv_heads)
