"""Why the tokens after a request's first came slowly. Pure."""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pdctl.engines.request_times import RequestTimes
from pdctl.status.explain.join import Halves
from pdctl.status.explain.parts import tpot_s
from pdctl.status.explain.records import Cause
from pdctl.units import format_seconds

FULLER = 1.3  # a batch is full from this multiple of the window's median
USUAL = 0.2  # quantile of times per token that counts as undisturbed


@dataclass(frozen=True)
class UsualPace:
    """The usual time per token and batch of a window.

    starts, ends: when requests entered and left the batch of each decode engine, each sorted.
    """

    tpot_s: float
    batch: float
    starts: Mapping[str, Sequence[float]]
    ends: Mapping[str, Sequence[float]]

    def batch_of(self, half: RequestTimes) -> float:
        """The mean number of requests in the batches of this one, from those at its two ends."""
        starts, ends = self.starts[half.engine], self.ends[half.engine]
        at_start = bisect_right(starts, half.start_s) - bisect_right(ends, half.start_s)
        at_end = bisect_left(starts, half.end_s) - bisect_left(ends, half.end_s)
        return max(1.0, (at_start + at_end) / 2)


def usual_pace(pairs: Sequence[Halves]) -> UsualPace:
    """The usual pace of a window's decode engines."""
    by_engine: dict[str, list[RequestTimes]] = defaultdict(list)
    for one in pairs:
        if one.decode is not None and one.decode.role == "decode":
            by_engine[one.decode.engine].append(one.decode)
    times = sorted(seconds for one in pairs if (seconds := tpot_s(one)) is not None)
    pace = UsualPace(
        tpot_s=times[int(len(times) * USUAL)] if times else 0.0,
        batch=1.0,
        starts={name: sorted(h.start_s for h in some) for name, some in by_engine.items()},
        ends={name: sorted(h.end_s for h in some) for name, some in by_engine.items()},
    )
    batches = sorted(pace.batch_of(half) for some in by_engine.values() for half in some)
    median = batches[len(batches) // 2] if batches else 1.0
    return UsualPace(pace.tpot_s, median, pace.starts, pace.ends)


def pace_cause(halves: Halves, pace: UsualPace) -> Cause:
    """Why its tokens came slowly: a full batch, or slow steps of its decode engine.

    Ignores: how long its context is; requests that left the batch for lack of memory.
    """
    decode, seconds = halves.decode, tpot_s(halves)
    if decode is None or seconds is None:
        return Cause("unknown", "", 0.0, "The logs have no time per token for it.")
    lost_s = max(0.0, seconds - pace.tpot_s) * (decode.output_tokens - 1)
    batch = pace.batch_of(decode)
    took = f"Its tokens took {format_seconds(seconds)} each (usual: {format_seconds(pace.tpot_s)})"
    beside = f"a batch of {batch:.0f} on {decode.engine} (usual: {pace.batch:.0f})"
    if seconds <= FULLER * pace.tpot_s:
        return Cause("usual_pace", decode.engine, lost_s, f"{took}.")
    fuller = batch / pace.batch
    if fuller >= FULLER and seconds <= fuller * pace.tpot_s:  # steps slow at most in proportion
        return Cause("full_batch", decode.engine, lost_s, f"{took}, in {beside}.")
    text = f"{took}, more than {beside} explains."
    return Cause("slow_decode", decode.engine, lost_s, text)
