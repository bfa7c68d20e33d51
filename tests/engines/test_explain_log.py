"""Why a process ended: known kinds from field logs, and exceptions of no known kind quoted."""

import re
from pathlib import Path

import pytest

from pdctl.engines.explain_log import (
    explain_end,
    explain_failure,
    explain_troubles,
    loud_line,
)
from pdctl.engines.log_signatures import STARTS
from pdctl.engines.trouble_signatures import TROUBLES

LOGS = Path(__file__).parents[1] / "data" / "field_logs"
FAILURES = {
    "ascend_engine": "ascend_transfer",
    "blockn": "quantization_block",
    "decode_radix_spec": "decode_radix_cache",
    "fp8_kv_hybrid_tp": "hybrid_tp",
    "gdr_bad_address": "gpu_memory_not_registered",
    "hicache_mutual": "hicache_without_radix",
    "mamba_slots": "mamba_slots",
    "mamba_spec_nobuffer": "mamba_speculative",
    "nixl_na": "nixl_missing",
    "nvfp4": "no_fp4_kernel",
    "old_nixl_req": "nixl_missing",
    "pool_leak": "pool_leak",
    "rocm_segv": "crashed",
    "warmup_vlm_400": "warmup",
    "watchdog": "watchdog",
}


def quoted(log: str) -> str:
    """The line that the explanation of a dead process quotes; "" without an explanation."""
    found = explain_end(log)
    return found.line if found else ""


@pytest.mark.parametrize(("log", "id_"), FAILURES.items())
def test_a_log_from_the_field_is_explained(log: str, id_: str) -> None:
    found = explain_failure((LOGS / f"{log}.log").read_text(encoding="utf-8"))
    assert found is not None
    assert found.id == id_


@pytest.mark.parametrize(
    ("log", "id_"),
    [
        ("router_select", "open_circuits"),
        ("tcp_hang_addr", "transfer_refused"),
        ("hicache_run", "aborted"),
    ],
)
def test_a_trouble_from_the_field_is_explained(log: str, id_: str) -> None:
    troubles = explain_troubles((LOGS / f"{log}.log").read_text(encoding="utf-8"))
    assert id_ in [trouble.id for trouble in troubles]


FRAME = '  File "/opt/sglang/srt/x.py", line 3, in run\n    raise Bad(\n'


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (
            f"Traceback (most recent call last):\n{FRAME}RuntimeError: a new one\n",
            "RuntimeError: a new one",
        ),
        (
            f"Traceback (most recent call last):\n{FRAME}AssertionError\n[x] Received sigquit\n",
            "AssertionError",
        ),
        (
            f"Traceback (most recent call last):\n{FRAME}pkg.sub.StrangeFault: 7\n",
            "pkg.sub.StrangeFault: 7",
        ),
        (
            "[2026-01-01 10:00:00 TP0] Traceback (most recent call last):\n"
            '[2026-01-01 10:00:00 TP0]   File "x.py", line 1, in f\n'
            "[2026-01-01 10:00:00 TP0]     f()\n"
            "[2026-01-01 10:00:00 TP0] ValueError: every line has a time\n",
            "ValueError: every line has a time",
        ),
        (
            '(RayActor pid=7) Traceback (most recent call last):\n(RayActor pid=7)   File "x.py",'
            " line 1, in f\n(RayActor pid=7) KeyError: 'w'\n",
            "KeyError: 'w'",
        ),
        (
            f"Traceback (most recent call last):\n{FRAME}ValueError:\n  message one line below\n",
            "ValueError: message one line below",
        ),
        (
            f"Traceback (most recent call last):\n{FRAME}KeyError: 'first'\n\nDuring handling of"
            " the above exception, another exception occurred:\n\n"
            "Traceback (most recent call last):\n"
            f"{FRAME}RuntimeError: second\n",
            "KeyError: 'first'",
        ),
    ],
)
def test_the_exception_of_a_traceback_is_quoted(log: str, line: str) -> None:
    assert quoted(log) == line


def test_a_failure_of_no_known_kind_is_quoted_and_said_to_be_unknown() -> None:
    log = f"Traceback (most recent call last):\n{FRAME}OddError: new\n"
    assert explain_failure(log) is None
    found = explain_end(log)
    assert found is not None
    assert (found.id, found.line) == ("unknown", "OddError: new")


