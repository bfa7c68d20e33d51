"""When an engine counts as ready."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from pdctl.deployment.records import ProcessSpec
from pdctl.engines import readiness
from pdctl.engines.readiness import FirstRequest, Readiness
from tests.engines.stub import Stub, serving
from tests.engines.world import spec


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
    assert readiness.check(engine(stub)) == Readiness(True)


def test_an_older_engine_is_asked_for_its_health(stub: Stub) -> None:
    del stub.answers["/ready"]
    assert not readiness.check(engine(stub)).is_ready
    stub.answers["/health"] = (200, {})
    assert readiness.check(engine(stub)).is_ready


def test_an_engine_that_is_up_but_not_ready_waits(stub: Stub) -> None:
    stub.answers["/ready"] = (503, {})
    stub.answers["/health"] = (200, {})
    assert readiness.check(engine(stub)) == Readiness(False)


@pytest.mark.parametrize("path", ["/model_info", "/get_model_info", "/server_info"])
def test_an_engine_of_another_role_is_wrong_wherever_it_says_so(path: str, stub: Stub) -> None:
    stub.answers[path] = (200, {"disaggregation_mode": "prefill"})
    found = readiness.check(engine(stub))
    assert not found.is_ready
    assert found.is_wrong
    assert "answers as prefill, asked was decode" in found.detail


def test_a_colocated_engine_says_null(stub: Stub) -> None:
    stub.answers["/model_info"] = (200, {"disaggregation_mode": "null"})
    assert readiness.check(engine(stub, "colocated")).is_ready


def test_a_prefill_engine_is_ready_when_its_registry_names_itself(stub: Stub) -> None:
    its = engine(stub, "prefill")
    assert readiness.check(its) == Readiness(False, "bootstrap registry")
    stub.answers["/route"] = (503, b"Prefill server not fully registered yet")
    assert not readiness.check(its).is_ready
    stub.answers["/route"] = (200, {"prefill_http_port": its.port})
    assert readiness.check(its) == Readiness(True)


def test_a_registry_that_names_another_engine_is_wrong(stub: Stub) -> None:
    stub.answers["/route"] = (200, {"prefill_http_port": 1})
    found = readiness.check(engine(stub, "prefill"))
    assert found.is_wrong
    assert "names port 1" in found.detail


def test_a_registry_that_names_no_number_is_wrong_and_no_crash(stub: Stub) -> None:
    stub.answers["/route"] = (200, {"prefill_http_port": "http"})
    assert readiness.check(engine(stub, "prefill")).is_wrong


def test_requests_are_counted_over_queues_and_ranks(stub: Stub) -> None:
    split = {"prefill_inflight_queue_reqs": 2, "decode_transfer_queue_reqs": 1}
    rank = {"num_running_reqs": 3, "num_waiting_reqs": 1, "disaggregation": split}
    stub.answers["/v1/loads"] = (200, {"loads": [rank, rank]})
    assert readiness.num_requests(engine(stub)) == 14


def test_an_engine_that_does_not_count_is_unknown_and_not_empty(stub: Stub) -> None:
    assert readiness.num_requests(engine(stub)) is None
    stub.answers["/v1/loads"] = (200, {"loads": []})
    assert readiness.num_requests(engine(stub)) is None


def test_the_first_request_is_timed(stub: Stub) -> None:
    stub.answers["/generate"] = (200, b'data: {"text": "x"}\n\ndata: [DONE]\n\n')
    found = readiness.send_first_request(stub.url)
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
    found = readiness.send_first_request(stub.url)
    assert found.ttft_s is None
    assert said in found.detail


def test_a_first_request_without_a_router_says_so() -> None:
    found = readiness.send_first_request("http://127.0.0.1:1", timeout_s=0.5)
    assert found == FirstRequest(None, "no answer from http://127.0.0.1:1")
