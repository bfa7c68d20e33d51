"""One engine started by hand on GPUs it is told, or a simulated one in its place.

`pdctl up` would start a router as well, which costs twenty seconds of a short loan.
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

BASE = (
    "--load-format dummy --skip-tokenizer-init --attention-backend triton "
    "--sampling-backend pytorch --grammar-backend none --enable-metrics "
    "--chunked-prefill-size 8192 "
    "--cuda-graph-bs-decode 1 2 4 8 12 16 24 32 48 64 96 128 192 256"
)
# NVLink multicast can put a shared host's GPUs out of service: it stays off whatever SGLang thinks
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
LEFT = Path(tempfile.gettempdir()) / f"pdctl-rig-groups-{os.getuid()}"


@dataclass(frozen=True)
class Server:
    """What to start. role: null, prefill or decode. env: added to this process's own."""

    name: str
    model: str
    gpus: str
    port: int
    role: str = "null"
    args: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self, engine: str) -> list[str]:
        words = ["--model-path", self.model, "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--disaggregation-mode", self.role]
        tp = len(self.gpus.split(","))
        words += ["--tp-size", str(tp)]
        if engine == "sim":
            more = ["--sim-gpus", f"{tp}xH200", "--sim-start-s", "1"]
            return [sys.executable, "-m", "pdctl.engines.sim", *words, *more]
        if self.role != "null":
            words += ["--disaggregation-transfer-backend", "nixl"]
            words += ["--disaggregation-bootstrap-port", "8998"]
        words += ["--nccl-port", str(self.port + 5000)]
        launch = [sys.executable, "-m", "sglang.launch_server"]
        return [*launch, *words, *shlex.split(BASE), *shlex.split(self.args)]


class Running:
    """A server's process. It is told to end with everything it started.

    LEFT keeps the process groups, so that the next run on this machine ends what an interrupted
    one could not.
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

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def wait(self, timeout_s: float) -> float:
        """Seconds until it served. Raises TimeoutError or RuntimeError with the log's end."""
        while time.monotonic() - self.began < timeout_s:
            if self.is_over():
                raise RuntimeError(f"{self.server.name} ended: {self.tail()}")
            if self._serves():
                return time.monotonic() - self.began
            time.sleep(0.5)
        raise TimeoutError(f"{self.server.name} not ready after {timeout_s:.0f} s: {self.tail()}")

    def _serves(self) -> bool:
        """A decode engine says healthy at once; a prefill engine after its warm-up request."""
        try:
            with urllib.request.urlopen(f"{self.server.url}/health", timeout=3) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def tail(self, lines: int = 12) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])[-1800:]

    def told(self) -> list[str]:
        """Lines of its log that say which kernels and graphs it takes, each once."""
        found = [
            line[:400]
            for line in self.log.read_text(errors="replace").splitlines()
            if TOLD.search(line) and "server_args=" not in line
        ]
        return list(dict.fromkeys(found))[:60]

    def info(self) -> dict[str, Any]:
        """What its server_info says of limits and backends."""
        with urllib.request.urlopen(f"{self.server.url}/get_server_info", timeout=10) as answer:
            page = json.loads(answer.read())
        return {name: page[name] for name in INFO if name in page}

    def kill(self) -> None:
        """SIGKILL to it and all it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, then SIGKILL to its process group, until nothing of it is left."""
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
    """MiB in use on a GPU by nvidia-smi; −1 where there is none."""
    words = ["nvidia-smi", "-i", gpu, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return int(subprocess.run(words, capture_output=True, text=True).stdout)
    except (OSError, ValueError):
        return -1


def end_left_over() -> None:
    """Kill the process groups that an earlier run of this user left, and forget them."""
    if LEFT.is_file():
        for line in LEFT.read_text().split():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(int(line), signal.SIGKILL)
        LEFT.unlink()


def start(servers: Sequence[Server], out: Path, engine: str) -> list[Running]:
    """Start all of them at once."""
    (out / "logs").mkdir(parents=True, exist_ok=True)
    return [Running(one, out / "logs" / f"{one.name}.log", engine) for one in servers]
