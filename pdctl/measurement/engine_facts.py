"""Facts that a running engine reports about itself and that its step times depend on. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from pdctl.deployment.records import role_of_mode
from pdctl.deployment.serving import BALANCES
from pdctl.errors import InvalidInput
from pdctl.perf_model.engine_model import UNKNOWN_CONTEXT
from pdctl.perf_model.fitting.design import EngineLimits
from pdctl.perf_model.records import Balance, Parallelism, Role
from pdctl.status.pages import parse_load


@dataclass(frozen=True)
class EngineFacts:
    """Facts about one engine.

    engine: "sglang 0.5.23" or "simulated". accelerator: None on a CPU. device: "cpu" or "cuda";
    "" if the engine does not report one. From verify_tokens on as in Serving; accept_length is the
    mean so far, 1 before the first decode step.
    """

    url: str
    role: Role
    engine: str
    model: str
    attention_backend: str
    parallelism: Parallelism
    limits: EngineLimits
    accelerator: str | None
    bootstrap_port: int | None
    has_counters: bool
    is_simulated: bool = False
    overlap: bool = True
    page_size: int = 1
    reserved_decode_tokens: int = 512
    device: str = ""
    verify_tokens: int = 1
    accept_length: float = 1.0
    ngram: bool = False
    prefill_sizes: tuple[int, ...] = ()
    balance: Balance | None = None
    all_to_all: bool = False
    receive_interval: int = 1

    @property
    def release(self) -> str | None:
        """SGLang's release; None for a simulated engine."""
        return None if self.is_simulated else self.engine.removeprefix("sglang ")


def facts_from_pages(
    url: str, info: Mapping[str, Any], model_info: Mapping[str, Any], loads: bytes | None
) -> EngineFacts:
    """Facts about the engine at `url`, from its /server_info, /model_info and /v1/loads.

    Raises InvalidInput if the pages are not those of an SGLang engine (a router has others).
    """
    if not info or "router_manager" in info or "max_total_num_tokens" not in info:
        raise InvalidInput(
            f"{url} is not an SGLang engine: it has no /server_info page.",
            hint="the URL of one engine, not of the router: pdctl status shows them",
            code="not_sglang",
        )
    # /model_info has the current role; SGLang 0.5.15 reports only the role at launch
    mode = model_info.get("disaggregation_mode") or info.get("disaggregation_mode")
    simulated = bool(info.get("is_simulated"))
    load = parse_load(loads or b"")
    accelerator = parsed_object(loads).get("accelerator")
    return EngineFacts(
        url=url,
        role=role_of_mode(mode) or "colocated",
        engine="simulated" if simulated else f"sglang {info.get('version') or 'unknown'}",
        model=str(model_info.get("model_path") or info.get("model_path") or ""),
        attention_backend=_backend(info, simulated=simulated),
        parallelism=_parallelism(info),
        limits=limits_of(info),
        accelerator=str(accelerator) if accelerator else None,
        bootstrap_port=_whole(info.get("disaggregation_bootstrap_port")),
        has_counters=load is not None and load.counted is not None,
        is_simulated=simulated,
        overlap=not info.get("disable_overlap_schedule"),
        page_size=_whole(info.get("page_size")) or 1,
        reserved_decode_tokens=_whole(info.get("num_reserved_decode_tokens")) or 512,
        device=str(info.get("device") or ""),
        verify_tokens=_whole(info.get("speculative_num_draft_tokens")) or 1,
        accept_length=_accepted(info),
        ngram=str(info.get("speculative_algorithm")).upper() == "NGRAM",
        prefill_sizes=_prefill_sizes(info),
        balance=BALANCES.get(str(info.get("load_balance_method"))),
        all_to_all=info.get("moe_a2a_backend") not in (None, "none"),
        receive_interval=_whole(info.get("scheduler_recv_interval")) or 1,
    )


