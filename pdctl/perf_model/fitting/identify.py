"""A fit of what measurements identify; the rest keeps its roofline. And whether to believe it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from pdctl.errors import InvalidInput
from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.fitting.fit import OPTIONAL, REQUIRED, fit, predicted_s
from pdctl.perf_model.fitting.profiles import calibrated_profile
from pdctl.perf_model.records import Fit, Measurement, Parallelism, Profile, StepTimes
from pdctl.perf_model.roofline import step_times


def profile_from(
    measurements: Sequence[Measurement],
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    *,
    engine: str,
    attention_backend: str,
    date: str,
    command: str,
    prefill_graphs: bool = True,
) -> Profile:
    """The profile of what was measured on one engine of this shape.

    date: ISO day. command: how to measure it again. Raises as fit() does.
    """
    roofline = step_times(
        llm,
        cluster,
        parallelism,
        "colocated",
        attention_backend=attention_backend,
        prefill_graphs=prefill_graphs,
    )
    return calibrated_profile(
        measurements,
        fit(measurements, roofline),
        roofline,
        llm,
        gpu=cluster.gpu.name,
        parallelism=parallelism,
        engine=engine,
        attention_backend=attention_backend,
        date=date,
        command=command,
    )


GUESSED_SPREAD = 0.03  # of one measurement, before there are any
GUESS_WEIGHT = 10
FORM = 0.01  # a fitted step is off by this much on GPUs where nothing is noisy
# a step takes at least the first two, whatever the rest; the last is no time
UNSCALED = ("eager_s", "decode_compute_s", "prefill_cached_weight")
BASES = {
    "prefill": "prefill_base_s",
    "decode": "decode_base_s",
    "transfer": "transfer_base_s",
}  # what a step of each kind takes at least
FAR = 2.5  # the roofline's own error is never this large on hardware it knows
MAX_RESIDUAL = 0.25  # of the median over repeats of one step
LEAST_REPEATS = 3
MAX_LEFT_OUT_ERROR = 0.15


@dataclass(frozen=True)
class Disagreement:
    """A measured step that the fit does not reproduce. residual: the median of its repeats."""

    step: Measurement
    residual: float


def fit_identified(
    measurements: Sequence[Measurement],
    roofline: StepTimes,
    *,
    wanted: Sequence[str] | None = None,
) -> tuple[Fit | None, tuple[str, ...]]:
    """The fit, and what these kinds of step should tell and do not here: that stays at roofline.

    wanted: the coefficients to fit at all. None: not one coefficient is identified.
    """
    steps, weights = weighted(measurements)
    kinds = {m.kind for m in measurements}
    told = [n for kind in REQUIRED if kind in kinds for n in (*REQUIRED[kind], *OPTIONAL[kind])]
    told = [n for n in dict.fromkeys(told) if getattr(roofline, n) > 0]
    names = [n for n in told if wanted is None or n in wanted]
    scales = _scales(measurements, roofline, told)
    near = applied(roofline, scales)
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
        fitted = applied(roofline, factors)
        residuals = tuple(predicted_s(fitted, m) / m.seconds - 1 for m in measurements)
        found = replace(found, factors=factors, residuals=residuals)
    known = found.factors if found else {}
    required = {n for kind in kinds for n in REQUIRED[kind]}
    return found, tuple(n for n in told if n in required and n not in known)


def _scales(
    measurements: Sequence[Measurement], roofline: StepTimes, names: Sequence[str]
) -> dict[str, float]:
    """By how much to scale coefficients before a fit, where the roofline is of another world.

    The prior of a fit is about the roofline's size; on a CPU that is off by orders of magnitude,
    and by others for what a step costs at least than for what each token adds.
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
        short_s = low.seconds - predicted_s(applied(roofline, scales), low)
        if base in names and short_s > low.seconds / 2:
            scales[base] = scales.get(base, 1.0) + short_s / getattr(roofline, base)
    return scales


def applied(times: StepTimes, factors: Mapping[str, float]) -> StepTimes:
    """Roofline times with factors on them."""
    return replace(times, **{n: getattr(times, n) * f for n, f in factors.items()})


def weighted(
    measurements: Sequence[Measurement],
) -> tuple[tuple[Measurement, ...], tuple[float, ...]]:
    """One measurement per step, and what each counts: repeats help until FORM limits it.

    The variance of a step's typical time is that of its repeats over their number, and FORM², by
    which step times are not of the form that is fitted, however often one step is repeated.
    """
    by_step = _by_step(measurements)
    apart = [
        m.seconds / median(r.seconds for r in repeats) - 1
        for repeats in by_step.values()
        if len(repeats) >= LEAST_REPEATS
        for m in repeats
    ]
    noise = 1.4826 * median(abs(share) for share in apart) if apart else GUESSED_SPREAD
    variances = [noise**2 / len(repeats) + FORM**2 for repeats in by_step.values()]
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
        found[_same(m)].append(m)
    return found


def spreads(measurements: Sequence[Measurement], times: StepTimes) -> dict[str, float]:
    """Relative standard deviation of one measurement of each kind, by its median residual.

    A fit runs through few points better than it should, so a guess counts for GUESS_WEIGHT more.
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
    """The steps off by more than MAX_RESIDUAL in the median of their repeats, worst first.

    One whose repeats scatter over twice that range is off only beyond what they cover. One measured
    less than LEAST_REPEATS times may be a slip. Where the left-out error is more than
    MAX_LEFT_OUT_ERROR: the worst five. are_probes: False for steps of engines at work, of which
    some are misread; then only that error counts.
    """
    by_step: dict[Measurement, list[float]] = defaultdict(list)
    for m, residual in zip(measurements, fit.residuals, strict=True):
        by_step[_same(m)].append(residual)
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


def _same(m: Measurement) -> Measurement:
    """What is equal for repeats of one step; their context differs by a few tokens."""
    context = round(m.context / m.batch, -1) if m.batch else 0
    return replace(m, seconds=0.0, context=int(context) * m.batch)
