"""What an engine is told and asked when it is to change its role."""

from dataclasses import replace

import pytest

from pdctl.engines.role_switch import Switched, decode_graphs, switch_role
from tests.engines.stub import Stub, serving
from tests.engines.world import spec

PEER = {"internal_states": [{"decode_cuda_graph_memory_gb": 1.5, "decode_cuda_graph_bs": [1, 2]}]}
DONE = (200, {"success": True, "message": "ok"})


def switched(stub: Stub, role: str, peer_url: str | None = None) -> Switched:
    engine = replace(spec("decode-0", "decode", 0), port=stub.port)
    return switch_role(engine, role, peer_url)  # type: ignore[arg-type]


def test_a_new_prefill_engine_needs_no_graphs() -> None:
    with serving(Stub({"/pd_role_switch": DONE})) as stub:
        assert switched(stub, "prefill") == Switched(True)
    assert stub.asked == [("POST", "/pd_role_switch", {"new_role": "prefill"})]


def test_a_new_decode_engine_captures_the_graphs_of_a_peer() -> None:
    with serving(Stub({"/pd_role_switch": DONE, "/server_info": (200, PEER)})) as stub:
        assert switched(stub, "decode", stub.url).is_done
    assert stub.asked[-1][2] == {
        "new_role": "decode",
        "decode_cuda_graph_memory_gb": 1.5,
        "decode_cuda_graph_bs": [1, 2],
    }


@pytest.mark.parametrize("page", [{}, {"internal_states": []}, {"internal_states": ["?"]}])
def test_a_peer_that_does_not_tell_asks_for_no_graphs(page: dict[str, object]) -> None:
    with serving(Stub({"/server_info": (200, page)})) as stub:
        assert decode_graphs(stub.url) == {"decode_cuda_graph_memory_gb": 0.0}
    assert decode_graphs(None) == {"decode_cuda_graph_memory_gb": 0.0}


def test_a_refusal_is_told_and_one_for_haste_is_tried_again() -> None:
    early = "instance is not idle; drain all requests before switching"
    refusals = {"success": False, "safe_to_restore": True}
    with serving(Stub({"/pd_role_switch": (400, {**refusals, "message": early})})) as stub:
        assert switched(stub, "prefill") == Switched(False, early, is_early=True)
    with serving(Stub({"/pd_role_switch": (400, {**refusals, "message": "nixl"})})) as stub:
        assert switched(stub, "prefill") == Switched(False, "nixl")
    with serving(Stub({"/pd_role_switch": (500, b"oops")})) as stub:
        assert switched(stub, "prefill") == Switched(False, "status 500")
    assert switched(stub, "prefill") == Switched(False, "no answer")
