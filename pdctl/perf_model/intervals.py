"""The likely error of a predicted figure, from residuals of measured runs."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from pdctl.inspection.layers import mixers_of
from pdctl.inspection.records import Llm
from pdctl.perf_model.hardware import generation
from pdctl.perf_model.records import StepTimes
from pdctl.perf_model.residuals import (
    FARTHEST,
    FEW_RUNNING,
    FIGURES,
    Figure,
    Kind,
    Region,
    Residual,
    known_residuals,
    own_residuals,
)
from pdctl.perf_model.simulator.steps import pairs, prefill_floor_s, prefill_s

COVERAGE = 0.90
# Times as wide for a kind of model or a generation of NVIDIA's that no run has. Measured: with each
# of them left out, intervals cover 92 to 96 %, and without widening 86 to 92 % (docs/accuracy.md).
UNSEEN = 1.2
UNSEEN_MAKER = 1.7  # for GPUs of another maker and engines across hosts; assumed
OTHER_MAKERS = frozenset(("cdna", "cdna4", "other"))
ACROSS_HOSTS_SIZE = math.log(2)  # the one public run takes 1.84 times as long as predicted
LEAST_SIZE = 0.05  # rates are found on rungs 2.5 % apart; users have other hosts and releases
ASSUMED_SIZE = math.log(2)  # where no run is known at all
LEAST_MACHINES = 3  # of a group; fewer say what those are like, not what the next one is
LEAST_RESIDUALS = 20
ENOUGH_OWN = 9  # runs whose largest residual the next one exceeds one time in ten
# Times as long as expected a host takes to launch a kernel: hosts with the same GPUs launched the
# same steps in 13 to 32 ms, and one pair answered the same load in 36 and in 57 ms. A core whose
# hyperthread sibling is busy launches 1.38 times as slowly (docs/log.md).
SLOW_HOST = 2.0
SLOW_MINUTE = 1.6
# Kinds whose prefill runs on kernels tuned for their shapes: no experts, or those of DeepSeek's and
# GLM's latent models. The others have experts on untuned kernels, or linear attention.
TUNED_KINDS: tuple[Kind, ...] = ("dense", "mla", "sparse")


@dataclass(frozen=True)
class Case:
    """The subject of a prediction, as far as its error depends on it.

    gpu: its name. fitted: with a profile; relative: of another model. closed: of a closed loop of
    clients. region: None: any load. fit_error: the median left-out error of the profile that is
    used, 0 without one. slow_host: times as long a prompt takes where the host launches kernels as
    slowly as hosts do, 1 where the GPU takes longer than that. llm: its name; simulated: of
    simulated engines. Both choose the user's own runs.
    """

    kind: Kind
    gpu: str
    fitted: bool
    region: Region | None
    spans_hosts: bool = False
    fit_error: float = 0.0
    slow_host: float = 1.0
    llm: str = ""
    simulated: bool = False
    relative: bool = False
    closed: bool = False

    @property
    def tuned(self) -> bool:
        """True with a profile of this model, GPU and number format."""
        return self.fitted and not self.relative


@dataclass(frozen=True)
class ErrorInterval:
    """Factors on a predicted figure between which COVERAGE of the measured ones lie.

    basis: which runs say so. num_residuals, num_configurations: how many; 0: the interval is
    assumed.
    """

    low: float
    high: float
    basis: str
    num_residuals: int
    num_configurations: int

    @property
    def half_width(self) -> float:
        """Relative half-width: 0.25 for ±25 %."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Errors:
    """The likely errors of a case's figures.

    rate: requests per second that a layout carries. …_ratio: one layout's figure over another's,
    for the same model and GPU. Both rest on the same step times, so that part of the error cancels.
    """

    ttft: ErrorInterval
    tpot: ErrorInterval
    rate: ErrorInterval
    ttft_ratio: ErrorInterval
    tpot_ratio: ErrorInterval
    rate_ratio: ErrorInterval


@cache
def errors_of(case: Case) -> Errors:
    """The intervals of a case, from the bundled residuals and this user's own."""
    known, own = known_residuals(), own_residuals()
    ttft, tpot, rate = (interval(figure, case, known, own) for figure in FIGURES)
    ratios = [ratio_interval(figure, case, known, own) for figure in FIGURES]
    return Errors(ttft, tpot, rate, *ratios)


def interval(
    figure: Figure, case: Case, residuals: Sequence[Residual], own: Sequence[Residual] = ()
) -> ErrorInterval:
    """The interval of one predicted figure, from the narrowest group with enough runs.

    own: the user's own runs, of which those of this model and GPU count.
    Source: split-conformal prediction (Vovk et al.) on the size of residuals; for engines across
    hosts tenstorrent/tt-inference-server issue 356, DeepSeek-R1 on two nodes of H100.
    Ignores: that hosts differ where a group's runs came from one.
    """
    mine = _own_runs(case, own)
    return _with_own(_general(figure, case, residuals), _sizes(figure, mine), mine)


