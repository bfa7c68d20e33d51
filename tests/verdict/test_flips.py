from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from pdctl.perf_model.records import Parallelism
from pdctl.verdict.closed_form import demand_of
from pdctl.verdict.flips import (
    NEAR,
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
from pdctl.workload.records import Slo, longest_request
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
    is_costly: bool = False

    def __call__(self, question: Question) -> Choice:
        self.num += 1
        rate = question.workload.rate_rps or 0.0
        if self.wavers[0] <= rate <= self.wavers[1]:
            return "colocated"
        return "pd" if rate > self.turn else "colocated"

    def surmise(self, question: Question) -> Choice | None:
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


def test_no_prompt_is_asked_about_that_the_context_has_no_room_for() -> None:
    one = asked()
    (isl,) = (axis for axis in axes_of(one, 1000) if axis.what == "isl")
    context, osl = one.llm.max_context, one.workload.osl
    assert context is not None
    assert osl is not None
    assert isl.most * 1.05 + osl.mean == pytest.approx(longest_request(context))


@pytest.mark.slow
def test_a_flip_is_told_where_it_holds_and_five_percent_beyond(forecast: FlipForecast) -> None:
    turn = forecast.enough_rps
    flip = find_flip("colocated", rate_axis(asked()), 1, forecast, TurnsAt(turn))
    assert flip is not None
    assert (flip.from_, flip.to, flip.from_at) == ("colocated", "pd", 6.0)
    assert turn < flip.at < turn * 1.1
    assert flip.at == float(f"{flip.at:.3g}")


@pytest.mark.slow
@pytest.mark.parametrize("direction", [1, -1])
def test_where_colocated_carries_nothing_no_rate_is_looked_for(
    forecast: FlipForecast, direction: int
) -> None:
    nothing = replace(forecast, enough_rps=0.0, carried_rps=0.0)
    assert find_flip("pd", rate_axis(asked()), direction, nothing, TurnsAt(0.0)) is None


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
def test_asking_at_another_rate_takes_no_more_runs() -> None:
    made = contest(asked())
    find_capacities(made)
    before = made.trials.num_runs
    asker = Asker(asked(), made)
    assert {asker(asked(rate=rate)) for rate in (0.1, 5.0, 500.0)}
    assert made.trials.num_runs == before


@dataclass(frozen=True)
class Foretold(FlipForecast):
    """A forecast that the answer to a tighter TPOT, or to a looser TTFT, turns at a value."""

    tpot_s: float = 0.0
    ttft_s: float = 1e9
    turned: Choice | None = "pd"

    def answers(self, axis: Axis, value: float, factors: Sequence[float]) -> set[Choice | None]:
        is_turned = value < self.tpot_s if axis.what == "tpot_s" else value > self.ttft_s
        return {self.turned if is_turned else "colocated"}


@dataclass
class Answers:
    """Answers that turn at a TPOT or a TTFT. turned: None: no layout meets the SLOs there."""

    tpot_s: float = 0.0
    ttft_s: float = 1e9
    turned: Choice | None = "pd"
    is_costly: bool = False
    seen: set[Slo] = field(default_factory=set)

    def surmise(self, question: Question) -> Choice | None:
        slo = question.slo
        is_turned = (slo.tpot_s or 1e9) < self.tpot_s or (slo.ttft_s or 0.0) > self.ttft_s
        return self.turned if is_turned else "colocated"

    def __call__(self, question: Question) -> Choice:
        self.seen.add(question.slo)
        return self.surmise(question) or "colocated"

    def is_met(self, question: Question) -> bool:
        self.seen.add(question.slo)
        return self.surmise(question) is not None


def axis_of(what: str) -> Axis:
    return next(axis for axis in axes_of(asked(), 1000) if axis.what == what)


@pytest.mark.slow
def test_that_no_layout_meets_the_slos_is_another_answer(forecast: FlipForecast) -> None:
    foretold = Foretold(**vars(forecast), tpot_s=0.012, turned=None)
    never = Answers(tpot_s=0.0155, turned=None)  # colocated still comes nearest
    flip = find_flip("colocated", axis_of("tpot_s"), -1, foretold, never)
    assert flip is not None
    assert (flip.to, flip.is_met) == ("colocated", False)
    assert 0.0155 / NEAR < flip.at < 0.0155


@pytest.mark.slow
@pytest.mark.parametrize("turn", [1.15, 1.4, 2.0, 3.0, 5.5])
def test_a_flip_is_near_the_nearest_value_however_far_off_the_forecast(
    forecast: FlipForecast, turn: float
) -> None:
    foretold = Foretold(**vars(forecast), ttft_s=5.6)
    answers = Answers(ttft_s=turn)
    flip = find_flip("colocated", axis_of("ttft_s"), 1, foretold, answers)
    assert flip is not None
    assert turn < flip.at <= turn * NEAR
    assert len(answers.seen) <= 12


@pytest.mark.slow
def test_where_the_forecast_is_right_a_flip_takes_four_questions(forecast: FlipForecast) -> None:
    foretold = Foretold(**vars(forecast), ttft_s=3.0)
    answers = Answers(ttft_s=3.0)
    assert find_flip("colocated", axis_of("ttft_s"), 1, foretold, answers) is not None
    assert len(answers.seen) == 4  # itself, the value, one beyond, and one before


@pytest.mark.slow
def test_where_asking_is_costly_only_the_flip_itself_is_asked_about(forecast: FlipForecast) -> None:
    foretold = Foretold(**vars(forecast), ttft_s=3.0)
    answers = Answers(ttft_s=2.8, is_costly=True)
    flip = find_flip("colocated", axis_of("ttft_s"), 1, foretold, answers)
    assert flip is not None
    assert 3.0 < flip.at < 3.0 * NEAR
    assert len(answers.seen) == 3


@pytest.mark.slow
def test_nothing_flips_where_no_layout_meets_the_slos(forecast: FlipForecast) -> None:
    foretold = Foretold(**vars(forecast), ttft_s=3.0)
    nowhere = Answers(ttft_s=0.5, turned=None)
    assert find_flip("pd", axis_of("ttft_s"), 1, foretold, nowhere) is None
    assert nowhere.seen == {asked().slo}


@pytest.mark.slow
@pytest.mark.parametrize(("what", "direction"), [("tpot_s", -1), ("ttft_s", -1)])
def test_nearer_than_a_flip_the_answer_is_the_same(what: str, direction: int) -> None:
    one = asked()
    made = contest(one)
    capacities = find_capacities(made)
    asker, axis = Asker(one, made), axis_of(what)
    base = asker(one)
    flip = find_flip(base, axis, direction, forecast_of(one, made, capacities), asker)
    assert flip is not None
    nearer = axis.moved(one, min(flip.at * NEAR * 1.02, axis.value))
    assert (asker(nearer), asker.is_met(nearer)) == (base, True)
    assert (asker(axis.moved(one, flip.at)), flip.is_met) != (base, True)


@pytest.mark.slow
def test_a_layout_that_meets_the_slos_above_its_capacity_meets_them() -> None:
    made = contest(asked())
    capacities = find_capacities(made)
    asker, lucky = Asker(asked(), made), 1.02 * max(capacities.values())
    meets = [made.trials.meets(made.best(arm), lucky, made.slo) for arm in capacities]
    assert asker.is_met(asked(rate=lucky)) == any(meets)
    assert not asker.is_met(asked(rate=10 * lucky))
