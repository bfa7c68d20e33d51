"""Seeded days of a split deployment in the simulator, steered by an autopilot or a baseline.

The truth is one simulator run; a pilot sees only requests that have ended, as it would in the
logs, and a model of the engines that may be wrong. To print the table of docs/autopilot.md:

    bash tests/compiled.sh python -m tests.status.autopilot_histories 1000 2000 /tmp/days.jsonl

The file keeps one line per day, and a run that was stopped goes on from there. A fourth number is
the seconds of a mix; a file holds days of one length.
"""

import json
import random
import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean

from pdctl.perf_model.records import Change, Fleet, Outcome, QueueSample, StepTimes
from pdctl.perf_model.simulator.fleets import SplitFleet
from pdctl.perf_model.simulator.job import Shared, TokenTimes
from pdctl.perf_model.simulator.replay import make_jobs
from pdctl.perf_model.simulator.simulate import simulate
from pdctl.status.autopilot.decision import LATEST, Limits, Move, next_step
from pdctl.status.autopilot.split_advice import Split, split_advice
from pdctl.status.records import Moment, WhatIf
from pdctl.status.request_window import Ended, window_of
from pdctl.status.what_if import what_if
from pdctl.workload.records import Requests, Slo
from tests.perf_model.fleets import PLAIN, engine, split

SLO = Slo(ttft_s=3.0, tpot_s=0.080)
PHASE_S, NUM_PHASES, LOOK_S, WINDOW_S = 600.0, 3, 24.0, 120.0
SAMPLE_S = 5.0
KV, MEAN_TOKENS = 400_000, 1_500
SWITCH_S = 5.0  # a role change without a restart, after the engine has drained
SETTLE_S = 45.0  # draining included
LIMITS = Limits(cool_down_s=120.0)
# mean and spread of prompt and output tokens, like the traces of code, of conversations, of
# summaries and of reasoning; the spreads are milder than the traces' own
Mix = tuple[int, float, int, float]
MIXES: tuple[Mix, ...] = (
    (2048, 0.9, 28, 1.2),
    (1155, 0.9, 211, 0.8),
    (2588, 0.4, 291, 0.9),
    (400, 0.8, 700, 0.8),
)
TIMES = replace(
    PLAIN,
    prefill_base_s=0.01,
    prefill_token_s=4e-4,
    decode_base_s=0.030,
    decode_request_s=0.0016,
)
PREFILL_S_PER_TOKEN, DECODE_S_PER_TOKEN = 4e-4, 0.0026  # of an engine, at its SLO


@dataclass(frozen=True)
class History:
    """A day: its requests, its first split, its faults, and how the pilot is deceived.

    lie: what the lines in the logs say of (TTFT, TPOT, whole time), as factors. model: the engines
    as the pilot knows them.
    """

    seed: int
    kind: str
    start: Split
    requests: Requests
    truth: StepTimes
    model: StepTimes
    faults: tuple[Change, ...] = ()
    lie: tuple[float, float, float] = (1.0, 1.0, 1.0)
    phase_s: float = PHASE_S  # of one mix

    @property
    def end_s(self) -> float:
        return self.phase_s * NUM_PHASES