@pytest.mark.parametrize(
    ("line", "id_"),
    [
        ("RuntimeError: HIP error: invalid device function", "gpu_fault"),
        ("torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2 GiB", "out_of_memory"),
        (
            "Subprocess scheduler_3 (pid=9) crashed with exit code -9. Triggering",
            "host_out_of_memory",
        ),
        ("Subprocess scheduler_1 (pid=9) crashed with exit code -6. Triggering", "crashed"),
        ("Memory access fault by GPU node-2 on address 0x7f. Reason: Unknown.", "crashed"),
        ("[rank3]: Watchdog caught collective operation timeout: WorkNCCL(SeqNum=8)", "watchdog"),
        ("torch.distributed.DistBackendError: NCCL error in: x.cpp:94", "nccl"),
        ("nixl_cu12._bindings.nixlBackendError: NIXL_ERR_BACKEND", "nixl"),
        ("Exception: NIXL memory registration failed for kv tensors", "nixl"),
        ("RuntimeError: Ninja build failed.  Ninja output:", "no_compiler"),
        ("/tmp/k.cu:3:10: fatal error: cuda_fp8.h: No such file or directory", "no_compiler"),
        ("subprocess.CalledProcessError: Command '['ninja', '-v']' returned 1.", "no_compiler"),
        (
            "Exception: Capture cuda graph failed: unsupported weight_scale_vec_size",
            "graph_capture",
        ),
        ("Exception: Capture cuda graph failed: CUDA out of memory", "out_of_memory"),
        ("triton.OutOfResources: out of resource: shared memory, Required: 9", "kernel_resources"),
        ("torch.distributed.DistStoreError: Timed out after 601 seconds", "rendezvous"),
        ("RuntimeError: Gloo connectFullMesh failed with [pair.cc:144] no error", "rendezvous"),
        (
            "ValueError: The quantization method fp8 is not supported for the current GPU. Minimum"
            " capability: 80. Current capability: 75.",
            "no_kernel_for_format",
        ),
        ("ValueError: type fp8e4nv not supported in this architecture.", "no_kernel_for_format"),
        (
            "AssertionError: FlashAttention v3 Backend requires SM>=80 and SM<=90.",
            "attention_backend",
        ),
        (
            "Failed: Assertion error deep_ep.cpp:1 'x.size(0) <= num_max_dispatch_tokens_per_rank'",
            "deepep",
        ),
        ("ValueError: Not enough host memory available. Requesting 500.00 GB", "hicache_memory"),
        (
            "ValueError: Warning: User-specified context_length (9) is greater than the derived"
            " context_length (8).",
            "context_length",
        ),
        (
            "ValueError: Tokenizer class TokenizersBackend does not exist or is not currently"
            " imported.",
            "tokenizer",
        ),
        ("OSError: [Errno 116] Stale file handle: '/mnt/x.safetensors'", "storage"),
        ("Subprocess scheduler_0 (pid=4) crashed with exit code -7. Triggering", "bus_error"),
        ("Child process unexpectedly failed with exitcode=9. pid=247", "host_out_of_memory"),
        ("RuntimeError: PD disagg: heterogeneous TP not supported for DSA yet.", "hybrid_tp"),
        ("RuntimeError: Prefill out of memory. Try to lower your batch size.", "kv_pool_exhausted"),
        ("/usr/bin/python: No module named sglang", "missing_module"),
        (
            "terminate called after throwing an instance of 'c10::Error'\n  what(): CUDA error: x",
            "gpu_fault",
        ),
        ("thread 'main' panicked at src/server.rs:1:2:\nAddrInUse", "port_in_use"),
        ("AssertionError: Bootstrap port 8998 already in use", "port_in_use"),
        ("RuntimeError: NPU out of memory. Tried to allocate 2.00 GiB", "out_of_memory"),
        ("RuntimeError: ACL stream synchronize failed, error code:507015", "gpu_fault"),
        ("E0812 10:00:00.0 12 topology.cpp:60] No matched device found", "bad_nic"),
        ("E0812 10:00:00.0 12 rdma_context.cpp:9] Failed to open device mlx5_7", "bad_nic"),
        ("RuntimeError: [gloo/transport/tcp/pair.cc:144] no error", "rendezvous"),
        ("slurmstepd: error: Detected 1 oom_kill event in StepId=123.0.", "host_out_of_memory"),
        (
            "slurmstepd: error: *** STEP 9.0 ON n1 CANCELLED AT 2026-01-01T10 DUE TO TIME LIMIT",
            "job_ended",
        ),
        (
            "RuntimeError: Unexpected error from cudaGetDeviceCount(). Error 802: system not yet"
            " initialized",
            "fabric_manager",
        ),
        ("RuntimeError: NVML Shared Library Not Found", "driver"),
        ("Failed to initialize NVML: Driver/library version mismatch", "driver"),
        ("RuntimeError: operator sgl_kernel::fp8_scaled_mm does not exist", "kernel_package"),
        ("ValueError: Unknown quantization method: x. Must be one of ['awq']", "unknown_format"),
        ("huggingface_hub.errors.HfHubHTTPError: 429 Client Error: Too Many", "offline"),
        ("RuntimeError: Failed: Assertion error csrc/deep_ep.cpp:123 'num_tokens'", "deepep"),
        ("RuntimeError: DeepGEMM JIT: NVCC compilation failed", "no_compiler"),
    ],
)
def test_variants_of_known_kinds_are_explained(line: str, id_: str) -> None:
    found = explain_failure(line)
    assert found is not None
    assert found.id == id_


