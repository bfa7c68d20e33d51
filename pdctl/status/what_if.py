"""Replay the latest requests on every layout of the same GPUs. Pure.

The replay of today's layout is compared with what the deployment really did to the same requests.
Where they differ, the step times are fitted to what was seen, within limits. Other layouts may be
off by the difference that is left, and have to be better than what was seen, so that a model that
is wrong promises nothing.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from statistics import fmean, median, stdev

from pdctl.perf_model.fitting.fit import with_factors
from pdctl.perf_model.metrics import is_good
from pdctl.perf_model.records import EngineModel, Fleet, Outcome
from pdctl.perf_model.simulator.kv import Prefixes
from pdctl.perf_model.simulator.simulate import find_prefixes, simulate
from pdctl.status.records import Alternative, WhatIf
from pdctl.status.request_window import Window
from pdctl.units import format_number_of
from pdctl.workload.arrivals import tail
from pdctl.workload.records import Slo

LEAST_REQUESTS = 20  # whose times are known, those of the queue of the past included
LEAST_ARRIVED = 20  # in the window: they are what layouts are compared on
_FIT_ABOVE = 0.02  # of mismatch
_FIT_FROM = math.log(1.1)  # of the ratio of seen to replayed times: 0 % may match 0 % by accident
_FACTORS = (0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6)  # beyond them the metrics may be wrong
_BLOCKS = 10  # neighbours share a queue, so that single requests are not independent samples
_ONE_SIDED_95 = 1.83  # Student's t with 9 degrees of freedom


def what_if(
    fleet: Fleet, window: Window, slo: Slo, *, now_s: float, others: Sequence[EngineModel] = ()
) -> WhatIf | str:
    """Replay a window on every layout of the GPUs of `fleet`; or why nothing is said.

    slo: without one, layouts are compared by today's median times. others: the same
    engines in roles that `fleet` has not. Ignores: how long a change takes, and that the next
    requests may differ from the last.
    """
    known = [i for i, ttft_s in enumerate(window.ttft_s) if ttft_s is not None]
    has_one_limit = slo.is_given and None in (slo.ttft_s, slo.tpot_s)
    by_whole = len(known) < LEAST_REQUESTS and not has_one_limit
    if by_whole:
        known = [i for i, took_s in enumerate(window.took_s) if took_s is not None]
    missing = _missing(window, len(known))
    if missing:
        return missing
    kind = _WholeReplay if by_whole else _Replay
    run = kind(window, known, slo, find_prefixes(window.requests))
    if not slo.is_given:
        run = replace(run, slo=_usual(run, fleet))
    factors = _fitted(fleet, run)
    fleet = _scaled(fleet, *factors)
    fresh, replayed = _fresh(window, run.slo), run.replayed(fleet)
    today = _both(run, fresh, fleet)
    alternatives = [
        _alternative(one, _both(run, fresh, one), today, _doubt(run.seen, replayed))
        for one in layouts_of(fleet, [_scaled_engine(one, *factors) for one in others])
        if one.layout != fleet.layout
    ]
    return WhatIf(
        at_s=now_s,
        layout=fleet.layout,
        num_requests=len(today),
        rate_rps=len(today) / window.span_s,
        window_s=window.span_s,
        seen=run.seen,
        replayed=replayed,
        attainment=fmean(today),
        alternatives=tuple(sorted(alternatives, key=lambda one: -one.attainment)),
        prefill_factor=factors[0],
        decode_factor=factors[1],
        by_whole=by_whole,
        usual_ttft_s=None if slo.is_given else run.slo.ttft_s,
        usual_tpot_s=None if slo.is_given else run.slo.tpot_s,
    )


def _missing(window: Window, num_known: int) -> str:
    """Why a window is too little to compare layouts on, as a sentence; "" if it is not."""
    if num_known < LEAST_REQUESTS:
        return (
            f"The times of {format_number_of(num_known, 'request')} are known from the last "
            f"{window.span_s:.0f} s; {LEAST_REQUESTS} are needed."
        )
    num = len(window.ttft_s) - window.first
    if num < LEAST_ARRIVED:
        arrived = format_number_of(num, "request")
        return f"{arrived} arrived in the last {window.span_s:.0f} s; {LEAST_ARRIVED} are needed."
    return ""


@dataclass(frozen=True, eq=False)
class _Replay:
    """Replays of one window. known: places of the requests whose times were measured."""

    window: Window
    known: Sequence[int]
    slo: Slo
    prefixes: Prefixes | None

    @lru_cache(maxsize=8)  # noqa: B019  # a replay lives for one what-if
    def outcome(self, fleet: Fleet) -> Outcome:
        return simulate(fleet, self.window.requests, prefixes=self.prefixes)

    @property
    def seen(self) -> float:
        """The measured share that met the SLOs."""
        ttft_s, tpot_s = self.window.ttft_s, self.window.tpot_s
        return fmean(is_good(ttft_s[i], tpot_s[i], self.slo) for i in self.known)

    def replayed(self, fleet: Fleet) -> float:
        """The same share in a replay."""
        good = self.good(fleet)
        return fmean(good[i] for i in self.known)

    def good(self, fleet: Fleet) -> list[bool]:
        """One flag per request: it met the SLOs in a replay."""
        pairs = zip(self.ttft_s(fleet), self.outcome(fleet).tpot_s, strict=True)
        return [is_good(ttft_s, tpot_s, self.slo) for ttft_s, tpot_s in pairs]

    def ttft_s(self, fleet: Fleet) -> list[float | None]:
        """Replayed times to the first token, with what was waited before the replay begins."""
        pairs = zip(self.outcome(fleet).ttft_s, self.window.waited_s, strict=True)
        return [None if ttft_s is None else ttft_s + waited_s for ttft_s, waited_s in pairs]

    def mismatch(self, fleet: Fleet) -> float:
        return abs(self.seen - self.replayed(fleet))

    def distance(self, fleet: Fleet) -> tuple[float, float]:
        """Logarithms of the median ratios of measured to replayed TTFT and TPOT."""
        ttft_s, tpot_s, window = self.ttft_s(fleet), self.outcome(fleet).tpot_s, self.window
        return (
            _log_ratio((window.ttft_s[i], ttft_s[i]) for i in self.known),
            _log_ratio((window.tpot_s[i], tpot_s[i]) for i in self.known),
        )


@dataclass(frozen=True, eq=False)
class _WholeReplay(_Replay):
    """Replays of a window whose requests are known by their whole times alone.

    They are compared by the share whose whole time is within what both limits allow together. One
    factor for all step times is fitted.
    """

    @property
    def seen(self) -> float:
        return fmean(self._is_within(i, self.window.took_s[i]) for i in self.known)

    def replayed(self, fleet: Fleet) -> float:
        whole_s = self._whole_s(fleet)
        return fmean(self._is_within(i, whole_s[i]) for i in self.known)

    def distance(self, fleet: Fleet) -> tuple[float, float]:
        """The logarithm of the median ratio of measured to replayed whole times, twice."""
        whole_s = self._whole_s(fleet)
        ratio = _log_ratio((self.window.took_s[i], whole_s[i]) for i in self.known)
        return ratio, ratio

    def _whole_s(self, fleet: Fleet) -> list[float | None]:
        pairs = zip(self.outcome(fleet).e2e_s, self.window.waited_s, strict=True)
        return [None if whole_s is None else whole_s + waited_s for whole_s, waited_s in pairs]

    def _is_within(self, place: int, whole_s: float | None) -> bool:
        steps = self.window.requests.osl[place] - 1
        limit_s = (self.slo.ttft_s or 0.0) + (self.slo.tpot_s or 0.0) * steps
        return whole_s is not None and whole_s <= limit_s


def _usual(run: _Replay, fleet: Fleet) -> Slo:
    """Today's usual times, which are the limits where no SLOs are given: the medians.

    A layout is better than today's if more requests stay within both. They are those of the replay
    times the ratio by which it is off, since logs of colocated engines do not tell them apart.
    """
    limits = [
        math.exp(off) * median([one for one in replayed_s if one] or [0.0])
        for off, replayed_s in zip(
            run.distance(fleet), (run.ttft_s(fleet), run.outcome(fleet).tpot_s), strict=True
        )
    ]
    return Slo(*limits)


def _fresh(window: Window, slo: Slo) -> Callable[[Fleet], list[bool]]:
    """A function that replays the window without the queue of the past.

    That queue may spoil the whole window on every layout alike, and is gone some time after a
    change for the better. Returns which of the requests that count meet the SLOs.
    """
    requests = tail(window.requests, window.held)
    prefixes, first = find_prefixes(requests), window.first - window.held
    return lambda fleet: _good(simulate(fleet, requests, prefixes=prefixes), slo)[first:]


def _both(run: _Replay, fresh: Callable[[Fleet], list[bool]], fleet: Fleet) -> list[float]:
    """A share per request that counts: 1 if it meets the SLOs with and without the queue of the
    past, ½ if only without it.

    The queue alone may spoil all layouts alike; without it, a layout that never works it off may
    look as good as one that does.
    """
    queued = run.good(fleet)[run.window.first :]
    return [(a + b) / 2 for a, b in zip(queued, fresh(fleet), strict=True)]


def _fitted(fleet: Fleet, run: _Replay) -> tuple[float, float]:
    """Factors on prefill's and decode's step times that bring the replay nearest to what was seen.

    Decode's comes from the time per token, which hardly depends on prefill; then factors of prefill
    are tried, because a queue makes TTFT anything but proportional to it. (1, 1) where that brings
    nothing.
    """
    unfitted, decode = run.mismatch(fleet), 1.0
    if unfitted <= _FIT_ABOVE and max(map(abs, run.distance(fleet))) < _FIT_FROM:
        return 1.0, 1.0
    for _ in range(2):
        ratio = math.exp(run.distance(_scaled(fleet, 1.0, decode))[1])
        decode = min(max(decode * ratio, _FACTORS[0]), _FACTORS[-1])
    prefill = _nearest(lambda one: run.distance(_scaled(fleet, one, decode))[0])
    is_better = run.mismatch(_scaled(fleet, prefill, decode)) <= max(unfitted, _FIT_ABOVE)
    return (prefill, decode) if is_better else (1.0, 1.0)


def _nearest(distance: Callable[[float], float]) -> float:
    """The factor whose distance is nearest to 0, if distances fall as factors grow."""
    low, high = 0, len(_FACTORS) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if distance(_FACTORS[middle]) > 0 else (low, middle)
    return min(_FACTORS[low], _FACTORS[high], key=lambda one: abs(distance(one)))


def _scaled(fleet: Fleet, prefill: float, decode: float) -> Fleet:
    """The fleet with all its step times multiplied."""
    if (prefill, decode) == (1.0, 1.0):
        return fleet
    return replace(
        fleet,
        colocated=fleet.colocated and _scaled_engine(fleet.colocated, prefill, decode),
        prefill=fleet.prefill and _scaled_engine(fleet.prefill, prefill, decode),
        decode=fleet.decode and _scaled_engine(fleet.decode, prefill, decode),
    )


def _scaled_engine(engine: EngineModel, prefill: float, decode: float) -> EngineModel:
    factors = {
        one.name: prefill if one.name.startswith("prefill") else decode
        for one in fields(engine.times)
        if one.name.startswith(("prefill_", "decode_")) and one.name.endswith("_s")
    }
    return replace(engine, times=with_factors(engine.times, factors))


def _log_ratio(pairs: Iterable[tuple[float | None, float | None]]) -> float:
    """The median logarithm of seen over replayed times; 0 where neither is known."""
    logs = [math.log(seen / replayed) for seen, replayed in pairs if seen and replayed]
    return median(logs) if logs else 0.0


def layouts_of(fleet: Fleet, others: Sequence[EngineModel] = ()) -> Iterator[Fleet]:
    """All splits that use exactly the GPUs of `fleet`, and colocated engines on them.

    others: engines in roles that `fleet` has not; a layout needs an engine for each of its roles.
    """
    known = (fleet.colocated, fleet.prefill, fleet.decode, *others)
    engines = {one.role: one for one in known if one}
    both = engines.get("colocated")
    prefill, decode = engines.get("prefill"), engines.get("decode")
    router = Fleet(policy=fleet.policy, router_hop_s=fleet.router_hop_s)
    if prefill and decode:
        each_p, each_d = prefill.parallelism.num_gpus, decode.parallelism.num_gpus
        for p in range(1, fleet.num_gpus // each_p + 1):
            d, rest = divmod(fleet.num_gpus - p * each_p, each_d)
            if d and not rest:
                yield replace(router, prefill=prefill, decode=decode, num_prefill=p, num_decode=d)
    if both and fleet.num_gpus % both.parallelism.num_gpus == 0:
        num = fleet.num_gpus // both.parallelism.num_gpus
        yield replace(router, colocated=both, num_colocated=num)


def _doubt(seen: float, replayed: float) -> float:
    """The part of a gain over today's replay that its mismatch leaves in doubt.

    Another layout's share may be off by the mismatch, and has to be above what was seen. A replay
    of today's layout that is too good leaves nothing in doubt, since it hides a gain as large as it
    is off; one that is too bad shows a gain that nobody would see, and counts twice.
    """
    return 2 * max(0.0, seen - replayed)


def _alternative(
    fleet: Fleet, good: Sequence[float], today: Sequence[float], off: float
) -> Alternative:
    """off: what is taken off the lower bound of the gain."""
    gains = [after - before for after, before in zip(good, today, strict=True)]
    edges = [i * len(gains) // _BLOCKS for i in range(_BLOCKS + 1)]
    means = [fmean(gains[a:b]) for a, b in zip(edges, edges[1:], strict=False)]
    doubt = _ONE_SIDED_95 * stdev(means) / _BLOCKS**0.5
    gain = fmean(gains)
    return Alternative(
        layout=fleet.layout,
        num_prefill=fleet.num_prefill,
        num_decode=fleet.num_decode,
        attainment=fmean(good),
        gain=gain,
        gain_low=gain - doubt - off,
    )


def _good(outcome: Outcome, slo: Slo) -> list[bool]:
    pairs = zip(outcome.ttft_s, outcome.tpot_s, strict=True)
    return [is_good(ttft_s, tpot_s, slo) for ttft_s, tpot_s in pairs]
