"""Fit measured steps: the factors that turn roofline coefficients into measured ones.

A step's time is homogeneous of degree one in its coefficients (sums, maxima and smooth maxima
of them), so by Euler it equals the sum over coefficients of coefficient × slope. Solving that
linear system with non-negative factors, then taking slopes anew, converges in a few rounds.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from statistics import median

from pdctl.errors import InvalidInput
from pdctl.perf_model.expected import predicted_s
from pdctl.perf_model.nnls import dot, independence, leverages, nnls
from pdctl.perf_model.records import Fit, Measurement, StepTimes

# coefficients a kind of measurement must identify, and those fitted only where it does
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
MIN_INDEPENDENCE = 2e-4  # 1 − R²: below, others imitate the coefficient within 1.5 %
MIN_SHARE = 0.01  # of some measured time that a coefficient must make up
HUBER = 1.345  # in robust standard deviations; 95 % efficient on Gaussian noise
PRIOR = 0.5  # generic constants are good to about this, relatively
MAX_ROUNDS = 30
SHRINK = 0.3  # a factor falls to no less than this share of itself in one round
SLOPE_STEP = 1e-4


def fit(
    measurements: Sequence[Measurement],
    roofline: StepTimes,
    *,
    coefficients: Sequence[str] | None = None,
    weights: Sequence[float] | None = None,
) -> Fit:
    """Which factors on `roofline` reproduce these measurements?

    coefficients: StepTimes fields to fit; by default those the kinds of measurement call for,
    REQUIRED and, where identified, OPTIONAL ones. weights: what each measurement counts, 1 by
    default. Relative errors are minimised, outliers weighted down (Huber).
    Raises InvalidInput naming a coefficient that is not identified.
    Source: iteratively reweighted non-negative least squares (Lawson-Hanson; Huber 1964).
    """
    _check(measurements)
    wanted = _wanted(measurements, roofline) if coefficients is None else tuple(coefficients)
    names = _identified(measurements, roofline, wanted, refuse_all=coefficients is not None)
    own = [1.0] * len(measurements) if weights is None else weights
    factors = _solve(measurements, own, roofline, names)
    fitted = _scaled(roofline, names, factors)
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
    """`wanted` less optional coefficients the measurements cannot tell apart, weakest first."""
    required = set(wanted) if refuse_all else {n for ns in REQUIRED.values() for n in ns}
    names = list(wanted)
    while True:
        rows = _slopes(roofline, names, [1.0] * len(names), measurements)
        relative = [[s / m.seconds for s in row] for row, m in zip(rows, measurements, strict=True)]
        largest = [max(column) for column in zip(*relative, strict=True)]
        # what makes up next to nothing anywhere goes first: others look dependent beside it
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
        # inside a smooth maximum a factor of zero has no slope and would never come back
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
    """Rows and targets of relative time around `factors`, and weights: their own times Huber's.

    The last rows, one per factor, say that it is 1 ± PRIOR; how much they weigh against
    measurements is for the measurements' own spread to say.
    """
    now = _scaled(roofline, names, factors)
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
    """Median relative error of a measurement when the others alone are fitted.

    Source: r / (1 − leverage), exact for linear least squares (Allen's PRESS, 1974).
    Ignores: that weights, slopes and which factors are zero would change a little.
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
    """How each predicted time grows with each factor (forward differences), a row each."""
    here = _scaled(roofline, names, factors)
    moved = [
        _scaled(roofline, names, [f + SLOPE_STEP * (k == j) for k, f in enumerate(factors)])
        for j in range(len(names))
    ]
    return [
        [(predicted_s(times, m) - now) / SLOPE_STEP for times in moved]
        for m in measurements
        for now in (predicted_s(here, m),)
    ]


def _scaled(roofline: StepTimes, names: Sequence[str], factors: Sequence[float]) -> StepTimes:
    scaled = {n: getattr(roofline, n) * f for n, f in zip(names, factors, strict=True)}
    return replace(roofline, **scaled)


def _huber_weights(residuals: Sequence[float]) -> list[float]:
    """1 within HUBER robust deviations of zero, falling as 1/|r| beyond."""
    limit = HUBER * max(_spread(residuals), 1e-4)
    return [min(1.0, limit / abs(r)) if r else 1.0 for r in residuals]


def _spread(residuals: Sequence[float]) -> float:
    """Standard deviation by the median, which outliers do not move."""
    return 1.4826 * median(abs(r) for r in residuals)