def _traceback(exception: str, *files: str) -> str:
    frames = (f'  File "/x/sglang/srt/{file}", line 7, in f\n    f(x)\n' for file in files)
    return f"Traceback (most recent call last):\n{''.join(frames)}{exception}\n"


@pytest.mark.parametrize(
    ("files", "text"),
    [
        (("managers/scheduler.py", "disaggregation/prefill.py"), "split prefill and decode"),
        (("disaggregation/decode.py", "speculative/eagle_worker.py"), "speculative decoding"),
        (("server_args.py",), "refused its flags"),
        (("model_loader/loader.py", "models/deepseek_v2.py"), "could not load the weights"),
        (("model_executor/model_runner.py", "layers/attention/x.py"), "attention kernels"),
    ],
)
def test_an_unknown_exception_is_told_by_the_part_of_sglang_that_failed(
    files: tuple[str, ...], text: str
) -> None:
    found = explain_end(_traceback("KeyError: 'w13_weight'", *files))
    assert found is not None
    assert text in found.text
    assert found.source == f"SGLang's {files[-1]}:7"


def test_an_exception_that_is_a_known_trouble_is_explained() -> None:
    found = explain_end(_traceback("RuntimeError: Page size mismatch: 64 and 1"))
    assert found is not None
    assert found.id == "mismatch"


def test_an_exception_of_an_engine_that_serves_is_a_trouble() -> None:
    log = _traceback("KeyError: 'role'", "entrypoints/http_server.py") * 2
    (found,) = explain_troubles(f"{log}[x] Decode batch, #running-req: 3\n")
    assert (found.id, found.line, found.count) == ("exception", "KeyError: 'role'", 2)


def test_the_exception_inside_a_group_is_quoted() -> None:
    log = (
        "  + Exception Group Traceback (most recent call last):\n"
        '  |   File "x.py", line 1, in f\n'
        "  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)\n"
        "  +-+---------------- 1 ----------------\n"
        "    | Traceback (most recent call last):\n"
        '    |   File "y.py", line 3, in g\n'
        "    | OddError: inner\n"
    )
    assert quoted(log) == "OddError: inner"


def test_a_traceback_inside_a_line_of_json_is_read() -> None:
    log = (
        r'{"message":"Traceback (most recent call last):\n  File \"x.py\", line 3, in f\n'
        r'OddError: 7\n"}'
    )
    assert quoted(log) == "OddError: 7"


def test_a_message_one_line_below_its_exception_is_quoted_with_it() -> None:
    found = explain_end(_traceback("ImportError:\n  libnuma is missing"))
    assert found is not None
    assert found.line == "ImportError: libnuma is missing"


@pytest.mark.parametrize(
    "line",
    [
        "[x] Failed to import from custom_ar with ImportError('a.so: cannot open shared object')",
        "[x] Failed to import pynvml with ModuleNotFoundError(\"No module named 'pynvml'\")",
        "[x] FlashInfer GDN kernels not available: No module named 'flashinfer.gdn'",
        "[x] Ignore nsa reports ImportError with:\nNo module named 'deep_gemm'",
        "[x] token_to_kv_pool_allocator memory leak detected! available=3",
    ],
)
def test_imports_and_checks_that_only_warn_explain_nothing(line: str) -> None:
    assert explain_failure(line) is None


def test_the_releases_that_print_a_line_are_told() -> None:
    found = explain_failure(
        "ValueError: x is not compatible with radix cache when using --mamba-scheduler-strategy"
    )
    assert found is not None
    assert found.source.endswith("; SGLang 0.5.10 to 0.5.13 print it")


def test_releases_are_written_as_a_range_or_from_one_on() -> None:
    one = r"0\.[45]\.\d+"
    for signature in (*STARTS, *TROUBLES):
        if signature.releases:
            assert re.fullmatch(rf"{one}(?: to {one}| and later)", signature.releases)


def test_without_a_traceback_the_loudest_line_is_at_hand() -> None:
    log = "starting\nE0605 10:48:27.885119 10136 a.cpp:2] cannot do it\nbye\n"
    assert explain_end(log) is None
    assert loud_line(log).endswith("cannot do it")
    assert loud_line("starting\nbye\n") == ""


@pytest.mark.parametrize(
    ("line", "id_"),
    [
        (
            "ERROR smg::upstream: PD backend request failed url=http://a",
            "unreachable_engine",
        ),
        ("ERROR smg: PD request transport error, both sides aborted: x", "unreachable_engine"),
        (
            "ERROR smg: No available prefill workers (all circuits open or unhealthy)",
            "open_circuits",
        ),
        (
            "ERROR sglang_router_rs: Decode server returned error status url=http://a",
            "engine_errors",
        ),
        ("Losing connection with prefill instance (bootstrap_addr: a:1)", "lost_prefill"),
    ],
)
def test_troubles_in_another_routers_words_are_explained(line: str, id_: str) -> None:
    assert [trouble.id for trouble in explain_troubles(line)] == [id_]
