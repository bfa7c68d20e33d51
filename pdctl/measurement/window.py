"""Which requests of a load count. Pure."""

from collections.abc import Sequence

WARM_UP, COOL_DOWN = 0.1, 0.05


def window(
    times_s: Sequence[float], warm_up: float = WARM_UP, cool_down: float = COOL_DOWN
) -> tuple[float, float]:
    """From when to when intended send times count: neither the first nor the last ones.

    warm_up, cool_down: shares of the time in which requests are sent; an engine that fills up or
    runs empty is not the one asked about. Where nobody is in between (a few bursts), all count.
    """
    if not times_s:
        return 0.0, 0.0
    first, last = min(times_s), max(times_s)
    start_s, end_s = first + warm_up * (last - first), last - cool_down * (last - first)
    if any(start_s <= at_s <= end_s for at_s in times_s):
        return start_s, end_s
    return first, last
