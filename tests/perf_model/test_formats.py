"""In which number format a GPU multiplies each matrix of an LLM."""

from pdctl.perf_model.formats import dense_formats, expert_format, kernel_warnings, quantises
from pdctl.perf_model.kernels import replayed_s
from pdctl.perf_model.roofline import step_times
from tests.perf_model.shapes import ONE, cluster, gpu, llm

NVFP4 = "deepseek-v3.1-nvfp4"


def test_nvfp4_is_multiplied_as_such_on_blackwell_and_widened_on_hopper() -> None:
    assert expert_format(llm(NVFP4), gpu("B200")) == "fp4"
    assert expert_format(llm(NVFP4), gpu("H200")) == "bf16"
    assert quantises(llm(NVFP4), gpu("B200"))
    assert not quantises(llm(NVFP4), gpu("H200"))
    mixed = dense_formats(llm(NVFP4), gpu("B200"))
    assert set(mixed) == {"bf16", "fp4"}  # q_a, q_b, kv_a and kv_b stay in 16 bits
    assert abs(sum(mixed.values()) - 1) < 1e-9


def test_a_format_without_products_on_a_gpu_is_a_warning_with_what_to_check() -> None:
    (said,) = kernel_warnings(llm(NVFP4), gpu("H200"))
    assert said.startswith("H200 has no NVFP4 products")
    assert "start log" in said
    assert kernel_warnings(llm(NVFP4), gpu("B200")) == ()
    assert kernel_warnings(llm("llama-3.1-8b"), gpu("A100-80GB")) == ()
    (old,) = kernel_warnings(llm("deepseek-r1"), gpu("A100-80GB"))
    assert "FP8" in old


def test_mla_hybrids_and_sparse_attention_cost_more_kernels_a_layer_than_gqa() -> None:
    names = ("qwen3-30b-a3b", "qwen3.5-35b-a3b", "deepseek-v3", "glm-5-fp8")
    a_layer = [
        replayed_s(llm(name), runner="triton", dynamic=True) / llm(name).num_layers
        for name in names
    ]
    assert a_layer == sorted(a_layer)


def test_decode_of_sparse_attention_hardly_grows_with_its_context() -> None:
    sparse = step_times(llm("deepseek-v3.2"), cluster("H200"), ONE, "decode")
    whole = step_times(llm("deepseek-v3"), cluster("H200"), ONE, "decode")
    assert sparse.decode_context_s < whole.decode_context_s / 3
    assert sparse.decode_request_s > whole.decode_request_s


def test_linear_attention_reads_and_writes_its_state_whatever_the_context() -> None:
    hybrid = step_times(llm("qwen3.5-35b-a3b"), cluster("H200"), ONE, "decode")
    full = step_times(llm("qwen3-30b-a3b"), cluster("H200"), ONE, "decode")
    assert hybrid.decode_context_s < full.decode_context_s
    assert hybrid.decode_request_s > full.decode_request_s
