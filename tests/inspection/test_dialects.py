"""Dialects of config.json beyond those of tests/data/models, against published sizes."""

from typing import Any

import pytest

from pdctl.errors import InvalidInput
from pdctl.inspection.layers import mixers_of
from pdctl.inspection.llm import llm_from_config
from pdctl.inspection.llm_size import kv_bytes_growing, num_active_params, num_params, state_bytes
from pdctl.inspection.model_files import Fields
from pdctl.inspection.records import Llm
from pdctl.inspection.sglang_models import slots_per_request

MINIMAX_TEXT_01 = {
    "architectures": ["MiniMaxText01ForCausalLM"],
    "model_type": "minimax_text_01",
    "hidden_size": 6144,
    "intermediate_size": 9216,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 200064,
    "num_local_experts": 32,
    "num_experts_per_tok": 2,
    "attn_type_list": ([0] * 7 + [1]) * 10,
    "shared_intermediate_size": 0,
    "max_position_embeddings": 10240000,
}
LFM2_8B_A1B = {
    "architectures": ["Lfm2MoeForCausalLM"],
    "model_type": "lfm2_moe",
    "hidden_size": 2048,
    "intermediate_size": 7168,
    "moe_intermediate_size": 1792,
    "num_dense_layers": 2,
    "num_experts": 32,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "layer_types": (["conv", "conv", "full_attention", "conv"] * 6),
    "conv_L_cache": 3,
    "vocab_size": 65536,
    "tie_word_embeddings": True,
    "max_position_embeddings": 128000,
}
JAMBA = {
    "architectures": ["JambaForCausalLM"],
    "model_type": "jamba",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 256,
    "vocab_size": 65536,
    "max_position_embeddings": 262144,
}
PLAIN = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 8192,
}
KV_OF_A_LAYER = 4 * 64 * 2 * 2


def shape(config: dict[str, Any]) -> Llm:
    return llm_from_config(Fields(config, "config.json"), name="test")


@pytest.mark.parametrize(
    ("config", "billions", "active", "kv_layers"),
    [
        (MINIMAX_TEXT_01, 456, 45.9, 10),  # arXiv 2501.08313: 456B / 45.9B
        (LFM2_8B_A1B, 8.3, 1.5, 6),  # model card: 8.3B / 1.5B
        (JAMBA, 52, 12, 4),  # arXiv 2403.19887: 52B / 12B
    ],
)
def test_hybrids_have_their_published_sizes(
    config: dict[str, Any], billions: float, active: float, kv_layers: int
) -> None:
    llm = shape(config)
    assert num_params(llm) / 1e9 == pytest.approx(billions, rel=0.02)
    assert num_active_params(llm) / 1e9 == pytest.approx(active, rel=0.06)
    assert llm.num_layers - llm.num_state_layers == kv_layers
    assert state_bytes(llm) > 0
    assert llm.guesses == ()


def test_attention_and_mamba_can_stand_beside_each_other_in_a_layer() -> None:
    mamba = {"mamba_d_ssm": 1536, "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_d_state": 128}
    llm = shape({**PLAIN, "model_type": "falcon_h1", **mamba})
    kinds = [[mixer.kind for mixer in layer.mixers] for layer in llm.layers]
    assert kinds == [["full", "state"]] * 4
    assert kv_bytes_growing(llm) == 4 * KV_OF_A_LAYER


@pytest.mark.parametrize(
    "changes",
    [
        {"num_kv_shared_layers": 2},
        {"use_cla": True, "cla_share_factor": 2},
        {"kv_source_layer_ids": [0, 0, 2, 2]},
    ],
)
def test_layers_that_read_another_ones_kv_keep_none(changes: dict[str, Any]) -> None:
    assert kv_bytes_growing(shape({**PLAIN, **changes})) == 2 * KV_OF_A_LAYER


