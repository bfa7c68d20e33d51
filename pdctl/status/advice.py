"""Find the cause of a deployment's queues over the last minute, and the change it calls for. Pure.

A growing prefill queue calls for more prefill; rising decode latency for more decode; both for more
of both. Slow links, stuck transfers, a sick engine and a wrong setting look similar and need no
other engine counts, so they are ruled out first. No cause is named without a minute of evidence
(docs/decisions/0011-advice-asks-for-evidence.md).
"""

from collections.abc import Iterator, Sequence
from statistics import fmean, median

from pdctl.deployment.records import Counts
from pdctl.perf_model.records import Role
from pdctl.status.records import Advice, EngineMoment, Evidence, Moment
from pdctl.status.trends import (
    ALIVE,
    INTERVALS,
    WINDOW_S,
    Trend,
    Value,
    arrivals,
    has_changed,
    is_whole,
    last_minute,
    lost_since,
    span_s,
    trend,
)
from pdctl.units import format_number_of, format_seconds, format_share

LEAST_ARRIVALS = 10
_DEEP_PER_ENGINE = 8.0  # a queue that never falls below this length is a backlog
_LEAST_RISE_PER_ENGINE = 2.0
_ITL_CREEP = 1.25  # over the lowest interval; used without an SLO
_KV_WITH_ROOM = 0.5
_HEADROOM = 0.8  # busy share, or KV use, that the remaining engines of a role may reach
_SICK = 1.5  # times slower than the other engines of its role
_SICK_BY_LOAD = 0.75  # times the ratio of batches: more load alone slows an engine less
_EXPLAINED = 0.25  # share of the requests in flight that finished transfers must account for
_DOWN_S = 10.0
_IDLE = 0.05  # busy share of an idle prefill engine


def advise(history: Sequence[Moment], *, tpot_slo_s: float | None = None) -> Advice:
    """The cause that the last minute of `history` (oldest first) shows.

    tpot_slo_s: limit for decode latency; without it, latency is compared with its own lowest
    interval.
    """
    window = last_minute(history)
    evidence = _evidence(window)
    down = _engine_down(history)
    if down:
        return down
    missing = _missing(window, has_changed=bool(history) and has_changed(history))
    if missing:
        return _no_cause_yet(history, window, missing, evidence)
    sick = _sick_engine(window, evidence)
    if sick:
        return sick
    if window[-1].num_colocated:
        return _advise_colocated(window, evidence, tpot_slo_s)
    return _advise_pd(window, evidence, tpot_slo_s)


# evidence


def _evidence(window: Sequence[Moment]) -> Evidence:
    if not window:
        return Evidence()
    now = window[-1]
    return Evidence(
        watched_s=round(span_s(window), 1),
        requests=arrivals(window),
        waiting=now.waiting,
        backlog_s=_backlog_s(window),
        inflight=now.inflight,
        prealloc=now.prealloc,
        transfer=now.transfer,
        kv_usage=now.kv_usage,
        itl_s=now.itl_s,
        prefill_busy=now.busy_share,
        transfer_latency_s=now.transfer_latency_s,
    )


def _backlog_s(window: Sequence[Moment]) -> float | None:
    """Seconds that prefill needs for the requests that wait, at the pace of this window.

    Ignores: prompts that wait are not as long as those computed; requests still to come.
    """
    waiting, pace = window[-1].waiting, _prefilled_rps(window)
    if not waiting or not pace:
        return None
    busy = [one.busy_share for one in window if one.busy_share is not None]
    return waiting / pace * (fmean(busy) if busy else 1.0)


def _prefilled_rps(window: Sequence[Moment]) -> float | None:
    """Requests a second that left the prefill queue: arrivals less the growth of queues."""
    arrived = arrivals(window)
    if arrived is None or not span_s(window):
        return None
    grown = _growth(window, lambda m: m.waiting) + _growth(window, lambda m: m.prealloc)
    return max(0.0, arrived - grown) / span_s(window)


def _growth(window: Sequence[Moment], value: Value) -> float:
    known = [found for one in window if (found := value(one)) is not None]
    return known[-1] - known[0] if known else 0.0


