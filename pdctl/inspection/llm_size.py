"""The size of an LLM: parameters, bytes of weights, bytes a request keeps and moves. Pure."""

from pdctl.inspection.layers import (
    Mixer,
    layer_active_params,
    layer_params,
    mixers_of,
    part_params,
)
from pdctl.inspection.llm_layers.request_bytes import (
    index_bytes,
    is_trimmed,
    kv_bytes,
    latent_window_bytes,
    state_slot_bytes,
)
from pdctl.inspection.records import Llm


def num_params(llm: Llm) -> float:
    """Parameters of the whole language model.

    Source: matrix shapes of the architecture's implementation in transformers.
    Ignores: norms, biases, attention sinks (together under 0.1 %), multi-token-prediction layers,
        vision and audio towers.
    """
    return layer_params(llm.layers) + embedding_params(llm)


def num_active_params(llm: Llm) -> float:
    """Parameters one token is multiplied with: the chosen experts, the head, not the embedding
    it is looked up in.

    Source: gpt-oss model card (arXiv 2508.10925) table 1 counts the same way.
    Ignores: what num_params ignores. Cards that count the embedding state more
        (by vocab_size × hidden_size).
    """
    return layer_active_params(llm.layers) + float(llm.vocab_size * llm.hidden_size)


def weight_bytes(llm: Llm) -> float:
    """Bytes of all weights as one engine holds them, over all its GPUs, without replication.

    Source: parameters by part times the bytes per parameter of the quantisation config.
    Ignores: what num_params ignores; padding; copies that tensor or data parallelism adds.
    """
    experts, router = expert_params(llm), router_params(llm)
    return (
        (layer_params(llm.layers) - experts - router) * llm.linear_bytes
        + experts * llm.expert_bytes
        + router * 2.0
        + embedding_params(llm) * llm.embedding_bytes
    )


def kv_bytes_per_token(llm: Llm, kv_dtype_bytes: float | None = None) -> float:
    """Bytes of KV cache and index one token takes, over all layers, stored once.

    MLA stores one latent and one rotary key per layer, whatever the number of heads.
    kv_dtype_bytes: None takes what the checkpoint says.
    Source: DeepSeek-V2 (arXiv 2405.04434) section 2.1; GQA (arXiv 2305.13245).
    Ignores: that sliding-window layers stop growing (see kv_bytes_of_request), copies under
        tensor parallelism.
    """
    size = kv_dtype_bytes or llm.kv_dtype_bytes
    return sum(kv_bytes(m, size) + index_bytes(m) for m in mixers_of(llm.layers))


def kv_bytes_growing(llm: Llm, kv_dtype_bytes: float | None = None) -> float:
    """Bytes each further token of a long request takes, where SGLang trims windows.

    kv_dtype_bytes, Source: as kv_bytes_per_token.
    """
    size = kv_dtype_bytes or llm.kv_dtype_bytes
    grows = (m for m in mixers_of(llm.layers) if not is_trimmed(llm, m))
    return sum(kv_bytes(m, size) + index_bytes(m) for m in grows)


def kv_bytes_of_request(
    llm: Llm, context_tokens: float, kv_dtype_bytes: float | None = None
) -> float:
    """Bytes of KV cache that a request of `context_tokens` keeps, its windows trimmed.

    Source: as kv_bytes_per_token; SGLang trims the windows of some architectures only.
    Ignores: as kv_bytes_per_token; pages; the state of linear attention (see state_bytes).
    """
    size = kv_dtype_bytes or llm.kv_dtype_bytes
    windows = sum(
        _window_token_bytes(llm, m, size) * min(context_tokens, m.window or 0)
        for m in mixers_of(llm.layers)
    )
    return kv_bytes_growing(llm, size) * context_tokens + windows


def window_bytes_per_token(llm: Llm, kv_dtype_bytes: float | None = None) -> float:
    """Bytes of each token inside the windows that SGLang trims, over all layers; 0 without any.

    kv_dtype_bytes, Source: as kv_bytes_per_token.
    """
    size = kv_dtype_bytes or llm.kv_dtype_bytes
    return sum(_window_token_bytes(llm, m, size) for m in mixers_of(llm.layers))


def _window_token_bytes(llm: Llm, mixer: Mixer, kv_dtype_bytes: float) -> float:
    if mixer.kind == "latents":
        return latent_window_bytes()
    return kv_bytes(mixer, kv_dtype_bytes) if is_trimmed(llm, mixer) else 0.0


def state_bytes(llm: Llm) -> float:
    """Bytes of state one request keeps, whatever its length, over all GPUs.

    Source: sglang 0.5.23 configs/mamba_utils.py.
    """
    return sum(map(state_slot_bytes, mixers_of(llm.layers)))


def moved_bytes(llm: Llm, prompt_tokens: float, kv_dtype_bytes: float | None = None) -> float:
    """Bytes that go from a prefill engine to a decode engine for one prompt.

    Source: sglang 0.5.23 disaggregation/utils.py: KV, index, windows and state.
    """
    return kv_bytes_of_request(llm, prompt_tokens, kv_dtype_bytes) + state_bytes(llm)


def size_figures(llm: Llm, prompt_tokens: float | None) -> dict[str, float | None]:
    """The figures of a model as `plan --json` prints them under `model`.

    prompt_tokens: of the mean prompt. None: unknown, and so are the bytes it moves.
    Source: the functions above. Ignores: what they ignore.
    """
    return {
        "total_params": num_params(llm),
        "active_params": num_active_params(llm),
        "weight_bytes": weight_bytes(llm),
        "kv_bytes_per_token": kv_bytes_growing(llm),
        "state_bytes_per_request": state_bytes(llm),
        "kv_transfer_bytes": None if prompt_tokens is None else moved_bytes(llm, prompt_tokens),
    }


def trimmed_window(llm: Llm) -> int:
    """Tokens of the longest window that SGLang trims; 0 where it trims none."""
    trimmed = (m for m in mixers_of(llm.layers) if _window_token_bytes(llm, m, 1.0))
    return max((m.window or 0 for m in trimmed), default=0)


def num_kv_layers(llm: Llm) -> int:
    """Layers whose cache grows with context: all but linear-attention and state-space layers."""
    return llm.num_layers - llm.num_state_layers


def expert_params(llm: Llm) -> float:
    """Parameters of the routed experts, over all layers; 0 for a dense LLM."""
    return part_params(llm.layers, "experts")


def router_params(llm: Llm) -> float:
    """Parameters of the gates that choose experts."""
    return part_params(llm.layers, "router")


def embedding_params(llm: Llm) -> float:
    """Parameters of the embedding and the head: one matrix when they are tied."""
    words = llm.vocab_size * llm.hidden_size * (1 if llm.tied_embeddings else 2)
    return float(words + llm.per_layer_embedding)
