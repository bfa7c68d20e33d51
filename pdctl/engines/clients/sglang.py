"""Requests to SGLang engines: readiness, health, load, role switch and the first request."""

import json

from pdctl.deployment.records import ProcessRole, ProcessSpec, role_of_mode
from pdctl.engines.clients import http as local_http
from pdctl.engines.clients.http import QUICK_S, get_object, json_object
from pdctl.engines.clients.protocol import Http
from pdctl.engines.records import FirstRequest, Readiness, Switched

# a decode engine captures its graphs before it answers
SWITCH_TIMEOUT_S = 900.0
# /health waits for a token for up to SGLANG_HEALTH_CHECK_TIMEOUT, 20 s
HEALTH_TIMEOUT_S = 25.0
# reading the graphs of a peer may wait behind a long step
SERVER_INFO_TIMEOUT_S = 5.0
_ROUTE = (
    "/route?prefill_dp_rank=-1&prefill_cp_rank=-1&target_tp_rank=-1&target_pp_rank=-1"
    "&engine_rank=-1&target_dp_group=-1"
)
LOADS_PATH = "/v1/loads?include=core,disagg,queues,memory"
_QUEUES = (
    "prefill_bootstrap_queue_reqs",
    "prefill_inflight_queue_reqs",
    "decode_prealloc_queue_reqs",
    "decode_transfer_queue_reqs",
    "decode_retracted_queue_reqs",
)


