"""Fit measured steps: find the factors that turn roofline coefficients into measured ones.

A step's time is a sum, maximum or smooth maximum of its coefficients, so it is homogeneous of
degree one in them. By Euler, it equals the sum over coefficients of coefficient × slope. The fit
solves that linear system with non-negative factors, takes slopes anew, and converges in a few
rounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from statistics import median

from pdctl.errors import InvalidInput
from pdctl.perf_model.fitting.least_squares import dot, independence, leverages, nnls
from pdctl.perf_model.records import Fit, Measurement, StepTimes
from pdctl.perf_model.simulator.steps import decode_step_s, mixed_step_s, prefill_s, weighted_pairs

# coefficients that a kind of measurement must identify, and those that it may identify
REQUIRED: dict[str, tuple[str, ...]] = {
    "prefill": ("prefill_base_s", "prefill_token_s", "prefill_pair_s"),
    "decode": ("decode_base_s", "decode_context_s"),
    "mixed": (),
    "transfer": ("transfer_base_s", "transfer_token_s"),
    "stall": ("prefill_base_s", "prefill_token_s", "prefill_pair_s"),
    "request": ("request_s",),
    "answer": (),
}
OPTIONAL: dict[str, tuple[str, ...]] = {
    "prefill": ("prefill_weight_s", "prefill_row_s", "prefill_cached_weight", "eager_s"),
    "decode": (
        "decode_weight_s",
        "decode_request_s",
        "decode_latency_s",
        "decode_compute_s",
        "decode_split_s",
    ),
    "mixed": (),
    "transfer": (),
    "stall": ("prefill_weight_s", "prefill_row_s", "prefill_start_s"),
    "request": (),
    "answer": ("request_s", "prefill_start_s"),
}
ADVICE = {
    "prefill_base_s": "prompts of at most 512 tokens",
    "prefill_token_s": "prompts of several lengths from 512 tokens up",
    "prefill_pair_s": "prompts of 8192 tokens, or long cached prefixes",
    "decode_base_s": "decode steps of batch 1 at a short context",
    "decode_weight_s": "decode steps of batches 1 to 64",
    "decode_request_s": "decode steps of large batches at a short context",
    "decode_context_s": "decode steps of large batches at a long context",
    "decode_latency_s": "decode steps of batch 1 at several contexts",
    "transfer_base_s": "transfers of few tokens",
    "transfer_token_s": "transfers of many tokens",
}
MIN_INDEPENDENCE = 2e-4  # 1 − R²; below it, other coefficients explain this one to 1.5 %
MIN_SHARE = 0.01  # a coefficient must make up this share of at least one measured time
HUBER = 1.345  # in robust standard deviations; 95 % efficient on Gaussian noise
PRIOR = 0.5  # relative uncertainty of the generic constants
MAX_ROUNDS = 30
SHRINK = 0.3  # in one round, a factor falls to this share of itself at most
SLOPE_STEP = 1e-4


def fit(
    measurements: Sequence[Measurement],
    roofline: StepTimes,
    *,
    coefficients: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
) -> Fit:
    """Find the factors on `roofline` that reproduce these measurements.

    coefficients: StepTimes fields to fit. Default: the REQUIRED ones for these kinds of
    measurement, and the OPTIONAL ones that they identify. weights: weight of each measurement,
    1 by default. Minimises relative errors and weights outliers down (Huber).
    Raises InvalidInput naming a coefficient that the measurements do not identify.
    Source: iteratively reweighted non-negative least squares (Lawson-Hanson; Huber 1964).
    """
    _check(measurements)
    wanted = _wanted(measurements, roofline) if coefficients is None else tuple(coefficients)
    names = _identified(measurements, roofline, wanted, refuse_all=coefficients is not None)
    own = [1.0] * len(measurements) if weights is None else weights
    factors = _solve(measurements, own, roofline, names)
    fitted = with_factors(roofline, dict(zip(names, factors, strict=True)))
    return Fit(
        factors=dict(zip(names, factors, strict=True)),
        residuals=tuple(predicted_s(fitted, m) / m.seconds - 1 for m in measurements),
        left_out_error=_left_out_error(measurements, own, roofline, names, factors),
    )


def _check(measurements: Sequence[Measurement]) -> None:
    if not measurements:
        raise InvalidInput("There are no measurements to fit.", hint="pdctl calibrate")
    for m in measurements:
        if not 0 < m.seconds < float("inf"):
            raise InvalidInput(
                f"A {m.kind} measurement of {m.seconds!r} s is not a time.", hint="pdctl calibrate"
            )


def _wanted(measurements: Sequence[Measurement], roofline: StepTimes) -> tuple[str, ...]:
    kinds = {m.kind for m in measurements}
    required = [name for kind in REQUIRED if kind in kinds for name in REQUIRED[kind]]
    optional = [name for kind in OPTIONAL if kind in kinds for name in OPTIONAL[kind]]
    return tuple(
        dict.fromkeys(required + [name for name in optional if getattr(roofline, name) > 0])
    )


def _identified(
    measurements: Sequence[Measurement],
    roofline: StepTimes,
    wanted: Sequence[str],
    *,
    refuse_all: bool,
) -> tuple[str, ...]:
    """Drop optional coefficients that the measurements cannot tell apart, weakest first."""
    required = set(wanted) if refuse_all else {n for ns in REQUIRED.values() for n in ns}
    names = list(wanted)
    while True:
        rows = _slopes(roofline, names, [1.0] * len(names), measurements)
        relative = [[s / m.seconds for s in row] for row, m in zip(rows, measurements, strict=True)]
        largest = [max(column) for column in zip(*relative, strict=True)]
        # drop negligible coefficients first, because others look dependent beside them
        weak = [(s, name) for s, name in zip(largest, names, strict=True) if s < MIN_SHARE]
        independent = independence(relative, [1.0] * len(rows))
        if not [name for _, name in weak if name not in required]:
            pairs = zip(independent, names, strict=True)
            weak += [(share, name) for share, name in pairs if share < MIN_INDEPENDENCE]
        if not weak and len(measurements) > len(names):
            return tuple(names)
        droppable = [entry for entry in weak if entry[1] not in required]
        if not droppable and not weak:
            droppable = [
                (share, name)
                for share, name in zip(independent, names, strict=True)
                if name not in required
            ]
        if not droppable:
            raise _not_identified(min(weak)[1] if weak else names[-1], len(measurements))
        names.remove(min(droppable)[1])


def _not_identified(name: str, count: int) -> InvalidInput:
    measure = ADVICE.get(name, "steps of other sizes")
    return InvalidInput(
        f"The {count} measurements do not identify {name}: measure {measure} as well.",
        hint="pdctl calibrate",
        code="not_identified",
    )


def _solve(
    measurements: Sequence[Measurement],
    own: Sequence[float],
    roofline: StepTimes,
    names: Sequence[str],
) -> list[float]:
    factors = [1.0] * len(names)
    for _ in range(MAX_ROUNDS):
        rows, targets, weights = _linearised(measurements, own, roofline, names, factors)
        solved = nnls(rows, targets, weights)
        # a factor of zero has no slope inside a smooth maximum and could never recover
        new = [max(s, SHRINK * f) for s, f in zip(solved, factors, strict=True)]
        moved = max(abs(a - b) for a, b in zip(new, factors, strict=True))
        factors = new
        if moved < 1e-6:
            break
    return factors


def _linearised(
    measurements: Sequence[Measurement],
    own: Sequence[float],
    roofline: StepTimes,
    names: Sequence[str],
    factors: Sequence[float],
) -> tuple[list[list[float]], list[float], list[float]]:
    """Linearise relative times around `factors`: rows, targets, and weights (own × Huber's).

    The last rows, one per factor, are the prior that the factor is 1 ± PRIOR. The spread of the
    measurements decides how much the prior weighs.
    """
    now = with_factors(roofline, dict(zip(names, factors, strict=True)))
    rows, targets, residuals = [], [], []
    all_slopes = _slopes(roofline, names, factors, measurements)
    for m, slopes in zip(measurements, all_slopes, strict=True):
        now_s = predicted_s(now, m)
        rows.append([s / m.seconds for s in slopes])
        targets.append(1.0 - (now_s - dot(slopes, factors)) / m.seconds)
        residuals.append(now_s / m.seconds - 1.0)
    spread = _spread(residuals)
    for j in range(len(names)):
        rows.append([float(k == j) for k in range(len(names))])
        targets.append(1.0)
    weights = [a * b for a, b in zip(own, _huber_weights(residuals), strict=True)]
    return rows, targets, weights + [(spread / PRIOR) ** 2] * len(names)


def _left_out_error(
    measurements: Sequence[Measurement],
    own: Sequence[float],
    roofline: StepTimes,
    names: Sequence[str],
    factors: Sequence[float],
) -> float:
    """Median relative error of each measurement in a fit to the others.

    Source: r / (1 − leverage), exact for linear least squares (Allen's PRESS, 1974).
    Ignores: small changes of weights, of slopes, and of which factors are zero.
    """
    rows, targets, weights = _linearised(measurements, own, roofline, names, factors)
    free = [j for j, f in enumerate(factors) if f > 0]
    picked = [[row[j] for j in free] for row in rows]
    values = [factors[j] for j in free]
    errors = []
    lines = zip(picked, targets, leverages(picked, weights), strict=True)
    for row, target, leverage in islice(lines, len(measurements)):
        residual = dot(row, values) - target
        errors.append(abs(residual) / max(1e-9, 1.0 - leverage))
    return median(errors)


def _slopes(
    roofline: StepTimes,
    names: Sequence[str],
    factors: Sequence[float],
    measurements: Sequence[Measurement],
) -> list[list[float]]:
    """Derivative of each predicted time by each factor (forward differences), one row per time."""
    here = dict(zip(names, factors, strict=True))
    times_here = with_factors(roofline, here)
    moved = [with_factors(roofline, {**here, name: here[name] + SLOPE_STEP}) for name in names]
    return [
        [(predicted_s(times, m) - now) / SLOPE_STEP for times in moved]
        for m in measurements
        for now in (predicted_s(times_here, m),)
    ]


def with_factors(times: StepTimes, factors: Mapping[str, float]) -> StepTimes:
    """`times` with each named coefficient multiplied by its factor."""
    return replace(times, **{n: getattr(times, n) * f for n, f in factors.items()})


def _huber_weights(residuals: Sequence[float]) -> list[float]:
    """Weight 1 within HUBER robust deviations of zero, falling as 1/|r| beyond."""
    limit = HUBER * max(_spread(residuals), 1e-4)
    return [min(1.0, limit / abs(r)) if r else 1.0 for r in residuals]


def _spread(residuals: Sequence[float]) -> float:
    """Standard deviation, estimated from the median so that outliers do not matter."""
    return 1.4826 * median(abs(r) for r in residuals)


def predicted_s(times: StepTimes, measurement: Measurement) -> float:
    """Predict a step as a probe observes it: without hidden work, with per-request overhead."""
    return _EVALUATE[measurement.kind](times, measurement)


def _prefill(times: StepTimes, m: Measurement) -> float:
    """A prefill on an idle engine, which hides no part of the work before the step."""
    beside_s = times.prefill_start_s + (0.0 if m.counted else times.request_s)
    return beside_s + _step(times, m)


def _stall(times: StepTimes, m: Measurement) -> float:
    """A prefill behind a decode step, which hides as much of the launch as it lasts."""
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
    """A prompt to an engine that decodes: waits for half a step on average, then one more step.

    The prefill step is launched while the last decode step runs.
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
