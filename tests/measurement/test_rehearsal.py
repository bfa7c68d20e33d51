"""Predicted beside observed, in the model's time."""

import pytest

from pdctl.deployment.choose import deployment_of
from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.measurement.records import LoadResult, Sent
from pdctl.measurement.rehearsal import fleet_of, in_model_time, predict, rehearsed
from pdctl.workload.records import Requests, Slo

REQUESTS = Requests(arrival_s=[0.0, 1.0, 2.0], isl=[1000] * 3, osl=[20] * 3)


def test_times_played_at_double_speed_count_twice() -> None:
    one = Sent(0, 1.0, 1.0, 3.0, isl=10, osl=2, token_s=(1.5, 2.5))
    result = LoadResult("http://x", (one,), 0.0, span_s=3.0, cpu_s=0.1, speed=2.0)
    (slow,) = in_model_time(result).sent
    assert slow.ttft_s == pytest.approx(1.0)
    assert slow.tpot_s == pytest.approx(2.0)
    assert in_model_time(result).span_s == 6.0


def test_a_fleet_has_the_engines_of_its_deployment() -> None:
    deployment = deployment_of(model="qwen3-8b", total=4, prefill=1, engine="sim")
    fleet = fleet_of(deployment, read_llm("qwen3-8b"), parse_gpus("8xH200"))
    assert fleet.layout == "1P3D"
    assert fleet.colocated is None


def test_a_model_too_large_for_its_engine_is_refused_by_role() -> None:
    deployment = deployment_of(model="deepseek-r1", total=2, prefill=1, engine="sim")
    with pytest.raises(InvalidInput, match="does not fit a prefill engine"):
        fleet_of(deployment, read_llm("deepseek-r1"), parse_gpus("8xH200"))


def test_a_run_that_went_as_predicted_is_off_by_nothing() -> None:
    deployment = deployment_of(model="qwen3-8b", total=4, prefill=1, engine="sim")
    fleet = fleet_of(deployment, read_llm("qwen3-8b"), parse_gpus("8xH200"))
    predicted = predict(fleet, REQUESTS)
    sent = tuple(_as_predicted(i, predicted.ttft_s[i], predicted.tpot_s[i]) for i in range(3))
    result = LoadResult("http://x", sent, 0.0, span_s=3.0, cpu_s=0.1)
    done = rehearsed(fleet, REQUESTS, predicted, result, [], Slo())
    assert done.num_failed == done.num_truncated == 0
    errors = [one.error for one in done.figures if one.figure.startswith(("ttft", "tpot"))]
    assert errors == pytest.approx([0.0] * len(errors), abs=1e-6)


def _as_predicted(index: int, ttft_s: float | None, tpot_s: float | None) -> Sent:
    assert ttft_s is not None
    assert tpot_s is not None
    at, first = REQUESTS.arrival_s[index], REQUESTS.arrival_s[index] + ttft_s
    tokens = tuple(first + k * tpot_s for k in range(20))
    return Sent(index, at, at, tokens[-1], isl=1000, osl=20, token_s=tokens)
