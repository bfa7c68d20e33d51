"""What pdctl reads of others: each reader, real inputs for it, and how much of a run it gets."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pdctl.deployment.pd_yaml import deployment_yaml, parse_deployment, read_deployment
from pdctl.doctor.deployment_facts import DeploymentFacts, EngineReport
from pdctl.doctor.deployment_rules import deployment_checks
from pdctl.engines import log_file, state
from pdctl.engines.clients import http
from pdctl.engines.clients.router import listed_engines
from pdctl.engines.explain_log import explain_failure, explain_troubles
from pdctl.engines.log_file import read_phases
from pdctl.errors import PdctlError
from pdctl.inspection.llm import read_llm
from pdctl.inspection.llm_size import kv_bytes_per_token, weight_bytes
from pdctl.status.pages import (
    parse_engine_metrics,
    parse_get_load,
    parse_loads,
    parse_router_metrics,
)
from pdctl.status.records import RouterScrape
from pdctl.status.records import Target as Engine
from pdctl.status.targets import named_targets
from pdctl.workload.describe import workload_from_trace
from pdctl.workload.traces import read_trace

DATA = Path(__file__).parent.parent / "data"
ROOT = DATA.parent.parent
# files are written where they cost no disk
SCRATCH = Path(
    tempfile.mkdtemp(prefix="pdctl-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
)

atexit.register(shutil.rmtree, SCRATCH, ignore_errors=True)

PD_YAML = (
    b"""schema: 1
name: chat
model: llama-3.1-8b
engine: sim
gpus: 8xH200
sim_speed: 2.0
args: --page-size 64
prefill:
  engines: 2
  tp: 2
  args: {chunked-prefill-size: 8192, disable-radix-cache: true}
  env: {NCCL_DEBUG: INFO}
decode:
  engines: 3
  tp: 1
  args: [--max-running-requests, "256"]
router:
  host: 127.0.0.1
  port: 30000
  policy: cache_aware
slo: {ttft: 2s, tpot: 30ms}
predicted: {ttft_p50_s: 0.31}
""",
    b"schema: 1\nmodel: m\ncolocated: {engines: 8}\n",
    b"sglang:\n- name: actor\n  model_path: m\n  server_groups:\n"
    b"  - {worker_type: prefill, num_gpus: 2, num_gpus_per_engine: 1}\n"
    b"  - {worker_type: decode, num_gpus: 6, num_gpus_per_engine: 2, overrides: {tp_size: 2}}\n",
)
STATE = b"""{"name": "chat", "phase": "serving", "detail": "", "boot_id": "b", "supervisor_pid": 1,
"supervisor_started_at": 1.0, "updated_at": 2.0, "detached": true, "endpoint": "http://127.0.0.1:1",
"layout": "1P1D", "model": "m", "processes": [{"name": "router", "role": "router", "url": "http://x",
"phase": "serving", "pid": 2, "started_at": 1.5, "gpus": [0]}]}"""
LAUNCH = b"""{"run_id": "r", "boot_id": "b", "name": "chat", "layout": "1C", "model": "m",
"endpoint": "http://x", "detached": true, "cwd": "/", "launched_at": 1.0, "ready_timeout_s": 2.0,
"specs": [{"name": "router", "role": "router", "argv": ["a"], "env": {}, "gpus": [], "host": "h",
"port": 1, "log": "/x/router.log"}]}"""
INFO = b"""{"page_size": 1, "kv_cache_dtype": "auto", "context_length": null, "tp_size": 4,
"attn_dp_size": 2, "dp_size": 1, "pp_size": 1, "disaggregation_mode": "prefill", "host": "0.0.0.0",
"disaggregation_bootstrap_port": 31998, "disaggregation_transfer_backend": "mooncake",
"max_total_num_tokens": 8192, "max_req_input_len": 2042, "max_running_requests": 4,
"moe_a2a_backend": "none", "version": "0.5.23", "model_path": "m", "prefill_http_port": 1,
"scheduler_info": {"max_total_num_tokens": 8192}, "workers": [{"id": "1", "url":
"http://127.0.0.1:1", "worker_type": "prefill", "is_healthy": true, "bootstrap_port": 1}]}"""
TRACES = (
    b'{"timestamp": 0, "input_length": 100, "output_length": 5, "hash_ids": [1, 2]}\n' * 3,
    b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.97,4808,10\n",
    b"Timestamp,Model,Request tokens,Response tokens\n5,ChatGPT,472,18\n",
    b'{"input_lens": [5, 6], "output_lens": [1, 2], "ttfts": [0.1, 0.2], "itls": [[], [0.1]]}\n',
    b'{"timestamp": "2026-11-23T09:00:00+0000", "event": "request.finished", "rid": "a",'
    b' "obj": {}, "out": {"meta_info": {"prompt_tokens": 4, "completion_tokens": 2}}}\n',
)
FAILED_LOG = (
    b"# pdctl 2026-11-23 09:00:00 python -m sglang.launch_server --port 1\n"
    b"[2026-11-23 09:00:00] Load weight begin. avail mem=78.1 GB\n"
    b"\rMulti-thread loading shards:  25% Completed | 1/4\rCapturing batches (bs=64): | 9/36\n"
    b"Request x timed out after 300.0s in KVPoll.Bootstrapping\n"
    b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    b"\x1b[31mAddress already in use (os error 98)\x1b[0m\n"
)


@dataclass(frozen=True)
class Target:
    """One reader. read: must return, or raise PdctlError. share: of all inputs of a long run."""

    corpus: tuple[bytes, ...]
    read: Callable[[bytes], object]
    share: float


def _files(*patterns: str, under: Path = DATA, most_bytes: int = 6000) -> tuple[bytes, ...]:
    """Files cut at a line end: a long input takes long and hides what is at its start."""
    found = sorted(path for pattern in patterns for path in under.glob(pattern))
    assert found, patterns
    return tuple(_cut(path.read_bytes(), most_bytes) for path in found)


def _whole_files(pattern: str, under: Path, most_bytes: int = 6000) -> tuple[bytes, ...]:
    """The files of at most `most_bytes`: half a config.json is none."""
    found = (path.read_bytes() for path in sorted(under.glob(pattern)))
    return tuple(data for data in found if len(data) <= most_bytes)


def _cut(data: bytes, most: int) -> bytes:
    return data if len(data) <= most else data[: data.rfind(b"\n", 0, most) + 1] or data[:most]


def _metrics(data: bytes) -> object:
    page = data.decode("utf-8", "replace")
    return parse_engine_metrics(page, "decode", 0.0), parse_router_metrics(page)


def _loads(data: bytes) -> object:
    return parse_loads(data, "prefill", 0.0), parse_get_load(data, "decode", 0.0)


def _router(data: bytes) -> object:
    """A router's list, and the names and addresses status makes of it."""
    listed = listed_engines(http.json_object(data)) or ()
    return named_targets(listed, "127.0.0.1"), named_targets(listed, "10.0.0.1")


