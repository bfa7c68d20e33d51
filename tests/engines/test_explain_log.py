"""Why a process ended: known kinds from field logs, and exceptions of no known kind quoted."""

from pathlib import Path

import pytest

from pdctl.engines.explain_log import (
    explain_end,
    explain_failure,
    explain_troubles,
    loud_line,
    raised_line,
)

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
    assert raised_line(log) == line


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
        ("torch.distributed.DistBackendError: NCCL error in: x.cpp:94", "gpu_fault"),
        ("nixl_cu12._bindings.nixlBackendError: NIXL_ERR_BACKEND", "nixl"),
    ],
)
def test_variants_of_known_kinds_are_explained(line: str, id_: str) -> None:
    found = explain_failure(line)
    assert found is not None
    assert found.id == id_


def test_without_a_traceback_the_loudest_line_is_at_hand() -> None:
    log = "starting\nE0605 10:48:27.885119 10136 a.cpp:2] cannot do it\nbye\n"
    assert explain_end(log) is None
    assert loud_line(log).endswith("cannot do it")
    assert loud_line("starting\nbye\n") == ""