@dataclass
class Flight:
    """One run of a history under a pilot."""

    history: History
    now: Split
    places: dict[str, list[int]]
    added: dict[str, int]
    changes: list[Change] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    looks: list[WhatIf] = field(default_factory=list)
    _live: "Live | None" = None

    @classmethod
    def of(cls, history: History, start: Split | None = None) -> "Flight":
        now = start or history.start
        counts = {"prefill": now.num_prefill, "decode": now.num_decode}
        return cls(history, now, {r: list(range(n)) for r, n in counts.items()}, dict(counts))

    def day(self) -> Outcome:
        """The whole day if no engine moved again."""
        changes = [*self.changes, *self.history.faults]
        changes.sort(key=lambda one: one.at_s)
        first = self.first_fleet(self.history.truth)
        return simulate(first, self.history.requests, changes=changes)

    def live(self, at_s: float) -> "Live":
        """The engines as they are at a moment; moments come in order."""
        if self._live is None:
            self._live = Live(self.history, self.first_fleet(self.history.truth))
        self._live.play(at_s)
        return self._live

    def split_at(self, at_s: float) -> Split:
        """The split at an earlier moment; an engine counts for its new role from its change on."""
        p, total = self.now.num_prefill, self.now.num_prefill + self.now.num_decode
        later = [one for one in self.changes if one.at_s > at_s]
        p -= sum(one.kind == "to_prefill" for one in later)
        p += sum(one.kind == "to_decode" for one in later)
        return Split(p, total - p)

    def first_fleet(self, times: StepTimes) -> Fleet:
        shift = sum(one.kind == "to_prefill" for one in self.changes)
        shift -= sum(one.kind == "to_decode" for one in self.changes)
        return fleet_of(times, Split(self.now.num_prefill - shift, self.now.num_decode + shift))

    def go(self, to: Split, at_s: float) -> None:
        grows, gives = ("prefill", "decode") if to.num_prefill > self.now.num_prefill else (
            "decode",
            "prefill",
        )  # fmt: skip
        for _ in range(abs(to.num_prefill - self.now.num_prefill)):
            place = self.places[gives].pop()
            kind = "to_prefill" if grows == "prefill" else "to_decode"
            self.changes.append(Change(at_s, kind, gives, place, SWITCH_S))  # type: ignore[arg-type]
            if self._live:
                self._live.apply(self.changes[-1])
            self.places[grows].append(self.added[grows])
            self.added[grows] += 1
        self.now = to


class Live:
    """The engines of a flight, played from look to look, and what they tell.

    queues: samples up to now. ended: requests that have, as (place, line) in order of arrival; only
    those that a later window can hold. num_ended: of the whole day. first_tokens: (seconds, prompt
    tokens) in order.
    """

    def __init__(self, history: History, fleet: Fleet) -> None:
        asked = history.requests
        if fleet.prefill is None or fleet.decode is None:
            raise ValueError("a split needs engines of both roles")
        self._history, self._columns = history, TokenTimes(len(asked))
        self._fleet = SplitFleet(
            fleet,
            fleet.prefill,
            fleet.decode,
            jobs=make_jobs(asked, None, [fleet.prefill, fleet.decode]),
            arrival_s=asked.arrival_s,
            shared=Shared(self._columns),
            seed=0,
        )
        self._faults = list(reversed(history.faults))
        self.queues: list[QueueSample] = []
        self.ended: list[tuple[int, Ended]] = []
        self.num_arrived = self.num_ended = 0
        self.first_tokens: list[tuple[float, int]] = []
        self._unanswered: list[int] = []
        self._unfinished: list[int] = []

    def play(self, at_s: float) -> None:
        """Let everything before a moment happen."""
        while (next_s := len(self.queues) * SAMPLE_S) <= at_s:
            self._play_with_faults(next_s)
            self.queues.append(self._fleet.sample(next_s))
        self._play_with_faults(at_s)
        self._read(at_s)

    def _play_with_faults(self, until_s: float) -> None:
        while self._faults and self._faults[-1].at_s <= until_s:
            fault = self._faults.pop()
            self._fleet.play(fault.at_s)
            self._fleet.apply(fault)
        self._fleet.play(until_s)

    def apply(self, change: Change) -> None:
        """Let a change happen now."""
        self._fleet.apply(change)
        if self.queues[-1].at_s == change.at_s:
            self.queues[-1] = self._fleet.sample(change.at_s)

    @property
    def num_failed(self) -> int:
        return len(self._fleet.failed)

    def _read(self, at_s: float) -> None:
        for prefiller in self._fleet.prefillers:
            prefiller.reply_while_idle(at_s)
        num_arrived = bisect_left(self._history.requests.arrival_s, at_s)
        came = range(self.num_arrived, num_arrived)
        self.num_arrived = num_arrived
        self._read_first_tokens(at_s, came)
        self._read_ended(at_s, came)

    def _read_first_tokens(self, at_s: float, came: Sequence[int]) -> None:
        columns, isl, found, left = self._columns, self._history.requests.isl, [], []
        for place in (*self._unanswered, *came):
            first_s = max(columns.first_s[place], columns.reply_s[place])
            if min(columns.first_s[place], columns.reply_s[place]) >= 0 and first_s < at_s:
                found.append((first_s, isl[place]))
            elif place not in self._fleet.failed:
                left.append(place)
        self._unanswered = left
        self.first_tokens += sorted(found)

    def _read_ended(self, at_s: float, came: Sequence[int]) -> None:
        columns, left, num_before = self._columns, [], len(self.ended)
        for place in (*self._unfinished, *came):
            if place in self._fleet.failed:
                continue
            line = self._line(place, at_s) if columns.last_s[place] >= 0 else None
            if line:
                self.ended.append((place, line))
            else:
                left.append(place)
        self._unfinished = left
        self.num_ended += len(self.ended) - num_before
        recent_s = at_s - 2 * WINDOW_S
        self.ended = sorted(
            (one for one in self.ended if one[1].ended_s > recent_s), key=lambda one: one[0]
        )

    def _line(self, place: int, at_s: float) -> Ended | None:
        """What the logs say of a request that has ended; None: it has not."""
        columns, asked, (ttft, tpot, whole) = (
            self._columns,
            self._history.requests,
            self._history.lie,
        )
        if columns.reply_s[place] < 0:
            return None
        came_s, osl = asked.arrival_s[place], asked.osl[place]
        first_s = max(columns.first_s[place], columns.reply_s[place])
        last_s = max(columns.last_s[place], first_s)
        if came_s + (last_s - came_s) > at_s:
            return None
        step_s = (last_s - first_s) / (osl - 1) if osl > 1 else 0.0
        said_s = came_s + (last_s - came_s) * whole
        return Ended(
            came_s, said_s, asked.isl[place], osl, 0, (first_s - came_s) * ttft, step_s * tpot
        )

    def prefill_s(self, from_s: float, to_s: float, token_s: float) -> float:
        """Seconds of prefill between two moments, from the first tokens."""
        first, last = (
            bisect_left(self.first_tokens, (from_s,)),
            bisect_left(self.first_tokens, (to_s,)),
        )
        return sum(isl * token_s for _, isl in self.first_tokens[first:last])


