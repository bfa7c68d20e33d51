from typing import Any

import pytest

from pdctl.inspection.layers import Part
from pdctl.inspection.model_files import Fields
from pdctl.inspection.quantization import BF16, FP8, NVFP4, quantization_of

INT4_G32 = 4.5 / 8
INT4_AWQ = (4 + 20 / 128) / 8


def group(bits: int, kind: str, size: int | None = None) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "group_size": size}
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


def quark(weight: object) -> dict[str, Any]:
    return {"quant_method": "quark", "global_quant_config": {"weight": weight}}


@pytest.mark.parametrize(
    ("config", "bytes_per_param", "compute"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 1.0, "fp8"),
        ({"quant_method": "fbgemm_fp8"}, 1.0, "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, INT4_AWQ, "bf16"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, INT4_AWQ, "bf16"),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1.0, "fp8"),
        ({"quant_method": "compressed-tensors", **group(4, "int", 32)}, INT4_G32, "bf16"),
        ({"quant_method": "compressed-tensors", **group(8, "float")}, 1.0, "fp8"),
        ({"quant_method": "compressed-tensors", **group(4, "float", 16)}, 4.5 / 8, "fp4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5 / 8, "fp4"),
        ({"quant_method": "modelopt_fp4"}, 4.5 / 8, "fp4"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 1.0, "fp8"),
        ({"quant_method": "mxfp4"}, 4.25 / 8, "bf16"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1.0, "fp8"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, (3 + 19 / 128) / 8, "bf16"),
        ({"quant_method": "moe_wna16", "bits": 4, "group_size": 128}, INT4_AWQ, "bf16"),
        ({"quant_method": "auto-round", "bits": 4, "data_type": "mx_fp4"}, 4.25 / 8, "fp4"),
        ({"quant_method": "auto-round", "bits": 4, "data_type": "nv_fp"}, 4.5 / 8, "fp4"),
        ({"quant_method": "auto-round", "bits": 8, "data_type": "fp"}, 1.0, "fp8"),
        ({"quant_method": "mxfp8", "weight_block_size": [1, 32]}, 8.25 / 8, "fp8"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, 1.0, "fp8"),
        (
            {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnly"}}},
            INT4_AWQ,
            "bf16",
        ),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8"}}, 1.0, "fp8"),
        (quark({"dtype": "fp8_e4m3", "qscheme": "per_tensor"}), 1.0, "fp8"),
        (quark({"dtype": "fp4", "group_size": 32}), 4.25 / 8, "fp4"),
        (quark([{"dtype": "fp4", "group_size": 16}, {"dtype": "fp8_e4m3"}]), 4.5 / 8, "fp4"),
        (quark({"dtype": "int4", "group_size": 128}), INT4_AWQ, "bf16"),
    ],
)
def test_a_config_says_bytes_per_parameter_and_arithmetic(
    config: dict[str, Any], bytes_per_param: float, compute: str
) -> None:
    found = quantization_of(Fields(config, "config.json"), num_layers=4)
    assert found is not None
    assert found.format.bytes_per_param == bytes_per_param
    assert found.format.compute == compute
    assert found.notes == ()


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"quant_method": "aqlm"},
        {"quant_method": 7},
        {"quant_method": "compressed-tensors"},
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": None}},
        {"quant_method": "modelopt", "quant_algo": ["NVFP4"]},
    ],
)
def test_a_format_that_is_not_known_counts_as_16_bits_and_says_so(config: dict[str, Any]) -> None:
    found = quantization_of(Fields(config, "config.json"), num_layers=4)
    assert found is not None
    assert found.format.bytes_per_param == 2.0
    assert "bf16" in found.notes[0]


def test_what_a_config_leaves_alone_is_told_by_part() -> None:
    kimi = [
        "lm_head",
        "re:.*self_attn.*",
        "re:.*shared_experts.*",
        "re:.*mlp\\.(gate|up|gate_up|down)_proj.*",
    ]
    config = {"quant_method": "compressed-tensors", "ignore": kimi, **group(4, "int", 32)}
    found = quantization_of(Fields(config, "config.json"), num_layers=61)
    assert found is not None
    assert found.format_of(3, "experts", "up").bytes_per_param == INT4_G32
    for part in ("attention", "shared", "mlp"):
        assert found.format_of(3, part, "q" if part == "attention" else "up") is BF16
    assert found.format_of(None, "head", "head") is BF16


def test_layers_named_one_by_one_count_as_a_share() -> None:
    names = [f"model.layers.{i}.self_attn.{x}_proj" for i in range(2) for x in "qkvo"]
    others = [
        "model.layers.61.self_attn.q_proj",
        "visual.blocks.0.attn.qkv",
        "model.layers.0.mlp.gate",
    ]
    config = {"quant_method": "fp8", "modules_to_not_convert": [*names, *others, 5, None]}
    found = quantization_of(Fields(config, "config.json"), num_layers=8)
    assert found is not None
    kept = [i for i in range(8) if found.format_of(i, "attention", "q") is BF16]
    assert kept == [0, 1]
    assert found.format_of(0, "mlp", "gate") is FP8


