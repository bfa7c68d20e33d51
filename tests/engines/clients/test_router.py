"""The router's REST interface; the list of engines is one of a real router 0.3.2."""

from collections.abc import Iterator

import pytest

from pdctl.engines.clients.router import RouterClient, listed_engines
from pdctl.engines.records import Listed
from tests.engines.stub import Stub, serving

# GET /workers of sglang-router 0.3.2 with a prefill and a decode engine, metadata left out
WORKERS = {
    "workers": [
        {
            "id": "91a263f8",
            "url": "http://127.0.0.1:31002",
            "model_id": "tiny-llama",
            "worker_type": "decode",
            "is_healthy": True,
            "load": 0,
        },
        {
            "id": "72bad0ae",
            "url": "http://127.0.0.1:31001",
            "worker_type": "prefill",
            "is_healthy": False,
            "bootstrap_port": 31998,
        },
    ],
    "total": 2,
}


@pytest.fixture
def stub() -> Iterator[Stub]:
    with serving(Stub()) as running:
        yield running


def test_engines_are_read_with_their_roles(stub: Stub) -> None:
    stub.answers["/workers"] = (200, WORKERS)
    assert RouterClient(stub.url).workers() == (
        Listed("91a263f8", "http://127.0.0.1:31002", "decode", True, None),
        Listed("72bad0ae", "http://127.0.0.1:31001", "prefill", False, 31998),
    )


@pytest.mark.parametrize(
    "answer", [(500, {}), (200, []), (200, {"workers": 3}), (200, b"{"), (200, b"[" * 100_000)]
)
def test_an_answer_that_is_no_list_of_engines_is_none(
    answer: tuple[int, object], stub: Stub
) -> None:
    stub.answers["/workers"] = answer
    assert RouterClient(stub.url).workers() is None


def test_a_type_that_pdctl_does_not_know_has_no_role(stub: Stub) -> None:
    stub.answers["/workers"] = (200, {"workers": [{"url": "http://h:1", "worker_type": "new"}, 7]})
    (row,) = RouterClient(stub.url).workers() or ()
    assert row.role is None


def test_a_prefill_engine_is_added_with_its_bootstrap_port_as_a_number(stub: Stub) -> None:
    stub.answers["/workers"] = (202, {"status": "accepted"})
    assert RouterClient(stub.url).add("http://h:1", "prefill", 8998)
    body = {"url": "http://h:1", "worker_type": "prefill", "bootstrap_port": 8998}
    assert stub.asked == [("POST", "/workers", body)]


def test_a_prefill_engine_without_bootstrap_port_is_not_added(stub: Stub) -> None:
    assert not RouterClient(stub.url).add("http://h:1", "prefill", None)
    assert stub.asked == []


def test_a_colocated_engine_is_a_regular_one_to_the_router(stub: Stub) -> None:
    stub.answers["/workers"] = (202, {})
    assert RouterClient(stub.url).add("http://h:1", "colocated", None)
    assert stub.asked[0][2] == {"url": "http://h:1", "worker_type": "regular"}


def test_an_engine_is_removed_by_the_id_that_its_url_has(stub: Stub) -> None:
    stub.answers["/workers"] = (200, WORKERS)
    stub.answers["/workers/91a263f8"] = (202, {})
    assert RouterClient(stub.url).remove("http://127.0.0.1:31002")
    assert [call[:2] for call in stub.asked] == [
        ("GET", "/workers"),
        ("DELETE", "/workers/91a263f8"),
    ]


def test_a_router_without_engines_is_alive(stub: Stub) -> None:
    stub.answers["/health"] = (200, {})
    stub.answers["/readiness"] = (503, {"status": "not ready"})
    client = RouterClient(stub.url)
    assert client.is_alive()


def test_a_router_that_is_not_there_is_no_error() -> None:
    client = RouterClient("http://127.0.0.1:1", timeout_s=0.5)
    assert client.workers() is None
    assert not client.is_alive()
    assert not client.add("http://h:1", "decode", None)
    assert not client.remove("http://h:1")


@pytest.mark.parametrize("url", ["http://[::1", "http://h:99999", "http://", "x", 7, "http://h:0"])
def test_a_row_whose_url_no_request_could_be_sent_to_is_left_out(url: object) -> None:
    rows = [{"id": "1", "url": url}, {"id": "2", "url": "http://h:1"}]
    found = listed_engines({"workers": rows})
    assert found is not None
    assert [row.id for row in found] == ["2"]
