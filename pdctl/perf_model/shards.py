"""What one GPU holds of an LLM: parameters by part and KV per token, under a parallelism.

SGLang's sharding rules. Per layer a GPU of the attention group (tp / dp GPUs) holds its heads;
MLA's down-projections and its latent KV are whole on every GPU; experts and dense MLPs are cut
over all of tp; shared experts are whole on every GPU under expert parallelism. Embedding and
head are cut over tp, the embedding is whole under attention-DP. With pp, this is the stage that
holds most. Source: sglang srt/models/{llama,qwen3_moe,deepseek_v2}.py, srt/layers/dp_attention.py.
"""

import math
from dataclasses import dataclass

from pdctl.inspection.llm_size import attention_params_per_layer, expert_params, num_kv_layers
from pdctl.inspection.records import Llm
from pdctl.perf_model.records import Parallelism

# SGLang's default size of the sliding-window KV pool against the full one
SWA_FULL_TOKENS_RATIO = 0.8


@dataclass(frozen=True)
class Shard:
    """Parameters of one GPU by part, over its layers; not bytes."""

    layers: float
    attention: float
    dense_mlp: float
    shared_experts: float
    routed_experts: float
    embedding: float
    head: float

    @property
    def streamed(self) -> float:
        """Read by every step whatever it routes: all but routed experts and embedding."""
        return self.attention + self.dense_mlp + self.shared_experts


def shard(llm: Llm, parallelism: Parallelism) -> Shard:
    """What one GPU of the fullest pipeline stage holds, in parameters."""
    return _shard(llm, parallelism, math.ceil(llm.num_layers / parallelism.pp))


def mean_shard(llm: Llm, parallelism: Parallelism) -> Shard:
    """What a GPU would hold with pp = 1: the layers one request passes through."""
    return _shard(llm, parallelism, llm.num_layers)


def _shard(llm: Llm, parallelism: Parallelism, layers: int) -> Shard:
    tp, share = parallelism.tp, layers / llm.num_layers
    experts = llm.experts
    moe = (llm.num_layers - experts.num_dense_layers) * share if experts else 0.0
    matrices = llm.mlp_matrices * llm.hidden_size
    shared = moe * matrices * experts.shared_intermediate_size if experts else 0.0
    vocabulary = llm.vocab_size * llm.hidden_size
    return Shard(
        layers=layers,
        attention=layers * attention_params(llm, attention_tp(parallelism)),
        dense_mlp=(layers - moe) * matrices * llm.intermediate_size / tp,
        shared_experts=shared / (1 if parallelism.ep > 1 else tp),
        routed_experts=expert_params(llm) * share / tp,
        embedding=0.0 if llm.tied_embeddings else vocabulary / (1 if parallelism.dp > 1 else tp),
        head=vocabulary / tp,
    )


def attention_tp(parallelism: Parallelism) -> int:
    """GPUs that share the heads of one attention group."""
    return max(1, parallelism.tp // parallelism.dp)


def attention_params(llm: Llm, tp: int) -> float:
    """Parameters of one layer's attention on one of `tp` GPUs."""
    whole = attention_params_per_layer(llm)
    if llm.attention == "mla":
        latent = (llm.kv_lora_rank or 0) + (llm.rope_head_dim or 0) + (llm.q_lora_rank or 0)
        down = llm.hidden_size * latent
        return down + (whole - down) / tp
    kv = llm.hidden_size * (llm.head_dim + llm.v_head_dim)
    return (whole - kv * llm.num_kv_heads) / tp + kv * kv_heads(llm, tp)


def kv_heads(llm: Llm, tp: int) -> float:
    """KV heads on one of `tp` GPUs; fewer heads than GPUs are copied."""
    return max(1.0, llm.num_kv_heads / tp)


def kv_layer_bytes(llm: Llm, parallelism: Parallelism, kv_dtype_bytes: float) -> float:
    """KV bytes of one token and layer on one GPU.

    Source: 2·h_kv·d·s for GQA, (r_kv + r_rope)·s for MLA, not divided by tp
    (sglang model_executor/pool_configurator.py).
    """
    if llm.attention == "mla":
        return ((llm.kv_lora_rank or 0) + (llm.rope_head_dim or 0)) * kv_dtype_bytes
    per_head = (llm.head_dim + llm.v_head_dim) * kv_dtype_bytes
    return kv_heads(llm, attention_tp(parallelism)) * per_head


def kv_cell_bytes(llm: Llm, parallelism: Parallelism, kv_dtype_bytes: float = 2.0) -> float:
    """Memory one token of KV capacity takes on one GPU of the fullest stage.

    Sliding layers count SWA_FULL_TOKENS_RATIO: their pool is that share of the full one.
    """
    sliding = min(llm.num_sliding_layers, num_kv_layers(llm))
    layers = num_kv_layers(llm) - sliding + SWA_FULL_TOKENS_RATIO * sliding
    stage = math.ceil(llm.num_layers / parallelism.pp) / llm.num_layers
    return layers * stage * kv_layer_bytes(llm, parallelism, kv_dtype_bytes)