def facts_of_log(path: Path, sizes: tuple[int, int, int, int]) -> EngineFacts:
    """Facts from the server_args line of an engine's log. sizes: tp, pp, dp, ep."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        head = next((line for line in lines if "server_args=" in line), "")
    backend = re.search(r"attention_backend='([a-z0-9_]+)'", head)
    version = re.search(r"version='?(\d+\.\d+\.\d+)", head)
    is_simulated = "simulated=True" in head
    engine = f"sglang {version.group(1)}" if version else "sglang"
    return EngineFacts(
        url=str(path),
        role="colocated",
        engine="simulated" if is_simulated else engine,
        model="",
        attention_backend=backend.group(1) if backend else "unknown",
        parallelism=Parallelism(*sizes),
        limits=EngineLimits(UNKNOWN_CONTEXT, 256, UNKNOWN_CONTEXT, UNKNOWN_CONTEXT),
        accelerator=None,
        bootstrap_port=None,
        has_counters=False,
        is_simulated=is_simulated,
    )


def checked_url(url: str) -> str:
    """`url` without a trailing slash. Raises InvalidInput unless it is HTTP and names a host."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"{url[:80]!r} is not an HTTP address.", hint="http://127.0.0.1:30000")
    return parts.geturl().rstrip("/")


def limits_of(info: Mapping[str, Any]) -> EngineLimits:
    """Limits on requests to an engine, from its /server_info."""
    kv_tokens = _whole(info.get("max_total_num_tokens")) or 0
    context = _whole(info.get("context_length")) or _whole(info.get("max_req_input_len"))
    context = context or UNKNOWN_CONTEXT
    chunk = _whole(info.get("chunked_prefill_size")) or -1
    ranks = _parallelism(info).dp
    running = _whole(_internal(info).get("effective_max_running_requests_per_dp"))
    most = running * ranks if running else _whole(info.get("max_running_requests")) or 256
    return EngineLimits(
        chunk=chunk if chunk > 0 else context,
        max_running=most,
        kv_tokens=kv_tokens,
        max_context=context,
        prefix_cache=not info.get("disable_radix_cache"),
        mixed_chunk=bool(info.get("enable_mixed_chunk")),
        eager=_is_eager(info),
    )


def _accepted(info: Mapping[str, Any]) -> float:
    """Tokens that a verify step gained on average, as SGLang's scheduler counts them."""
    told = _internal(info).get("avg_spec_accept_length")
    return max(1.0, float(told)) if isinstance(told, int | float) else 1.0


def _is_eager(info: Mapping[str, Any]) -> bool:
    """True if the engine launches prefill kernels one by one, as in SGLang 0.5.15.

    False on a CPU: Python does all the work there, so CUDA graphs would hide no launch.
    """
    if info.get("device") == "cpu":
        return False
    return _prefill_graphs(info).get("backend") == "disabled"


def _prefill_sizes(info: Mapping[str, Any]) -> tuple[int, ...]:
    sizes = _prefill_graphs(info).get("bs")
    return tuple(sorted(map(int, sizes))) if isinstance(sizes, list) else ()


def _prefill_graphs(info: Mapping[str, Any]) -> Mapping[str, Any]:
    config = info.get("cuda_graph_config")
    prefill = config.get("prefill") if isinstance(config, dict) else None
    return prefill if isinstance(prefill, dict) else {}


def _parallelism(info: Mapping[str, Any]) -> Parallelism:
    def size(*names: str) -> int:
        return max([1, *(n for name in names if (n := _whole(info.get(name))))])

    return Parallelism(
        size("tp_size"), size("pp_size"), size("attn_dp_size", "dp_size"), size("ep_size")
    )


def _backend(info: Mapping[str, Any], *, simulated: bool) -> str:
    if simulated:
        return "simulated"
    found = info.get("prefill_attention_backend") or info.get("attention_backend")
    return str(found or _internal(info).get("attention_backend") or "unknown")


def _internal(info: Mapping[str, Any]) -> Mapping[str, Any]:
    states = info.get("internal_states")
    first = states[0] if isinstance(states, list) and states else {}
    return first if isinstance(first, dict) else {}


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def parsed_object(body: bytes | None) -> Mapping[str, Any]:
    """The JSON object in `body`; empty if `body` is anything else."""
    try:
        found = json.loads(body) if body else {}
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}
