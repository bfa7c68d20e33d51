"""The targets file: what a Prometheus is told to scrape."""

import json
from dataclasses import replace
from typing import Any

from pdctl.engines.records import DeploymentPhase, DeploymentState, ProcessState
from pdctl.engines.supervision.scrape_targets import scrape_targets
from tests.engines.test_state import some_state


def fleet(*processes: ProcessState, phase: DeploymentPhase = "serving") -> DeploymentState:
    router = ProcessState(
        "router", "router", "http://127.0.0.1:30000", "serving", None, 1.0, metrics_port=29000
    )
    return replace(
        some_state(), name="chat", host="gpu-a", phase=phase, processes=(router, *processes)
    )


def engine(phase: str = "serving", **changes: Any) -> ProcessState:
    url = "http://127.0.0.1:30001"
    one = ProcessState("prefill-0", "prefill", url, phase, None, 1.0)  # type: ignore[arg-type]
    return replace(one, **changes)


def listed(state: DeploymentState, endpoint: str = "") -> dict[str, Any]:
    """The groups by their address."""
    return {one["targets"][0]: one["labels"] for one in json.loads(scrape_targets(state, endpoint))}


def test_engines_and_the_router_carry_their_labels() -> None:
    assert listed(fleet(engine())) == {
        "127.0.0.1:29000": {
            "deployment": "chat",
            "role": "router",
            "engine": "router",
            "host": "gpu-a",
        },
        "127.0.0.1:30001": {
            "deployment": "chat",
            "role": "prefill",
            "engine": "prefill-0",
            "host": "gpu-a",
        },
    }


def test_an_engine_on_another_node_carries_that_node() -> None:
    labels = listed(fleet(engine(node="gpu-b", url="http://10.0.0.2:30001")))
    assert labels["10.0.0.2:30001"]["host"] == "gpu-b"


def test_pdctl_s_own_metrics_are_a_target_too() -> None:
    labels = listed(fleet(), endpoint="127.0.0.1:9464")["127.0.0.1:9464"]
    assert labels == {
        "deployment": "chat",
        "role": "pdctl",
        "engine": "pdctl",
        "host": "gpu-a",
    }


def test_an_engine_that_loads_its_weights_is_not_listed_yet() -> None:
    assert "127.0.0.1:30001" not in listed(fleet(engine("loading")))


def test_an_engine_that_crashed_stays_listed_until_it_is_back() -> None:
    assert "127.0.0.1:30001" in listed(fleet(engine("backoff")))
    assert "127.0.0.1:30001" in listed(fleet(engine("loading", restarts=1)))


def test_what_leaves_is_not_listed() -> None:
    assert "127.0.0.1:30001" not in listed(fleet(engine("draining")))
    assert listed(fleet(engine(), phase="stopping")) == {}