def test_blocks_of_architecture_search_have_their_own_shapes_or_none() -> None:
    blocks = [
        {"attention": {"n_heads_in_group": 4}, "ffn": {"ffn_mult": 2.0}},
        {"attention": {"no_op": True}, "ffn": {"intermediate_size": 512}},
        {"attention": {"n_heads_in_group": 8}, "ffn": {"no_op": True}},
        {"attention": {"no_op": True}, "ffn": {"no_op": True}},
    ]
    llm = shape({**PLAIN, "model_type": "nemotron-nas", "block_configs": blocks})
    assert [mixer.kv_heads for mixer in mixers_of(llm.layers)] == [4, 2]
    assert [mlp.width for layer in llm.layers for mlp in layer.mlps] == [1536, 512]


def test_step_names_groups_experts_and_windows_in_its_own_words() -> None:
    config = {
        **PLAIN,
        "architectures": ["Step3p5ForCausalLM"],
        "model_type": "step3p5",
        "num_attention_groups": 4,
        "moe_num_experts": 8,
        "moe_top_k": 2,
        "moe_intermediate_size": 256,
        "share_expert_dim": 256,
        "moe_layers_enum": "2,3",
        "sliding_window": 512,
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "attention_other_setting": {"num_attention_heads": 24, "num_attention_groups": 8},
    }
    del config["num_key_value_heads"]
    llm = shape(config)
    assert [m.kv_heads for m in mixers_of(llm.layers)] == [4, 8, 4, 8]
    assert llm.experts is not None
    assert llm.experts.num_dense_layers == 2
    assert llm.trims_windows


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_hidden_layers": -3}, "num_hidden_layers"),
        ({"layer_types": ["full_attention"] * 3}, "'layer_types' names 3 layers"),
        ({"hybrid_override_pattern": "M*"}, "'hybrid_override_pattern' names 2 layers"),
        ({"block_configs": [{}, {}]}, "'block_configs' names 2 layers"),
        ({"compress_ratios": [4, -1, 4, 4]}, "compress_ratios"),
        ({"full_attention_interval": -4}, "full_attention_interval"),
        ({"num_local_experts": 4, "num_experts_per_tok": 9}, "more than the 4 experts"),
        ({"moe_intermediate_size": [64], "num_experts": 4, "moe_topk": 2}, "names 1 layers"),
    ],
)
def test_a_contradiction_is_one_sentence_with_the_field(
    changes: dict[str, Any], complaint: str
) -> None:
    v4 = {"head_dim": 64, "q_lora_rank": 8, "o_groups": 2, "o_lora_rank": 8, "index_head_dim": 8}
    extra = {**v4, "index_n_heads": 2} if "compress_ratios" in changes else {}
    with pytest.raises(InvalidInput, match=complaint):
        shape({**PLAIN, **extra, **changes})


def test_slots_of_a_request_depend_on_the_radix_cache_and_the_architecture() -> None:
    hybrid = "Qwen3_5MoeForConditionalGeneration"
    assert slots_per_request(hybrid, radix_cache=True) == 5
    assert slots_per_request(hybrid, radix_cache=False) == 1
    assert slots_per_request("JambaForCausalLM", radix_cache=True) == 3


def test_linear_attention_with_unknown_keys_is_a_guess() -> None:
    types = ["linear_attention", "full_attention"] * 2
    assert "linear attention" in shape({**PLAIN, "layer_types": types}).guesses[0]


def ernie_vl(**experts: object) -> dict[str, Any]:
    return {
        "architectures": ["Ernie4_5_VLMoeForConditionalGeneration"],
        "hidden_size": 2560,
        "intermediate_size": 12288,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
        "num_hidden_layers": 28,
        "vocab_size": 103424,
        "moe_intermediate_size": [1536, 512],
        "moe_k": 6,
        "moe_num_shared_experts": 2,
        "tie_word_embeddings": True,
        **experts,
    }


