"""Start one SGLang engine, or a simulated one, on given GPUs.

`pdctl up` would also start a router, which takes twenty seconds that a short run cannot spare.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

BASE = (
    "--load-format dummy --skip-tokenizer-init --attention-backend triton "
    "--sampling-backend pytorch --grammar-backend none --enable-metrics "
    "--chunked-prefill-size 8192 "
    "--cuda-graph-bs-decode 1 2 4 8 12 16 24 32 48 64 96 128 192 256"
)
# NVLink multicast can take a shared host's GPUs out of service, so it stays off
SAFE = {
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
    "SGLANG_OPT_USE_CUSTOM_ALL_REDUCE_V2": "0",
}
TOLD = re.compile(
    r"CUDA [gG]raph|MoE kernel config|max_total_num_tokens|KV Cache is|Mamba Cache|backend|"
    r"DeepGEMM|mem usage|fallback|Using .*kernel",
)
INFO = (
    "version", "max_total_num_tokens", "max_running_requests", "attention_backend", "tp_size",
    "chunked_prefill_size", "cuda_graph_config", "mem_fraction_static", "disable_overlap_schedule",
    "moe_runner_backend", "fp8_gemm_runner_backend", "mamba_radix_cache_strategy", "page_size",
    "max_mamba_cache_size", "disable_radix_cache",
)  # fmt: skip
BOOTSTRAP_PORT = 8998
LEFT = Path(tempfile.gettempdir()) / f"pdctl-rig-groups-{os.getuid()}"


@dataclass(frozen=True)
class Server:
    """An engine to start. role: null, prefill or decode. env: extra environment variables.

    bootstrap_port: where the engines of a pair meet.
    """

    name: str
    model: str
    gpus: str
    port: int
    role: str = "null"
    args: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    bootstrap_port: int = BOOTSTRAP_PORT

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, engine: str) -> list[str]:
        words = ["--model-path", self.model, "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--disaggregation-mode", self.role]
        tp = len(self.gpus.split(","))
        words += ["--tp-size", str(tp)]
        if self.role != "null":
            words += ["--disaggregation-bootstrap-port", str(self.bootstrap_port)]
        if engine == "sim":
            more = ["--sim-gpus", f"{tp}xH200", "--sim-start-s", "1", *shlex.split(self.args)]
            return [sys.executable, "-m", "pdctl.engines.sim", *words, *more]
        if self.role != "null":
            words += ["--disaggregation-transfer-backend", "nixl"]
        words += ["--nccl-port", str(self.port + 5000)]
        launch = [sys.executable, "-m", "sglang.launch_server"]
        return [*launch, *words, *shlex.split(BASE), *shlex.split(self.args)]


class Running:
    """The process group of a started engine.

    LEFT lists the groups, so that the next run on this machine can end what an interrupted run
    left behind.
    """

    def __init__(self, server: Server, log: Path, engine: str) -> None:
        self.server, self.log = server, log
        self.began = time.monotonic()
        env = {**os.environ, **SAFE, "CUDA_VISIBLE_DEVICES": server.gpus, **server.env}
        with log.open("ab") as into:
            self._process = subprocess.Popen(
                server.command(engine),
                stdout=into,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
            )
        with LEFT.open("a") as left:
            left.write(f"{self._process.pid}\n")

    @property
    def group(self) -> int:
        """Its id."""
        return self._process.pid

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout_s: float) -> float:
        """Wait until the engine serves; seconds since its start.

        Raises TimeoutError, or RuntimeError if the process ended, with the end of its log.
        """
        while time.monotonic() - self.began < timeout_s:
            if self.is_over():
                raise RuntimeError(f"{self.server.name} ended: {self.tail()}")
            if self._serves():
                return time.monotonic() - self.began
            time.sleep(0.5)
        raise TimeoutError(f"{self.server.name} not ready after {timeout_s:.0f} s: {self.tail()}")

    def _serves(self) -> bool:
        """True once /health answers 200. A prefill engine answers 503 until its warm-up request."""
        try:
            with urllib.request.urlopen(f"{self.server.url}/health", timeout=3) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def tail(self, lines: int = 12) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])[-1800:]

    def told(self) -> list[str]:
        """Log lines that name kernels, graphs or memory pools, without repeats."""
        found = [
            line[:400]
            for line in self.log.read_text(errors="replace").splitlines()
            if TOLD.search(line) and "server_args=" not in line
        ]
        return list(dict.fromkeys(found))[:60]

    def info(self) -> dict[str, Any]:
        """Limits and backends from server_info."""
        with urllib.request.urlopen(f"{self.server.url}/get_server_info", timeout=10) as answer:
            page = json.loads(answer.read())
        return {name: page[name] for name in INFO if name in page}

    def kill(self) -> None:
        """Send SIGKILL to the process group."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Send SIGTERM, then SIGKILL, and wait until the process group is gone."""
        for sign, patience in ((signal.SIGTERM, 4.0), (signal.SIGKILL, 10.0)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
            if _group_is_gone(self._process.pid, 3.0):
                return


def _group_is_gone(group: int, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def memory_used(gpu: str) -> int:
    """MiB in use on a GPU according to nvidia-smi; −1 without nvidia-smi."""
    words = ["nvidia-smi", "-i", gpu, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(words, capture_output=True, text=True).stdout)
    except (OSError, ValueError):
        return -1


def scheduler_of(group: int) -> int:
    """The process id of the scheduler in an engine's process group. Raises LookupError."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        if "scheduler" in " ".join(process.info["cmdline"] or ()):
            with suppress(ProcessLookupError):
                if os.getpgid(process.pid) == group:
                    return int(process.pid)
    raise LookupError(f"no scheduler in process group {group}")


def end_left_over() -> None:
    """Kill the process groups that an earlier run of this user left behind."""
    if LEFT.is_file():
        for line in LEFT.read_text().split():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(int(line), signal.SIGKILL)
        LEFT.unlink()


def start(servers: Sequence[Server], out: Path, engine: str) -> list[Running]:
    """Start all of them at once."""
    (out / "logs").mkdir(parents=True, exist_ok=True)
    return [Running(one, out / "logs" / f"{one.name}.log", engine) for one in servers]
