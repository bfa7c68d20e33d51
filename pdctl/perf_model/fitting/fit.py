"""Fit measured steps: the factors that turn roofline coefficients into measured ones.

A step's time is homogeneous of degree one in its coefficients (sums, maxima and smooth maxima
of them), so by Euler it equals the sum over coefficients of coefficient × slope. Solving that
linear system with non-negative factors, then taking slopes anew, converges in a few rounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from operator import mul
from statistics import median

from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Fit, Measurement, StepTimes
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

Matrix = Sequence[Sequence[float]]
TOLERANCE = 1e-12


def nnls(rows: Matrix, targets: Sequence[float], weights: Sequence[float]) -> list[float]:
    """x >= 0 that minimises the weighted squares of rows·x − targets.

    rows: one per target, each as long as x. Columns may differ in size by orders of magnitude.
    Source: Lawson and Hanson, Solving Least Squares Problems (1974), chapter 23, on the normal
    equations of scaled columns; fine for a dozen unknowns that identifiability() has passed.
    """
    scales = [_norm(rows, weights, j) or 1.0 for j in range(len(rows[0]))]
    gram, moments = _normal_equations(rows, targets, weights, scales)
    count = len(scales)
    free: list[int] = []
    x = [0.0] * count
    for _ in range(3 * count):
        slope = [moments[j] - dot(gram[j], x) for j in range(count)]
        rising = [j for j in range(count) if j not in free and slope[j] > TOLERANCE]
        if not rising:
            break
        free.append(max(rising, key=lambda j: slope[j]))
        x, free = _restricted(gram, moments, x, free)
    return [value / scale for value, scale in zip(x, scales, strict=True)]


def independence(rows: Matrix, weights: Sequence[float]) -> list[float]:
    """Per column, the share of it that the other columns cannot imitate: 1 − R², 0 if empty.

    Source: the diagonal of the inverse of the columns' correlation matrix is 1 / (1 − R²).
    """
    count = len(rows[0])
    norms = [_norm(rows, weights, j) for j in range(count)]
    full = [j for j in range(count) if norms[j] > 0]
    scales = [norms[j] for j in full]
    picked = [[row[j] for j in full] for row in rows]
    gram, _ = _normal_equations(picked, [0.0] * len(rows), weights, scales)
    shares = dict.fromkeys(range(count), 0.0)
    for position, column in enumerate(full):
        others = [k for k in range(len(full)) if k != position]
        shares[column] = _unexplained(gram, position, others)
    return [shares[j] for j in range(count)]


def leverages(rows: Matrix, weights: Sequence[float]) -> list[float]:
    """Per row, how much its own target moves its fitted value: w·rᵀ(RᵀWR)⁻¹r."""
    scales = [_norm(rows, weights, j) or 1.0 for j in range(len(rows[0]))]
    gram, _ = _normal_equations(rows, [0.0] * len(rows), weights, scales)
    for i in range(len(gram)):
        gram[i][i] += TOLERANCE
    answers = []
    for row, weight in zip(rows, weights, strict=True):
        scaled = [value / scale for value, scale in zip(row, scales, strict=True)]
        solution = solve(gram, scaled)
        answers.append(weight * dot(scaled, solution))
    return answers


def _unexplained(gram: Matrix, column: int, others: list[int]) -> float:
    if not others:
        return 1.0
    square = [[gram[a][b] for b in others] for a in others]
    side = [gram[a][column] for a in others]
    for i in range(len(others)):
        square[i][i] += TOLERANCE  # others may depend on each other; they still explain
    solution = solve(square, side)
    return max(0.0, 1.0 - dot(side, solution))


def solve(matrix: Matrix, targets: Sequence[float]) -> list[float]:
    """Gaussian elimination with row pivoting of a small square system."""
    n = len(targets)
    rows = [[*row, target] for row, target in zip(matrix, targets, strict=True)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda k: abs(rows[k][i]))
        rows[i], rows[pivot] = rows[pivot], rows[i]
        head = rows[i][i] or TOLERANCE
        for k in range(i + 1, n):
            factor = rows[k][i] / head
            rows[k] = [a - factor * b for a, b in zip(rows[k], rows[i], strict=True)]
    x = [0.0] * n
    for i in reversed(range(n)):
        rest = rows[i][n] - dot(rows[i][i + 1 : n], x[i + 1 :])
        x[i] = rest / (rows[i][i] or TOLERANCE)
    return x


def _restricted(
    gram: Matrix, moments: Sequence[float], x: list[float], free: list[int]
) -> tuple[list[float], list[int]]:
    """Solve on the free unknowns, stepping back to the border until none is negative."""
    while free:
        solution = solve([[gram[a][b] for b in free] for a in free], [moments[a] for a in free])
        if min(solution) > 0:
            moved = dict(zip(free, solution, strict=True))
            return [moved.get(j, 0.0) for j in range(len(x))], free
        low = [(j, v) for j, v in zip(free, solution, strict=True) if v <= 0]
        step = min(x[j] / (x[j] - v) if x[j] > v else 0.0 for j, v in low)
        for j, v in zip(free, solution, strict=True):
            x[j] += step * (v - x[j])
        border = {j for j, _ in low if x[j] <= TOLERANCE}
        free = [j for j in free if j not in border]
        x = [0.0 if j in border else value for j, value in enumerate(x)]
    return x, free


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    """Sum of products of two rows of the same length."""
    return float(sum(map(mul, a, b)))


def _norm(rows: Matrix, weights: Sequence[float], j: int) -> float:
    return float(sum(w * row[j] ** 2 for row, w in zip(rows, weights, strict=True)) ** 0.5)


def _normal_equations(
    rows: Matrix, targets: Sequence[float], weights: Sequence[float], scales: Sequence[float]
) -> tuple[list[list[float]], list[float]]:
    scaled = [[row[j] / scale for row in rows] for j, scale in enumerate(scales)]
    weighted = [list(map(mul, column, weights)) for column in scaled]
    gram = [[dot(left, right) for right in scaled] for left in weighted]
    return gram, [dot(left, targets) for left in weighted]


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