# what a pilot sees of a flight at a moment -> the split it wants
Pilot = Callable[[Flight, float], Split]


def fleet_of(times: StepTimes, now: Split) -> Fleet:
    """The engines of a history in these numbers."""
    prefill = engine("prefill", times=times)
    decode = engine("decode", times=times, kv=KV, running=200)
    return split(prefill, decode, now.num_prefill, now.num_decode)


def make(seed: int, phase_s: float = PHASE_S) -> History:
    """The history of a seed: drift in all, and in most a fault, a wrong model or a lie."""
    rnd = random.Random(seed)
    num = rnd.randint(3, 8)
    p = rnd.randint(1, num - 1)
    kind = rnd.choice(("drift", "drift", "fault", "wrong model", "lie"))
    requests = _requests(rnd, num, phase_s)
    history = History(seed, kind, Split(p, num - p), requests, TIMES, TIMES, phase_s=phase_s)
    if kind == "fault":
        role = rnd.choice(("prefill", "decode"))
        at_s = rnd.uniform(60, history.end_s - 200)
        down = Change(at_s, "fail", role, 0)  # type: ignore[arg-type]
        up = replace(down, at_s=at_s + rnd.uniform(30, 120), kind="recover")
        return replace(history, faults=(down, up))
    if kind == "wrong model":
        return replace(history, model=_wrong(rnd))
    if kind == "lie":
        if rnd.random() < 0.5:  # one that does not contradict itself
            return replace(history, lie=(rnd.choice((0.5, 2.0)),) * 3)
        lie = (rnd.choice((0.2, 1.0, 4.0)), rnd.choice((0.4, 1.0, 2.0)), 1.0)
        return replace(history, lie=lie)
    return history


def _wrong(rnd: random.Random) -> StepTimes:
    prefill, decode = rnd.uniform(0.6, 1.7), rnd.uniform(0.6, 1.7)
    return replace(
        TIMES,
        prefill_token_s=TIMES.prefill_token_s * prefill,
        decode_base_s=TIMES.decode_base_s * decode,
        decode_request_s=TIMES.decode_request_s * decode,
    )


