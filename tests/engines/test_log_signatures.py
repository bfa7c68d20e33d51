"""Why a start failed, from its log."""

import re
from pathlib import Path

import pytest

from pdctl.engines.explain_log import explain_failure, explain_troubles
from pdctl.engines.log_signatures import STARTS
from pdctl.engines.trouble_signatures import TROUBLES

LOGS = Path(__file__).parents[1] / "data" / "logs"

# id, a line as SGLang, the router or a library prints it
LINES = [
    ("out_of_memory", "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
    (
        "no_kv_memory",
        "RuntimeError: Not enough memory. Please try to increase --mem-fraction-static.",
    ),
    (
        "host_out_of_memory",
        "Rank 0 scheduler died during initialization (exit code: -9). OOM killer",
    ),
    ("port_in_use", "[Errno 98] error while attempting to bind on address ('127.0.0.1', 20000)"),
    ("port_in_use", "RuntimeError: Address already in use (os error 98)"),
    ("port_in_use", "ValueError: port at 20233 is not available in 30 seconds."),
    (
        "address_not_here",
        "zmq.error.ZMQError: Cannot assign requested address (addr='tcp://10.0.0.9:1')",
    ),
    ("missing_backend", "ModuleNotFoundError: No module named 'mooncake'"),
    ("missing_backend", "ImportError: Please install nixl by following the instructions at ..."),
    ("missing_module", "ModuleNotFoundError: No module named 'sgl_kernel'"),
    ("missing_library", "OSError: libibverbs.so.1: cannot open shared object file: No such file"),
    ("missing_library", "ImportError: x.so: undefined symbol: _ZN3c104cuda9SetDeviceEi"),
    ("unknown_flag", "launch_server.py: error: unrecognized arguments: --enable-deepep-moe"),
    ("unknown_flag", "error: ambiguous option: --cuda-graph-bs could match --cuda-graph-bs-decode"),
    ("bad_nic", "E1123 topology.cpp:44] Device mlx5_3 port not active"),
    ("bad_nic", "ValueError: Invalid IB devices specified: ['mlx5_9']. Available devices: []"),
    ("nixl", "nixl._bindings.nixlBackendError: NIXL_ERR_BACKEND"),
    ("offline", "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files"),
    ("gated", "huggingface_hub.errors.GatedRepoError: 401 Client Error."),
    ("no_model", "OSError: /models/x does not appear to have a file named config.json."),
    (
        "no_model",
        "ValueError: Unrecognized model in /x. Should have a `model_type` key in its config.",
    ),
    ("remote_code", "ValueError: Please pass the argument `trust_remote_code=True` to allow it."),
    ("driver", "RuntimeError: The NVIDIA driver version is insufficient for CUDA runtime version"),
    ("nccl", "RuntimeError: NCCL error: unhandled system error"),
    ("indivisible", "AssertionError: 32 is not divisible by 3"),
    ("too_few_files", "OSError: [Errno 24] Too many open files"),
    ("disk_full", "OSError: [Errno 28] No space left on device"),
    ("not_runnable", "pdctl: cannot run /nope/bin/python: No such file or directory"),
    ("crashed", "Fatal Python error: Segmentation fault"),
    (
        "warmup",
        "[2026-11-23 09:28:19] Disaggregation warmup failed (mode=prefill, status codes=[500])",
    ),
]


@pytest.mark.parametrize(("id_", "line"), LINES, ids=[line[:40] for _, line in LINES])
def test_each_signature_is_told_with_a_fix(id_: str, line: str) -> None:
    found = explain_failure(f"[2026-11-23 09:00:00] Load weight begin.\n{line}\nKilled\n")
    assert found is not None
    assert found.id == id_
    assert found.line == line
    assert found.fix


def test_the_earliest_telling_line_wins_over_its_consequences() -> None:
    log = (
        "[2026-11-23 09:00:00 TP0] Load weight begin. avail mem=78.1 GB\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 224.00 MiB.\n"
        "[2026-11-23 09:00:09] Received sigquit from a child process.\n"
        "ConnectionRefusedError: [Errno 111] Connection refused\n"
        "OSError: [Errno 98] Address already in use\n"
    )
    found = explain_failure(log)
    assert found is not None
    assert found.id == "out_of_memory"


@pytest.mark.parametrize(
    "line",
    [
        "I1123 No RDMA devices found, falling back to TCP",
        "[2026-11-23 09:28:19] Fail to set RLIMIT_NOFILE: current limit exceeds maximum limit",
        "UserWarning: flashinfer is not available (No module named 'flashinfer')",
        "Ignore import error when loading sglang.srt.models.x: No module named 'y'",
        "[2026-11-23 09:28:19] server_args={'trust_remote_code': False, 'x': 'HF_HUB_OFFLINE'}",
        "# pdctl 2026-11-23 09:00:00 python -m sglang.launch_server --trust-remote-code",
        "2026-11-23T09:00:00Z  WARN smg: tokenizer download: Max retries exceeded",
    ],
)
def test_what_healthy_starts_print_too_explains_nothing(line: str) -> None:
    assert explain_failure(line) is None


def test_a_harmless_warning_does_not_hide_the_cause_behind_it() -> None:
    log = "No RDMA devices found\nRuntimeError: Not enough memory. Please try again.\n"
    found = explain_failure(log)
    assert found is not None
    assert found.id == "no_kv_memory"


@pytest.mark.parametrize("file", sorted(LOGS.glob("*.log")), ids=lambda file: file.name)
def test_logs_of_healthy_engines_explain_no_failure_and_no_trouble(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert len(text) > 1000
    assert explain_failure(text) is None
    assert explain_troubles(text) == ()


def test_source_lines_of_a_traceback_explain_nothing() -> None:
    log = (
        "Traceback (most recent call last):\n"
        '  File "<frozen runpy>", line 198, in _run_module_as_main\n'
        '  File "/x/hub.py", line 7, in get\n'
        '    raise LocalEntryNotFoundError("CUDA out of memory")\n'
        "huggingface_hub.errors.LocalEntryNotFoundError: Cannot find the requested files\n"
    )
    found = explain_failure(log)
    assert found is not None
    assert found.id == "offline"
    assert found.line.startswith("huggingface_hub.errors.")


def test_colour_codes_and_progress_bars_do_not_hide_a_line() -> None:
    found = explain_failure("\rLoading: 10%\r\x1b[31mCUDA out of memory\x1b[0m\n")
    assert found is not None
    assert found.line == "CUDA out of memory"


def test_troubles_of_a_run_are_counted_by_kind_with_their_first_line() -> None:
    late = "Request {} timed out after 300.0s in KVPoll.Bootstrapping"
    log = "\n".join(late.format(i) for i in range(3)) + "\nPage size mismatch: 1 and 64\n"
    bootstrap, mismatch = explain_troubles(log)
    assert (bootstrap.id, bootstrap.count, bootstrap.line) == (
        "bootstrap_timeout",
        3,
        late.format(0),
    )
    assert mismatch.id == "mismatch"


def test_every_signature_compiles_and_has_its_own_id() -> None:
    for table in (STARTS, TROUBLES):
        assert len({row.id for row in table}) == len(table)
        assert all(re.compile(row.pattern) and row.fix and row.text.endswith(".") for row in table)
