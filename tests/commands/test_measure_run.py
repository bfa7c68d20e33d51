from dataclasses import replace
from typing import Any

import pytest

from pdctl.commands.measure_run import _say_guess
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.measurement.arm_run import Endpoint
from pdctl.measurement.engine_facts import EngineFacts
from pdctl.measurement.prediction import cluster_behind, predicted_engine
from pdctl.perf_model.fitting.design import EngineLimits
from pdctl.perf_model.records import Parallelism

REMOTE = EngineFacts(
    url="http://192.0.2.7:30000",
    role="colocated",
    engine="sglang 0.5.15",
    model="llama-3.1-8b",
    attention_backend="fa3",
    parallelism=Parallelism(),
    limits=EngineLimits(8192, 256, 500_000, 131_072),
    accelerator=None,
    bootstrap_port=None,
    has_counters=False,
    device="cuda",
)


def nothing_here(monkeypatch: pytest.MonkeyPatch, *, gpu: Any = None) -> None:
    """Pretend that this machine has `gpu`, or no GPU."""

    def detect() -> Any:
        if gpu is None:
            raise EnvironmentProblem("No GPU on this machine answers.")
        return gpu

    monkeypatch.setattr("pdctl.measurement.prediction.detect_cluster", detect)


def test_gpus_of_another_machine_are_not_those_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_here(monkeypatch, gpu="the one here")
    assert cluster_behind("", REMOTE) is None
    here = replace(REMOTE, url="http://127.0.0.1:30000")
    assert cluster_behind("", here) == "the one here"  # type: ignore[comparison-overlap]


def test_gpus_are_known_from_the_engine_or_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_here(monkeypatch)
    said = cluster_behind("", replace(REMOTE, accelerator="NVIDIA H100"))
    typed = cluster_behind("8xH200", REMOTE)
    assert said is not None
    assert typed is not None
    assert (said.gpu.name, typed.gpu.name) == ("H100", "H200")


def test_unknown_gpus_are_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_here(monkeypatch)
    assert cluster_behind("", replace(REMOTE, url="http://127.0.0.1:30000")) is None


def test_a_prediction_is_for_the_engines_own_release() -> None:
    llm, cluster = read_llm("llama-3.1-8b"), parse_gpus("1xH200")
    steps = {
        release: predicted_engine(
            replace(REMOTE, engine=f"sglang {release}"), llm, cluster, None
        ).times.decode_base_s
        for release in ("0.5.9", "0.5.23", "0.7.0")
    }
    assert steps["0.5.9"] > steps["0.5.23"] == steps["0.7.0"]


def test_a_release_newer_than_known_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    engine = replace(REMOTE, engine="sglang 0.7.0")
    endpoint = Endpoint(
        "colocated", engine.url, (engine,), read_llm("llama-3.1-8b"), parse_gpus("1xH200")
    )
    _say_guess(endpoint)
    assert "SGLang 0.7.0 is newer than 0.5.23" in capsys.readouterr().err
    _say_guess(replace(endpoint, engines=(REMOTE,)))
    assert capsys.readouterr().err == ""