def test_a_hostile_pattern_is_not_run() -> None:
    config = {"quant_method": "fp8", "ignore": ["re:(self_attna+)+$" + "(" * 50, "a" * 10_000]}
    found = quantization_of(Fields(config, "config.json"), num_layers=8)
    assert found is not None
    assert found.format_of(0, "attention", "q") is BF16
    assert found.format_of(0, "mlp", "up") is FP8


def test_names_of_norms_and_biases_decide_nothing() -> None:
    names = ["post_attention_layernorm", "self_attn.q_a_layernorm", "linear_attn.A_log"]
    names += ["linear_attn.dt_bias", "linear_attn.conv1d", "mlp.gate.e_score_correction_bias"]
    config = {
        "quant_method": "fp8",
        "modules_to_not_convert": [f"model.layers.{i}.{name}" for i in range(4) for name in names],
    }
    found = quantization_of(Fields(config, "config.json"), num_layers=4)
    assert found is not None
    assert found.named == ()


def test_one_excluded_matrix_does_not_exclude_its_neighbours() -> None:
    config = {"quant_method": "fp8", "ignore": ["model.layers.0.self_attn.kv_b_proj"]}
    found = quantization_of(Fields(config, "config.json"), num_layers=4)
    assert found is not None
    assert found.format_of(0, "attention", "kv_b") is BF16
    assert found.format_of(0, "attention", "q_b") is FP8
    assert found.format_of(1, "attention", "kv_b") is FP8


def test_mixed_precision_names_the_format_of_each_matrix() -> None:
    layers = {
        "model.layers.0.linear_attn.out_proj": {"quant_algo": "FP8"},
        "model.layers.0.mlp.experts": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
        "lm_head": {"quant_algo": "W4A16_NVFP4", "group_size": 16},
    }
    config = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": layers,
    }
    found = quantization_of(Fields(config, "config.json"), num_layers=2)
    assert found is not None
    assert found.format_of(0, "state", "out") is FP8
    assert found.format_of(0, "state", "in_qkv") is BF16
    assert found.format_of(0, "experts", "up") is NVFP4
    assert found.format_of(1, "experts", "up") is BF16
    assert found.format_of(None, "head", "head") is NVFP4


def test_a_config_that_names_only_layers_that_do_not_exist_says_so() -> None:
    config = {"quant_method": "fp8", "ignore": ["model.layers.99.self_attn.q_proj"]}
    found = quantization_of(Fields(config, "config.json"), num_layers=4)
    assert found is not None
    assert "model.layers.99" in found.notes[0]


@pytest.mark.parametrize(
    "config",
    [
        {
            "quant_method": "gptq",
            "bits": 4,
            "dynamic": {"-:.*self_attn.*": {}, "+:.*shared_expert.*": {"bits": 8}},
        },
        {
            "quant_method": "auto-round",
            "bits": 4,
            "extra_config": {
                r".*self_attn.*": {"bits": 16, "data_type": "float"},
                "model.layers.0.mlp.shared_expert": {"bits": 8},
                "model.layers.1.mlp.shared_expert": {"bits": 8},
            },
        },
        {
            **quark({"dtype": "int4", "group_size": 128}),
            "exclude": ["lm_head", "*self_attn*"],
            "layer_quant_config": {"*mlp.shared_expert.*": {"weight": {"dtype": "int8"}}},
        },
    ],
)
def test_matrices_that_a_release_sets_apart_have_their_own_format(config: dict[str, Any]) -> None:
    found = quantization_of(Fields(config, "config.json"), num_layers=2)
    assert found is not None
    assert found.format_of(1, "attention", "q") == BF16
    assert found.format_of(1, "shared", "up").bytes_per_param == 1.0
    assert found.format_of(1, "experts", "up").bytes_per_param == INT4_AWQ


def test_w4afp8_keeps_experts_in_four_bits_and_the_rest_in_fp8() -> None:
    """Source: sglang 0.5.23 layers/quantization/w4afp8.py."""
    found = quantization_of(Fields({"quant_method": "w4afp8"}, "config.json"), num_layers=2)
    assert found is not None
    assert found.format_of(0, "attention", "q") == FP8
    assert found.format_of(0, "experts", "up").bytes_per_param == (4 + 16 / 128) / 8


