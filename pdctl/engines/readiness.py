"""Whether an engine is what was asked and serves, seen from outside."""

import json
from dataclasses import dataclass

from pdctl.deployment.records import ProcessSpec
from pdctl.engines import fetch

_MODES = {"null": "colocated", "None": "colocated", "": "colocated"}
# /health waits for a token up to SGLANG_HEALTH_CHECK_TIMEOUT, 20 s
HEALTH_TIMEOUT_S = 25.0
_QUICK_S = 2.0
_ROUTE = (
    "/route?prefill_dp_rank=-1&prefill_cp_rank=-1&target_tp_rank=-1&target_pp_rank=-1"
    "&engine_rank=-1&target_dp_group=-1"
)


@dataclass(frozen=True)
class Readiness:
    """An engine's answer. is_wrong: it serves as something else, waiting does not help."""

    is_ready: bool
    detail: str = ""
    is_wrong: bool = False


@dataclass(frozen=True)
class FirstRequest:
    """One request through the router. ttft_s: None when it failed, as `detail` says."""

    ttft_s: float | None
    detail: str = ""


def check(spec: ProcessSpec) -> Readiness:
    """Ready: it says so, has the role that was asked, and its bootstrap registry names itself."""
    if not _answers_ready(spec.url):
        return Readiness(False)
    return _wrong_role(spec) or _wrong_bootstrap(spec) or Readiness(True)


def is_alive(spec: ProcessSpec) -> bool:
    """Whether its scheduler gives a sign of life. SGLang's /health runs one token for this."""
    answer = fetch.request("GET", f"{spec.url}/health", timeout_s=HEALTH_TIMEOUT_S)
    return answer is not None and answer[0] == 200


def _answers_ready(url: str) -> bool:
    answer = fetch.request("GET", f"{url}/ready", timeout_s=_QUICK_S)
    if answer is not None and answer[0] == 404:  # before 0.5.23
        answer = fetch.request("GET", f"{url}/health", timeout_s=HEALTH_TIMEOUT_S)
    return answer is not None and answer[0] == 200


def _wrong_role(spec: ProcessSpec) -> Readiness | None:
    answered = _role(spec.url)
    if answered is None or answered == spec.role:
        return None
    text = f"{spec.url} answers as {answered}, asked was {spec.role}"
    return Readiness(False, text, is_wrong=True)


def _role(url: str) -> str | None:
    """The live role; None where the engine does not say."""
    for path in ("/model_info", "/get_model_info", "/server_info", "/get_server_info"):
        found = fetch.get_object(url + path, timeout_s=_QUICK_S)
        if found and "disaggregation_mode" in found:
            mode = str(found["disaggregation_mode"])
            return _MODES.get(mode, mode)
    return None


def _wrong_bootstrap(spec: ProcessSpec) -> Readiness | None:
    """Two prefill engines on one bootstrap port do not crash: KV goes to the wrong one."""
    if spec.role != "prefill" or spec.bootstrap_port is None:
        return None
    registry = f"http://{spec.host}:{spec.bootstrap_port}"
    answer = fetch.request("GET", registry + _ROUTE, timeout_s=_QUICK_S)
    if answer is None or answer[0] != 200:
        return Readiness(False, "bootstrap registry")
    named = (fetch.json_object(answer[1]) or {}).get("prefill_http_port")
    if named is None or str(named) == str(spec.port):
        return None
    text = f"bootstrap port {spec.bootstrap_port} names port {named}, not its own {spec.port}"
    return Readiness(False, text, is_wrong=True)


def send_first_request(router_url: str, *, timeout_s: float = 60.0) -> FirstRequest:
    """Stream four tokens through the router and time the first.

    Token ids, so that it works without a tokenizer.
    """
    body = {
        "input_ids": list(range(10, 26)),
        "sampling_params": {"max_new_tokens": 4, "temperature": 0.0, "ignore_eos": True},
        "stream": True,
    }
    answer = fetch.first_event(f"{router_url}/generate", body, timeout_s=timeout_s)
    if answer is None:
        return FirstRequest(None, f"no answer from {router_url}")
    status, text, first_s = answer
    if status != 200 or _is_error(text):
        return FirstRequest(None, f"status {status}: {text[:300]}")
    return FirstRequest(first_s)


def _is_error(event: str) -> bool:
    try:
        document = json.loads(event.removeprefix("data:").strip())
    except ValueError:
        return True
    return not isinstance(document, dict) or "error" in document


_LOADS = "/v1/loads?include=core,disagg,queues"
_QUEUES = (
    "prefill_bootstrap_queue_reqs",
    "prefill_inflight_queue_reqs",
    "decode_prealloc_queue_reqs",
    "decode_transfer_queue_reqs",
    "decode_retracted_queue_reqs",
)


def num_requests(spec: ProcessSpec) -> int | None:
    """Requests inside an engine, in whatever queue; None where it does not say.

    A prefill engine whose KV is still being pulled counts that request as inflight.
    """
    found = fetch.get_object(spec.url + _LOADS, timeout_s=_QUICK_S)
    ranks = found.get("loads") if found else None
    if not isinstance(ranks, list) or not ranks:
        return None
    return sum(_num_of_rank(rank) for rank in ranks if isinstance(rank, dict))


def _num_of_rank(rank: dict[str, object]) -> int:
    split = rank.get("disaggregation")
    counts = [rank.get("num_running_reqs"), rank.get("num_waiting_reqs")]
    if isinstance(split, dict):
        counts += [split.get(queue) for queue in _QUEUES]
    return sum(int(n) for n in counts if isinstance(n, int | float))
