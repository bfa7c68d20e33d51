"""Sizes against published figures. Each tolerance stands beside the figure and says why."""

import re

import pytest

from pdctl.inspection.llm import bundled_names, read_llm
from pdctl.inspection.llm_size import (
    embedding_params,
    kv_bytes_of_request,
    kv_bytes_per_token,
    num_active_params,
    num_params,
    weight_bytes,
)

GIB = 1024**3
# name: billions of parameters, relative tolerance, where it is published
TOTAL = {
    "llama-3.1-8b": (8.03, 0.002, "model card, safetensors count 8.03B"),
    "llama-3.1-70b": (70.6, 0.002, "model card, safetensors count 70.6B"),
    "qwen3-8b": (8.2, 0.005, "model card 8.2B, two digits"),
    "qwen3-32b": (32.8, 0.002, "model card 32.8B"),
    "qwen3-30b-a3b": (30.5, 0.002, "model card 30.5B"),
    "qwen3-235b-a22b": (235.0, 0.002, "model card 235B"),
    "deepseek-v3": (671.0, 0.001, "arXiv 2412.19437 abstract"),
    "deepseek-r1": (671.0, 0.001, "model card, as DeepSeek-V3"),
    # the report says 1.04T; the shapes in its own config.json come to 1.026T
    "kimi-k2": (1040.0, 0.015, "arXiv 2507.20534 table 2: 1.04T"),
    "gpt-oss-20b": (20.91, 0.002, "arXiv 2508.10925 table 1"),
    "gpt-oss-120b": (116.83, 0.002, "arXiv 2508.10925 table 1"),
    # the card counts its multi-token-prediction layer, 1 % of the whole, which is not loaded
    "glm-4.5": (355.0, 0.01, "arXiv 2508.06471 table 1"),
    "mixtral-8x7b": (46.7, 0.001, "arXiv 2401.04088, 47B; model card 46.7B"),
    # named without their size; cards, rounded as they state it
    "deepseek-v3.2": (671.9, 0.002, "model card: 671B and an index in each layer"),
    "deepseek-v4-flash": (284.0, 0.005, "model card 284B"),
    "glm-4.5-air": (106.0, 0.01, "arXiv 2508.06471: 106B"),
    "glm-4.7": (355.0, 0.01, "as GLM-4.5"),
    "glm-4.7-flash": (30.0, 0.01, "model card 30B"),
    "glm-5": (744.0, 0.002, "model card 744B"),
    "glm-5.3": (744.0, 0.002, "model card 744B"),
    "kimi-k2-thinking": (1040.0, 0.015, "as Kimi-K2: 1.04T"),
    "kimi-k2.5": (1040.0, 0.015, "as Kimi-K2: 1.04T"),
    "minimax-m2.5": (229.0, 0.005, "model card 229B"),
    "mimo-v2-flash": (309.0, 0.005, "model card 309B"),
    "llama-4-scout": (109.0, 0.02, "model card 109B, 1 % of it vision"),
    "llama-4-maverick": (400.0, 0.01, "model card 400B"),
    "granite-4.0-h-small": (32.0, 0.01, "model card 32B"),
    "hunyuan-a13b": (80.0, 0.01, "model card 80B"),
    "phi-4": (14.7, 0.005, "arXiv 2412.08905: 14.7B"),
}
# active: billions, tolerance, whether the published count includes the input embedding
ACTIVE = {
    "qwen3-30b-a3b": (3.3, 0.02, True),
    "qwen3-235b-a22b": (22.0, 0.02, True),  # published with two digits
    "deepseek-v3": (37.0, 0.02, True),
    "deepseek-r1": (37.0, 0.02, True),
    "kimi-k2": (32.6, 0.02, True),  # arXiv 2507.20534 table 2
    "gpt-oss-20b": (3.61, 0.005, False),  # the card: "unembedding counted, embedding not"
    "gpt-oss-120b": (5.13, 0.005, False),
    "glm-4.5": (32.0, 0.03, False),  # arXiv 2508.06471: two digits, unsaid what counts
    "mixtral-8x7b": (12.9, 0.005, True),
}
KV_BYTES_PER_TOKEN = {  # 2 bytes per value; exact
    "llama-3.1-8b": 131_072,
    "llama-3.1-70b": 327_680,
    "qwen3-8b": 147_456,
    "qwen3-32b": 262_144,
    "qwen3-30b-a3b": 98_304,
    "qwen3-235b-a22b": 192_512,
    "deepseek-v3": 70_272,
    "deepseek-r1": 70_272,
    "kimi-k2": 70_272,
    "gpt-oss-20b": 49_152,
    "gpt-oss-120b": 73_728,
    "glm-4.5": 376_832,
    "mixtral-8x7b": 131_072,
}
# bytes of the published weight files
WEIGHTS = {
    "llama-3.1-8b": (16.06e9, 0.002),
    "llama-3.1-70b": (141.1e9, 0.002),
    "qwen3-30b-a3b": (61.06e9, 0.002),
    "gpt-oss-20b": (12.8 * GIB, 0.005),  # arXiv 2508.10925 table 1, checkpoint size
    "gpt-oss-120b": (60.8 * GIB, 0.005),
    # 688.6 GB of files less the multi-token-prediction layer, 14 billion parameters
    "deepseek-v3": (674e9, 0.005),
    "mixtral-8x7b": (93.4e9, 0.001),
}