def _general(figure: Figure, case: Case, residuals: Sequence[Residual]) -> ErrorInterval:
    for basis, group in (*_first_tokens(figure, case, residuals), *_groups(case, residuals)):
        known = [(abs(size), r) for r in group if (size := r.of(figure)) is not None]
        if _is_enough(known):
            found = _from_sizes(_widening(case, residuals), case, basis, known)
            return _at_least(found, math.log(case.slow_host)) if figure == "ttft" else found
    return _assumed()


def ratio_interval(
    figure: Figure, case: Case, residuals: Sequence[Residual], own: Sequence[Residual] = ()
) -> ErrorInterval:
    """The interval of the ratio of two layouts' figures, from pairs of runs of one machine.

    For runs a and b of one model on one GPU the ratio's residual is a's less b's: what both have
    in common cancels. Every machine counts alike, whatever its number of pairs. own: as above.
    Ignores: that few of the runs are of splits, whose KV transfer no colocated run has.
    """
    mine = _own_runs(case, own)
    sizes = [size for size, _ in _pairs(figure, mine)]
    found = _with_own(_general_ratio(figure, case, residuals), sizes, mine)
    return _at_least(found, LEAST_SIZE)


def _general_ratio(figure: Figure, case: Case, residuals: Sequence[Residual]) -> ErrorInterval:
    for basis, group in _groups(case, residuals):
        pairs = list(_pairs(figure, group))
        if _is_enough(pairs):
            widening = _widening(case, residuals)
            return _from_sizes(widening, case, f"pairs of {basis}", pairs, alike=True)
    return _assumed()


def _own_runs(case: Case, own: Sequence[Residual]) -> list[Residual]:
    """The user's runs of this model on this GPU: in this load region, else in any."""
    same = [
        r
        for r in own
        if r.machine == f"{case.llm} {case.gpu}"
        and (r.fitted, r.simulated) == (case.fitted, case.simulated)
    ]
    near = [r for r in same if case.region in (None, r.region)]
    return near or same


def _sizes(figure: Figure, runs: Sequence[Residual]) -> list[float]:
    return [abs(size) for r in runs if (size := r.of(figure)) is not None]


def _with_own(
    general: ErrorInterval, sizes: Sequence[float], runs: Sequence[Residual]
) -> ErrorInterval:
    """The interval that the user's own runs make of the one of other runs.

    ENOUGH_OWN of them stand alone: split-conformal, the next run exceeds the largest of nine with
    a chance of one in ten. Fewer pull the interval towards their largest residual, each by a
    ninth, and widen it to that residual where it is larger.
    """
    if not sizes:
        return general
    num, before = min(len(runs), ENOUGH_OWN), math.log(general.high)
    rank = math.ceil(COVERAGE * (len(sizes) + 1)) - 1
    largest = sorted(sizes)[min(rank, len(sizes) - 1)]
    size = max(largest, (num * largest + (ENOUGH_OWN - num) * before) / ENOUGH_OWN)
    basis = f"{len(runs)} own runs"
    if num < ENOUGH_OWN:
        basis += f" and {general.basis}"
    others = 0 if num == ENOUGH_OWN else general.num_residuals
    configurations = len({r.configuration for r in runs}) + (
        general.num_configurations if others else 0
    )
    return ErrorInterval(
        math.exp(-size), math.exp(size), basis, len(sizes) + others, configurations
    )


def _pairs(figure: Figure, group: Sequence[Residual]) -> Iterable[tuple[float, Residual]]:
    """The size of the difference of each two runs of one machine and one load region."""
    machines: dict[tuple[str, Region], list[tuple[float, Residual]]] = defaultdict(list)
    for residual in group:
        size = residual.of(figure)
        if size is not None:
            machines[residual.machine, residual.region].append((size, residual))
    for runs in machines.values():
        yield from ((abs(a - b), one) for (a, one), (b, _) in combinations(runs, 2))


def _is_enough(known: Sequence[tuple[float, Residual]]) -> bool:
    return len(known) >= LEAST_RESIDUALS and len({r.machine for _, r in known}) >= LEAST_MACHINES


def _widening(case: Case, residuals: Sequence[Residual]) -> float:
    """Times as wide as the group's interval, 1 where some run is alike.

    A profile was measured on the GPU itself, so that the generation says nothing more.
    """
    same = _alike(case, residuals)
    gpu = generation(case.gpu)
    is_gpu_seen = case.fitted or gpu in {generation(r.gpu) for r in same}
    if case.spans_hosts or (not is_gpu_seen and gpu in OTHER_MAKERS):
        return UNSEEN_MAKER
    is_kind_seen = case.kind in {r.kind for r in same}
    return 1.0 if is_gpu_seen and is_kind_seen else UNSEEN


