"""The verdict on a question that differs a little from one that has been answered.

A surmise needs few runs: an arm's capacity is compared with what decides instead of being searched
for; where a comparison is near there is none. What is told is the verdict of the whole question,
by the very search and judgement that `decide` would use.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pdctl.verdict.capacity import rung_below, rung_rps
from pdctl.verdict.closed_form import demand_of
from pdctl.verdict.judge import Known, any_carries, by_capacity
from pdctl.verdict.layouts import engines_that_fit
from pdctl.verdict.records import Choice, Question
from pdctl.verdict.search import Contest, contest_of, whole_choice

MARGIN = 2  # rungs beside the one that decides
LEAP = 1.12  # from one such rate to the next
TRIES = 4  # rates at which one arm is seen to carry clearly more than the other, or not


@dataclass
class Asker:
    """Asks questions that differ from a contest's. contests: those asked before."""

    contest: Contest
    contests: dict[object, Contest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.contests[_key(self.contest.question)] = self.contest

    def surmise(self, question: Question, guesses: Mapping[str, float]) -> Choice | None:
        """What the verdict should be, from few runs; None: too near to a threshold to be sure.

        guesses: what each arm probably carries, to know at which rates to compare them.
        """
        own = self._contest(question)
        if own is None or len(own.entrants) < 2 or own.is_searched:
            return self(question)
        if own.trials.few is not None:
            return self._rough_choice(own)
        return certain_choice(own, guesses)

    def _rough_choice(self, own: Contest) -> Choice:
        """The verdict by a part of the requests, corrected by what all of them changed before."""
        base, found = self.contest, {}
        for arm in own.entrants:
            known = base.search(arm)
            rough = known.rough_rps
            scale = known.rate_rps / rough if rough and known.rate_rps else 1.0
            found[arm] = Known(scale * own.search(arm).rough_rps)
        rate = own.question.workload.rate_rps
        return by_capacity(found["colocated"], found["pd"], rate, own.margins)

    def __call__(self, question: Question) -> Choice:
        """The verdict of the whole question, as `decide` comes to it."""
        own = self._contest(question)
        return "too_close" if own is None else whole_choice(own)

    def is_met(self, question: Question) -> bool:
        """Whether some layout meets the SLOs at the rate of the question."""
        own = self._contest(question)
        if own is None:
            return False
        rate = question.workload.rate_rps
        return any_carries([own.search(arm) for arm in own.entrants], rate)

    def _contest(self, question: Question) -> Contest | None:
        key = _key(question)
        if key not in self.contests:
            made = self._made(question)
            if made is None:
                return None
            self.contests[key] = made
        kept = self.contests[key]
        # searches depend on no rate, and are shared
        return replace(kept, question=question)

    def _made(self, question: Question) -> Contest | None:
        asked, base = self.contest.question, self.contest
        demand = demand_of(question.workload)
        engines = base.engines if question.total == asked.total else engines_that_fit(question)
        if demand is None:
            return None
        is_same = question.workload.isl == asked.workload.isl
        contest = contest_of(question, engines, demand, base.trials if is_same else None)
        return contest if contest.entrants else None


def _key(question: Question) -> object:
    """What tells contests of one workload and model apart; the rate does not."""
    isl = question.workload.isl
    return question.slo, isl.mean if isl else None, question.total


def certain_choice(contest: Contest, guesses: Mapping[str, float]) -> Choice | None:
    """As whole_choice, from a few runs on either side of what decides; None: not certain."""
    rate = contest.question.workload.rate_rps
    if rate is not None:
        reached = [_reaches(contest, arm, rate) for arm in contest.entrants]
        if True not in reached:
            return None if None in reached else _nearer(contest, guesses)
        enough = _reaches(contest, "colocated", rate * contest.margins.enough)
        if enough is not False:
            return "colocated" if enough else None
    for winner, loser in (("pd", "colocated"), ("colocated", "pd")):
        more = _carries_more(contest, winner, loser, guesses, contest.margins.ratio)
        if more is not False:
            return _named(winner) if more else None
    return "too_close"


def _nearer(contest: Contest, guesses: Mapping[str, float]) -> Choice | None:
    """The arm that carries more where neither carries enough."""
    more = _carries_more(contest, "pd", "colocated", guesses, 1.0)
    return None if more is None else "pd" if more else "colocated"


def _named(arm: str) -> Choice:
    return "pd" if arm == "pd" else "colocated"


def _reaches(contest: Contest, arm: str, rate_rps: float) -> bool | None:
    """Whether an arm's capacity is at least a rate."""
    rung = rung_below(rate_rps)
    rung += rung_rps(rung) < rate_rps
    if _holds(contest, arm, rung_rps(rung + MARGIN)):
        return True
    return None if _holds(contest, arm, rung_rps(rung - MARGIN)) else False


def _carries_more(
    contest: Contest, winner: str, loser: str, guesses: Mapping[str, float], factor: float
) -> bool | None:
    """Whether one arm carries `factor` times what the other does, as some rate between shows."""
    ours, theirs = guesses[winner], guesses[loser]
    if ours <= 0 or theirs <= 0:
        return None
    at, held, missed = math.sqrt(theirs * ours / factor), 0.0, math.inf
    for _ in range(TRIES):
        rate = rung_rps(rung_below(at))
        is_carried = _holds(contest, loser, rate)
        beside = -MARGIN if is_carried else MARGIN
        wins = _holds(contest, winner, rung_rps(rung_below(rate * factor) + beside))
        if wins != is_carried:
            return wins
        held, missed = (rate, missed) if is_carried else (held, rate)
        at = _between(held, missed)
    return None


def _between(held: float, missed: float) -> float:
    """The next rate to try: both arms carry `held`, and neither `missed`."""
    if held and missed < math.inf:
        return math.sqrt(held * missed)
    return held * LEAP if held else missed / LEAP


def _holds(contest: Contest, arm: str, rate_rps: float) -> bool:
    slo, trials = contest.question.slo, contest.trials
    return any(trials.meets(c.fleet, rate_rps, slo) for c in contest.entrants[arm])
