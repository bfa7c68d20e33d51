"""What pdctl knows of model types beyond what their config.json says."""

_KNOWN = """
llama mistral mixtral ministral3 mistral3 llama4 llama4_text
qwen2 qwen2_moe qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text qwen3 qwen3_moe qwen3_next
qwen3_vl qwen3_vl_text qwen3_vl_moe qwen3_vl_moe_text
qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text
deepseek_v2 deepseek_v3 deepseek_v32 kimi_k2 kimi_k25 gpt_oss
glm4 glm4_moe glm4_moe_lite glm_moe_dsa gemma gemma2 gemma3 gemma3_text phi phi3 phimoe
minimax_m2 olmo2 olmo3 olmoe granite granitemoe exaone4 ernie4_5 ernie4_5_moe
internlm2 internlm3 seed_oss hunyuan_v1_moe cohere cohere2 starcoder2 mimo mimo_v2_flash
opt gpt2 gpt_neox nemotron
"""
KNOWN_TYPES = frozenset(_KNOWN.split())
TIED_BY_DEFAULT = frozenset(
    ("gemma", "gemma2", "gemma3", "gemma3_text", "cohere", "cohere2", "gpt2", "opt")
)
UNGATED_MLP = frozenset(("gpt2", "opt", "gpt_neox", "phi", "starcoder2", "nemotron"))
SPARSE_ATTENTION = frozenset(("deepseek_v32", "glm_moe_dsa"))
# Keys a config.json leaves out because they are the class's defaults.
DEFAULTS: dict[str, dict[str, int]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "sliding_window_pattern": 6,
    },
    "gemma2": {"sliding_window_pattern": 2},
    "cohere2": {"sliding_window_pattern": 4},
}
