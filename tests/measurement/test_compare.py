from pdctl.measurement.compare import Compared, as_played, compare, compare_run, windowed
from pdctl.measurement.patterns import in_bursts
from pdctl.measurement.summary import summary
from pdctl.perf_model.records import Outcome
from pdctl.workload.records import Requests, Slo
from tests.measurement.made import result, sent


def outcome(*ttft_s: float | None) -> Outcome:
    known = [None if t is None else 0.1 for t in ttft_s]
    e2e = [None if t is None else t + 0.2 for t in ttft_s]
    return Outcome(ttft_s, known, e2e, 10.0, 300, {})


def test_a_figure_that_either_side_lacks_has_no_error() -> None:
    assert Compared("ttft p50", "s", 1.1, 1.0).error == 0.10000000000000009
    assert Compared("ttft p50", "s", None, 1.0).error is None
    assert Compared("ttft p50", "s", 1.0, None).is_within(0.1) is None
    assert Compared("ttft p50", "s", 1.1, 1.0).is_within(0.15) is True


def test_prediction_and_measurement_stand_side_by_side() -> None:
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
    assert all(row.is_within(1e-6) for row in rows if row.figure.startswith("ttft"))


def test_bursts_keep_the_mean_rate() -> None:
    requests = Requests([0.0, 1.0, 2.0, 3.0, 4.0], [1] * 5, [1] * 5)
    assert list(in_bursts(requests, 2).arrival_s) == [0.0, 0.0, 2.0, 2.0, 4.0]
