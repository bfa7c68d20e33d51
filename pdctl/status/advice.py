"""What to change, from what the queues did in the last minute. Pure.

The user's table: prefill queue backing up -> more prefill; decode latency creeping up -> fewer
prefill; both -> scale up both, then revisit the ratio. Beside it: KV transfers that pile up are
the network's matter. Evidence is asked for first: a minute, ten requests, three intervals in a
row, nothing changed meanwhile (docs/decisions/0011-advice-asks-for-evidence.md).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from pdctl.status.records import Advice, Moment
from pdctl.units import format_seconds, format_share

WINDOW_S = 60.0
_SLACK_S = 2.0  # by which a minute of samples may miss a minute
INTERVALS = 4  # of 15 s; a trend is three steps in a row between them
LEAST_ARRIVALS = 10
_LONGEST_GAP_S = 15.0
SETTLING_S = 15.0  # after a start or a change, queues say nothing for so long
_DEEP_PER_ENGINE = 8.0  # so many requests waiting per engine all the time are a backlog
_LEAST_RISE_PER_ENGINE = 2.0
_ITL_CREEP = 1.25  # of its own lowest interval, without an SLO
_KV_FULL = 0.9
_PREFILL_HEADROOM = 0.8  # busy share that the remaining prefill engines may reach

Value = Callable[[Moment], float | None]


@dataclass(frozen=True)
class Trend:
    """A quantity over the window, as the means of its intervals. now: its latest value."""

    means: tuple[float, ...]
    now: float

    @property
    def last(self) -> float:
        return self.means[-1]

    def rises(self, least: float) -> bool:
        """Three steps up in a row, by `least` and a quarter in all, and still up."""
        steps = zip(self.means, self.means[1:], strict=False)
        rise = self.means[-1] - self.means[0]
        least = max(least, 0.25 * self.means[0])
        return all(b > a for a, b in steps) and rise >= least and self.now > self.means[0]

    def stays_above(self, level: float) -> bool:
        """At or above `level` in each of the last three intervals, and now."""
        return min(*self.means[1:], self.now) >= level


def advise(history: Sequence[Moment], *, name: str = "", tpot_slo_s: float | None = None) -> Advice:
    """What the last minute of `history` (oldest first) speaks for.

    name: of the deployment, for the command; empty where pdctl cannot scale it.
    tpot_slo_s: what decode latency is held against; without it, its own lowest interval.
    """
    steady = _since_last_change(history)
    window = _last_minute(steady)
    missing = _missing(window)
    if missing:
        deep = _deep_now(history[-1]) if history else ""
        return Advice("not_enough_evidence", f"Not enough evidence for advice: {missing}{deep}.")
    if window[-1].num_colocated:
        return _advise_colocated(window, name, tpot_slo_s)
    return _advise_pd(window, name, tpot_slo_s)


def _since_last_change(history: Sequence[Moment]) -> Sequence[Moment]:
    """The moments since engines last came, went or restarted, without the settling time."""
    start = 0
    for index in range(1, len(history)):
        if history[index].restarted or _engines(history[index]) != _engines(history[index - 1]):
            start = index
    if not start:
        return history
    settled_s = history[start].at_s + SETTLING_S
    return [one for one in history[start:] if one.at_s >= settled_s]


def _last_minute(moments: Sequence[Moment]) -> Sequence[Moment]:
    """The moments of the last minute, from the last gap on."""
    window: list[Moment] = []
    for moment in reversed(moments):
        if moment.at_s <= moments[-1].at_s - WINDOW_S - _SLACK_S:
            break
        if window and window[-1].at_s - moment.at_s > _LONGEST_GAP_S:
            break
        window.append(moment)
    return window[::-1]


def _engines(moment: Moment) -> tuple[int, int, int]:
    return moment.num_prefill, moment.num_decode, moment.num_colocated


def _missing(window: Sequence[Moment]) -> str:
    span_s = window[-1].at_s - window[0].at_s if window else 0.0
    if span_s < WINDOW_S - _SLACK_S:
        return f"{span_s:.0f} of {WINDOW_S:.0f} s watched"
    if any(one.waiting is None for one in window):
        return "not every engine has said how many requests wait"
    arrivals = _arrivals(window)
    if arrivals is None:
        return "how many requests arrive is unknown (the router's metrics port counts them)"
    if arrivals < LEAST_ARRIVALS:
        return f"{arrivals:.0f} of {LEAST_ARRIVALS} requests seen"
    return ""


def _deep_now(now: Moment) -> str:
    """What is deep at this moment, for who looks only once: no advice yet, but what one sees."""
    num = now.num_colocated or now.num_prefill
    if now.waiting is not None and now.waiting >= _DEEP_PER_ENGINE * max(num, 1):
        where = "" if now.num_colocated else " for prefill"
        return f"; {now.waiting:.0f} requests wait{where} now"
    if now.prealloc is not None and now.prealloc >= _DEEP_PER_ENGINE * max(now.num_decode, 1):
        return f"; {now.prealloc:.0f} requests wait for room on decode now"
    return ""


def _arrivals(steady: Sequence[Moment]) -> float | None:
    counted = [one.requests for one in steady if one.requests is not None]
    return max(0.0, counted[-1] - counted[0]) if len(counted) > 1 else None


def _trend(window: Sequence[Moment], value: Value) -> Trend | None:
    """None unless each interval of the window has a value."""
    start, width = window[0].at_s, (window[-1].at_s - window[0].at_s) / INTERVALS
    bins: list[list[float]] = [[] for _ in range(INTERVALS)]
    for moment in window:
        found = value(moment)
        if found is not None:
            bins[min(INTERVALS - 1, int((moment.at_s - start) / width))].append(found)
    return Trend(tuple(fmean(one) for one in bins), bins[-1][-1]) if all(bins) else None


def _backlog(trend: Trend | None, num_engines: int) -> str:
    """ "79 waiting and growing" or "79 waiting" where a queue backs up; empty where not."""
    if trend is None:
        return ""
    if trend.rises(_LEAST_RISE_PER_ENGINE * num_engines):
        return f"{trend.now:.0f} waiting and growing for {WINDOW_S:.0f} s"
    if trend.stays_above(_DEEP_PER_ENGINE * num_engines):
        return f"{trend.now:.0f} waiting for {WINDOW_S:.0f} s"
    return ""


def _creep(trend: Trend | None, slo_s: float | None) -> str:
    """How decode latency creeps up; empty where it does not."""
    if trend is None:
        return ""
    if slo_s is not None and trend.stays_above(slo_s):
        return f"ITL {format_seconds(trend.last)} over the SLO of {format_seconds(slo_s)}"
    low = min(trend.means)
    if slo_s is None and trend.last >= _ITL_CREEP * low and trend.rises(0.0):
        return f"ITL up from {format_seconds(low)} to {format_seconds(trend.last)}"
    return ""


def _advise_colocated(window: Sequence[Moment], name: str, slo_s: float | None) -> Advice:
    now = window[-1]
    waiting = _backlog(_trend(window, lambda m: m.waiting), now.num_colocated)
    latency = _creep(_trend(window, lambda m: m.itl_s), slo_s)
    if not waiting and not latency:
        return _steady(now)
    return Advice(
        "scale_up",
        "The engines are at their limit.",
        evidence="; ".join(filter(None, (waiting, latency))),
        command=_scale(name, f"--total {now.num_colocated + 1}"),
    )


def _advise_pd(window: Sequence[Moment], name: str, slo_s: float | None) -> Advice:
    now = window[-1]
    prefill = _backlog(_trend(window, lambda m: m.waiting), now.num_prefill)
    network = _network(window, now, name, prefill_is_behind=bool(prefill))
    if network:
        return network
    decode = _decode_pressure(window, now, slo_s)
    if prefill and decode:
        return _scale_both(now, f"prefill {prefill}; decode {decode}", name)
    if prefill:
        return _more_prefill(now, prefill, name)
    if decode:
        return _fewer_prefill(window, now, decode, name)
    return _steady(now)


def _network(
    window: Sequence[Moment], now: Moment, name: str, *, prefill_is_behind: bool
) -> Advice | None:
    """KV that piles up on its way, or is held back though decode has room for it."""
    inflight = _backlog(_trend(window, lambda m: m.inflight), now.num_prefill)
    # decode's transfer queue also holds requests whose prefill has not begun
    transfer = _backlog(_trend(window, lambda m: m.transfer), now.num_decode)
    transfer = "" if prefill_is_behind else transfer
    if inflight or transfer:
        where = f"inflight {inflight}" if inflight else f"transfer {transfer}"
        return Advice(
            "network",
            "KV transfer is the bottleneck, not the number of engines.",
            evidence=where,
            command=_command(name, "pdctl doctor"),
        )
    prealloc = _backlog(_trend(window, lambda m: m.prealloc), now.num_decode)
    if prealloc and now.kv_usage is not None and now.kv_usage < 0.5:
        return Advice(
            "network",
            "Decode holds requests back though it has room: bootstrap unreachable, or too many "
            "tokens reserved (--num-reserved-decode-tokens).",
            evidence=f"prealloc {prealloc}; decode KV at {format_share(now.kv_usage)}",
            command=_command(name, f"pdctl logs {name}"),
        )
    return None


def _decode_pressure(window: Sequence[Moment], now: Moment, slo_s: float | None) -> str:
    latency = _creep(_trend(window, lambda m: m.itl_s), slo_s)
    if latency:
        return latency
    held = _backlog(_trend(window, lambda m: _plus(m.prealloc, m.decode_waiting)), now.num_decode)
    kv = _trend(window, lambda m: m.kv_usage)
    if held and kv is not None and kv.stays_above(_KV_FULL):
        return f"{held}, KV at {format_share(kv.last)}"
    return ""


def _plus(first: float | None, second: float | None) -> float | None:
    return None if first is None else first + (second or 0.0)


def _more_prefill(now: Moment, evidence: str, name: str) -> Advice:
    if now.kv_usage is not None:
        evidence += f"; decode KV at {format_share(now.kv_usage)}"
    wanted = f"--prefill {now.num_prefill + 1}"
    if now.num_decode == 1:  # the last decode engine cannot become a prefill engine
        wanted += f" --total {now.num_prefill + 2}"
    return Advice("more_prefill", "Prefill is the bottleneck.", evidence, _scale(name, wanted))


def _fewer_prefill(window: Sequence[Moment], now: Moment, evidence: str, name: str) -> Advice:
    """One prefill engine less, if the others can take its load."""
    left = now.num_prefill - 1
    busy = _trend(window, lambda m: m.busy_share)
    waiting = _trend(window, lambda m: m.waiting)
    if busy is not None and left:
        after = busy.last * now.num_prefill / left
        fits = after < _PREFILL_HEADROOM
        evidence += f"; prefill busy {format_share(busy.last)}"
    else:
        fits = waiting is not None and max(waiting.means) < 0.5 * now.num_prefill
    if left and fits:
        return Advice(
            "fewer_prefill",
            "Decode is the bottleneck.",
            evidence,
            _scale(name, f"--prefill {left}"),
        )
    return Advice(
        "scale_up",
        "Decode is the bottleneck and prefill has no engine to spare.",
        evidence,
        _scale(name, f"--total {now.num_prefill + now.num_decode + 1}"),
    )


def _scale_both(now: Moment, evidence: str, name: str) -> Advice:
    total = now.num_prefill + now.num_decode
    return Advice(
        "scale_up",
        "Both sides are at their limit: scale up both, then revisit the ratio.",
        evidence,
        _scale(name, f"--prefill {now.num_prefill + 1} --total {total + 2}"),
    )


def _steady(now: Moment) -> Advice:
    kv = "" if now.kv_usage is None else f", KV at {format_share(now.kv_usage)}"
    return Advice("steady", "Nothing to change.", f"no queue backs up, latency is steady{kv}")


def _scale(name: str, flags: str) -> str:
    return _command(name, f"pdctl scale {name} {flags}")


def _command(name: str, command: str) -> str:
    """Commands act on deployments pdctl started; on others there is nothing to type."""
    return command if name else ""
