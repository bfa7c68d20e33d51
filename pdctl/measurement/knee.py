"""At which rate does an arm stop meeting its service levels? The next rate to try. Pure."""

from collections.abc import Sequence

WIDER = 1.6
MAX_LOADS = 6
CLOSE = 1.12  # a bracket this narrow is a knee


def next_rate(tried: Sequence[tuple[float, bool]], start_rps: float) -> float | None:
    """The rate to measure next, from (rate, whether it held) so far; None: the knee is found.

    First widens from `start_rps` until one holds and one does not, then halves geometrically.
    """
    if not tried:
        return start_rps
    held = [rate for rate, holds in tried if holds]
    broke = [rate for rate, holds in tried if not holds and rate > max(held, default=0.0)]
    if len(tried) >= MAX_LOADS or (held and broke and min(broke) / max(held) <= CLOSE):
        return None
    if not held:
        return min(broke) / WIDER**2
    if not broke:
        return max(held) * WIDER
    return float((max(held) * min(broke)) ** 0.5)


def knee_rps(tried: Sequence[tuple[float, bool]]) -> float | None:
    """The highest rate that held; None: none did."""
    return max((rate for rate, holds in tried if holds), default=None)
