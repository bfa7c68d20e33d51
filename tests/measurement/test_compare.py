from statistics import median

import pytest

from pdctl.deployment.build import deployment_of
from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.measurement.compare import (
    Compared,
    as_played,
    compare,
    compare_run,
    in_model_time,
    predict,
    rehearsed,
    rehearsed_fleet,
    windowed,
)
from pdctl.measurement.results import LoadResult, Sent, summary
from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import Outcome
from pdctl.workload.records import Requests, Slo
from tests.measurement.made import result, sent

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
    fleet = rehearsed_fleet(deployment, read_llm("qwen3-8b"), parse_gpus("8xH200"))
    assert fleet.layout == "1P3D"
    assert fleet.colocated is None


def test_a_model_too_large_for_its_engine_is_refused_by_role() -> None:
    deployment = deployment_of(model="deepseek-r1", total=2, prefill=1, engine="sim")
    with pytest.raises(InvalidInput, match="does not fit a prefill engine"):
        rehearsed_fleet(deployment, read_llm("deepseek-r1"), parse_gpus("8xH200"))


def test_a_run_that_went_as_predicted_has_no_error() -> None:
    deployment = deployment_of(model="qwen3-8b", total=4, prefill=1, engine="sim")
    fleet = rehearsed_fleet(deployment, read_llm("qwen3-8b"), parse_gpus("8xH200"))
    plays = predict(fleet, REQUESTS)
    predicted = plays[0].outcome
    sent = tuple(_as_predicted(i, predicted.ttft_s[i], predicted.tpot_s[i]) for i in range(3))
    result = LoadResult("http://x", sent, 0.0, span_s=3.0, cpu_s=0.1)
    done = rehearsed(fleet, plays[:1], result, [], Slo())
    assert done.num_failed == done.num_truncated == 0
    errors = [one.error for one in done.figures if one.figure.startswith(("ttft", "tpot"))]
    assert errors == pytest.approx([0.0] * len(errors), abs=1e-6)


def test_a_prediction_is_the_median_of_what_the_routers_luck_may_do_with_a_burst() -> None:
    deployment = deployment_of(model="qwen3-8b", total=4, prefill=2, engine="sim")
    fleet = rehearsed_fleet(deployment, read_llm("qwen3-8b"), parse_gpus("8xH200"))
    burst = Requests([0.0] * 8, [20_000, 100, 30_000, 200, 10_000, 300, 8000, 400], [20] * 8)
    plays = predict(fleet, burst)
    sent = tuple(_as_predicted(i % 3, 1.0, 0.01) for i in range(8))
    result = LoadResult("http://x", sent, 0.0, span_s=3.0, cpu_s=0.1)
    figures = {one.figure: one for one in rehearsed(fleet, plays, result, [], Slo()).figures}
    mean = figures["ttft mean"]
    assert mean.predicted is not None
    assert mean.predicted_range is not None
    low, high = mean.predicted_range
    assert low < mean.predicted < high


def test_clients_in_a_closed_loop_are_predicted_without_the_times_of_the_run() -> None:
    deployment = deployment_of(model="llama-3.1-8b", total=4, prefill=0, engine="sim")
    fleet = rehearsed_fleet(deployment, read_llm("llama-3.1-8b"), parse_gpus("4xH200"))
    requests = Requests([0.0] * 320, [3000] * 320, [200] * 320)
    plays = predict(fleet, requests, 32)
    rounds = [windowed(play.outcome, play.requests) for play in plays]
    found = median(p50.p50 for one in rounds if (p50 := percentiles(one.ttft_s)))
    # four rehearsals on simulated engines behind the real router: 0.429, 0.431, 0.430 and 0.430 s.
    # At the times of such a run, with other engines picked, it was 0.248 to 0.326 s
    assert found == pytest.approx(0.43, rel=0.05)
    assert len({play.requests.arrival_s[40] for play in plays}) == len(plays)
    assert all(list(p.requests.arrival_s) == sorted(p.requests.arrival_s) for p in plays)


def _as_predicted(index: int, ttft_s: float | None, tpot_s: float | None) -> Sent:
    assert ttft_s is not None
    assert tpot_s is not None
    at, first = REQUESTS.arrival_s[index], REQUESTS.arrival_s[index] + ttft_s
    tokens = tuple(first + k * tpot_s for k in range(20))
    return Sent(index, at, at, tokens[-1], isl=1000, osl=20, token_s=tokens)


def outcome(*ttft_s: float | None) -> Outcome:
    known = [None if t is None else 0.1 for t in ttft_s]
    e2e = [None if t is None else t + 0.2 for t in ttft_s]
    return Outcome(ttft_s, known, e2e, 10.0, 300, {})


def test_a_figure_that_either_side_lacks_has_no_error() -> None:
    assert Compared("ttft p50", "s", 1.1, 1.0).error == 0.10000000000000009
    assert Compared("ttft p50", "s", None, 1.0).error is None
    assert Compared("ttft p50", "s", 1.0, None).error is None


def test_prediction_and_measurement_are_paired() -> None:
    measured = summary(result(*(sent(n, at_s=n * 1.0) for n in range(11))), Slo(ttft_s=0.5))
    rows = {row.figure: row for row in compare(outcome(0.2, 0.2), measured, Slo(ttft_s=0.5))}
    assert rows["ttft p50"].predicted == 0.2
    assert round(rows["ttft p50"].error or 0, 6) == 1.0
    assert rows["attainment"].predicted == 1.0
    assert rows["output tokens"].predicted == 30.0


def test_a_predicted_outcome_is_cut_to_the_measured_window() -> None:
    requests = Requests([float(n) for n in range(11)], [10] * 11, [3] * 11)
    cut = windowed(outcome(9.0, *([0.1] * 9), None), requests, warm_up=0.05, cool_down=0.05)
    assert list(cut.ttft_s) == [0.1] * 9
    assert (cut.span_s, cut.output_tokens, cut.num_rejected) == (9.0, 27, 0)


def test_a_run_is_predicted_again_at_the_times_it_was_played() -> None:
    requests = Requests([0.0, 0.0, 0.0], [1, 2, 3], [4, 5, 6], [(1,), (2,), (3,)], 16)
    played = result(sent(0, at_s=0.0), sent(1, at_s=0.7), sent(2, at_s=0.3))
    again = as_played(played, requests)
    assert list(again.arrival_s) == [0.0, 0.3, 0.7]
    assert list(again.isl) == [1, 3, 2]
    assert again.blocks == [(1,), (3,), (2,)]


def test_a_run_and_its_prediction_share_their_window() -> None:
    requests = Requests([float(n) for n in range(11)], [10] * 11, [3] * 11)
    played = result(*(sent(n, at_s=float(n)) for n in range(11)))
    rows = compare_run(outcome(*([0.1] * 11)), played, requests)
    assert all(abs(row.error or 0.0) < 1e-6 for row in rows if row.figure.startswith("ttft"))