def _trace(data: bytes) -> object:
    path = SCRATCH / "trace"
    path.write_bytes(data)
    with suppress(PdctlError):
        read_trace(path)
    trace = read_trace(path, skip_bad=True)
    return workload_from_trace(trace, "trace")


def _config(data: bytes) -> object:
    (SCRATCH / "config.json").write_bytes(data)
    llm = read_llm(str(SCRATCH))
    return weight_bytes(llm), kv_bytes_per_token(llm)


def _deployment(data: bytes) -> object:
    path = SCRATCH / "pd.yaml"
    path.write_bytes(data)
    found = read_deployment(path)
    assert parse_deployment(deployment_yaml(found)) == found
    return found


def _state(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    for read in (state.parse_state, state.parse_launch):
        with suppress(ValueError, TypeError, KeyError, AttributeError):  # what state.py expects
            read(text)
    return [state.parse(line) for line in text.splitlines()]


def _log(data: bytes) -> object:
    text = data.decode("utf-8", "replace")
    lines = tuple(log_file.without_colours(text).split("\n"))
    return (
        explain_failure(text),
        explain_troubles(text),
        read_phases(None, text),
        log_file.telling_line(log_file.last_start(lines)),
    )


def _doctor(data: bytes) -> object:
    """An engine's /server_info, a registry's /route and a router's list, whatever they hold."""
    info = http.json_object(data) or {}
    return deployment_checks(_seen(info))


def _seen(info: Mapping[str, Any]) -> DeploymentFacts:
    prefill = EngineReport(
        Engine("prefill-0", "prefill", "http://127.0.0.1:1"),
        info=info,
        role=str(info.get("disaggregation_mode")),
        bootstrap_port=1,
        registry=info,
    )
    other = {**info, "tp_size": 2, "page_size": 7}
    decode = EngineReport(Engine("decode-0", "decode", "http://127.0.0.1:2"), info=other)
    return DeploymentFacts(
        name="x",
        router_url="http://127.0.0.1:3",
        engines=(prefill, decode),
        workers=listed_engines(info),
        router=RouterScrape(0.0, True),
    )


_JSON = "captures/*.json"
TARGETS: dict[str, Target] = {
    "metrics": Target(_files("captures/metrics*.txt", "captures/router_m*.txt"), _metrics, 0.15),
    "loads": Target(_files("captures/*load*.json"), _loads, 0.25),
    "router": Target(_files("captures/router_workers*.json"), _router, 0.15),
    "doctor": Target((*_files(_JSON), INFO), _doctor, 0.15),
    "trace": Target((*_files("traces/*_head.*", most_bytes=1500), *TRACES), _trace, 0.1),
    "config": Target(_whole_files("*.json", ROOT / "profiles" / "models"), _config, 0.1),
    "deployment": Target(PD_YAML, _deployment, 0.02),
    "state": Target((STATE, LAUNCH), _state, 0.05),
    "log": Target((FAILED_LOG, *_files("logs/*.log", most_bytes=3000)), _log, 0.03),
}
