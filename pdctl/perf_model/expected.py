"""What StepTimes gives for a step as it was measured: what hides it, and what comes beside it."""

from collections.abc import Callable
from dataclasses import replace

from pdctl.perf_model.records import Measurement, StepTimes
from pdctl.perf_model.steps import decode_step_s, mixed_step_s, prefill_s, weighted_pairs


def predicted_s(times: StepTimes, measurement: Measurement) -> float:
    """What `times` gives for the step that was measured."""
    return _EVALUATE[measurement.kind](times, measurement)


def _prefill(times: StepTimes, m: Measurement) -> float:
    """An idle engine hides nothing of what precedes the step."""
    beside_s = times.prefill_start_s + (0.0 if m.counted else times.request_s)
    return beside_s + _step(times, m)


def _stall(times: StepTimes, m: Measurement) -> float:
    """Of what precedes the step, that which the decode before it is too short to hide."""
    hidden_s = decode_step_s(times, 1, m.context) if m.context else times.prefill_start_s
    return max(0.0, times.prefill_start_s - hidden_s) + _step(times, m)


def _step(times: StepTimes, m: Measurement) -> float:
    if m.eager == times.prefill_graphs:
        times = replace(times, prefill_graphs=not m.eager)
    return prefill_s(
        times,
        m.batch * m.new_tokens,
        m.batch * weighted_pairs(times, m.new_tokens, m.cached_tokens),
    )


def _decode(times: StepTimes, m: Measurement) -> float:
    return decode_step_s(times, m.batch, m.context)


def _mixed(times: StepTimes, m: Measurement) -> float:
    new, cached = m.new_tokens, m.cached_tokens
    return mixed_step_s(times, new, weighted_pairs(times, new, cached), m.batch, m.context)


def _transfer(times: StepTimes, m: Measurement) -> float:
    return times.transfer_base_s + times.transfer_token_s * m.new_tokens


def _answer(times: StepTimes, m: Measurement) -> float:
    """It waits for the rest of the step that runs, half of one in the mean, and for the next one.

    While the next one runs, the prefill step gets ready.
    """
    decode_s = decode_step_s(times, 1, m.context)
    ahead_s = decode_s / 2 + max(decode_s, times.prefill_start_s)
    return times.request_s + ahead_s + _step(times, m)


def _request(times: StepTimes, m: Measurement) -> float:
    return times.request_s


_EVALUATE: dict[str, Callable[[StepTimes, Measurement], float]] = {
    "prefill": _prefill,
    "decode": _decode,
    "mixed": _mixed,
    "transfer": _transfer,
    "stall": _stall,
    "request": _request,
    "answer": _answer,
}
