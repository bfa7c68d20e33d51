"""What a running engine says of itself that its step times depend on."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp

from pdctl.errors import InvalidInput
from pdctl.measurement.counters import LOADS_PATH, parse_load
from pdctl.perf_model.design import Limits
from pdctl.perf_model.records import Parallelism, Role

_ROLES: Mapping[object, Role] = {"null": "colocated", "prefill": "prefill", "decode": "decode"}
UNKNOWN_CONTEXT = 131072
ASK_S = 10.0


@dataclass(frozen=True)
class EngineFacts:
    """One engine. engine: "sglang 0.5.23" or "simulated"; accelerator: None where it is a CPU."""

    url: str
    role: Role
    engine: str
    model: str
    attention_backend: str
    parallelism: Parallelism
    limits: Limits
    accelerator: str | None
    bootstrap_port: int | None
    has_counters: bool
    is_simulated: bool = False
    overlap: bool = True
    page_size: int = 1
    reserved_decode_tokens: int = 512
    device: str = ""  # "cpu", "cuda"; "" where it does not say


async def engine_facts(http: aiohttp.ClientSession, url: str) -> EngineFacts:
    """What the engine behind `url` says.

    Raises InvalidInput where no SGLang engine answers, or a router does.
    """
    url = checked_url(url)
    info = await _get(http, url, ("/server_info", "/get_server_info"))
    model_info = await _get(http, url, ("/model_info", "/get_model_info"))
    loads = await _page(http, url, LOADS_PATH)
    page = _object(loads)
    load = parse_load(loads or b"")
    if not info or "router_manager" in info or "max_total_num_tokens" not in info:
        raise InvalidInput(
            f"{url} is not an SGLang engine: it gives no /server_info.",
            hint="the URL of one engine, not of the router: pdctl status shows them",
            code="not_sglang",
        )
    mode = model_info.get("disaggregation_mode") or info.get("disaggregation_mode")
    role = _ROLES.get(mode, "colocated")  # the live one; SGLang 0.5.15 only says the launched one
    simulated = bool(info.get("is_simulated"))
    accelerator = page.get("accelerator")
    return EngineFacts(
        url=url,
        role=role,
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
    )


def facts_of_log(path: Path, sizes: tuple[int, int, int, int]) -> EngineFacts:
    """What the server_args line of an engine's log says. sizes: tp, pp, dp, ep."""
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
        limits=Limits(UNKNOWN_CONTEXT, 256, UNKNOWN_CONTEXT, UNKNOWN_CONTEXT),
        accelerator=None,
        bootstrap_port=None,
        has_counters=False,
        is_simulated=is_simulated,
    )


def checked_url(url: str) -> str:
    """`url` without a trailing slash; InvalidInput unless it is http and names a host."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"{url[:80]!r} is not an HTTP address.", hint="http://127.0.0.1:30000")
    return parts.geturl().rstrip("/")


def limits_of(info: Mapping[str, Any]) -> Limits:
    """What an engine can be asked for, from its /server_info."""
    kv_tokens = _whole(info.get("max_total_num_tokens")) or 0
    context = _whole(info.get("context_length")) or _whole(info.get("max_req_input_len"))
    context = context or UNKNOWN_CONTEXT
    chunk = _whole(info.get("chunked_prefill_size")) or -1
    ranks = _whole(info.get("attn_dp_size")) or 1
    running = _whole(_internal(info).get("effective_max_running_requests_per_dp"))
    most = running * ranks if running else _whole(info.get("max_running_requests")) or 256
    return Limits(
        chunk=chunk if chunk > 0 else context,
        max_running=most,
        kv_tokens=kv_tokens,
        max_context=context,
        prefix_cache=not info.get("disable_radix_cache"),
        mixed_chunk=bool(info.get("enable_mixed_chunk")),
        eager=_is_eager(info),
    )


def _is_eager(info: Mapping[str, Any]) -> bool:
    """Whether it launches prefill kernel by kernel, as SGLang 0.5.15's prefill engines do.

    On a CPU nothing runs beside what Python does: no launch hides there, with graphs or without.
    """
    if info.get("device") == "cpu":
        return False
    config = info.get("cuda_graph_config")
    prefill = config.get("prefill") if isinstance(config, dict) else None
    return isinstance(prefill, dict) and prefill.get("backend") == "disabled"


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


async def _get(http: aiohttp.ClientSession, url: str, paths: Sequence[str]) -> Mapping[str, Any]:
    for path in paths:
        found = _object(await _page(http, url, path))
        if found:
            return found
    return {}


async def _page(http: aiohttp.ClientSession, url: str, path: str) -> bytes | None:
    try:
        timeout = aiohttp.ClientTimeout(total=ASK_S)
        async with http.get(url + path, timeout=timeout) as answer:
            return await answer.read() if answer.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError) as problem:
        raise InvalidInput(
            f"{url} does not answer: {type(problem).__name__} {problem}".rstrip() + ".",
            hint="is it running? pdctl ls",
            code="no_answer",
        ) from problem


def _object(body: bytes | None) -> Mapping[str, Any]:
    try:
        found = json.loads(body) if body else {}
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}
