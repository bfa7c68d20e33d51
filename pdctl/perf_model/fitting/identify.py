"""Fit the coefficients that measurements identify, and find the steps that contradict the fit."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from pdctl.errors import InvalidInput
from pdctl.perf_model.fitting.fit import OPTIONAL, REQUIRED, fit, predicted_s, with_factors
from pdctl.perf_model.records import Fit, Measurement, StepTimes

GUESSED_SPREAD = 0.03  # relative, of one measurement, before there are any
GUESS_WEIGHT = 10
FORM_ERROR = 0.01  # relative error of the formula itself, without measurement noise
# a step's time includes at least the first two coefficients; the last is a ratio, not a time
UNSCALED = ("eager_s", "decode_compute_s", "prefill_cached_weight")
BASES = {
    "prefill": "prefill_base_s",
    "decode": "decode_base_s",
    "transfer": "transfer_base_s",
}  # the shortest possible time of a step of each kind
FAR = 2.5  # on known hardware, the roofline is never wrong by this factor
MAX_RESIDUAL = 0.25  # limit for the median residual over repeats of one step
LEAST_REPEATS = 3
MAX_LEFT_OUT_ERROR = 0.15


@dataclass(frozen=True)
class Disagreement:
    """A measured step that the fit does not reproduce. residual: median over its repeats."""

    step: Measurement
    residual: float


def fit_identified(
    measurements: Sequence[Measurement],
    roofline: StepTimes,
    *,
    wanted: Sequence[str] | None = None,
) -> tuple[Fit | None, tuple[str, ...]]:
    """Fit the coefficients that these measurements identify; the others keep the roofline's value.

    wanted: fit only these coefficients; None: all. Returns the fit, None if no coefficient is
    identified, and the required coefficients that are not.
    """
    steps, weights = weighted(measurements)
    kinds = {m.kind for m in measurements}
    possible = [n for kind in REQUIRED if kind in kinds for n in (*REQUIRED[kind], *OPTIONAL[kind])]
    possible = [n for n in dict.fromkeys(possible) if getattr(roofline, n) > 0]
    names = [n for n in possible if wanted is None or n in wanted]
    scales = _scales(measurements, roofline, possible)
    near = with_factors(roofline, scales)
    found: Fit | None = None
    while names and found is None:
        try:
            found = fit(steps, near, coefficients=names, weights=weights)
        except InvalidInput as problem:
            if problem.code != "not_identified":
                raise
            names.remove(next((n for n in names if n in problem.message), names[-1]))
    if found is not None:
        factors = {**scales, **{n: scales.get(n, 1.0) * f for n, f in found.factors.items()}}
        fitted = with_factors(roofline, factors)
        residuals = tuple(predicted_s(fitted, m) / m.seconds - 1 for m in measurements)
        found = replace(found, factors=factors, residuals=residuals)
    known = found.factors if found else {}
    required = {n for kind in kinds for n in REQUIRED[kind]}
    return found, tuple(n for n in possible if n in required and n not in known)


def _scales(
    measurements: Sequence[Measurement], roofline: StepTimes, names: Sequence[str]
) -> dict[str, float]:
    """Factors that bring coefficients near the measurements before a fit.

    A fit's prior is the roofline. On a CPU the roofline is wrong by orders of magnitude, and by
    other factors for the base time of a step than for its time per token.
    """
    scales: dict[str, float] = {}
    for kind, base in BASES.items():
        steps = [m for m in typical(measurements) if m.kind == kind]
        if not steps:
            continue
        steps.sort(key=lambda m: predicted_s(roofline, m))
        low, high = steps[0], steps[-1]
        grown = predicted_s(roofline, high) - predicted_s(roofline, low)
        ratio = (high.seconds - low.seconds) / grown if grown > 0 else 1.0
        if ratio > 0 and not 1 / FAR <= ratio <= FAR:
            own = (*REQUIRED[kind], *OPTIONAL[kind])
            scales |= {n: ratio for n in own if n in names and n not in UNSCALED}
        short_s = low.seconds - predicted_s(with_factors(roofline, scales), low)
        if base in names and short_s > low.seconds / 2:
            scales[base] = scales.get(base, 1.0) + short_s / getattr(roofline, base)
    return scales


def weighted(
    measurements: Sequence[Measurement],
) -> tuple[tuple[Measurement, ...], tuple[float, ...]]:
    """One measurement per step and its weight. Repeats add weight until FORM_ERROR limits it.

    The variance of a step's typical time is the variance of its repeats divided by their number,
    plus FORM_ERROR², because the formula does not describe step times exactly.
    """
    by_step = _by_step(measurements)
    apart = [
        m.seconds / median(r.seconds for r in repeats) - 1
        for repeats in by_step.values()
        if len(repeats) >= LEAST_REPEATS
        for m in repeats
    ]
    noise = 1.4826 * median(abs(share) for share in apart) if apart else GUESSED_SPREAD
    variances = [noise**2 / len(repeats) + FORM_ERROR**2 for repeats in by_step.values()]
    return typical(measurements), tuple(min(variances) / v for v in variances)


def typical(measurements: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """One measurement per step: the median of its repeats."""
    return tuple(
        replace(
            step,
            seconds=median(m.seconds for m in repeats),
            context=round(sum(m.context for m in repeats) / len(repeats)),
        )
        for step, repeats in _by_step(measurements).items()
    )


def _by_step(measurements: Sequence[Measurement]) -> dict[Measurement, list[Measurement]]:
    found: dict[Measurement, list[Measurement]] = defaultdict(list)
    for m in measurements:
        found[_step_key(m)].append(m)
    return found


def spreads(measurements: Sequence[Measurement], times: StepTimes) -> dict[str, float]:
    """Relative standard deviation of one measurement of each kind, from its median residual.

    A fit to few points looks better than it is, so GUESSED_SPREAD counts as GUESS_WEIGHT points.
    """
    sizes: dict[str, list[float]] = defaultdict(list)
    for m in measurements:
        sizes[m.kind].append(abs(predicted_s(times, m) / m.seconds - 1))
    return {kind: _spread(values) for kind, values in sizes.items()}


def _spread(sizes: Sequence[float]) -> float:
    seen, guessed = (1.4826 * median(sizes)) ** 2, GUESSED_SPREAD**2
    total = len(sizes) + GUESS_WEIGHT
    return float(((len(sizes) * seen + GUESS_WEIGHT * guessed) / total) ** 0.5)


def disagreements(
    measurements: Sequence[Measurement], fit: Fit, *, are_probes: bool = True
) -> tuple[Disagreement, ...]:
    """Steps whose median residual exceeds MAX_RESIDUAL, worst first.

    A step whose repeats scatter widely must be off by more than they scatter. Skips steps with
    fewer than LEAST_REPEATS repeats, which may be outliers. If the left-out error exceeds
    MAX_LEFT_OUT_ERROR, returns the worst five steps. are_probes: False for steps of engines at
    work, where some are misread; then only the left-out error counts.
    """
    by_step: dict[Measurement, list[float]] = defaultdict(list)
    for m, residual in zip(measurements, fit.residuals, strict=True):
        by_step[_step_key(m)].append(residual)
    all_of_them = sorted(
        (
            (Disagreement(step, median(r)), 2 * _spread([abs(one - median(r)) for one in r]))
            for step, r in by_step.items()
            if len(r) >= LEAST_REPEATS or not are_probes
        ),
        key=lambda pair: -abs(pair[0].residual),
    )
    if fit.left_out_error > MAX_LEFT_OUT_ERROR:
        return tuple(one for one, _ in all_of_them[:5])
    return tuple(
        one
        for one, covered in all_of_them
        if are_probes and abs(one.residual) > max(MAX_RESIDUAL, covered)
    )


def _step_key(m: Measurement) -> Measurement:
    """A key that is equal for repeats of one step, whose context differs by a few tokens."""
    context = round(m.context / m.batch, -1) if m.batch else 0
    return replace(m, seconds=0.0, context=int(context) * m.batch)