def _requests(rnd: random.Random, num: int, phase_s: float) -> Requests:
    rows: list[tuple[float, int, int]] = []
    for phase in range(NUM_PHASES):
        mix = rnd.choice(MIXES)
        load = rnd.uniform(0.2, 0.55) * num
        rows += _phase(rnd, mix, load, phase * phase_s, (phase + 1) * phase_s)
    return _columns(rows)


def seeded_requests(seed: int, mix: Mix, load: float, span_s: float) -> Requests:
    """Requests of one mix. load: engines that they would keep busy."""
    return _columns(_phase(random.Random(seed), mix, load, 0.0, span_s))


def _phase(
    rnd: random.Random, mix: Mix, load: float, at_s: float, end_s: float
) -> list[tuple[float, int, int]]:
    rate = load / (mix[0] * PREFILL_S_PER_TOKEN + mix[2] * DECODE_S_PER_TOKEN)
    rows = []
    while (at_s := at_s + rnd.expovariate(rate)) < end_s:
        isl = _length(rnd, mix[0], mix[1], 16_000)
        rows.append((at_s, isl, _length(rnd, mix[2], mix[3], 4_000)))
    return rows


def _columns(rows: Sequence[tuple[float, int, int]]) -> Requests:
    arrival_s, isl, osl = zip(*rows, strict=True)
    return Requests(arrival_s, isl, osl)


def _length(rnd: random.Random, mean: float, cv: float, most: int) -> int:
    return max(1, min(most, round(rnd.gammavariate(1 / cv**2, mean * cv**2))))


# --- flights ---


def fly(history: History, pilot: Pilot) -> Flight:
    """Let a pilot steer from the first look to the last."""
    flight, at_s = Flight.of(history), LOOK_S
    while at_s < history.end_s:
        to = pilot(flight, at_s)
        if to != flight.now:
            flight.go(to, at_s)
        at_s += LOOK_S
    return flight


def goodput(flight: Flight) -> float:
    """The share of all requests that met the SLOs."""
    return share_of(flight.day())


def share_of(outcome: Outcome) -> float:
    """The share of an outcome's requests that met the SLOs."""
    pairs = zip(outcome.ttft_s, outcome.tpot_s, strict=True)
    return fmean(t is not None and p is not None and t <= 3.0 and p <= 0.080 for t, p in pairs)


def statics(history: History) -> dict[str, float]:
    """The goodput of every split that never changes."""
    total = history.start.num_prefill + history.start.num_decode
    splits = [Split(p, total - p) for p in range(1, total)]
    return {one.layout: goodput(Flight.of(history, one)) for one in splits}


def autopilot(flight: Flight, at_s: float) -> Split:
    """The rule under test, fed as the live one is."""
    look = _look(flight, at_s, WINDOW_S)
    if look:
        flight.looks.append(look)
    latest = _look(flight, at_s, LATEST * WINDOW_S)
    since_move = [one for one in flight.looks if one.layout == flight.now.layout]
    queues = split_advice(flight.now, list(moments(flight, at_s)), SLO)
    decision = next_step(
        flight.now, since_move, flight.moves, LIMITS, at_s=at_s, latest=latest, queues=queues
    )
    if decision.to is None or decision.action == "wait":
        return flight.now
    seen = look.seen if look else None
    move = Move(at_s, decision.action, flight.now, decision.to, seen, decision.promised)
    flight.moves.append(move)
    flight.looks.clear()
    return decision.to


def _look(flight: Flight, at_s: float, window_s: float) -> WhatIf | None:
    settled_s = flight.moves[-1].at_s + SETTLE_S if flight.moves else 0.0
    since_s = max(at_s - window_s, settled_s)
    if at_s <= settled_s:
        return None
    ended, unfinished = _ended(flight, at_s)
    arrival_s = flight.history.requests.arrival_s
    window = window_of(
        ended,
        since_s=since_s,
        now_s=at_s,
        unfinished=unfinished,
        arrived=bisect_left(arrival_s, at_s) - bisect_left(arrival_s, since_s),
        steady_since_s=settled_s,
    )
    model = fleet_of(flight.history.model, flight.now)
    look = what_if(model, window, SLO, now_s=at_s) if window else ""
    return None if isinstance(look, str) else look


