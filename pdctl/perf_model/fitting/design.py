"""Choose the step to measure next: the one that tells most, per second, about the least certain.

Pure. Each measurement of a step informs about the step's coefficients, and so about all steps that
share them. With the logarithms of coefficients as unknowns, a step's row holds its elasticities,
and the relative variance of a predicted time is x'(X'WX)^-1 x.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pdctl.perf_model.fitting.fit import OPTIONAL, PRIOR, REQUIRED, predicted_s
from pdctl.perf_model.fitting.identify import GUESSED_SPREAD
from pdctl.perf_model.fitting.least_squares import dot
from pdctl.perf_model.records import Measurement, StepTimes
from pdctl.perf_model.simulator.scheduling import MAX_PREFILL_TOKENS

LEAST_SPREAD = 0.003  # relative noise of HTTP and clocks, even if steps do not vary
DECODE_CONTEXT = 32768  # longest context of one request that is worth filling
MAX_DECODE_TOKENS = 400_000  # total context that a decode probe prefills first
DECODE_STEPS = 48  # steps of one probe; its requests start within as many steps before
RELATIVE_STEP = 1e-4

Elasticities = tuple[float, ...]
ProbeCost = Callable[[Measurement], float]


@dataclass(frozen=True)
class EngineLimits:
    """Limits on requests to one engine. chunk: new tokens of one prefill step.

    chunk and kv_tokens are those of one attention-DP rank, on which a request lives.
    """

    chunk: int
    max_running: int
    kv_tokens: int
    max_context: int
    prefix_cache: bool = True
    mixed_chunk: bool = False
    batches: bool = True  # several prompts can enter one prefill step
    counted: bool = True  # the engine counts its step times; otherwise the client times them
    eager: bool = False  # prefill runs without CUDA graphs
    reserved: int = 0  # KV tokens that a decode engine reserves for each request


@dataclass(frozen=True)
class NextStep:
    """The steps to measure next, best first, and the uncertainty of the least certain one.

    uncertainty: relative standard deviation of its predicted time. steps: empty once that is
    within the tolerance.
    """

    steps: tuple[Measurement, ...]
    uncertainty: float
    least_certain: Measurement


def prefill_grid(limits: EngineLimits) -> tuple[Measurement, ...]:
    """Prefill steps to measure: (new, cached) tokens by batch. seconds: 0 until measured.

    No prompt needs more than one step.
    """
    room = min(limits.max_context - 8, int(0.9 * limits.kv_tokens))
    top = min(limits.chunk, MAX_PREFILL_TOKENS, room)
    sizes = sorted({n for n in _doubling(16, top) if n <= top} | {top})
    stems = _doubling(256, 32768) if limits.prefix_cache else []
    alone = [(n, 0) for n in sizes]
    after = [(n, c) for n in sizes for c in stems if 64 <= n <= 4096 and n + c <= min(room, 40960)]
    together = [
        replace(_prefill(n, counted=True), batch=b, eager=limits.eager)
        for b in (4, 16)
        for n in sizes
        if limits.batches and 1024 <= b * n <= top and n >= 64 and b <= limits.max_running
    ]
    single = (_prefill(n, c, counted=limits.counted) for n, c in (*alone, *after))
    return (*(replace(one, eager=limits.eager) for one in single), *together)


def stall_grid(limits: EngineLimits) -> tuple[Measurement, ...]:
    """Prefills of one prompt that delay running decodes, and the times to answer such prompts."""
    top = min(limits.chunk, MAX_PREFILL_TOKENS, limits.max_context - 8, int(0.5 * limits.kv_tokens))
    sizes = [n for n in (128, 1024, 4096, 8192) if n <= top]
    stalls = [Measurement("stall", 0.0, new_tokens=n, context=64) for n in sizes]
    if limits.counted:  # then request overhead comes from counters too
        return tuple(stalls)
    return (*stalls, *(Measurement("answer", 0.0, new_tokens=n, context=64) for n in sizes))


def decode_grid(limits: EngineLimits) -> tuple[Measurement, ...]:
    """Decode steps to measure: batch by context. seconds: 0 until measured."""
    extra = max(5 * DECODE_STEPS, limits.reserved)
    longest = min(limits.max_context - 8, int(0.9 * limits.kv_tokens)) - extra
    batches = [b for b in (1, 2, 4, 8, 16, 32, 64, 128, 256) if b <= limits.max_running]
    contexts = [c for c in _doubling(64, DECODE_CONTEXT) if c <= longest]
    if contexts and 1.25 * contexts[-1] < longest < DECODE_CONTEXT:
        contexts.append(longest)  # real loads reach this context; extrapolating to it is risky
    most = min(MAX_DECODE_TOKENS, int(0.85 * limits.kv_tokens))
    return tuple(
        Measurement("decode", 0.0, batch=b, context=b * c)
        for b in batches
        for c in contexts
        if b * (c + extra) <= most
    )


def mixed_grid(limits: EngineLimits) -> tuple[Measurement, ...]:
    """Prefill steps that carry decode rows. None unless the engine mixes chunks."""
    if not limits.mixed_chunk:
        return ()
    pairs = [(b, n) for b in (4, 32) for n in (256, 2048)]
    return tuple(
        Measurement("mixed", 0.0, batch=b, new_tokens=n, context=b * 512)
        for b, n in pairs
        if b <= limits.max_running and n + b <= limits.chunk and b * 1024 + n < limits.kv_tokens
    )


def transfer_grid(limits: EngineLimits) -> tuple[Measurement, ...]:
    """KV transfers of prompts that fit one prefill step."""
    top = min(limits.chunk, limits.max_context - 8, int(0.8 * limits.kv_tokens))
    sizes = sorted({n for n in _doubling(64, 8192) if n <= top} | {top})
    return tuple(Measurement("transfer", 0.0, new_tokens=n) for n in sizes)


def seeds(grid: Sequence[Measurement]) -> tuple[Measurement, ...]:
    """A few steps of each kind that span the grid: enough for a first fit."""
    corners: dict[Measurement, None] = {}
    for kind in dict.fromkeys(m.kind for m in grid):
        of_kind = [m for m in grid if m.kind == kind]
        for key in _CORNERS[kind]:
            corners[max(of_kind, key=key)] = None
    return tuple(corners)


def coefficients(grid: Sequence[Measurement], times: StepTimes) -> tuple[str, ...]:
    """The StepTimes fields that determine the steps of a grid."""
    kinds = {m.kind for m in grid}
    names = [n for kind in REQUIRED if kind in kinds for n in (*REQUIRED[kind], *OPTIONAL[kind])]
    return tuple(n for n in dict.fromkeys(names) if getattr(times, n) > 0)


def choose_steps(
    grid: Sequence[Measurement],
    taken: Sequence[Measurement],
    times: StepTimes,
    *,
    spreads: Mapping[str, float],
    cost_s: ProbeCost,
    tolerance: float,
    count: int = 6,
) -> NextStep:
    """Choose the steps of `grid` to measure next, given those `taken`.

    times: fitted so far. spreads: relative standard deviation of one measurement, by kind.
    cost_s: seconds to measure a step. Each chosen step removes most variance, per second, from
    the step whose predicted time is then least certain.
    Source: sequential G-optimal design (Kiefer and Wolfowitz, 1960), greedy per cost. The prior
    is that a coefficient is within a factor of exp(PRIOR) of its roofline value.
    Ignores: errors of the formula itself, which residuals show.
    """
    names = coefficients(grid, times)
    rows = {m: elasticities(times, names, m) for m in grid}
    variances = {m: max(spreads.get(m.kind, GUESSED_SPREAD), LEAST_SPREAD) ** 2 for m in grid}
    known = _Covariance(len(names))
    for m in taken:
        spread = max(spreads.get(m.kind, GUESSED_SPREAD), LEAST_SPREAD)
        known.learn(elasticities(times, names, m), spread**2)
    worst, uncertainty = _least_certain(rows, known)
    steps: list[Measurement] = []
    at, now = worst, uncertainty
    while len(steps) < count and now > tolerance:
        best = _most_telling(rows, variances, known, rows[at], cost_s)
        steps.append(best)
        known.learn(rows[best], variances[best])
        at, now = _least_certain(rows, known)
    return NextStep(tuple(steps), uncertainty, worst)


def elasticities(times: StepTimes, names: Sequence[str], m: Measurement) -> Elasticities:
    """For each coefficient, the percentage by which the time grows if it grows by one percent."""
    here = predicted_s(times, m)
    moved = (replace(times, **{n: getattr(times, n) * (1 + RELATIVE_STEP)}) for n in names)
    return tuple((predicted_s(one, m) / here - 1) / RELATIVE_STEP for one in moved)


class _Covariance:
    """Covariance of the logarithms of coefficients, (X'WX)^-1, updated by each measurement."""

    def __init__(self, count: int) -> None:
        self._rows = [[PRIOR**2 * (i == j) for j in range(count)] for i in range(count)]

    def times(self, row: Elasticities) -> Elasticities:
        return tuple(dot(line, row) for line in self._rows)

    def learn(self, row: Elasticities, variance: float) -> None:
        """Add a measurement with this row and variance (Sherman-Morrison update)."""
        reach = self.times(row)
        total = variance + dot(row, reach)
        for i, line in enumerate(self._rows):
            share = reach[i] / total
            self._rows[i] = [a - share * b for a, b in zip(line, reach, strict=True)]


def _least_certain(
    rows: Mapping[Measurement, Elasticities], known: _Covariance
) -> tuple[Measurement, float]:
    variances = {m: dot(row, known.times(row)) for m, row in rows.items()}
    worst = max(variances, key=lambda m: variances[m])
    return worst, max(variances[worst], 0.0) ** 0.5


def _most_telling(
    rows: Mapping[Measurement, Elasticities],
    variances: Mapping[Measurement, float],
    known: _Covariance,
    target: Elasticities,
    cost_s: ProbeCost,
) -> Measurement:
    """The step c that lowers most, per second, the variance of t: (t'Ac)² / (own + c'Ac).

    A is the covariance so far, own the variance of measuring c.
    """
    reach = known.times(target)

    def gain(m: Measurement) -> float:
        own = dot(rows[m], known.times(rows[m]))
        return dot(rows[m], reach) ** 2 / (variances[m] + own) / cost_s(m)

    return max(rows, key=gain)


def _doubling(low: int, high: int) -> list[int]:
    sizes = []
    while low <= high:
        sizes.append(low)
        low *= 2
    return sizes


def _prefill(new: int, cached: int = 0, *, counted: bool) -> Measurement:
    return Measurement("prefill", 0.0, new_tokens=new, cached_tokens=cached, counted=counted)


def _middle(value: float, middle: float) -> float:
    return -abs(value - middle)


# for each kind of step, orderings whose largest step is a corner of the grid
_CORNERS: Mapping[str, tuple[Callable[[Measurement], tuple[float, ...]], ...]] = {
    "prefill": (
        lambda m: (-m.new_tokens, -m.cached_tokens, -m.batch),
        lambda m: (-m.cached_tokens, -m.batch, _middle(m.new_tokens, 512)),
        lambda m: (-m.cached_tokens, -m.batch, _middle(m.new_tokens, 2048)),
        lambda m: (-m.cached_tokens, -m.batch, m.new_tokens),
        lambda m: (m.cached_tokens, -m.new_tokens),
        lambda m: (m.cached_tokens, _middle(m.new_tokens, 1024)),
        lambda m: (m.batch, m.new_tokens),
    ),
    "stall": (
        lambda m: (m.new_tokens,),
        lambda m: (-m.new_tokens,),
        lambda m: (_middle(m.new_tokens, 1024),),
    ),
    "answer": (
        lambda m: (m.new_tokens,),
        lambda m: (-m.new_tokens,),
        lambda m: (_middle(m.new_tokens, 1024),),
    ),
    "decode": (
        lambda m: (-m.batch, -m.context),
        lambda m: (-m.batch, _middle(m.context, 4096)),
        lambda m: (-m.batch, m.context),
        lambda m: (_middle(m.batch, 16), -m.context),
        lambda m: (_middle(m.batch, 16), _middle(m.context, 16 * 2048)),
        lambda m: (_middle(m.batch, 4), _middle(m.context, 4 * 1024)),
        lambda m: (_middle(m.batch, 8), _middle(m.context, 8 * 4096)),
        lambda m: (m.batch, -m.context),
        lambda m: (m.batch, m.context),
    ),
    "mixed": (
        lambda m: (m.batch, m.new_tokens),
        lambda m: (-m.batch, -m.new_tokens),
    ),
    "transfer": (
        lambda m: (m.new_tokens,),
        lambda m: (-m.new_tokens,),
        lambda m: (_middle(m.new_tokens, 1024),),
    ),
}
