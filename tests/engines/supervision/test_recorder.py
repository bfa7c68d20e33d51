"""The recorder on fake engines: what it keeps, and what must not stop it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.engines import state
from pdctl.engines.clients.http import HERE_HTTP
from pdctl.engines.clients.protocol import Http
from pdctl.engines.launchers.local import LocalLauncher
from pdctl.engines.supervision import recorder
from pdctl.engines.supervision.recorder import Recorder, recorded
from tests.commands.test_status_verb import fleet_state
from tests.engines.launchers.in_memory import InMemoryLauncher
from tests.status.servers import Pages, pages_server


class _NotesNodes(InMemoryLauncher):
    """Note the node of every request."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def http(self, node: str) -> Http:
        self.asked.append(node)
        return HERE_HTTP


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Pages]]:
    """Pages of one prefill engine, one decode engine and a router of a deployment "chat"."""
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    found: dict[str, Pages] = {
        "prefill": {"/v1/loads": (200, b"loads of prefill")},
        "decode": {"/v1/loads": (200, b"loads of decode")},
        "router": {"/metrics": (200, b"other 1\nsmg_router_requests_total 48\n")},
    }
    with (
        pages_server(found["prefill"]) as prefill,
        pages_server(found["decode"]) as decode,
        pages_server(found["router"]) as router,
    ):
        state.make_state_dir("chat")
        state.write_state(fleet_state(router, prefill, decode))
        yield found


@pytest.fixture
def one(pages: dict[str, Pages]) -> Recorder:
    return Recorder("chat", LocalLauncher("run-1", cwd="/", death_signal=None))


def test_a_sample_holds_every_engine_s_page_and_the_router_s_counters(one: Recorder) -> None:
    assert one.record() == 2
    (sample,) = recorded("chat", since_s=0.0)
    assert {(e[0], e[1], e[3], e[4]) for e in sample["engines"]} == {
        ("prefill-0", "prefill", "serving", "loads of prefill"),
        ("decode-0", "decode", "serving", "loads of decode"),
    }
    assert sample["router"] == "smg_router_requests_total 48"


def test_every_request_leaves_from_the_node_of_its_process(pages: dict[str, Pages]) -> None:
    found = state.read_state("chat")
    assert found is not None
    placed = (replace(one, node=f"node of {one.name}") for one in found.processes)
    state.write_state(replace(found, processes=tuple(placed)))
    launcher = _NotesNodes()
    assert Recorder("chat", launcher).record() == 2
    assert sorted(launcher.asked) == sorted(f"node of {one.name}" for one in found.processes)


def test_an_engine_that_fails_leaves_no_page(pages: dict[str, Pages], one: Recorder) -> None:
    pages["decode"]["/v1/loads"] = (500, b"")
    one.record()
    (sample,) = recorded("chat", since_s=0.0)
    assert {e[0]: e[4] for e in sample["engines"]} == {
        "prefill-0": "loads of prefill",
        "decode-0": None,
    }


def test_an_engine_that_does_not_answer_is_asked_last_and_only_while_there_is_time(
    one: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = state.read_state("chat")
    assert found is not None
    url = "http://127.0.0.1:1"
    decode = next(process for process in found.processes if process.role == "decode")
    others = [process for process in found.processes if process.role != "decode"]
    state.write_state(replace(found, processes=(replace(decode, url=url), *others)))
    one.record()
    assert one.silent == {url}
    monkeypatch.setattr(recorder, "SAMPLE_S", -1.0)
    one.record()
    _, sample = recorded("chat", since_s=0.0)
    assert [(e[0], e[4]) for e in sample["engines"]] == [
        ("prefill-0", "loads of prefill"),
        ("decode-0", None),
    ]


def test_nothing_is_recorded_of_a_deployment_that_is_over(one: Recorder) -> None:
    found = state.read_state("chat")
    assert found is not None
    state.write_state(replace(found, phase="stopped"))
    assert one.record() == 0
    assert recorded("chat", since_s=0.0) == []


def test_old_samples_are_set_aside_and_then_dropped(
    one: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "KEPT_S", -1.0)
    for _ in range(4):
        one.record()
    assert len(recorded("chat", since_s=0.0)) == 2


def test_a_line_that_was_cut_off_is_skipped(one: Recorder) -> None:
    one.record()
    path = state.state_dir("chat") / recorder.CURRENT
    path.write_text(path.read_text() + '{"at": 3, "engi\n{"at": "x"}\n3\n[]\n')
    assert len(recorded("chat", since_s=0.0)) == 1