_SIZE = re.compile(r"-(\d+)b(?=-|$)")
_FORMATS = ("-fp8", "-nvfp4")
UNPUBLISHED = {"deepseek-v4-pro", "kimi-k3", "minimax-m3"}  # no count found to hold them against


def test_every_bundled_model_has_a_published_size_to_be_held_against() -> None:
    bases = {re.sub("-(fp8|nvfp4)$", "", name) for name in bundled_names()}
    unsized = {name for name in bases if not _SIZE.search(name)}
    assert unsized - {"deepseek-v3.1"} - UNPUBLISHED <= set(TOTAL)


def test_a_size_in_a_bundled_name_is_its_parameters() -> None:
    for name in bundled_names():
        if (size := _SIZE.search(name)) and name not in TOTAL:
            # Nemotron-3 Nano, "30B", has 31.6
            assert num_params(read_llm(name)) / 1e9 == pytest.approx(int(size[1]), rel=0.06), name


@pytest.mark.parametrize("form", _FORMATS)
def test_a_quantised_shape_has_the_parameters_of_its_own_model(form: str) -> None:
    for name in bundled_names():
        base = name.removesuffix(form)
        if base != name and base in bundled_names():
            same = num_params(read_llm(base))
            assert num_params(read_llm(name)) == pytest.approx(same), name
            assert weight_bytes(read_llm(name)) <= weight_bytes(read_llm(base)) * 1.9, name


@pytest.mark.parametrize("name", TOTAL)
def test_parameters_are_as_published(name: str) -> None:
    billions, tolerance, _ = TOTAL[name]
    assert num_params(read_llm(name)) / 1e9 == pytest.approx(billions, rel=tolerance)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_as_published(name: str) -> None:
    billions, tolerance, with_embedding = ACTIVE[name]
    llm = read_llm(name)
    embedding = embedding_params(llm) / 2 if with_embedding else 0.0
    assert (num_active_params(llm) + embedding) / 1e9 == pytest.approx(billions, rel=tolerance)


@pytest.mark.parametrize("name", KV_BYTES_PER_TOKEN)
def test_kv_bytes_per_token_are_as_known(name: str) -> None:
    assert kv_bytes_per_token(read_llm(name)) == KV_BYTES_PER_TOKEN[name]
    assert kv_bytes_per_token(read_llm(name), 1.0) == KV_BYTES_PER_TOKEN[name] / 2


@pytest.mark.parametrize("name", WEIGHTS)
def test_weight_bytes_are_those_of_the_published_files(name: str) -> None:
    expected, tolerance = WEIGHTS[name]
    assert weight_bytes(read_llm(name)) == pytest.approx(expected, rel=tolerance)


def test_a_dense_llm_multiplies_all_but_its_input_embedding() -> None:
    llm = read_llm("qwen3-8b")
    assert num_active_params(llm) == num_params(llm) - llm.vocab_size * llm.hidden_size


def test_windowed_layers_stop_growing() -> None:
    llm = read_llm("gpt-oss-120b")
    full = kv_bytes_per_token(llm)
    assert kv_bytes_of_request(llm, 100) == 100 * full
    assert kv_bytes_of_request(llm, 100_000) == full / 2 * 100_000 + full / 2 * 128


def test_a_request_without_windows_keeps_every_token() -> None:
    llm = read_llm("qwen3-8b")
    assert kv_bytes_of_request(llm, 5000) == 5000 * kv_bytes_per_token(llm)