def _from_sizes(
    widening: float,
    case: Case,
    basis: str,
    known: Sequence[tuple[float, Residual]],
    *,
    alike: bool = False,
) -> ErrorInterval:
    size = _quantile(known, alike)
    if widening > 1:
        size *= widening
        basis += ", widened: none is alike"
    if case.spans_hosts and not alike:
        size = max(size, ACROSS_HOSTS_SIZE)
    size = min(max(size, 2 * case.fit_error, LEAST_SIZE), FARTHEST)
    configurations = len({r.configuration for _, r in known})
    return ErrorInterval(math.exp(-size), math.exp(size), basis, len(known), configurations)


def _quantile(known: Sequence[tuple[float, Residual]], alike: bool) -> float:
    """The size that COVERAGE of the sizes do not exceed. alike: every machine weighs the same."""
    num: dict[str, int] = defaultdict(int)
    for _, residual in known:
        num[residual.machine] += 1
    weights = sorted((size, 1 / num[r.machine] if alike else 1.0) for size, r in known)
    left = COVERAGE * (sum(weight for _, weight in weights) + (0 if alike else 1))
    for size, weight in weights:
        left -= weight
        if left <= 1e-9:
            return size
    return weights[-1][0]


def _at_least(found: ErrorInterval, size: float) -> ErrorInterval:
    low, high = min(found.low, math.exp(-size)), max(found.high, math.exp(size))
    return ErrorInterval(low, high, found.basis, found.num_residuals, found.num_configurations)


def _assumed() -> ErrorInterval:
    return ErrorInterval(math.exp(-ASSUMED_SIZE), math.exp(ASSUMED_SIZE), "assumed", 0, 0)


def slow_host(times: StepTimes, prompt_tokens: float, *, is_known: bool) -> float:
    """Times as long a prompt's prefill takes where the host launches kernels slowly; at least 1.

    is_known: a profile measured how fast this host launches, which still varies by the minute.
    Source: docs/log.md, 2026-11-26.
    """
    factor = SLOW_MINUTE if is_known else SLOW_HOST
    step_s = prefill_s(times, prompt_tokens, pairs(prompt_tokens))
    return max(1.0, factor * prefill_floor_s(times) / step_s)


def model_kind(llm: Llm) -> Kind:
    """The kind of model whose errors are alike: by mixers first, then by experts."""
    mixers = mixers_of(llm.layers)
    if any(mixer.kind == "state" for mixer in mixers):
        return "hybrid"
    if any(mixer.index_topk for mixer in mixers):
        return "sparse"
    if llm.attention == "mla":
        return "mla"
    return "moe" if llm.experts else "dense"


def _alike(case: Case, residuals: Sequence[Residual]) -> list[Residual]:
    """Runs with a profile of their own model, or without one, as the case is."""
    return [r for r in residuals if r.tuned == case.tuned]


def _groups(case: Case, residuals: Sequence[Residual]) -> Iterable[tuple[str, list[Residual]]]:
    """From the narrower group to the wider.

    The profile of another model says no more than none: collectives, wide products and experts
    are the roofline's, and nothing was measured on this model's shapes.
    """
    said = f"runs {'with' if case.tuned else 'without'} a profile of their model"
    yield from _by_region(said, case.region, _alike(case, residuals))
    if case.tuned:
        fitted = [r for r in residuals if r.fitted]
        yield from _by_region("runs with a profile", case.region, fitted)
    yield "runs with and without a profile", list(residuals)


def _by_region(
    said: str, region: Region | None, runs: list[Residual]
) -> Iterable[tuple[str, list[Residual]]]:
    if region is not None:
        many = f"more than {FEW_RUNNING}" if region == "many" else f"at most {FEW_RUNNING}"
        yield f"{said}, {many} running", [r for r in runs if r.region == region]
    yield said, runs


def _first_tokens(
    figure: Figure, case: Case, residuals: Sequence[Residual]
) -> Iterable[tuple[str, list[Residual]]]:
    """Groups of TTFT: prefill that no launch holds up; arrivals or closed loops; kernels alike.

    In a closed loop most of TTFT may be the wait for other clients.
    """
    if figure != "ttft":
        return
    same = _alike(case, residuals)
    if case.tuned:
        if case.slow_host <= 1:
            said = "runs with a profile of their model, no prefill waiting for launches"
            yield said, [r for r in same if not r.launched]
        return
    arrivals = [r for r in same if not r.closed]
    if not case.closed and _widening(case, arrivals) == 1:
        yield "arrivals without a profile of their model", arrivals
    is_tuned = case.kind in TUNED_KINDS
    said = "dense or latent models" if is_tuned else "models with other experts or linear attention"
    alike = [r for r in same if (r.kind in TUNED_KINDS) == is_tuned]
    if case.closed:
        yield (
            f"closed loops without a profile of their model, {said}",
            [r for r in alike if r.closed],
        )
    yield f"runs without a profile of their model, {said}", alike
