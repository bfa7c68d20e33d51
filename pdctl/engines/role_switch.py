"""Have an engine change its role while it runs: weights and KV pool stay where they are."""

from dataclasses import dataclass

from pdctl.deployment.records import ProcessRole, ProcessSpec
from pdctl.engines import fetch

# a decode engine captures its graphs before it answers
SWITCH_TIMEOUT_S = 900.0
_QUICK_S = 5.0


@dataclass(frozen=True)
class Switched:
    """What became of it. why: it was refused. is_early: only because it was not idle yet."""

    is_done: bool
    why: str = ""
    is_early: bool = False


def switch_role(spec: ProcessSpec, role: ProcessRole, peer_url: str | None) -> Switched:
    """Ask the engine of `spec`, which is out of the router and idle, to become a `role` engine.

    peer_url: an engine that has the role, which tells the graphs to capture.
    Source: disaggregation/role_switch.py of SGLang 0.5.23.
    """
    body: dict[str, object] = {"new_role": role}
    if role == "decode":
        body |= decode_graphs(peer_url)
    url = f"{spec.url}/pd_role_switch"
    answer = fetch.request("POST", url, body=body, timeout_s=SWITCH_TIMEOUT_S)
    if answer is None:
        return Switched(False, "no answer")
    document = fetch.json_object(answer[1]) or {}
    if answer[0] == 200 and document.get("success") is True:
        return Switched(True)
    why = str(document.get("message") or f"status {answer[0]}")[:300]
    return Switched(False, why, is_early="not idle" in why)


def decode_graphs(peer_url: str | None) -> dict[str, object]:
    """The graph arguments of a switch to decode, as a decode engine has them.

    Without a peer, or one without graphs: none are captured and no memory is asked for.
    """
    found = peer_url and fetch.get_object(f"{peer_url}/server_info", timeout_s=_QUICK_S)
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
