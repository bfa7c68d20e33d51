"""The records of inspection: what a GPU, a cluster and an LLM are to the rest of pdctl."""

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Literal

from pdctl.inspection.layers import Layer

Attention = Literal["gqa", "mla"]


@dataclass(frozen=True)
class GpuModel:
    """A kind of GPU, as its datasheet has it. Dense rates, no sparsity; per GPU, per direction."""

    name: str
    memory_bytes: float
    bandwidth_bytes_per_s: float
    bf16_flops: float
    fp8_flops: float | None
    fp4_flops: float | None
    peer_bytes_per_s: float | None  # NVLink or xGMI; None: only PCIe
    pcie_bytes_per_s: float
    source: str
    guesses: tuple[str, ...] = ()  # what a plan for it rests on, in sentences
    file: str = ""  # that describes it: an absolute path; "": pdctl knows it


@dataclass(frozen=True)
class Holder:
    """A process that holds memory of a GPU."""

    pid: int
    name: str
    used_bytes: int | None


@dataclass(frozen=True)
class Gpu:
    """One card of this machine, as NVML sees it. `problem` is set when it could not be read."""

    index: int
    name: str
    uuid: str
    memory_total_bytes: int | None
    memory_used_bytes: int | None
    holders: tuple[Holder, ...] = ()
    nvlink_peers: tuple[int, ...] = ()
    numa_node: int | None = None
    problem: str | None = None
    pci_path: str = ""  # the bridges above it, "pci0000:15/0000:15:01.0/0000:16:00.0"
    fabric: str = ""  # the NVLink fabric that it shares with GPUs of other hosts


@dataclass(frozen=True)
class GpuLoad:
    """One or more GPUs at work. utilization: share of time in which a kernel ran, 0..1."""

    utilization: float
    power_w: float
    memory_used_bytes: int
    memory_total_bytes: int


@dataclass(frozen=True)
class RdmaPort:
    """One port of an RDMA device, from /sys/class/infiniband."""

    device: str
    port: int
    state: str  # "ACTIVE", "DOWN", ...
    bytes_per_s: float | None
    numa_node: int | None = None
    pci_path: str = ""  # as that of a GPU


@dataclass(frozen=True)
class Cluster:
    """The GPUs a plan may use: nodes of equal cards, each of which NVLink or PCIe joins.

    hosts: the GPUs of each machine, where they differ or NVLink joins several to one node; empty:
    a machine is a node. Of unequal ones `gpus_per_node` is the most. largest_host: the GPUs of the
    largest machine, those in use too; None: none is.
    """

    gpu: GpuModel
    num_nodes: int
    gpus_per_node: int
    rdma_bytes_per_s: float | None  # per GPU, between nodes; None: unknown
    origin: Literal["described", "detected"]
    devices: tuple[Gpu, ...] = ()  # empty when described
    hosts: tuple[int, ...] = ()
    largest_host: int | None = None

    @property
    def num_gpus(self) -> int:
        return sum(self.hosts) or self.num_nodes * self.gpus_per_node

    def with_equal_nodes(self, num_nodes: int, gpus_per_node: int) -> "Cluster":
        """The same cards in so many machines that are all free."""
        return replace(
            self, num_nodes=num_nodes, gpus_per_node=gpus_per_node, hosts=(), largest_host=None
        )

    @property
    def num_hosts_of(self) -> Counter[int]:
        """The number of machines with so many GPUs, by that number."""
        return Counter(self.hosts) or Counter({self.gpus_per_node: self.num_nodes})


@dataclass(frozen=True)
class Experts:
    """The mixture-of-experts part of an LLM."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int  # of one routed expert
    shared_intermediate_size: int  # of all shared experts together; 0: none
    num_dense_layers: int  # layers without experts, mostly the leading ones


@dataclass(frozen=True)
class Llm:
    """The shape of a language model, as its config.json has it.

    weight bytes differ by part because quantisation configs leave parts alone:
    `expert_bytes` for routed experts, `linear_bytes` for the other matrices of a layer,
    `embedding_bytes` for embeddings and head. All are bytes per parameter.
    """

    name: str
    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int  # of a dense layer's MLP
    vocab_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int  # of queries and keys; with mla the rotary part included
    v_head_dim: int
    attention: Attention = "gqa"
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None  # mla only
    rope_head_dim: int | None = None  # mla only
    experts: Experts | None = None
    sliding_window: int | None = None
    num_sliding_layers: int = 0
    num_state_layers: int = 0  # linear attention, state space: no cache that grows with context
    mlp_matrices: int = 3  # 3: gated (SwiGLU); 2: plain up and down
    tied_embeddings: bool = False
    linear_bytes: float = 2.0
    expert_bytes: float = 2.0
    embedding_bytes: float = 2.0
    compute_dtype: Literal["bf16", "fp8", "fp4"] = "bf16"
    max_context: int | None = None
    quantization: str | None = None
    path: str | None = None  # what --model-path takes, when it is not a bundled shape
    assumptions: tuple[str, ...] = field(default=())  # what the reader assumed, in sentences
    guesses: tuple[str, ...] = ()  # those of them that figures rest on
    layers: tuple[Layer, ...] = ()
    kv_dtype_bytes: float = 2.0  # of --kv-cache-dtype auto: what the checkpoint says
    trims_windows: bool = False  # SGLang keeps only the last window of layers that have one
    weight_block: int | None = None  # rows and columns of weights that share a scale
    per_layer_embedding: int = 0  # parameters looked up beside the embedding, layer by layer


@dataclass(frozen=True)
class SglangInstall:
    """An SGLang found in some Python. None of version: not installed."""

    python: str
    version: str | None
    backends: tuple[str, ...]  # KV transfer backends that import: "mooncake", "nixl", ...
    router_version: str | None
