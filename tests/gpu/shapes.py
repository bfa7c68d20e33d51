"""Write model folders with just the config.json that an engine with dummy weights needs.

    python -m tests.gpu.shapes OUT

DeepSeek-V3, the hybrids and Gemma-3-27B are cut to their first layers so that they fit one GPU.
gpt-oss is in bf16 instead of FP4.
"""

import json
import sys
from pathlib import Path
from typing import Any

from pdctl.paths import profiles_dir

FP8_BLOCKS = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
COMMON = {"torch_dtype": "bfloat16", "initializer_range": 0.02, "bos_token_id": 0}
YARN = {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0}


def _bundled(name: str, **changes: Any) -> dict[str, Any]:
    config = json.loads((profiles_dir() / "models" / f"{name}.json").read_text())
    config.pop("_source")
    return {**COMMON, **config, "eos_token_id": 1, **changes}


def _qwen3_8b(**changes: Any) -> dict[str, Any]:
    more = {"rope_theta": 1000000, "rms_norm_eps": 1e-6, "attention_dropout": 0.0}
    return _bundled("qwen3-8b", **more, max_window_layers=36, rope_scaling=None, **changes)


def _llama_8b(**changes: Any) -> dict[str, Any]:
    more = {"rope_theta": 500000, "rms_norm_eps": 1e-5, "mlp_bias": False, "attention_bias": False}
    return _bundled("llama-3.1-8b", **more, attention_dropout=0.0, rope_scaling=None, **changes)


def _deepseek_v3(layers: int) -> dict[str, Any]:
    return _bundled(
        "deepseek-v3",
        num_hidden_layers=layers,
        num_nextn_predict_layers=0,
        norm_topk_prob=True,
        rms_norm_eps=1e-6,
        rope_scaling={**YARN, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096},
        rope_theta=10000,
        routed_scaling_factor=2.5,
        scoring_func="sigmoid",
        topk_method="noaux_tc",
        ep_size=1,
    )


# Source: huggingface.co/deepseek-ai/DeepSeek-V2-Lite config.json
DEEPSEEK_V2_LITE = {
    **COMMON,
    "architectures": ["DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v2",
    "attention_bias": False,
    "eos_token_id": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 10944,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 1408,
    "moe_layer_freq": 1,
    "n_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 27,
    "num_key_value_heads": 16,
    "q_lora_rank": None,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_scaling": {
        **YARN,
        "mscale": 0.707,
        "mscale_all_dim": 0.707,
        "original_max_position_embeddings": 4096,
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 1.0,
    "scoring_func": "softmax",
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "greedy",
    "v_head_dim": 128,
    "vocab_size": 102400,
}
# Source: huggingface.co/Qwen/Qwen3-Next-80B-A3B-Instruct config.json, of its 48 layers the first
QWEN3_NEXT = {
    **COMMON,
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "eos_token_id": 1,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 262144,
    "mlp_only_layers": [],
    "moe_intermediate_size": 512,
    "norm_topk_prob": True,
    "num_attention_heads": 16,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_hidden_layers": 12,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
# Source: huggingface.co/google/gemma-3-12b-it config.json, its text part
GEMMA3_12B: dict[str, Any] = {
    **COMMON,
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "eos_token_id": 1,
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "layer_types": ["full_attention" if n % 6 == 5 else "sliding_attention" for n in range(48)],
    "max_position_embeddings": 131072,
    "num_attention_heads": 16,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-6,
    "rope_local_base_freq": 10000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "rope_theta": 1000000,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "tie_word_embeddings": True,
    "vocab_size": 262208,
}

# Source: huggingface.co/google/gemma-3-27b-it config.json, its text part, of 62 layers the first
GEMMA3_27B = {
    **GEMMA3_12B,
    "head_dim": 128,
    "hidden_size": 5376,
    "intermediate_size": 21504,
    "layer_types": GEMMA3_12B["layer_types"][:24],
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "query_pre_attn_scalar": 168,
}
# Source: huggingface.co/Qwen/Qwen3.5-35B-A3B config.json, its text part, of 40 layers the first, as
# an engine of Qwen3-Next runs them
QWEN35_35B = {
    **QWEN3_NEXT,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 20,
    "vocab_size": 248320,
}


def _gpt_oss() -> dict[str, Any]:
    rope = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0}
    config = _bundled(
        "gpt-oss-20b",
        rms_norm_eps=1e-5,
        rope_scaling={**rope, "truncate": False, "original_max_position_embeddings": 4096},
        rope_theta=150000,
        swiglu_limit=7.0,
        attention_dropout=0.0,
        output_router_logits=False,
        router_aux_loss_coef=0.9,
    )
    del config["quantization_config"]
    return config


def shapes() -> dict[str, dict[str, Any]]:
    """Contents of each config.json, by folder name."""
    return {
        "qwen3-8b-fp8": _qwen3_8b(quantization_config=FP8_BLOCKS),
        "qwen3-8b": _qwen3_8b(),
        "deepseek-v3-6l": _deepseek_v3(6),
        "deepseek-v2-lite": DEEPSEEK_V2_LITE,
        "qwen3-next-12l": QWEN3_NEXT,
        "gpt-oss-20b-bf16": _gpt_oss(),
        "gemma-3-12b": GEMMA3_12B,
        "gemma-3-27b-24l": GEMMA3_27B,
        "qwen3.5-35b-20l": QWEN35_35B,
        "llama-3.1-8b": _llama_8b(),
        "llama-3.1-8b-eagle": _llama_8b(
            architectures=["LlamaForCausalLMEagle"], num_hidden_layers=1
        ),
        "qwen3-30b-a3b-fp8": _bundled(
            "qwen3-30b-a3b",
            rope_theta=1000000,
            rms_norm_eps=1e-6,
            mlp_only_layers=[],
            quantization_config=FP8_BLOCKS,
        ),
    }


def write_shapes(models: Path) -> None:
    """Write a folder per model."""
    for name, config in shapes().items():
        folder = models / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def main() -> None:
    """Write the folders."""
    write_shapes(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