DBRX = {
    "architectures": ["DbrxForCausalLM"],
    "model_type": "dbrx",
    "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
    "d_model": 6144,
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    "max_seq_len": 32768,
    "n_heads": 48,
    "n_layers": 40,
    "vocab_size": 100352,
}
GROK_2 = {
    "architectures": ["Grok1ForCausalLM"],
    "hidden_size": 8192,
    "intermediate_size": 32768,
    "moe_intermediate_size": 16384,
    "residual_moe": True,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "num_hidden_layers": 64,
    "vocab_size": 131072,
    "sliding_window_size": -1,
    "tie_word_embeddings": True,
}
LLAMA_VISION = {
    "architectures": ["MllamaForConditionalGeneration"],
    "text_config": {
        "model_type": "mllama_text_model",
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 40,
        "vocab_size": 128256,
    },
}


@pytest.mark.parametrize(
    ("config", "total", "active", "kv"),
    [
        # 28 B / 3 B: text experts, those for images, both shared (ERNIE 4.5 report, table 1)
        (
            ernie_vl(
                model_type="ernie4_5_moe_vl",
                moe_num_experts=[64, 64],
                moe_layer_start_index=[1, 1],
                moe_layer_end_index=[29, 28],
                moe_capacity=[64, 64, 64],
            ),
            28.6e9,
            3.35e9,
            28 * 4 * 2 * 128 * 2,
        ),
        (
            ernie_vl(
                model_type="ernie4_5_vl_moe_text",
                moe_num_experts=64,
                mlp_layer_types=["dense"] + ["sparse"] * 27,
            ),
            28.6e9,
            3.35e9,
            28 * 4 * 2 * 128 * 2,
        ),
        (DBRX, 132e9, 36e9, 40 * 8 * 2 * 128 * 2),
        (GROK_2, 268.4e9, 113.8e9, 64 * 8 * 2 * 128 * 2),  # 269.5 B with its head apart
        (LLAMA_VISION, 9.77e9, 9.25e9, 32 * 8 * 2 * 128 * 2),  # 8 of 40 layers read an image's
    ],
    ids=["ernie-vl", "ernie-vl in transformers' words", "dbrx", "grok-2", "llama-vision"],
)
def test_parts_that_only_some_tokens_use_take_their_memory(
    config: dict[str, Any], total: float, active: float, kv: int
) -> None:
    llm = llm_from_config(Fields(config, "config.json"), name="model")
    assert num_params(llm) == pytest.approx(total, rel=0.01)
    assert num_active_params(llm) == pytest.approx(active, rel=0.02)
    assert kv_bytes_growing(llm) == kv


@pytest.mark.parametrize(
    ("text_config", "total", "kv"),
    [
        ({"model_type": "llama", "vocab_size": 32064}, 6.74e9, 32 * 32 * 2 * 128 * 2),  # LLaVA-1.5
        (
            {
                "model_type": "mistral",
                "head_dim": 128,
                "hidden_size": 5120,
                "intermediate_size": 14336,
                "num_hidden_layers": 40,
                "num_key_value_heads": 8,
                "vocab_size": 131072,
                "sliding_window": None,
            },
            12.25e9,
            40 * 8 * 2 * 128 * 2,
        ),  # Pixtral-12B
        (
            {"model_type": "qwen2", "intermediate_size": 11008, "vocab_size": 156032},
            7.75e9,
            32 * 32 * 2 * 128 * 2,
        ),  # Qwen2-Audio
    ],
)
def test_sizes_a_vision_model_leaves_to_the_class_are_the_classs(
    text_config: dict[str, Any], total: float, kv: int
) -> None:
    llm = llm_from_config(Fields({"text_config": text_config}, "config.json"), name="model")
    assert num_params(llm) == pytest.approx(total, rel=0.005)
    assert kv_bytes_growing(llm) == kv
    assert not llm.guesses


def test_a_language_model_of_its_own_must_give_its_sizes() -> None:
    with pytest.raises(InvalidInput, match="'num_hidden_layers' is missing"):
        llm_from_config(Fields({"model_type": "llama", "vocab_size": 32000}, "c"), name="model")