def moments(flight: Flight, at_s: float) -> Iterator[Moment]:
    """What the pages of the engines tell of the last minutes; no lie reaches them."""
    history, asked, live = flight.history, flight.history.requests, flight.live(at_s)
    token_s = history.truth.prefill_token_s
    before = None
    for one in live.queues[-(int(100.0 / SAMPLE_S) + 2) :]:
        if before is not None and one.at_s >= at_s - 100.0:
            now = flight.split_at(one.at_s)
            batch = one.running / now.num_decode
            step_s = history.truth.decode_base_s + batch * history.truth.decode_request_s
            busy_s = live.prefill_s(before.at_s, one.at_s, token_s)
            yield Moment(
                one.at_s,
                now.num_prefill,
                now.num_decode,
                waiting=one.waiting,
                inflight=one.inflight,
                prealloc=one.prealloc,
                transfer=one.transfer,
                decode_waiting=0.0,
                running=one.running,
                kv_usage=min(
                    1.0, (one.running + one.transfer) * MEAN_TOKENS / (KV * now.num_decode)
                ),
                itl_s=step_s if one.running else None,
                busy_share=min(1.0, busy_s / (one.at_s - before.at_s) / now.num_prefill),
                requests=bisect_left(asked.arrival_s, one.at_s),
            )
        before = one


def _ended(flight: Flight, at_s: float) -> tuple[list[Ended], int]:
    """The lines that a window can hold, and how many requests have none yet."""
    live = flight.live(at_s)
    lines = [line for _, line in live.ended]
    return lines, live.num_arrived - live.num_ended - live.num_failed


# --- baselines ---


