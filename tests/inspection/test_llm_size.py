"""Sizes against published figures. Each tolerance stands beside the figure and says why."""

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


def test_every_bundled_model_has_published_figures_here() -> None:
    assert set(bundled_names()) == set(TOTAL) == set(KV_BYTES_PER_TOKEN)


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
