"""Find the split that the queues of the last minute call for. Pure.

It rests on the pages of the engines alone: no model and no log can deceive it. Without a model it
does not know what a change will bring, so it asks for no more than the evidence shows to be needed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.status.advice import advise
from pdctl.status.records import Evidence, Moment
from pdctl.status.trends import arrivals, is_whole, last_minute, span_s, trend
from pdctl.units import format_seconds, format_share
from pdctl.workload.records import Slo

_BUSY = 0.8  # share of its time that a prefill engine may be busy


@dataclass(frozen=True)
class Split:
    """Numbers of prefill and decode engines."""

    num_prefill: int
    num_decode: int

    @property
    def layout(self) -> str:
        return f"{self.num_prefill}P{self.num_decode}D"

    @property
    def total(self) -> int:
        return self.num_prefill + self.num_decode

    @property
    def smaller(self) -> int:
        """Engines of the role that has fewer."""
        return min(self.num_prefill, self.num_decode)


@dataclass(frozen=True)
class SplitAdvice:
    """A split that queues call for, and why, as sentences."""

    to: Split
    why: str


def split_advice(now: Split, history: Sequence[Moment], slo: Slo) -> SplitAdvice | None:
    """The split that the last minute of `history` (oldest first) calls for; None: no other.

    Ignores: engines that are added or removed; only roles change.
    """
    if not slo.is_given:
        return None
    advice = advise(history, tpot_slo_s=slo.tpot_s)
    change = advice.change
    if change and change.prefill is not None and change.decode is None:
        size = _more_decode if change.prefill < now.num_prefill else _more_prefill
        return SplitAdvice(size(now, advice.evidence, slo), f"{advice.what} {advice.why}.")
    return _late(now, last_minute(history), slo)


def _more_decode(now: Split, seen: Evidence, slo: Slo) -> Split:
    """As many decode engines as keep the time per token, but at most half of prefill changes.

    The time per token grows at most in proportion to the batch, so fewer engines would not do.
    """
    need = now.num_decode * (seen.itl_s or 0.0) / slo.tpot_s if slo.tpot_s else 0.0
    spare = now.num_prefill - math.ceil(now.num_prefill * (seen.prefill_busy or 0.0) / _BUSY)
    more = min(math.ceil(need) - now.num_decode, spare, now.num_prefill // 2)
    num = now.num_decode + max(1, more)
    return Split(now.total - num, num)


def _more_prefill(now: Split, seen: Evidence, slo: Slo) -> Split:
    """As many prefill engines as keep up with the arrivals, but at most half of decode changes.

    The pace of one engine is that at which the queue is served now.
    """
    need = 0.0
    if seen.backlog_s and seen.waiting and seen.requests:
        pace_rps = seen.waiting * (seen.prefill_busy or 1.0) / seen.backlog_s
        need = now.num_prefill * seen.requests / seen.watched_s / pace_rps
    num = now.num_prefill + max(1, min(math.ceil(need) - now.num_prefill, now.num_decode // 2))
    return Split(num, now.total - num)


def _late(now: Split, window: Sequence[Moment], slo: Slo) -> SplitAdvice | None:
    """One prefill engine more if first tokens come late though no queue is long.

    Source: Little's law: requests between arrival and first token, over arrivals a second.
    """
    if slo.ttft_s is None or slo.tpot_s is None or now.num_decode < 2 or not is_whole(window):
        return None
    rate_rps = (arrivals(window) or 0.0) / span_s(window)
    held, gap = trend(window, lambda m: m.transfer), trend(window, lambda m: m.itl_s)
    busy = trend(window, lambda m: m.busy_share)
    if held is None or gap is None or busy is None or not rate_rps:
        return None
    if min(held.means[1:]) < slo.ttft_s * rate_rps or sum(busy.means) < _BUSY * len(busy.means):
        return None
    if gap.last * now.num_decode / (now.num_decode - 1) > slo.tpot_s:
        return None
    why = (
        f"Prefill is the bottleneck. First tokens take {format_seconds(held.last / rate_rps)}; "
        f"prefill is busy {format_share(busy.last)}."
    )
    return SplitAdvice(Split(now.num_prefill + 1, now.num_decode - 1), why)