def quarter(flight: Flight, at_s: float) -> Split:
    """N/4 prefill engines, whatever comes."""
    total = flight.now.num_prefill + flight.now.num_decode
    p = max(1, total // 4)
    return Split(p, total - p)


def adjacent(flight: Flight, at_s: float) -> Split:
    """The rule of adjacent splits: project both neighbours from what each pool makes of its SLO.

    Source: Narwhal as described in its package: a pool grows above 1.0 of its SLO and gives below
    0.5, when that held for three looks. Rewritten from the description.
    """
    ended, _ = _ended(flight, at_s)
    recent = [one for one in ended if one.arrived_s > at_s - WINDOW_S]
    if len(recent) < 10:
        return flight.now
    ttft = fmean(one.ttft_s or 0.0 for one in recent) / 3.0
    tpot = fmean(one.tpot_s or 0.0 for one in recent) / 0.080
    if ttft > 1.0 and tpot < 1.0:
        return _moved(flight.now, 1)
    if tpot > 1.0 and ttft < 1.0:
        return _moved(flight.now, -1)
    if ttft < 0.5 and tpot > 0.5:
        return _moved(flight.now, -1)
    if tpot < 0.5 and ttft > 0.5:
        return _moved(flight.now, 1)
    return flight.now


def queue_depth(flight: Flight, at_s: float) -> Split:
    """A planner on queue depth: the pool with the deeper queue per engine takes an engine.

    Source: the load loop of Dynamo's planner as its documentation describes it, on fixed GPUs.
    """
    queues = flight.live(at_s).queues[-(int(LOOK_S / SAMPLE_S) + 1) :]
    recent: Sequence[QueueSample] = [q for q in queues if at_s - LOOK_S < q.at_s]
    if not recent:
        return flight.now
    prefill = fmean(q.waiting for q in recent) / flight.now.num_prefill
    decode = fmean(q.prealloc + max(0, q.running - 31 * flight.now.num_decode) for q in recent)
    decode /= flight.now.num_decode
    if prefill > 2 * decode + 1:
        return _moved(flight.now, 1)
    if decode > 2 * prefill + 1:
        return _moved(flight.now, -1)
    return flight.now


def _moved(now: Split, by: int) -> Split:
    to = Split(now.num_prefill + by, now.num_decode - by)
    return to if to.num_prefill >= 1 and to.num_decode >= 1 else now


BASELINES: dict[str, Pilot] = {
    "N/4": quarter,
    "adjacent": adjacent,
    "queue depth": queue_depth,
}


@dataclass(frozen=True)
class Result:
    """The goodput of one history under every pilot.

    best_visited: of the splits that the autopilot had, the best if it had been there from the
    beginning. best_kept: the best if the autopilot had stopped moving after any of its moves, or
    before the first.
    """

    seed: int
    kind: str
    autopilot: float
    started_with: float
    best_visited: float
    best_kept: float
    best_static: float
    baselines: dict[str, float]
    num_moves: int
    num_undone: int
    hasty_pairs: int  # opposite moves within a cool-down


def result_of(seed: int, *, phase_s: float = PHASE_S, baselines: bool = True) -> Result:
    """Fly one history with the autopilot and all baselines."""
    history = make(seed, phase_s)
    flight = fly(history, autopilot)
    known = statics(history)
    visited = {history.start.layout, *(one.after.layout for one in flight.moves)}
    pairs = zip(flight.moves, flight.moves[1:], strict=False)
    return Result(
        seed=seed,
        kind=history.kind,
        autopilot=goodput(flight),
        started_with=known[history.start.layout],
        best_visited=max(known[one] for one in visited),
        best_kept=max(goodput(one) for one in _kept(flight)),
        best_static=max(known.values()),
        baselines={
            name: goodput(fly(history, one)) for name, one in BASELINES.items() if baselines
        },
        num_moves=len(flight.moves),
        num_undone=sum(one.kind == "undo" for one in flight.moves),
        hasty_pairs=sum(
            a.goes_up != b.goes_up and b.at_s - a.at_s < LIMITS.cool_down_s for a, b in pairs
        ),
    )


def _kept(flight: Flight) -> Iterator[Flight]:
    """The flights that end with one of its splits, each taken when the autopilot took it."""
    for num in range(len(flight.moves) + 1):
        kept = Flight.of(flight.history)
        for move in flight.moves[:num]:
            kept.go(move.after, move.at_s)
        yield kept


def table(results: Sequence[Result]) -> str:
    """Mean goodputs in per cent, and how many days ended more than 2 points below a reference."""
    lines = [
        "kind           days  autopilot  alone   N/4  adjacent  queue  best | below alone, kept, "
        "visited, best | moves undone hasty"
    ]
    for kind in ("drift", "fault", "wrong model", "lie", ""):
        of_kind = [one for one in results if kind in ("", one.kind)]
        if of_kind:
            lines.append(_row(kind or "all", of_kind))
    return "\n".join(lines)


def _row(kind: str, results: Sequence[Result]) -> str:
    def below(name: str) -> int:
        return sum(one.autopilot < getattr(one, name) - 0.02 for one in results)

    shares = [one.autopilot for one in results], [one.started_with for one in results]
    others = [[one.baselines[name] for one in results] for name in BASELINES]
    best = [one.best_static for one in results]
    means = "  ".join(f"{100 * fmean(one):6.1f}" for one in (*shares, *others, best))
    moves, undone = sum(one.num_moves for one in results), sum(one.num_undone for one in results)
    worse = " ".join(
        str(below(one)) for one in ("started_with", "best_kept", "best_visited", "best_static")
    )
    hasty = sum(one.hasty_pairs for one in results)
    return f"{kind:13} {len(results):5}  {means} | {worse} | {moves} {undone} {hasty}"


def main() -> None:
    """Fly the histories of FIRST to LAST that FILE lacks, add them to it, and print the table."""
    first, last, path = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    phase_s = float(sys.argv[4]) if len(sys.argv) > 4 else PHASE_S
    done = {one.seed: one for one in _read(path)}
    for seed in range(first, last):
        if seed not in done:
            done[seed] = result_of(seed, phase_s=phase_s)
            with path.open("a") as file:
                file.write(json.dumps(asdict(done[seed])) + "\n")
    sys.stdout.write(table([done[seed] for seed in range(first, last)]) + "\n")


def _read(path: Path) -> list[Result]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [Result(**json.loads(line)) for line in lines]


if __name__ == "__main__":
    main()