FP8_CACHE = {"type": "float", "num_bits": 8, "strategy": "tensor", "dynamic": False}


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": FP8_CACHE}, True),
        ({"quant_method": "compressed-tensors", "kv_cache_scheme": None}, False),
        (
            {
                "quant_method": "compressed-tensors",
                "kv_cache_scheme": FP8_CACHE | {"dynamic": True},
            },
            False,
        ),
        (
            {"quant_method": "compressed-tensors", "kv_cache_scheme": FP8_CACHE | {"type": "int"}},
            False,
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "kv_cache_scheme": FP8_CACHE | {"strategy": "attn_head"},
            },
            False,
        ),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"type": "float", "num_bits": 8}}, True),
        ({"quant_method": "modelopt", "kv_cache_scheme": {"type": "float", "num_bits": 4}}, False),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, True),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "NVFP4"}, False),
        ({"quant_method": "modelopt", "kv_cache_quant_algo": "INT8"}, False),
        ({"quant_method": "fp8", "kv_cache_quant_algo": "FP8"}, True),
        ({"quant_method": "awq", "bits": 4, "kv_cache_quant_algo": "FP8"}, False),
    ],
)
def test_a_release_makes_the_cache_fp8_where_sglang_takes_it_at_its_word(
    config: dict[str, Any], kept: bool
) -> None:
    """Source: sglang 0.5.23 kv_cache_dtype.py: `auto` is FP8 or the type of the model."""
    found = quantization_of(Fields(config, "config.json"), num_layers=2)
    assert found is not None
    assert found.kv_dtype_bytes == (1.0 if kept else None)


def test_a_parent_in_the_ignore_list_of_compressed_tensors_keeps_nothing() -> None:
    """Source: sglang 0.5.23 compressed_tensors/utils.py: a name is that of one module."""
    names = ["model.layers.0.mlp.experts.0", "model.layers.0.self_attn", "model.layers.1"]
    names += ["lm_head", "model.layers.1.self_attn.q_proj", "re:.*layers.0.linear_attn.*"]
    config = {"quant_method": "compressed-tensors", "ignore": names, **group(4, "int", 32)}
    found = quantization_of(Fields(config, "config.json"), num_layers=2)
    assert found is not None
    matrices: tuple[tuple[Part, str], ...] = (
        ("experts", "up"),
        ("attention", "q"),
        ("state", "out"),
    )
    kept = [
        (layer, part, leaf)
        for layer in (0, 1)
        for part, leaf in matrices
        if found.format_of(layer, part, leaf) is BF16
    ]
    assert kept == [(0, "state", "out"), (1, "attention", "q")]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_group_of_names_goes_before_the_group_of_a_class(reverse: bool) -> None:
    def of(bits: int, *targets: str) -> dict[str, Any]:
        weights = {"num_bits": bits, "type": "float" if bits == 8 else "int", "group_size": 32}
        return {"targets": list(targets), "weights": weights}

    groups = [("a", of(8, "re:.*self_attn.*")), ("b", of(4, "Linear"))]
    ordered = dict(groups[::-1] if reverse else groups)
    config = {"quant_method": "compressed-tensors", "config_groups": ordered, "ignore": ["lm_head"]}
    found = quantization_of(Fields(config, "config.json"), num_layers=2)
    assert found is not None
    assert found.notes == ()
    assert found.format_of(0, "attention", "q") == FP8
    assert found.format_of(0, "experts", "up").bytes_per_param == INT4_G32
    assert found.format_of(None, "head", "head") is BF16


@pytest.mark.parametrize(
    ("pattern", "layers"),
    [
        (r"re:.*layers\.[0-2]\.mlp\..*", {0, 1, 2}),
        (r"re:model\.layers\.(?:[0-9]|1[0-1])\.mlp\..*", set(range(12))),
        (r"re:.*layers\.1[25]\.mlp.*", {12, 15}),
        (r"re:.*layers\.(3|13)\.mlp.*", {3, 13}),
        (r"re:.*layers\.[0-9]+\.mlp.*", set(range(16))),
        (r"re:.*layers\.\d+\.mlp.*", set(range(16))),
        ("*layers.7.mlp*", {7}),
    ],
)
def test_layers_are_named_by_classes_of_digits_too(pattern: str, layers: set[int]) -> None:
    config = {"quant_method": "compressed-tensors", "ignore": [pattern], **group(8, "float")}
    if not pattern.startswith("re:"):
        config["quant_method"] = "modelopt_fp8"
    found = quantization_of(Fields(config, "config.json"), num_layers=16)
    assert found is not None
    parts: tuple[Part, ...] = ("mlp", "experts")
    for part in parts:  # both are in a module named mlp
        assert {i for i in range(16) if found.format_of(i, part, "up") is BF16} == layers


def test_modules_that_bitsandbytes_skips_keep_16_bits() -> None:
    skipped = ["lm_head", "model.layers.0.self_attn", "model.layers.1.mlp"]
    config = {"quant_method": "bitsandbytes", "llm_int8_skip_modules": skipped}
    found = quantization_of(Fields(config, "config.json"), num_layers=2)
    assert found is not None
    assert found.format_of(0, "attention", "q") is BF16
    assert found.format_of(1, "mlp", "up") is BF16
    assert found.format_of(0, "mlp", "up").bytes_per_param < 1.0