def _missing(window: Sequence[Moment], *, has_changed: bool) -> str:
    if not is_whole(window):
        since = " since engines changed or restarted" if has_changed else ""
        return f"{span_s(window):.0f} of {WINDOW_S:.0f} s watched{since}"
    if any(one.waiting is None for one in window):
        return "at least one engine did not report its queue"
    arrived = arrivals(window)
    if arrived is None:
        return "nothing counts arriving requests (the router's metrics port would)"
    if arrived < LEAST_ARRIVALS and not _is_left_behind(window):
        return f"{arrived:.0f} of {LEAST_ARRIVALS} requests seen"
    return ""


def _no_cause_yet(
    history: Sequence[Moment], window: Sequence[Moment], missing: str, evidence: Evidence
) -> Advice:
    now = window[-1] if window else history[-1] if history else None
    deep = _deep_now(now) if now else ""
    what = f"Not enough evidence for advice: {missing}{deep}."
    return Advice("not_enough_evidence", what, evidence=evidence)


def _deep_now(now: Moment) -> str:
    """Describe queues that are already long. One sample is not enough for advice."""
    num = now.num_colocated or now.num_prefill
    if now.waiting is not None and now.waiting >= _DEEP_PER_ENGINE * max(num, 1):
        where = "" if now.num_colocated else " for prefill"
        return f"; {format_number_of(now.waiting, 'request', 'wait')}{where} now"
    if now.prealloc is not None and now.prealloc >= _DEEP_PER_ENGINE * max(now.num_decode, 1):
        return f"; {format_number_of(now.prealloc, 'request', 'wait')} for KV room on decode now"
    return ""


def _backlog(found: Trend | None, num_engines: int) -> str:
    """ "79 waiting and growing for 60 s" or "79 waiting for 60 s" for a backlog, else ""."""
    if found is None:
        return ""
    if found.rises(_LEAST_RISE_PER_ENGINE * num_engines):
        return f"{found.now:.0f} waiting and growing for {WINDOW_S:.0f} s"
    if found.stays_above(_DEEP_PER_ENGINE * num_engines):
        return f"{found.now:.0f} waiting for {WINDOW_S:.0f} s"
    return ""


def _creep(found: Trend | None, slo_s: float | None) -> str:
    """The way decode latency violates the SLO or creeps up; "" if it does neither."""
    if found is None:
        return ""
    if slo_s is not None and found.stays_above(slo_s):
        return f"ITL {format_seconds(found.last)} over the SLO of {format_seconds(slo_s)}"
    low = min(found.means)
    if slo_s is None and found.last >= _ITL_CREEP * low and found.rises(0.0):
        return f"ITL up from {format_seconds(low)} to {format_seconds(found.last)}"
    return ""


# one engine


def _engine_down(history: Sequence[Moment]) -> Advice | None:
    """An engine that gave no fresh numbers for the last ten seconds, while others did."""
    recent = [one for one in history if one.at_s >= history[-1].at_s - _DOWN_S - 1.0]
    if span_s(recent) < _DOWN_S - 1.0:
        return None
    lost = [{e.name: e.health for e in one.engines if e.health not in ALIVE} for one in recent]
    names = [name for name in lost[-1] if all(name in one for one in lost)]
    if not names:
        return None
    name = names[0]
    now = {"stale": "its numbers have not changed", "failed": "it has not run"}
    said = now.get(lost[-1][name], "it has not answered")
    why = f"{said} for {span_s(lost_since(history, name)):.0f} s"
    return Advice("sick_engine", f"{name} is down.", why, _evidence(recent), engine=name)


def _sick_engine(window: Sequence[Moment], evidence: Evidence) -> Advice | None:
    """An engine that is slower than the others of its role, and holds requests up."""
    for name, role, others in _with_others(window[-1].engines):
        reason = _sick_prefill if role == "prefill" else _sick_decode
        if why := reason(window, name, others):
            what = f"{name} is slower than the other {role} engines."
            return Advice("sick_engine", what, why, evidence, engine=name)
    return None


def _with_others(
    engines: Sequence[EngineMoment],
) -> Iterator[tuple[str, Role, tuple[str, ...]]]:
    for one in engines:
        others = tuple(e.name for e in engines if e.role == one.role and e.name != one.name)
        if others:
            yield one.name, one.role, others


