from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest

from pdctl.perf_model.records import Parallelism
from pdctl.verdict.closed_form import demand_of
from pdctl.verdict.flips import (
    Asker,
    Axis,
    FlipForecast,
    axes_of,
    find_flip,
    forecast_of,
    read_off,
)
from pdctl.verdict.layouts import engines_that_fit
from pdctl.verdict.records import Choice, Question
from pdctl.verdict.search import Contest, contest_of, find_capacities
from pdctl.verdict.trials import Run
from pdctl.workload.records import Slo
from tests.verdict.examples import question

TP1 = {role: Parallelism() for role in ("colocated", "prefill", "decode")}


def asked(rate: float | None = 6.0, slo: Slo | None = None) -> Question:
    return question("qwen3-8b", "4xH200", rate=rate, slo=slo or Slo(1.0, 0.02), parallelism=TP1)


def contest(one: Question) -> Contest:
    demand = demand_of(one.workload)
    assert demand is not None
    return contest_of(one, one.slo, engines_that_fit(one), demand)


@dataclass
class TurnsAt:
    """Answers that turn beyond a rate, but for one narrow range beyond it."""

    turn: float
    wavers: tuple[float, float] = (0.0, 0.0)
    num: int = 0

    def __call__(self, question: Question) -> Choice:
        self.num += 1
        rate = question.workload.rate_rps or 0.0
        if self.wavers[0] <= rate <= self.wavers[1]:
            return "colocated"
        return "pd" if rate > self.turn else "colocated"

    def surmise(self, question: Question, guesses: Mapping[str, float]) -> Choice | None:
        return self(question)

    def is_met(self, question: Question) -> bool:
        return (question.workload.rate_rps or 0.0) < 100.0


@pytest.fixture(scope="module")
def forecast() -> FlipForecast:
    made = contest(asked())
    return forecast_of(asked(), made, find_capacities(made))


def rate_axis(one: Question) -> Axis:
    return next(axis for axis in axes_of(one, 1000) if axis.what == "rate_rps")


def test_what_flags_can_ask_otherwise_may_flip() -> None:
    names = [axis.what for axis in axes_of(asked(), 1000)]
    assert names == ["rate_rps", "tpot_s", "ttft_s", "isl", "total"]
    assert [axis.what for axis in axes_of(asked(rate=None), 9000)] == ["tpot_s", "ttft_s"]
    assert list(axes_of(asked(slo=Slo()), 1000)) == []


@pytest.mark.slow
def test_a_flip_is_told_where_it_holds_and_five_percent_beyond(forecast: FlipForecast) -> None:
    turn = forecast.enough_rps
    flip = find_flip("colocated", rate_axis(asked()), 1, forecast, TurnsAt(turn))
    assert flip is not None
    assert (flip.from_, flip.to, flip.from_at) == ("colocated", "pd", 6.0)
    assert turn < flip.at < turn * 1.1
    assert flip.at == float(f"{flip.at:.3g}")


@pytest.mark.slow
def test_a_flip_that_does_not_hold_beyond_is_not_told(forecast: FlipForecast) -> None:
    turn = forecast.enough_rps
    wavering = TurnsAt(turn, (turn * 1.03, turn * 2))
    assert find_flip("colocated", rate_axis(asked()), 1, forecast, wavering) is None


@pytest.mark.slow
def test_nothing_flips_at_the_value_asked_about(forecast: FlipForecast) -> None:
    axis = replace(rate_axis(asked()), value=forecast.enough_rps * 2)
    assert find_flip("pd", axis, 1, forecast, TurnsAt(0.0)) is None


def test_service_levels_are_read_off_runs_between_their_rates() -> None:
    quick, slow = Run([0.1] * 10, [0.01] * 10, True), Run([0.1] * 5 + [9.0] * 5, [0.01] * 10, True)
    assert 2.0 < read_off([(2.0, quick), (4.0, slow)], Slo(1.0)) < 4.0
    assert read_off([(2.0, quick), (4.0, slow)], Slo(10.0)) > 4.0
    assert read_off([(2.0, slow)], Slo(1.0)) < 2.0
    assert read_off([], Slo(1.0)) == 0.0


@pytest.mark.slow
def test_a_surmise_agrees_with_the_whole_question_or_there_is_none() -> None:
    made = contest(asked())
    capacities = find_capacities(made)
    asker = Asker(asked(), made)
    for tpot_s in (0.006, 0.01, 0.015, 0.03, 0.06):
        one = asked(slo=Slo(1.0, tpot_s))
        guess = asker.surmise(one, capacities)
        assert guess in (None, asker(one))


@pytest.mark.slow
def test_asking_at_another_rate_takes_no_more_runs() -> None:
    made = contest(asked())
    find_capacities(made)
    before = made.trials.num_runs
    asker = Asker(asked(), made)
    assert {asker(asked(rate=rate)) for rate in (0.1, 5.0, 500.0)}
    assert made.trials.num_runs == before
