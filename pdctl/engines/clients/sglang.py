"""Whether an engine is what was asked and serves, seen from outside."""

import json

from pdctl.deployment.records import ProcessRole, ProcessSpec
from pdctl.engines.clients import http
from pdctl.engines.records import FirstRequest, Readiness, Switched

# a decode engine captures its graphs before it answers
SWITCH_TIMEOUT_S = 900.0
_ROUTE_TIMEOUT_S = 5.0


def switch_role(spec: ProcessSpec, role: ProcessRole, peer_url: str | None) -> Switched:
    """Ask the engine of `spec`, which is out of the router and idle, to become a `role` engine.

    peer_url: an engine that has the role, which tells the graphs to capture.
    Source: disaggregation/role_switch.py of SGLang 0.5.23.
    """
    body: dict[str, object] = {"new_role": role}
    if role == "decode":
        body |= decode_graphs(peer_url)
    url = f"{spec.url}/pd_role_switch"
    answer = http.request("POST", url, body=body, timeout_s=SWITCH_TIMEOUT_S)
    if answer is None:
        return Switched(False, "no answer")
    document = http.json_object(answer[1]) or {}
    if answer[0] == 200 and document.get("success") is True:
        return Switched(True)
    why = str(document.get("message") or f"status {answer[0]}")[:300]
    return Switched(False, why, is_early="not idle" in why)


def decode_graphs(peer_url: str | None) -> dict[str, object]:
    """The graph arguments of a switch to decode, as a decode engine has them.

    Without a peer, or one without graphs: none are captured and no memory is asked for.
    """
    found = peer_url and http.get_object(f"{peer_url}/server_info", timeout_s=_ROUTE_TIMEOUT_S)
    states = found.get("internal_states") if found else None
    state = states[0] if isinstance(states, list) and states else None
    if not isinstance(state, dict):
        return {"decode_cuda_graph_memory_gb": 0.0}
    gigabytes, batches = state.get("decode_cuda_graph_memory_gb"), state.get("decode_cuda_graph_bs")
    arguments: dict[str, object] = {
        "decode_cuda_graph_memory_gb": gigabytes if isinstance(gigabytes, int | float) else 0.0
    }
    if isinstance(batches, list) and batches:
        arguments["decode_cuda_graph_bs"] = batches
    return arguments


_MODES = {"null": "colocated", "None": "colocated", "": "colocated"}
# /health waits for a token up to SGLANG_HEALTH_CHECK_TIMEOUT, 20 s
HEALTH_TIMEOUT_S = 25.0
_QUICK_S = 2.0
_ROUTE = (
    "/route?prefill_dp_rank=-1&prefill_cp_rank=-1&target_tp_rank=-1&target_pp_rank=-1"
    "&engine_rank=-1&target_dp_group=-1"
)


def check(spec: ProcessSpec) -> Readiness:
    """Ready: it says so, has the role that was asked, and its bootstrap registry names itself."""
    if not _answers_ready(spec.url):
        return Readiness(False)
    return _wrong_role(spec) or _wrong_bootstrap(spec) or Readiness(True)


def is_alive(spec: ProcessSpec) -> bool:
    """Whether its scheduler gives a sign of life. SGLang's /health runs one token for this."""
    answer = http.request("GET", f"{spec.url}/health", timeout_s=HEALTH_TIMEOUT_S)
    return answer is not None and answer[0] == 200


def _answers_ready(url: str) -> bool:
    answer = http.request("GET", f"{url}/ready", timeout_s=_QUICK_S)
    if answer is not None and answer[0] == 404:  # before 0.5.23
        answer = http.request("GET", f"{url}/health", timeout_s=HEALTH_TIMEOUT_S)
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
        found = http.get_object(url + path, timeout_s=_QUICK_S)
        if found and "disaggregation_mode" in found:
            mode = str(found["disaggregation_mode"])
            return _MODES.get(mode, mode)
    return None


def _wrong_bootstrap(spec: ProcessSpec) -> Readiness | None:
    """Two prefill engines on one bootstrap port do not crash: KV goes to the wrong one."""
    if spec.role != "prefill" or spec.bootstrap_port is None:
        return None
    registry = f"http://{spec.host}:{spec.bootstrap_port}"
    answer = http.request("GET", registry + _ROUTE, timeout_s=_QUICK_S)
    if answer is None or answer[0] != 200:
        return Readiness(False, "bootstrap registry")
    named = (http.json_object(answer[1]) or {}).get("prefill_http_port")
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
    answer = http.first_event(f"{router_url}/generate", body, timeout_s=timeout_s)
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


LOADS_PATH = "/v1/loads?include=core,disagg,queues,memory"
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
    found = http.get_object(spec.url + LOADS_PATH, timeout_s=_QUICK_S)
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