def _sick_prefill(window: Sequence[Moment], name: str, others: Sequence[str]) -> str:
    queue = _of_engine(window, name, "queued")
    if queue is None or not queue.stays_above(_DEEP_PER_ENGINE / 2):
        return ""
    pace = _of_engine(window, name, "prefill_s_per_token")
    peers = [_of_engine(window, other, "prefill_s_per_token") for other in others]
    usual = _usual(peers)
    if usual is None:
        return ""
    if _is_silent(window, name):
        return f"{format_number_of(queue.now, 'request', 'wait')} there and none is computed"
    if pace is None or min(map(_ratio, pace.means[1:], usual[1:])) < _SICK:
        return ""
    times = _ratio(pace.last, usual[-1])
    waiting = format_number_of(queue.now, "request", "wait")
    return f"a prompt token takes {times:.1f}× as long there; {waiting} there"


def _is_silent(window: Sequence[Moment], name: str) -> bool:
    """True if the engine computed no prompt in the whole window."""
    own = [one for moment in window for one in moment.engines if one.name == name]
    return all(one.prefill_s_per_token is None for one in own)


def _sick_decode(window: Sequence[Moment], name: str, others: Sequence[str]) -> str:
    gap, batch = _of_engine(window, name, "itl_s"), _of_engine(window, name, "running")
    gaps = _usual([_of_engine(window, other, "itl_s") for other in others])
    batches = _usual([_of_engine(window, other, "running") for other in others])
    if gap is None or batch is None or gaps is None or batches is None:
        return ""
    larger = _ratio(fmean(batch.means), fmean(batches))
    least = max(_SICK, _SICK_BY_LOAD * larger)
    if min(map(_ratio, gap.means[1:], gaps[1:])) < _SICK:
        return ""
    if _ratio(fmean(gap.means), fmean(gaps)) < least:
        return ""
    return f"ITL {format_seconds(gap.last)} there, {format_seconds(gaps[-1])} elsewhere"


def _of_engine(window: Sequence[Moment], name: str, quantity: str) -> Trend | None:
    def value(moment: Moment) -> float | None:
        found = (getattr(e, quantity) for e in moment.engines if e.name == name)
        return next(found, None)

    return trend(window, value)


def _usual(peers: Sequence[Trend | None]) -> list[float] | None:
    """Median over the other engines, interval by interval."""
    known = [one.means for one in peers if one is not None]
    return [median(one[i] for one in known) for i in range(INTERVALS)] if known else None


def _ratio(value: float, usual: float) -> float:
    return value / usual if usual > 0 else 0.0


# PD


def _advise_pd(window: Sequence[Moment], evidence: Evidence, slo_s: float | None) -> Advice:
    now = window[-1]
    prefill = _backlog(trend(window, lambda m: m.waiting), now.num_prefill)
    if prefill and evidence.backlog_s is not None:
        prefill += f", {format_seconds(evidence.backlog_s)} of prefill"
    on_the_way = _stuck(window, evidence) or _network(window, evidence)
    if on_the_way:
        return on_the_way
    setting = _misconfigured(window, evidence)
    if setting:
        return setting
    decode = _decode_pressure(window, slo_s, prefill_is_behind=bool(prefill))
    if prefill and decode:
        what = "Prefill and decode are both at their limit: scale up both, then revisit the ratio."
        why = f"prefill {prefill}; decode {decode}"
        more = Counts(prefill=now.num_prefill + 1, decode=now.num_decode + 1)
        return Advice("overloaded", what, why, evidence, more)
    if prefill:
        return _more_prefill(window, prefill, evidence, slo_s)
    if decode:
        return _more_decode(window, decode, evidence)
    return _healthy(evidence)


def _is_left_behind(window: Sequence[Moment]) -> bool:
    """True if nothing arrived in the window and KV is still on its way from before it.

    A request in decode's transfer queue counts only if prefill is idle: a long prompt may still be
    computed.
    """
    is_idle = all(m.busy_share is not None and m.busy_share < _IDLE for m in window)
    held = [max(m.inflight or 0, (m.transfer or 0) if is_idle else 0) for m in window]
    no_prefill = all(not m.waiting and not m.prealloc for m in window)
    return not arrivals(window) and no_prefill and min(held) >= 1


