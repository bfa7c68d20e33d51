"""Models as transformers 5.24 spells them, against the parameters that its classes have.

Source: tests/data/transformers_models.json: to_dict() of transformers 5.24.0's configuration
classes with public sizes (Apache-2.0); parameters counted over the classes on torch's meta device,
KV values from the widths of their key, value and latent matrices. Active: the chosen experts, the
head, and no embedding that is looked up. Norms, biases and short convolutions are not read.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from pdctl.errors import InvalidInput
from pdctl.inspection.layers import mixers_of
from pdctl.inspection.llm import llm_from_config
from pdctl.inspection.llm_size import kv_bytes_growing, num_active_params, num_params, state_bytes
from pdctl.inspection.model_files import Fields
from pdctl.inspection.records import Llm

FILE = Path(__file__).parent.parent / "data" / "transformers_models.json"
MODELS: dict[str, dict[str, Any]] = json.loads(FILE.read_text())


def read(name: str, **changes: object) -> Llm:
    return llm_from_config(Fields({**MODELS[name]["config"], **changes}, name), name=name)


@pytest.mark.parametrize("name", MODELS)
def test_every_spelling_gives_the_parameters_of_its_class(name: str) -> None:
    llm, truth = read(name), MODELS[name]
    assert num_params(llm) == pytest.approx(truth["params"], rel=0.012)
    assert num_active_params(llm) == pytest.approx(truth["active_params"], rel=0.02)
    kv_values = sum(mixer.kv_values for mixer in mixers_of(llm.layers))
    assert kv_values == truth["kv_values_per_token"]
    assert not llm.guesses


def test_linear_attention_is_of_the_kind_whose_keys_the_file_has() -> None:
    """By sglang 0.5.23 configs/mamba_utils.py; 36 layers of Granite, 27 of Nemotron, 21 of Kimi."""
    granite = 36 * (48 * 64 * 128 * 4 + (48 * 64 + 2 * 128) * 3 * 2)
    assert state_bytes(read("granite-4.0-h-tiny")) == granite
    nemotron = 27 * (128 * 80 * 128 * 4 + (128 * 80 + 2 * 8 * 128) * 3 * 2)
    assert state_bytes(read("nemotron-nano-9b-v2")) == nemotron
    kimi = 21 * (32 * 128 * 128 * 4 + 3 * 32 * 128 * 3 * 2)
    assert state_bytes(read("kimi_linear, class defaults")) == kimi


def test_latents_in_a_window_are_trimmed_and_have_no_index() -> None:
    """13 layers with an index of 132 B a token; 33 keep 512 tokens."""
    llm = read("dots3_note_text, class defaults")
    assert kv_bytes_growing(llm) == 13 * (576 * 2 + 132)
    assert sum(mixer.window == 512 for mixer in mixers_of(llm.layers)) == 33


def test_compression_named_by_kind_of_layer_is_that_of_deepseeks_own_list() -> None:
    llm = read("deepseek_v4, class defaults")
    ratios = [mixer.compress_ratio for mixer in mixers_of(llm.layers)]
    assert (ratios.count(4), ratios.count(128)) == (20, 23)


def test_longcat_counts_two_layers_as_one_and_routes_to_experts_that_do_nothing() -> None:
    """LongCat-Flash-Chat: 560 B, 27 B active on average (arXiv 2509.01322)."""
    config = {
        "architectures": ["LongcatFlashForCausalLM"],
        "model_type": "longcat_flash",
        "num_layers": 28,
        "hidden_size": 6144,
        "ffn_hidden_size": 12288,
        "expert_ffn_hidden_size": 2048,
        "num_attention_heads": 64,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "v_head_dim": 128,
        "n_routed_experts": 512,
        "zero_expert_num": 256,
        "zero_expert_type": "identity",
        "moe_topk": 12,
        "max_position_embeddings": 131072,
        "vocab_size": 131072,
    }
    llm = llm_from_config(Fields(config, "longcat"), name="longcat")
    assert num_params(llm) == pytest.approx(560e9, rel=0.01)
    assert num_active_params(llm) == pytest.approx(27e9, rel=0.02)
    assert kv_bytes_growing(llm) == 2 * 28 * 576 * 2
    assert not llm.guesses


def test_step_3_shares_queries_and_one_group_of_keys() -> None:
    """Step-3: 316 B without its vision tower, 38 B active (arXiv 2507.19427)."""
    config = {
        "architectures": ["Step3VLForConditionalGeneration"],
        "model_type": "step3_vl",
        "text_config": {
            "model_type": "step3_text",
            "hidden_size": 7168,
            "intermediate_size": 18432,
            "num_hidden_layers": 61,
            "num_attention_heads": 64,
            "num_attention_groups": 1,
            "head_dim": 256,
            "share_q_dim": 2048,
            "moe_num_experts": 48,
            "moe_top_k": 3,
            "moe_intermediate_size": 5120,
            "share_expert_dim": 5120,
            "moe_layers_enum": ",".join(str(n) for n in range(4, 60)),
            "max_seq_len": 65536,
            "vocab_size": 128815,
        },
    }
    llm = llm_from_config(Fields(config, "step-3"), name="step-3")
    assert num_params(llm) == pytest.approx(316e9, rel=0.01)
    assert num_active_params(llm) == pytest.approx(38e9, rel=0.03)
    assert kv_bytes_growing(llm) == 61 * 2 * 256 * 2


def test_hybrid_layers_without_a_known_state_say_so() -> None:
    llm = read("olmo-3-32b", layer_types=["hybrid"] * 64)
    assert any("state is not counted" in note for note in llm.guesses)


@pytest.mark.parametrize(
    ("changes", "key", "sentence"),
    [
        ({"num_hidden_layers": 65}, "layer_types", "names 64 layers, and there are 65"),
        ({"layer_types": "full_attention"}, "layer_types", "must be a list"),
        ({"num_key_value_heads": 7}, "num_key_value_heads", "does not divide 40 heads"),
        ({"num_attention_heads": -40}, "num_attention_heads", "must be 1 to 100000, not -40"),
        ({"hidden_size": 10**9}, "hidden_size", "must be 1 to 10000000"),
    ],
)
def test_what_contradicts_itself_is_one_sentence_with_the_key(
    changes: dict[str, object], key: str, sentence: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        read("olmo-3-32b", **changes)
    assert f"key {key!r}" in str(refused.value)
    assert sentence in str(refused.value)


@pytest.mark.parametrize(
    ("name", "changes", "note"),
    [
        ("olmo-3-32b", {"num_hidden_layers": 60}, "names 64 layers; the first 60 are taken"),
        ("dots.llm1", {"first_k_dense_replace": 99, "mlp_layer_types": None}, "leave none of 62"),
        ("olmo-3-32b", {"quantization_config": "fp8"}, "instead of an object"),
        (
            "olmo-3-32b",
            {"quantization_config": {}},
            "without quant_method; the weights are counted as bf16",
        ),
        (
            "olmo-3-32b",
            {
                "quantization_config": {
                    "quant_method": "modelopt",
                    "quantized_layers": {"model.layers.500.mlp": {"quant_algo": "NVFP4"}},
                }
            },
            "names 'model.layers.500.mlp', which pdctl does not know",
        ),
        ("olmo-3-32b", {"gated_attention_v9": True}, "Keys that pdctl does not know"),
    ],
)
def test_what_had_to_be_assumed_is_said(name: str, changes: dict[str, object], note: str) -> None:
    assert any(note in one for one in read(name, **changes).guesses)


@pytest.mark.parametrize(
    ("key", "value"), [("mamba_ssm_dtype", "int3"), ("mamba_d_conv", 9_000_000)]
)
def test_an_absurd_state_is_refused(key: str, value: object) -> None:
    with pytest.raises(InvalidInput, match=f"must be .*, not {value!r}"):
        read("granite-4.0-h-tiny", **{key: value})