class EngineClient:
    """Requests to engines. Nothing raises: a missing answer is reported as such."""

    def __init__(self, http: Http = local_http) -> None:
        self._http = http

    def check(self, spec: ProcessSpec) -> Readiness:
        """Ready if it reports so, has its role, and its bootstrap registry names its own port."""
        if not self._answers_ready(spec.url):
            return Readiness(False)
        return self._wrong_role(spec) or self._wrong_bootstrap(spec) or Readiness(True)

    def is_alive(self, spec: ProcessSpec) -> bool:
        """True if its scheduler answers: SGLang's /health runs one token."""
        answer = self._http.request("GET", f"{spec.url}/health", timeout_s=HEALTH_TIMEOUT_S)
        return answer is not None and answer[0] == 200

    def is_reachable(self, spec: ProcessSpec) -> bool:
        """True if its node is on the network, however busy the engine is."""
        return self._http.can_connect(spec.url, timeout_s=QUICK_S)

    def num_requests(self, spec: ProcessSpec) -> int | None:
        """Requests in an engine, in any queue; None if it does not say.

        A prefill engine counts a request as in flight until its KV has been pulled.
        """
        found = get_object(spec.url + LOADS_PATH, timeout_s=QUICK_S, http=self._http)
        ranks = found.get("loads") if found else None
        if not isinstance(ranks, list) or not ranks:
            return None
        return sum(_num_of_rank(rank) for rank in ranks if isinstance(rank, dict))

    def switch_role(self, spec: ProcessSpec, role: ProcessRole, peer_url: str | None) -> Switched:
        """Ask an idle engine that is off the router's list to take another role.

        peer_url: an engine that has this role already; its CUDA graph settings are copied.
        Source: disaggregation/role_switch.py of SGLang 0.5.23.
        """
        body: dict[str, object] = {"new_role": role}
        if role == "decode":
            body |= self.decode_graphs(peer_url)
        url = f"{spec.url}/pd_role_switch"
        answer = self._http.request("POST", url, body=body, timeout_s=SWITCH_TIMEOUT_S)
        if answer is None:
            return Switched(False, "no answer")
        document = json_object(answer[1]) or {}
        if answer[0] == 200 and document.get("success") is True:
            return Switched(True)
        why = str(document.get("message") or f"status {answer[0]}")[:300]
        return Switched(False, why, is_early="not idle" in why)

    def decode_graphs(self, peer_url: str | None) -> dict[str, object]:
        """The CUDA graph arguments of a switch to decode, copied from a decode engine.

        Without a peer that has graphs, the engine captures none and reserves no memory for them.
        """
        state = self._internal_state(peer_url) if peer_url else None
        if state is None:
            return {"decode_cuda_graph_memory_gb": 0.0}
        gigabytes = state.get("decode_cuda_graph_memory_gb")
        batches = state.get("decode_cuda_graph_bs")
        arguments: dict[str, object] = {
            "decode_cuda_graph_memory_gb": gigabytes if isinstance(gigabytes, int | float) else 0.0
        }
        if isinstance(batches, list) and batches:
            arguments["decode_cuda_graph_bs"] = batches
        return arguments

    def _internal_state(self, url: str) -> dict[str, object] | None:
        page = f"{url}/server_info"
        found = get_object(page, timeout_s=SERVER_INFO_TIMEOUT_S, http=self._http)
        states = found.get("internal_states") if found else None
        state = states[0] if isinstance(states, list) and states else None
        return state if isinstance(state, dict) else None

    def send_first_request(self, router_url: str, *, timeout_s: float = 60.0) -> FirstRequest:
        """Stream four tokens through the router and time the first one.

        The prompt is token ids, so that it works without a tokenizer.
        """
        body = {
            "input_ids": list(range(10, 26)),
            "sampling_params": {"max_new_tokens": 4, "temperature": 0.0, "ignore_eos": True},
            "stream": True,
        }
        answer = self._http.first_event(f"{router_url}/generate", body, timeout_s=timeout_s)
        if answer is None:
            return FirstRequest(None, f"no answer from {router_url}")
        status, text, first_s = answer
        if status != 200 or _is_error(text):
            return FirstRequest(None, f"status {status}: {text[:300]}")
        return FirstRequest(first_s)

    def _answers_ready(self, url: str) -> bool:
        answer = self._http.request("GET", f"{url}/ready", timeout_s=QUICK_S)
        if answer is not None and answer[0] == 404:  # before 0.5.23
            answer = self._http.request("GET", f"{url}/health", timeout_s=HEALTH_TIMEOUT_S)
        return answer is not None and answer[0] == 200

    def _wrong_role(self, spec: ProcessSpec) -> Readiness | None:
        mode = self._mode(spec.url)
        role = role_of_mode(mode) or mode
        if mode is ... or role == spec.role:
            return None
        return Readiness(False, f"{spec.url} runs as {role}, not as {spec.role}", is_wrong=True)

    def _mode(self, url: str) -> object:
        """The disaggregation_mode an engine reports; Ellipsis if it reports none."""
        for path in ("/model_info", "/get_model_info", "/server_info", "/get_server_info"):
            found = get_object(url + path, timeout_s=QUICK_S, http=self._http)
            if found and "disaggregation_mode" in found:
                return found["disaggregation_mode"]
        return ...

    def _wrong_bootstrap(self, spec: ProcessSpec) -> Readiness | None:
        """The problem if another engine has its bootstrap port: KV would go to the wrong one."""
        if spec.role != "prefill" or spec.bootstrap_port is None:
            return None
        registry = f"http://{spec.host}:{spec.bootstrap_port}"
        answer = self._http.request("GET", registry + _ROUTE, timeout_s=QUICK_S)
        if answer is None or answer[0] != 200:
            return Readiness(False, "waiting for its bootstrap registry")
        named = (json_object(answer[1]) or {}).get("prefill_http_port")
        if named is None or str(named) == str(spec.port):
            return None
        text = f"bootstrap port {spec.bootstrap_port} belongs to the engine on port {named}"
        return Readiness(False, f"{text}, not to the one on {spec.port}", is_wrong=True)


def _is_error(event: str) -> bool:
    try:
        document = json.loads(event.removeprefix("data:").strip())
    except ValueError:
        return True
    return not isinstance(document, dict) or "error" in document


def _num_of_rank(rank: dict[str, object]) -> int:
    split = rank.get("disaggregation")
    counts = [rank.get("num_running_reqs"), rank.get("num_waiting_reqs")]
    if isinstance(split, dict):
        counts += [split.get(queue) for queue in _QUEUES]
    return sum(int(n) for n in counts if isinstance(n, int | float))
