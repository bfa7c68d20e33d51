"""Shapes from config.json: the architectures there are, and what people break."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdctl.errors import ExitCode, InvalidInput
from pdctl.inspection.llm import bundled_names, llm_from_config, read_llm
from pdctl.inspection.llm_size import kv_bytes_per_token, num_params, state_bytes, weight_bytes
from pdctl.inspection.model_files import Fields
from pdctl.inspection.records import Llm
from pdctl.inspection.sglang_models import is_served

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
MOE: dict[str, Any] = {
    **LLAMA,
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 64,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1024,
}


def shape(config: dict[str, Any]) -> Llm:
    return llm_from_config(Fields(config, "config.json"), name="test")


def write(folder: Path, config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return folder


def test_a_directory_is_read_and_kept_as_the_model_path(tmp_path: Path) -> None:
    folder = write(tmp_path / "my-llama", LLAMA)
    llm = read_llm(str(folder))
    assert (llm.name, llm.path, llm.architecture) == ("my-llama", str(folder), "LlamaForCausalLM")
    assert (llm.head_dim, llm.v_head_dim, llm.num_kv_heads) == (128, 128, 8)
    assert llm.max_context == 131072
    assert llm.assumptions == ()
    assert read_llm(str(folder / "config.json")) == llm


def test_multi_head_attention_is_told_by_absent_key_value_heads() -> None:
    config = {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"}
    assert shape(config).num_kv_heads == 32


def test_a_width_of_values_of_0_is_that_of_the_heads() -> None:
    assert shape({**LLAMA, "v_head_dim": 0}).v_head_dim == 128


def test_a_model_that_sglang_has_no_class_for_is_told() -> None:
    llm = shape({**LLAMA, "architectures": ["JambaForCausalLM"]})
    assert any("has no model 'JambaForCausalLM'" in said for said in llm.assumptions)
    assert llm.guesses == ()  # its figures are read, not guessed
    bundled = [read_llm(name) for name in bundled_names()]
    assert all(is_served(llm.architecture) for llm in bundled)


def test_the_formats_of_older_releases_stand_under_another_key() -> None:
    llm = shape({**LLAMA, "compression_config": {"quant_method": "fp8"}})
    assert llm == shape({**LLAMA, "quantization_config": {"quant_method": "fp8"}})


def test_mla_stores_a_latent_and_a_rotary_key() -> None:
    llm = read_llm("deepseek-v3")
    assert (llm.attention, llm.kv_lora_rank, llm.rope_head_dim) == ("mla", 512, 64)
    assert (llm.head_dim, llm.v_head_dim) == (192, 128)
    assert llm.experts is not None
    assert llm.experts.shared_intermediate_size == 2048
    assert llm.experts.num_dense_layers == 3


@pytest.mark.parametrize(
    ("changes", "dense"),
    [
        ({}, 0),
        ({"first_k_dense_replace": 3}, 3),
        ({"mlp_only_layers": [0, 1]}, 2),
        ({"decoder_sparse_step": 2}, 16),
        ({"interleave_moe_layer_step": 2}, 16),
        ({"moe_layer_freq": [0] + [1] * 31}, 1),
        ({"moe_layer_freq": 1}, 0),
    ],
)
def test_dense_layers_of_a_moe_are_counted(changes: dict[str, Any], dense: int) -> None:
    experts = shape({**MOE, **changes}).experts
    assert experts is not None
    assert experts.num_dense_layers == dense


@pytest.mark.parametrize(
    ("changes", "width"),
    [
        ({}, 0),
        ({"n_shared_experts": 2}, 2048),
        ({"shared_expert_intermediate_size": 512}, 512),
        ({"n_shared_experts": None}, 0),
    ],
)
def test_shared_experts_are_counted_together(changes: dict[str, Any], width: int) -> None:
    experts = shape({**MOE, **changes}).experts
    assert experts is not None
    assert experts.shared_intermediate_size == width


GDN = {
    "linear_num_value_heads": 4,
    "linear_value_head_dim": 64,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 64,
}
MAMBA = {"mamba_num_heads": 4, "mamba_head_dim": 64, "ssm_state_size": 128}


@pytest.mark.parametrize(
    ("changes", "window", "sliding"),
    [
        ({"sliding_window": 4096, "use_sliding_window": False}, None, 0),
        (
            {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"] * 16},
            128,
            16,
        ),
        ({"sliding_window": 512, "sliding_window_pattern": 6}, 512, 27),
        ({"sliding_window": 4096, "model_type": "gemma2"}, 4096, 16),
        ({"sliding_window": 4096, "model_type": "mistral"}, 4096, 32),
        ({"sliding_window": 262144}, None, 0),  # as long as the context: no window
        ({"sliding_window": None}, None, 0),
        ({"attention_chunk_size": 8192, "no_rope_layers": [1, 1, 1, 0] * 8}, 8192, 24),
    ],
)
def test_sliding_windows_are_told_in_the_ways_files_say_them(
    changes: dict[str, Any], window: int | None, sliding: int
) -> None:
    llm = shape({**LLAMA, **changes})
    assert (llm.sliding_window, llm.num_sliding_layers) == (window, sliding)
    assert llm.assumptions == ()


def test_a_window_without_layers_is_left_out_and_said() -> None:
    llm = shape({**LLAMA, "sliding_window": 4096})
    assert llm.num_sliding_layers == 0
    assert "4096" in llm.assumptions[0]


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_types": ["linear_attention"] * 3 + ["full_attention"], **GDN},
        {"full_attention_interval": 4, **GDN},
        {"linear_attn_config": {"kda_layers": [1, 2, 3], "num_heads": 4, "head_dim": 64}},
        {"hybrid_override_pattern": "M-M*", **MAMBA},
    ],
)
def test_layers_with_a_fixed_state_keep_no_kv_cache(changes: dict[str, Any]) -> None:
    changes = {"num_hidden_layers": 4, **changes}
    llm = shape({**LLAMA, **changes, "model_type": "qwen3_next"})
    assert llm.num_state_layers == 3
    assert kv_bytes_per_token(llm) == 2 * 8 * 128 * 2
    assert state_bytes(llm) > 0
    assert llm.guesses == ()


def test_a_list_shorter_than_the_layers_is_refused_and_a_longer_one_cut_and_said() -> None:
    types = ["full_attention"] * 3
    with pytest.raises(InvalidInput, match="'layer_types' names 3 layers, and there are 4"):
        shape({**LLAMA, "num_hidden_layers": 4, "layer_types": types})
    llm = shape({**LLAMA, "num_hidden_layers": 2, "layer_types": types})
    assert "layer_types names 3 layers; the first 2 are taken." in llm.guesses[0]


def test_the_extra_entry_of_a_prediction_layer_is_no_contradiction() -> None:
    config = {**LLAMA, "num_hidden_layers": 2, "num_nextn_predict_layers": 1}
    assert shape({**config, "layer_types": ["full_attention"] * 3}).guesses == ()


def test_a_field_that_looks_structural_and_is_not_read_lowers_what_is_known() -> None:
    llm = shape({**LLAMA, "ghost_expert_width": 512})
    assert "ghost_expert_width" in llm.guesses[0]
    assert llm.guesses[0] in llm.assumptions


def test_a_vision_language_model_is_its_text_config() -> None:
    text = {k: v for k, v in MOE.items() if k != "architectures"}
    config = {
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "model_type": "qwen3_vl_moe",
        "text_config": {**text, "model_type": "qwen3_vl_moe_text"},
        "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27},
        "tie_word_embeddings": True,
    }
    llm = shape(config)
    assert (llm.hidden_size, llm.num_layers) == (4096, 32)
    assert llm.architecture == "Qwen3VLMoeForConditionalGeneration"
    assert llm.tied_embeddings
    assert "Only the language model" in llm.assumptions[0]


def test_a_wrapper_in_a_wrapper_is_opened_twice() -> None:
    config = {"model_type": "qwen3_omni", "thinker_config": {"text_config": LLAMA}}
    assert shape(config).hidden_size == 4096


def test_gemma_3_leaves_out_what_its_class_defaults_to() -> None:
    text = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "model_type": "gemma3_text",
        "num_hidden_layers": 34,
        "sliding_window": 1024,
    }
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "text_config": text}
    llm = shape({**config, "model_type": "gemma3"})
    assert (llm.num_heads, llm.num_kv_heads, llm.head_dim) == (8, 4, 256)
    assert llm.tied_embeddings
    assert (llm.sliding_window, llm.num_sliding_layers) == (1024, 29)
    # gemma-3-4b: 4.3B with its vision tower, 3.88B without
    assert num_params(llm) == pytest.approx(3.88e9, rel=0.002)


def test_an_architecture_it_does_not_know_is_said_with_what_was_assumed() -> None:
    llm = shape({**LLAMA, "architectures": ["FancyForCausalLM"], "model_type": "fancy"})
    assert "'FancyForCausalLM' is not one pdctl knows" in llm.assumptions[0]
    assert "is not one pdctl knows" in llm.assumptions[0]


def test_an_old_architecture_has_an_ungated_mlp_and_other_key_names() -> None:
    config = {
        "model_type": "gpt2",
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_positions": 1024,
        "vocab_size": 50257,
    }
    llm = shape(config)
    assert llm.mlp_matrices == 2
    # 124M published with 0.8M of positions and biases
    assert num_params(llm) == pytest.approx(124e6, rel=0.01)


def test_a_quantised_part_and_a_part_left_alone_are_averaged_by_their_size() -> None:
    int4 = {"num_bits": 4, "type": "int", "group_size": 32}
    config = {
        **MOE,
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "config_groups": {"group_0": {"weights": int4}},
            "ignore": ["re:.*self_attn.*", "lm_head"],
        },
    }
    llm = shape(config)
    assert llm.expert_bytes == 0.5625
    assert llm.linear_bytes == 2.0  # only attention is left: there is no dense MLP
    assert llm.quantization == "compressed-tensors int4"
    assert weight_bytes(llm) < num_params(llm)


def test_fp8_leaves_embeddings_in_sixteen_bits() -> None:
    llm = shape({**LLAMA, "quantization_config": {"quant_method": "fp8"}})
    assert (llm.linear_bytes, llm.embedding_bytes, llm.compute_dtype) == (1.0, 2.0, "fp8")


def test_modelopt_keeps_its_quantisation_in_a_file_beside(tmp_path: Path) -> None:
    folder = write(tmp_path, LLAMA)
    said = {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}
    (folder / "hf_quant_config.json").write_text(json.dumps(said))
    llm = read_llm(str(folder))
    assert (llm.quantization, llm.linear_bytes, llm.compute_dtype) == ("nvfp4", 0.5625, "fp4")


def test_weights_stored_in_32_bits_are_loaded_in_16_and_said() -> None:
    llm = shape({**LLAMA, "torch_dtype": "float32"})
    assert llm.linear_bytes == 2.0
    assert "float32" in llm.assumptions[0]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"num_hidden_layers": None}, "'num_hidden_layers' is missing"),
        ({"vocab_size": None}, "'vocab_size' is missing"),
        ({"intermediate_size": None}, "'intermediate_size' is missing"),
        ({"num_attention_heads": None}, "'num_attention_heads' is missing"),
        ({"hidden_size": "4096"}, "'hidden_size' must be a whole number, not '4096'"),
        ({"hidden_size": True}, "'hidden_size' must be a whole number"),
        ({"hidden_size": 4096.5}, "'hidden_size' must be a whole number"),
        ({"hidden_size": float("nan")}, "'hidden_size' must be a whole number"),
        ({"hidden_size": -1}, "'hidden_size' must be 1 to"),
        ({"hidden_size": 10**400}, "more than 38 digits"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' must be 1 to 10000"),
        ({"num_hidden_layers": [32]}, "'num_hidden_layers' must be a whole number"),
        ({"num_attention_heads": 5000}, "more than hidden_size 4096"),
        ({"num_key_value_heads": 64}, "more than the 32 heads"),
        ({"kv_lora_rank": 512}, "'qk_rope_head_dim' is missing"),
        ({"num_experts": 8}, "'num_experts_per_tok' is missing"),
        ({"num_experts": 8, "num_experts_per_tok": 9}, "more than the 8 experts"),
        ({"intermediate_size": "x" * 1000}, r"x\.\.\."),
    ],
)
def test_a_wrong_value_names_file_and_key(
    tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    folder = write(tmp_path, {**LLAMA, **change})
    with pytest.raises(InvalidInput, match=complaint) as caught:
        read_llm(str(folder))
    assert str(folder / "config.json") in caught.value.message
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert caught.value.hint


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "cut off"),
        (json.dumps(LLAMA)[:120], "cut off"),
        ('{"hidden_size": 4096, "model_ty', "cut off"),
        ('{"hidden_size": 4096,}', "not JSON at line 1"),
        ("<html>not found</html>", "not JSON"),
        ("[1, 2]", "instead of an object"),
        ("null", "instead of an object"),
        ("[" * 200_000, "nested too deeply"),
        ('{"hidden_size": ' + "9" * 5000 + "}", "cannot be used"),
    ],
)
def test_a_file_that_is_no_config_says_why(tmp_path: Path, content: str, complaint: str) -> None:
    folder = write(tmp_path, content)
    with pytest.raises(InvalidInput, match=complaint) as caught:
        read_llm(str(folder))
    assert str(folder / "config.json") in caught.value.message


def test_a_file_that_is_not_text_or_far_too_large_says_so(tmp_path: Path) -> None:
    folder = write(tmp_path, "{}")
    (folder / "config.json").write_bytes(b'{"a": "\xff\xfe"}')
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_llm(str(folder))
    with (folder / "config.json").open("wb") as file:
        file.truncate(2**31)
    with pytest.raises(InvalidInput, match="larger than 16 MiB"):
        read_llm(str(folder))


def test_every_bundled_shape_is_read_without_a_guess() -> None:
    for name in bundled_names():
        llm = read_llm(name)
        assert (llm.name, llm.path, llm.guesses) == (name, None, ())
        assert llm.max_context is not None


_KEYS = sorted(
    {*MOE, "kv_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "text_config"}
    | {"head_dim", "sliding_window", "layer_types", "quantization_config", "moe_layer_freq"}
    | {"n_shared_experts", "first_k_dense_replace", "mlp_only_layers", "sliding_window_pattern"}
    | {"decoder_sparse_step", "torch_dtype", "tie_word_embeddings", "full_attention_interval"}
)
_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(min_value=-2, max_value=300)
    | st.integers(min_value=-(10**60), max_value=10**60)
    | st.floats()
    | st.sampled_from(["fp8", "awq", "full_attention", "compressed-tensors", "", "\x1b[31m"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*_KEYS, "quant_method", "config_groups", "weights", "ignore"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(_KEYS), _VALUES, max_size=6))
def test_a_file_of_unknown_origin_gives_a_shape_or_a_sentence(changes: dict[str, Any]) -> None:
    try:
        llm = shape({**MOE, **changes})
    except InvalidInput as problem:
        assert "config.json" in problem.message  # noqa: PT017
    else:
        assert num_params(llm) > 0
        assert weight_bytes(llm) > 0
        assert kv_bytes_per_token(llm) >= 0
