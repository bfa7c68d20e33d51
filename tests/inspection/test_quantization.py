from typing import Any

import pytest

from pdctl.inspection.model_files import Fields
from pdctl.inspection.quantization import quantization_of

INT4_G32 = 4.5 / 8
INT4_AWQ = (4 + 20 / 128) / 8


def group(bits: int, kind: str, size: int | None = None) -> dict[str, Any]:
    weights = {"num_bits": bits, "type": kind, "group_size": size}
    return {"config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}}


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
    ],
)
def test_a_config_says_bytes_per_parameter_and_arithmetic(
    config: dict[str, Any], bytes_per_param: float, compute: str
) -> None:
    found = quantization_of(Fields(config, "config.json"), num_layers=4)
    assert found is not None
    assert found.format.bytes_per_param == bytes_per_param
    assert found.format.compute == compute
    assert found.assumption is None


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
    assert found.assumption is not None
    assert "bf16" in found.assumption


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
    assert found.left_out == {"embeddings": 1.0, "attention": 1.0, "shared": 1.0, "mlp": 1.0}


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
    assert found.left_out == {"attention": 0.25}


def test_a_hostile_pattern_is_not_run() -> None:
    config = {"quant_method": "fp8", "ignore": ["re:(self_attna+)+$" + "(" * 50, "a" * 10_000]}
    found = quantization_of(Fields(config, "config.json"), num_layers=8)
    assert found is not None
    assert found.left_out == {"attention": 1.0}
