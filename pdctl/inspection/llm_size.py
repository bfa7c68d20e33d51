"""How large an LLM is: parameters, bytes of weights, bytes of KV cache. Pure."""

from pdctl.inspection.records import Llm


def num_params(llm: Llm) -> float:
    """Parameters of the whole language model.

    Source: matrix shapes of the architecture's implementation in transformers.
    Ignores: norms, biases, attention sinks (together under 0.1 %), multi-token-prediction layers,
        vision and audio towers.
    """
    return _layer_params(llm) + expert_params(llm) + router_params(llm) + embedding_params(llm)


def num_active_params(llm: Llm) -> float:
    """Parameters one token is multiplied with: the chosen experts, the head, not the embedding
    it is looked up in.

    Source: gpt-oss model card (arXiv 2508.10925) table 1 counts the same way.
    Ignores: what num_params ignores. Cards that count the embedding state more
        (by vocab_size × hidden_size).
    """
    experts = llm.experts
    share = experts.experts_per_token / experts.num_experts if experts else 0.0
    head = float(llm.vocab_size * llm.hidden_size)
    return _layer_params(llm) + expert_params(llm) * share + router_params(llm) + head


def weight_bytes(llm: Llm) -> float:
    """Bytes of all weights as one engine holds them, over all its GPUs, without replication.

    Source: parameters by part times the bytes per parameter of the quantisation config.
    Ignores: what num_params ignores; padding; copies that tensor or data parallelism adds.
    """
    return (
        _layer_params(llm) * llm.linear_bytes
        + expert_params(llm) * llm.expert_bytes
        + (router_params(llm) + embedding_params(llm)) * llm.embedding_bytes
    )


def kv_bytes_per_token(llm: Llm, kv_dtype_bytes: float = 2.0) -> float:
    """Bytes of KV cache one token takes, over all layers, stored once.

    MLA stores one latent and one rotary key per layer, whatever the number of heads.
    Source: DeepSeek-V2 (arXiv 2405.04434) section 2.1; GQA (arXiv 2305.13245).
    Ignores: that sliding-window layers stop growing (see kv_bytes_of_request), scales of a
        quantised cache, sparse-attention indexers, copies under tensor parallelism.
    """
    return _kv_values_per_layer(llm) * num_kv_layers(llm) * kv_dtype_bytes


def kv_bytes_of_request(llm: Llm, context_tokens: float, kv_dtype_bytes: float = 2.0) -> float:
    """Bytes of KV cache that a request of `context_tokens` keeps, its windows trimmed.

    Source: as kv_bytes_per_token; a sliding-window layer keeps its last `sliding_window` tokens.
    Ignores: as kv_bytes_per_token; pages, and that SGLang trims windows only where it has a
        hybrid memory pool.
    """
    per_layer = _kv_values_per_layer(llm) * kv_dtype_bytes
    windowed = min(llm.num_sliding_layers, num_kv_layers(llm)) if llm.sliding_window else 0
    kept = min(context_tokens, llm.sliding_window or context_tokens)
    return per_layer * ((num_kv_layers(llm) - windowed) * context_tokens + windowed * kept)


def num_kv_layers(llm: Llm) -> int:
    """Layers whose cache grows with context: all but linear-attention and state-space layers."""
    return llm.num_layers - llm.num_state_layers


def attention_params_per_layer(llm: Llm) -> float:
    """Parameters of one layer's attention projections.

    Source: DeepSeek-V2 (arXiv 2405.04434) appendix C for MLA; transformers' modules otherwise.
    Ignores: biases, norms; that a linear-attention layer has other projections than a full one.
    """
    hidden, heads = llm.hidden_size, llm.num_heads
    out = heads * llm.v_head_dim * hidden
    if llm.attention == "gqa":
        return hidden * heads * llm.head_dim + _gqa_kv_width(llm) * hidden + out
    latent, rope = llm.kv_lora_rank or 0, llm.rope_head_dim or 0
    queries = heads * llm.head_dim
    q = llm.q_lora_rank * (hidden + queries) if llm.q_lora_rank else hidden * queries
    up = latent * heads * (llm.head_dim - rope + llm.v_head_dim)
    return q + hidden * (latent + rope) + up + out


def mlp_params(llm: Llm) -> float:
    """Parameters of dense MLPs and shared experts, over all layers: what every token passes."""
    matrices = llm.mlp_matrices * llm.hidden_size
    if llm.experts is None:
        return float(matrices * llm.intermediate_size * llm.num_layers)
    dense = llm.experts.num_dense_layers * llm.intermediate_size
    return float(matrices * (dense + _moe_layers(llm) * llm.experts.shared_intermediate_size))


def expert_params(llm: Llm) -> float:
    """Parameters of the routed experts, over all layers; 0 for a dense LLM."""
    if llm.experts is None:
        return 0.0
    one = llm.mlp_matrices * llm.hidden_size * llm.experts.intermediate_size
    return float(one * llm.experts.num_experts * _moe_layers(llm))


def router_params(llm: Llm) -> float:
    """Parameters of the gates that choose experts."""
    experts = llm.experts.num_experts if llm.experts else 0
    return float(_moe_layers(llm) * llm.hidden_size * experts)


def embedding_params(llm: Llm) -> float:
    """Parameters of the embedding and the head: one matrix when they are tied."""
    return float(llm.vocab_size * llm.hidden_size * (1 if llm.tied_embeddings else 2))


def _layer_params(llm: Llm) -> float:
    return attention_params_per_layer(llm) * llm.num_layers + mlp_params(llm)


def _moe_layers(llm: Llm) -> int:
    return llm.num_layers - llm.experts.num_dense_layers if llm.experts else 0


def _gqa_kv_width(llm: Llm) -> int:
    return llm.num_kv_heads * (llm.head_dim + llm.v_head_dim)


def _kv_values_per_layer(llm: Llm) -> int:
    if llm.attention == "mla":
        return (llm.kv_lora_rank or 0) + (llm.rope_head_dim or 0)
    return _gqa_kv_width(llm)
