"""StepTimes made ready for the simulator's inner loop; equal to steps.py, which a test checks."""

from collections.abc import Callable

from pdctl.perf_model.records import StepTimes
from pdctl.perf_model.steps import (
    decode_constant_s,
    decode_floor_s,
    decode_slope_s,
    pairs,
    prefill_floor_s,
    prefill_s,
)


class DecodeCosts:
    """Per batch size: a step's constant seconds, seconds per context token, and least seconds."""

    __slots__ = ("_rows", "_times")

    def __init__(self, times: StepTimes) -> None:
        self._times = times
        self._rows: dict[int, tuple[float, float, float]] = {}

    def __getitem__(self, batch: int) -> tuple[float, float, float]:
        row = self._rows.get(batch)
        if row is None:
            times = self._times
            row = self._rows[batch] = (
                decode_constant_s(times, batch),
                decode_slope_s(times, batch),
                decode_floor_s(times, batch),
            )
        return row


def pairs_of(times: StepTimes) -> Callable[[float, float], float]:
    """weighted_pairs of fixed times as a function of a chunk's new tokens and those before it."""
    if times.prefill_cached_weight == 1.0 and not times.prefill_cached_tokens:
        return pairs
    weight, beside = times.prefill_cached_weight, times.prefill_cached_tokens

    def weighted(tokens: float, done: float) -> float:
        return tokens * tokens / 2 + weight * (tokens + beside) * done

    return weighted


def prefill_cost(times: StepTimes) -> Callable[[float, float], float]:
    """prefill_s of fixed times as a function of new tokens and pairs.

    For a dense LLM the weights cost the same whatever the tokens, so one power suffices.
    """
    if times.prefill_expert_share < 1.0 and times.prefill_weight_s > 0.0:
        return lambda tokens, pairs: prefill_s(times, tokens, pairs)
    base, per_token, per_pair = times.prefill_base_s, times.prefill_token_s, times.prefill_pair_s
    weight, per_row, floor = times.prefill_weight_s**4, times.prefill_row_s, prefill_floor_s(times)

    def dense(tokens: float, pairs: float) -> float:
        seconds = (
            base
            + ((weight + (per_token * tokens) ** 4) ** 0.25 if weight else per_token * tokens)
            + per_row * tokens
            + per_pair * pairs
        )
        return seconds if seconds > floor else floor

    return dense