def _stuck(window: Sequence[Moment], evidence: Evidence) -> Advice | None:
    """Requests whose KV never arrives: finished transfers are too quick to explain the queue."""
    now = window[-1]
    why = ""
    if _is_left_behind(window):
        why = f"{_on_the_way(now)} and nothing arrived for {span_s(window):.0f} s"
    elif _is_frozen(window):
        running = format_number_of(now.running or 0, "request")
        why = f"{_on_the_way(now)}, prefill is idle and decode runs {running}"
    elif _backlog(trend(window, lambda m: m.inflight), now.num_prefill):
        quick_s = _transfer_s(window)
        if quick_s is not None and not _explains(window, quick_s):
            why = (
                f"inflight {now.inflight or 0:.0f}, but transfers that finish take "
                f"{format_seconds(quick_s)}"
            )
    else:
        why = _receivers_stuck(window)
    if not why:
        return None
    what = "KV transfers are stuck: requests hold their slots and never get their KV."
    return Advice("stuck_transfers", what, why, evidence)


def _on_the_way(now: Moment) -> str:
    return f"inflight {now.inflight or 0:.0f}, transfer {now.transfer or 0:.0f}"


def _is_frozen(window: Sequence[Moment]) -> bool:
    """True if many transfers are under way while neither role computes."""
    now = window[-1]
    held = trend(window, lambda m: m.transfer)
    busy = trend(window, lambda m: m.busy_share)
    running = trend(window, lambda m: m.running)
    if held is None or busy is None or running is None:
        return False
    is_idle = max(busy.means[1:]) < _IDLE and max(running.means[1:]) <= now.num_decode
    return is_idle and held.stays_above(_DEEP_PER_ENGINE * now.num_decode)


def _receivers_stuck(window: Sequence[Moment]) -> str:
    """Decode waits for more KV than prefill has still to compute or send, and ever more."""

    def unaccounted(m: Moment) -> float | None:
        if m.transfer is None or m.waiting is None or m.inflight is None:
            return None
        return m.transfer - m.waiting - m.inflight

    now, left = window[-1], trend(window, unaccounted)
    # a batch in its forward pass is in no queue of prefill
    if left is None or left.last < _DEEP_PER_ENGINE * now.num_prefill:
        return ""
    least = max(_LEAST_RISE_PER_ENGINE * now.num_prefill, 0.1 * (now.transfer or 0))
    if not left.rises(least):
        return ""
    return f"decode waits for {left.now:.0f} transfers that prefill no longer holds"


def _transfer_s(window: Sequence[Moment]) -> float | None:
    """Mean time of the transfers that finished; TTFT, which includes it, where it is unknown."""
    for values in (
        [m.transfer_latency_s for m in window if m.transfer_latency_s],
        [m.ttft_s for m in window if m.ttft_s],
    ):
        if values:
            return fmean(values)
    return None


def _explains(window: Sequence[Moment], transfer_s: float) -> bool:
    """True if transfers this quick account for the requests in flight.

    Source: Little's law; with a queue that grows as fast as it is served, finished transfers
    waited half of it.
    """
    inflight = fmean(m.inflight for m in window if m.inflight is not None)
    prefilled = _prefilled_rps(window) or 0.0
    finished_rps = prefilled - _growth(window, lambda m: m.inflight) / span_s(window)
    return max(0.0, finished_rps) * transfer_s >= _EXPLAINED * inflight


def _network(window: Sequence[Moment], evidence: Evidence) -> Advice | None:
    now = window[-1]
    inflight = _backlog(trend(window, lambda m: m.inflight), now.num_prefill)
    if not inflight:
        return None
    why = f"inflight {inflight}"
    known_s = _transfer_s(window)
    if known_s is not None:
        why += f"; a transfer takes {format_seconds(known_s)}"
    what = "KV transfer is the bottleneck; more engines would not help."
    return Advice("network_bound", what, why, evidence)


