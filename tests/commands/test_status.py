import json
import time
from pathlib import Path
from typing import Any

import pytest

from pdctl.commands.status_expect import Expectation
from pdctl.commands.status_run import carried_out
from pdctl.deployment.records import Counts
from pdctl.engines.lifecycle import rescale
from pdctl.status.records import Advice, Target
from tests.status.servers import pages_server

CAPTURES = Path(__file__).parent.parent / "data" / "captures"


def pages(**said: Any) -> dict[str, tuple[int, bytes]]:
    """Pages captured from an engine, with an LLM and a GPU that a bundled profile covers."""
    info = json.loads((CAPTURES / "server_info_colocated_0.5.15.json").read_text())
    loads = json.loads((CAPTURES / "loads_colocated_0.5.15.json").read_text())
    known = {"model_path": "llama-3.1-8b"}
    return {
        "/server_info": (200, json.dumps(info | known | said).encode()),
        "/model_info": (200, json.dumps(known).encode()),
        "/v1/loads": (200, json.dumps(loads | {"accelerator": "NVIDIA H200"}).encode()),
    }


def looked_up(url: str, expectation: Expectation) -> dict[str, Any]:
    """The expectation for an engine, awaited for a few seconds."""
    targets = [Target("colocated-0", "colocated", url)]
    deadline = time.monotonic() + 5
    while not (found := expectation(targets)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return dict(found)


def test_an_engine_with_a_measured_profile_is_expected_to_run_as_it_says() -> None:
    with pages_server(pages()) as url:
        found = looked_up(url, Expectation(in_background=True))[url]
    assert found.profile == "h200--dense-gqa--sglang-0.5.15--fa3"
    assert (found.role, found.dp) == ("colocated", 1)
    assert found.kv_tokens > 100_000
    assert found.band < 0.2


def test_one_call_can_wait_for_the_answers() -> None:
    with pages_server(pages()) as url:
        known = Expectation(in_background=False)([Target("colocated-0", "colocated", url)])
    assert set(known) == {url}


def test_an_engine_without_answer_or_profile_does_not_hide_others() -> None:
    expectation = Expectation(in_background=True)
    with pages_server(pages()) as good, pages_server(pages(attention_backend="other")) as other:
        targets = [
            Target(f"colocated-{i}", "colocated", url)
            for i, url in enumerate(("http://127.0.0.1:9", other, good))
        ]
        deadline = time.monotonic() + 5
        while not (found := expectation(targets)) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert set(found) == {good}


def test_an_engine_that_did_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    expectation = Expectation(in_background=True)
    answers = pages()
    page = answers.pop("/server_info")
    with pages_server(answers) as url:
        assert expectation([Target("colocated-0", "colocated", url)]) == {}
        monkeypatch.setattr("pdctl.commands.status_expect.REFRESH_S", 0.05)
        answers["/server_info"] = page
        assert url in looked_up(url, expectation)


def test_an_engine_in_another_role_than_it_is_listed_with_is_left_alone() -> None:
    expectation = Expectation(in_background=True)
    with pages_server(pages()) as url:
        decode = Target("decode-0", "decode", url)
        colocated = Target("colocated-0", "colocated", url)
        expectation([decode, colocated])
        assert url in looked_up(url, expectation)
        assert expectation([decode]) == {}


def test_advice_that_takes_gpus_which_are_not_there_names_no_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = Advice("overloaded", "Both are at their limit.", "prefill", change=Counts(2, 3))
    monkeypatch.setattr(rescale, "lacking_gpus", lambda name, counts: "")
    assert carried_out("chat", more, "1P2D") == more
    monkeypatch.setattr(rescale, "lacking_gpus", lambda name, counts: "2P3D takes 5 GPUs.")
    told = carried_out("chat", more, "1P3D")
    assert told.change is None
    assert told.why == "prefill; 2P3D takes 5 GPUs"
