"""When an engine counts as ready."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.clients.sglang import EngineClient
from pdctl.engines.records import FirstRequest, Readiness, Switched
from tests.engines.stub import Stub, serving
from tests.engines.world import spec

CLIENT = EngineClient()
PEER = {"internal_states": [{"decode_cuda_graph_memory_gb": 1.5, "decode_cuda_graph_bs": [1, 2]}]}
DONE = (200, {"success": True, "message": "ok"})


def switched(stub: Stub, role: str, peer_url: str | None = None) -> Switched:
    engine = replace(spec("decode-0", "decode", 0), port=stub.port)
    return CLIENT.switch_role(engine, role, peer_url)  # type: ignore[arg-type]


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
        assert CLIENT.decode_graphs(stub.url) == {"decode_cuda_graph_memory_gb": 0.0}
    assert CLIENT.decode_graphs(None) == {"decode_cuda_graph_memory_gb": 0.0}


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


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as running:
        running.answers["/ready"] = (200, {})
        yield running


def engine(stub: Stub, role: str = "decode") -> ProcessSpec:
    """An engine whose HTTP port and bootstrap port are the stub's."""
    its = spec(f"{role}-0", role, 1)  # type: ignore[arg-type]
    bootstrap_port = stub.port if role == "prefill" else None
    return replace(its, port=stub.port, bootstrap_port=bootstrap_port)


def test_an_engine_that_says_ready_in_the_role_asked_is_ready(stub: Stub) -> None:
    stub.answers["/model_info"] = (200, {"disaggregation_mode": "decode"})
    assert CLIENT.check(engine(stub)) == Readiness(True)


def test_an_older_engine_is_asked_for_its_health(stub: Stub) -> None:
    del stub.answers["/ready"]
    assert not CLIENT.check(engine(stub)).is_ready
    stub.answers["/health"] = (200, {})
    assert CLIENT.check(engine(stub)).is_ready


def test_an_engine_that_is_up_but_not_ready_waits(stub: Stub) -> None:
    stub.answers["/ready"] = (503, {})
    stub.answers["/health"] = (200, {})
    assert CLIENT.check(engine(stub)) == Readiness(False)


@pytest.mark.parametrize("path", ["/model_info", "/get_model_info", "/server_info"])
def test_an_engine_of_another_role_is_wrong_wherever_it_says_so(path: str, stub: Stub) -> None:
    stub.answers[path] = (200, {"disaggregation_mode": "prefill"})
    found = CLIENT.check(engine(stub))
    assert not found.is_ready
    assert found.is_wrong
    assert "runs as prefill, not as decode" in found.detail


def test_a_colocated_engine_says_null(stub: Stub) -> None:
    stub.answers["/model_info"] = (200, {"disaggregation_mode": "null"})
    assert CLIENT.check(engine(stub, "colocated")).is_ready


def test_a_prefill_engine_is_ready_when_its_registry_names_itself(stub: Stub) -> None:
    its = engine(stub, "prefill")
    assert CLIENT.check(its) == Readiness(False, "waiting for its bootstrap registry")
    stub.answers["/route"] = (503, b"Prefill server not fully registered yet")
    assert not CLIENT.check(its).is_ready
    stub.answers["/route"] = (200, {"prefill_http_port": its.port})
    assert CLIENT.check(its) == Readiness(True)


def test_a_registry_that_names_another_engine_is_wrong(stub: Stub) -> None:
    stub.answers["/route"] = (200, {"prefill_http_port": 1})
    found = CLIENT.check(engine(stub, "prefill"))
    assert found.is_wrong
    assert "belongs to the engine on port 1" in found.detail


def test_a_registry_that_names_no_number_is_wrong_and_no_crash(stub: Stub) -> None:
    stub.answers["/route"] = (200, {"prefill_http_port": "http"})
    assert CLIENT.check(engine(stub, "prefill")).is_wrong


def test_requests_are_counted_over_queues_and_ranks(stub: Stub) -> None:
    split = {"prefill_inflight_queue_reqs": 2, "decode_transfer_queue_reqs": 1}
    rank = {"num_running_reqs": 3, "num_waiting_reqs": 1, "disaggregation": split}
    stub.answers["/v1/loads"] = (200, {"loads": [rank, rank]})
    assert CLIENT.num_requests(engine(stub)) == 14


def test_an_engine_that_does_not_count_is_unknown_and_not_empty(stub: Stub) -> None:
    assert CLIENT.num_requests(engine(stub)) is None
    stub.answers["/v1/loads"] = (200, {"loads": []})
    assert CLIENT.num_requests(engine(stub)) is None


def test_the_first_request_is_timed(stub: Stub) -> None:
    stub.answers["/generate"] = (200, b'data: {"text": "x"}\n\ndata: [DONE]\n\n')
    found = CLIENT.send_first_request(stub.url)
    assert found.ttft_s is not None
    assert found.detail == ""


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((503, {"error": {"message": "No decode workers"}}), "status 503"),
        ((200, b'data: {"error": {"message": "aborted"}}\n\n'), "aborted"),
        ((200, b""), "status 200"),
    ],
)
def test_a_first_request_that_fails_says_how(
    answer: tuple[int, object], said: str, stub: Stub
) -> None:
    stub.answers["/generate"] = answer
    found = CLIENT.send_first_request(stub.url)
    assert found.ttft_s is None
    assert said in found.detail


def test_a_first_request_without_a_router_says_so() -> None:
    found = CLIENT.send_first_request("http://127.0.0.1:1", timeout_s=0.5)
    assert found == FirstRequest(None, "no answer from http://127.0.0.1:1")