def _misconfigured(window: Sequence[Moment], evidence: Evidence) -> Advice | None:
    now = window[-1]
    held = _backlog(trend(window, lambda m: m.prealloc), now.num_decode)
    if not held or now.kv_usage is None or now.kv_usage >= _KV_WITH_ROOM:
        return None
    what = (
        "Decode holds requests back though it has KV room: it cannot reach prefill's bootstrap "
        "port, reserves too many tokens (--num-reserved-decode-tokens), or runs too few requests "
        "(--max-running-requests)."
    )
    why = f"prealloc {held}; decode KV at {format_share(now.kv_usage)}"
    return Advice("misconfigured", what, why, evidence)


def _decode_pressure(
    window: Sequence[Moment], slo_s: float | None, *, prefill_is_behind: bool
) -> str:
    now = window[-1]
    latency = _creep(trend(window, lambda m: m.itl_s), slo_s)
    if latency:
        return latency
    held = _backlog(trend(window, lambda m: _plus(m.prealloc, m.decode_waiting)), now.num_decode)
    if not held or (prefill_is_behind and (now.running or 0) < (now.transfer or 0)):
        return ""  # prompts that wait for prefill hold the KV room
    kv = trend(window, lambda m: m.kv_usage)
    return held + ("" if kv is None else f", KV at {format_share(kv.last)}")


def _plus(first: float | None, second: float | None) -> float | None:
    return None if first is None else first + (second or 0.0)


def _more_prefill(
    window: Sequence[Moment], why: str, evidence: Evidence, slo_s: float | None
) -> Advice:
    """One prefill engine more: a decode engine that can be spared, else an added one."""
    now = window[-1]
    if now.kv_usage is not None:
        why += f"; decode KV at {format_share(now.kv_usage)}"
    more = Counts(prefill=now.num_prefill + 1)
    if not _can_spare_decode(window, slo_s):
        more = Counts(prefill=now.num_prefill + 1, decode=now.num_decode)
        why += "; decode has no engine to spare"
    return Advice("prefill_bound", "Prefill is the bottleneck.", why, evidence, more)


def _can_spare_decode(window: Sequence[Moment], slo_s: float | None) -> bool:
    now = window[-1]
    left = now.num_decode - 1
    kv, gap = trend(window, lambda m: m.kv_usage), trend(window, lambda m: m.itl_s)
    held = trend(window, lambda m: m.prealloc)
    if not left or kv is None or (held is not None and max(held.means) > now.num_decode):
        return False
    load = now.num_decode / left
    if kv.last * load >= _HEADROOM:
        return False
    if slo_s is None or gap is None:
        return left >= 2
    return gap.last * load <= slo_s  # ITL grows at most in proportion to the batch


def _more_decode(window: Sequence[Moment], why: str, evidence: Evidence) -> Advice:
    """One decode engine more: a prefill engine that can be spared, else an added one."""
    now = window[-1]
    left = now.num_prefill - 1
    busy = trend(window, lambda m: m.busy_share)
    if busy is not None:
        why += f"; prefill busy {format_share(busy.last)}"
    if left and busy is not None and max(busy.means) * now.num_prefill / left < _HEADROOM:
        more, what = Counts(prefill=left), "Decode is the bottleneck."
    else:
        more = Counts(prefill=now.num_prefill, decode=now.num_decode + 1)
        what = "Decode is the bottleneck and prefill has no engine to spare."
    return Advice("decode_bound", what, why, evidence, more)


def _healthy(evidence: Evidence) -> Advice:
    latency = "decode latency is unknown" if evidence.itl_s is None else "latency is steady"
    kv = "" if evidence.kv_usage is None else f", KV at {format_share(evidence.kv_usage)}"
    why = f"no queue backs up, {latency}{kv}"
    return Advice("healthy", "Nothing to change.", why, evidence)


# colocated


def _advise_colocated(window: Sequence[Moment], evidence: Evidence, slo_s: float | None) -> Advice:
    now = window[-1]
    waiting = _backlog(trend(window, lambda m: m.waiting), now.num_colocated)
    latency = _creep(trend(window, lambda m: m.itl_s), slo_s)
    if not waiting and not latency:
        return _healthy(evidence)
    why = "; ".join(filter(None, (waiting, latency)))
    more = Counts(total=now.num_colocated + 1)
    return Advice("overloaded", "The engines are at their limit.", why, evidence, more)