def test_a_model_without_attention_is_refused_with_the_reason() -> None:
    config = {"model_type": "falcon_mamba", "num_hidden_layers": 64, "state_size": 16}
    with pytest.raises(InvalidInput, match="state-space models without attention"):
        llm_from_config(Fields({**config, "hidden_size": 4096}, "c"), name="model")


@pytest.mark.parametrize("model_type", ["qwen3_5_text", "qwen3_5_moe_text", "beam", "muse_glimmer"])
def test_gates_that_a_class_always_has_count_where_the_file_is_silent(model_type: str) -> None:
    config = {
        "model_type": model_type,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "num_hidden_layers": 1,
        "vocab_size": 1000,
    }
    llm = llm_from_config(Fields(config, "config.json"), name="model")
    queries = next(m for m in llm.layers[0].matrices if m.leaf == "q")
    assert queries.params == 2 * 2048 * 16 * 256


@pytest.mark.parametrize(
    "idle",
    [
        {"num_experts": 1, "moe_topk": 1, "num_shared_expert": 1},
        {"layer_types": ["full_attention"], "mamba_n_heads": 64, "mamba_d_head": 64},
    ],
)
def test_keys_of_parts_that_a_model_lacks_are_no_doubt(idle: dict[str, Any]) -> None:
    config = {
        "model_type": "hunyuan_v1_dense",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_attention_heads": 16,
        "num_hidden_layers": 1,
        "vocab_size": 1000,
        **idle,
    }
    assert not llm_from_config(Fields(config, "config.json"), name="model").guesses


def test_an_index_of_pooled_keys_takes_a_share_of_its_bytes_per_token() -> None:
    """ceil((128 + 4) / 16) B: sglang 0.5.23 _compute_dsa_indexer_cell_size."""
    config = {
        "model_type": "glm5_next",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_attention_heads": 64,
        "num_hidden_layers": 2,
        "vocab_size": 1000,
        "kv_lora_rank": 512,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 192,
        "v_head_dim": 256,
        "index_topk": 2048,
        "index_head_dim": 128,
        "index_n_heads": 32,
        "index_kpool": 16,
    }
    llm = llm_from_config(Fields(config, "config.json"), name="model")
    assert kv_bytes_growing(llm) == 2 * (576 * 2 + 9)


@pytest.mark.parametrize("value", ["abc", 5, {"a": 1}, [None], True, -1, "\x1b[31m", [[1]], 1e308])
@pytest.mark.parametrize(
    "key",
    [
        "cross_attention_layers",
        "kv_source_layers",
        "attn_config",
        "moe_num_experts",
        "moe_intermediate_size",
        "vision_config",
        "residual_moe",
        "quantization_config",
        "index_kpool",
    ],
)
def test_a_key_of_another_kind_is_read_around_or_refused_by_name(key: str, value: object) -> None:
    config = {**ernie_vl(model_type="ernie4_5_moe_vl", moe_num_experts=[64, 64]), key: value}
    try:
        llm = llm_from_config(Fields(config, "config.json"), name="model")
    except InvalidInput as refused:
        assert "key" in refused.message  # noqa: PT017
        return
    assert num_params(llm) > 0


def test_jet_blocks_keep_the_state_that_sglang_allocates() -> None:
    """912,384 B a block by sglang 0.5.23 configs/jet_nemotron.py with tp 1."""
    config = {
        "model_type": "jet_nemotron",
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "num_hidden_layers": 4,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
        "layer_types": ["jet", "swa", "attn", "jet"],
        "efficient_attention_config": {
            "jet": {"conv_size": 4, "expand_v": 2.0, "head_dim": 96, "num_heads": 12},
            "swa": {"window_size": 2048},
        },
    }
    llm = llm_from_config(Fields(config, "config.json"), name="model")
    assert state_bytes(llm) == 2 * 912_384
    assert [mixer.window for mixer in mixers_of(llm.layers)] == [None, 2048, None, None]
    assert ["not one pdctl knows" in guess for guess in llm.guesses] == [True]
