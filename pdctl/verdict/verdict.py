"""The answer of `pdctl plan`: rules as the prior, simulation as the evidence."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

from pdctl.perf_model.engine_model import does_not_fit_reason
from pdctl.perf_model.fitting.profiles import error_band
from pdctl.perf_model.records import Fleet, Parallelism
from pdctl.units import format_count
from pdctl.verdict import sentences
from pdctl.verdict.closed_form import (
    Demand,
    demand_of,
    load_estimate,
    prefill_tokens_per_s,
    tpot_at,
)
from pdctl.verdict.closed_loop import clients_of, judge_clients, load_text
from pdctl.verdict.judge import (
    Point,
    Ruling,
    Side,
    find_flips,
    judge,
    roofline_band,
    scale_of,
    sure,
)
from pdctl.verdict.layouts import Engines, engines_that_fit, gpu_budget, shapes
from pdctl.verdict.records import Arm, Choice, Flip, Provenance, Question, Rule, Sizing, Verdict
from pdctl.verdict.rules import Lean, LoadEstimate, apply_rules, lean, quarter, rate_match
from pdctl.verdict.search import (
    Findings,
    ParallelMap,
    Picks,
    compared_rate,
    first_picks,
    one_by_one,
    search,
)
from pdctl.verdict.trials import parallelism_of

MOST_GPUS_LOG2 = 8  # up to 128 GPUs are tried


def does_not_fit(question: Question, rules: tuple[Rule, ...]) -> Verdict:
    """No engine of any size fits these GPUs."""
    tried = [question.parallelism[r] for r in ("colocated",) if r in question.parallelism]
    tried = tried or list(shapes(question, "colocated"))[-1:] or [Parallelism()]
    reason = does_not_fit_reason(question.llm, question.cluster, tried[0], "colocated")
    why = f"{question.llm.name} does not fit on {_gpus(question)}: {reason}."
    return replace(_refusal(question, rules, why), settle=_where_it_fits(question))


def _where_it_fits(question: Question) -> str:
    """The plan for the fewest of these GPUs, in powers of two, that hold the model."""
    model = question.llm.path or question.llm.name
    gpu = question.cluster.gpu.name
    free = replace(question, total=None, parallelism={})
    for gpus in (2**n for n in range(MOST_GPUS_LOG2)):
        nodes, each = max(1, gpus // 8), min(gpus, 8)
        cluster = replace(question.cluster, num_nodes=nodes, gpus_per_node=each)
        if engines_that_fit(replace(free, cluster=cluster)).colocated:
            return f"pdctl plan {model} --gpus {nodes}x{each}x{gpu}"
    return ""


def too_long(
    question: Question, engines: Engines, demand: Demand, rules: tuple[Rule, ...]
) -> Verdict | None:
    """A refusal where even the mean request exceeds the context or every engine's KV cache."""
    need = demand.isl + demand.osl
    context = question.llm.max_context
    if context is not None and need > context:
        asked = f"{format_count(round(demand.isl))} prompt and {format_count(round(demand.osl))}"
        return _refusal(
            question,
            rules,
            f"Requests of {asked} output tokens exceed the {format_count(context)} tokens of "
            f"context of {question.llm.name}.",
        )
    everyone = (*engines.colocated, *engines.prefill, *engines.decode)
    room = max((engine.kv_capacity_tokens for engine in everyone), default=0)
    if need > room:
        return _refusal(
            question,
            rules,
            f"A request of {format_count(round(need))} tokens exceeds the KV cache of the largest "
            f"engine, {format_count(room)} tokens.",
        )
    return None


def _refusal(question: Question, rules: tuple[Rule, ...], why: str) -> Verdict:
    return Verdict(
        verdict="too_close",
        confidence=sure(question.llm, "high"),
        decided_by="feasibility",
        headline="No layout can run this",
        rules=rules,
        sizing=None,
        arms={},
        sweep=(),
        flips=(),
        warnings=(),
        provenance=Provenance("roofline", None, roofline_band(question.cluster.gpu.name)),
        reason=why,
        unmet=why,
    )


def _gpus(question: Question) -> str:
    cluster = question.cluster
    return f"{cluster.num_gpus} × {cluster.gpu.name}"


Progress = Callable[[str], None]


def decide(
    question: Question,
    *,
    spread: ParallelMap = one_by_one,
    progress: Progress = lambda _: None,
    queues: bool = False,
) -> Verdict:
    """Should prefill and decode be split, into how many engines, and why?

    Without lengths the rules alone answer. spread: how simulations run over processes.
    queues: keep queue lengths over time with the arms.
    Raises InvalidInput when the engines asked for need more GPUs than there are.
    """
    gpu_budget(question)
    engines = engines_that_fit(question)
    demand = demand_of(question.workload)
    picks = first_picks(question, engines, demand)
    if picks.colocated is None and picks.pd is None:
        return does_not_fit(question, _rules(question, LoadEstimate()))
    if demand is None:
        return _by_rules(question, picks)
    if refusal := too_long(question, engines, demand, _rules(question, LoadEstimate())):
        return refusal
    rate, asked = compared_rate(question, picks, demand)
    found = search(question, engines, demand, rate, spread=spread, progress=progress, queues=queues)
    if len(found.arms) < 2:
        return _by_feasibility(question, found, demand, asked)
    progress("finding what flips the verdict")
    return _by_evidence(question, found, demand, asked)


def _rules(question: Question, load: LoadEstimate) -> tuple[Rule, ...]:
    return apply_rules(question.llm, question.cluster, question.workload, load)


def _by_rules(question: Question, picks: Picks) -> Verdict:
    """Lengths are unknown: what the rules lean to, and a quarter of the engines to prefill."""
    rules = _rules(question, LoadEstimate())
    leaning = lean(rules)
    arms = {name: _unpredicted(f) for name, f in picks.fleets().items()}
    choice = _leant_to(leaning) if "pd" in arms else "colocated"
    sizing = quarter(sum(arms["pd"].num_engines)) if "pd" in arms else None
    return Verdict(
        verdict=choice,
        confidence="low",
        decided_by="rules" if "pd" in arms else "feasibility",
        headline=sentences.headline(choice, arms),
        rules=rules,
        sizing=sizing,
        arms=arms,
        sweep=(),
        flips=(),
        warnings=("Rules alone: add --isl, --osl and --rate, or --trace, for a prediction.",),
        provenance=_provenance(question),
        starts=(sizing,) if sizing else (),
        reason=sentences.rules_reason(rules, leaning),
    )


def _leant_to(leaning: Lean) -> Choice:
    if leaning == "mixed":
        return "too_close"
    return leaning


def _by_feasibility(question: Question, found: Findings, demand: Demand, asked: bool) -> Verdict:
    """Only one arm can be built; mostly because there are GPUs for one engine only."""
    (name, arm), *_ = found.arms.items()
    choice: Choice = "pd" if name == "pd" else "colocated"
    load = _load(question, found.scored[name].fleet, demand, found.rate_rps)
    why = "A split needs at least two engines; these GPUs hold one."
    return Verdict(
        verdict=choice,
        confidence=sure(question.llm, "high"),
        decided_by="feasibility",
        headline=sentences.headline(choice, found.arms),
        rules=_rules(question, load),
        sizing=Sizing(sum(arm.num_engines), None, None, "simulation"),
        arms=found.arms,
        sweep=found.sweep,
        flips=(),
        warnings=tuple(sentences.warnings(question, found.arms, None if asked else found.rate_rps)),
        provenance=_provenance(question),
        reason=why if choice == "colocated" else "",
        rate_rps=found.rate_rps if clients_of(question) is None else None,
        clients=clients_of(question),
        unmet=sentences.unmet(question, found.arms, _provenance(question).band),
    )


def _by_evidence(question: Question, found: Findings, demand: Demand, asked: bool) -> Verdict:
    arms, fleet = found.arms, found.scored["pd"].fleet
    provenance = _provenance(question)
    rules = _rules(question, _load(question, fleet, demand, found.rate_rps))
    leaning = lean(rules)
    clients = clients_of(question)
    ruling = _ruling(question, found, leaning, asked)
    unmet = sentences.unmet(question, arms, provenance.band)
    prefill, decode = arms["pd"].num_engines
    split = ruling.choice != "colocated"
    total = prefill + decode if split else sum(arms["colocated"].num_engines)
    return Verdict(
        verdict=ruling.choice,
        confidence=sure(question.llm, ruling.confidence),
        decided_by=ruling.decided_by,
        headline=sentences.headline(ruling.choice, arms),
        rules=rules,
        sizing=Sizing(total, prefill if split else None, decode if split else None, "simulation"),
        arms=arms,
        sweep=found.sweep,
        flips=()
        if unmet or clients is not None
        else _flips(question, found, ruling, asked, provenance.band),
        warnings=(
            *sentences.disagreement(rules, leaning, ruling),
            *sentences.warnings(question, arms, None if asked else found.rate_rps),
        ),
        provenance=provenance,
        starts=tuple(_starts(fleet, demand, found.rate_rps)),
        reason=sentences.reason(ruling, arms, question, found.rate_rps),
        rate_rps=found.rate_rps if clients is None else None,
        clients=clients,
        unmet=unmet,
        settle=sentences.measure_command(question, arms["pd"])
        if ruling.choice == "too_close"
        else "",
    )


def _ruling(question: Question, found: Findings, leaning: Lean, asked: bool) -> Ruling:
    band, arms = _provenance(question).band, found.arms
    if clients_of(question) is not None:
        return judge_clients(leaning, arms, question.slo, band)
    return judge(
        leaning,
        _side(arms["colocated"]),
        _side(arms["pd"]),
        rate_rps=found.rate_rps if asked else None,
        has_slo=question.slo.is_given,
        band=band,
    )


def _flips(
    question: Question, found: Findings, ruling: Ruling, asked: bool, band: float
) -> tuple[Flip, ...]:
    scored = found.scored
    point = Point(
        question,
        scored["colocated"].fleet,
        scored["pd"].fleet,
        found.rate_rps if asked else None,
        band,
        {name: scale_of(found.arms[name], scored[name]) for name in scored},
        found.knee_scales,
        _kv_known(question),
    )
    return find_flips(point, ruling.choice)


def _starts(fleet: Fleet, demand: Demand, rate_rps: float) -> Iterator[Sizing]:
    """The sizings by rule that the simulated one is compared with."""
    assert fleet.prefill is not None
    assert fleet.decode is not None
    total = fleet.num_prefill + fleet.num_decode
    batch = min(64.0, fleet.decode.max_running_requests)
    yield quarter(total)
    yield rate_match(
        total,
        rate_rps=rate_rps,
        uncached_prompt_tokens=demand.fresh,
        prefill_tokens_per_s=prefill_tokens_per_s(fleet.prefill, demand),
        output_tokens=demand.osl,
        decode_tokens_per_s=batch / tpot_at(fleet.decode, demand, batch),
    )


def _load(question: Question, fleet: Fleet, demand: Demand, rate_rps: float) -> LoadEstimate:
    prefill, decode = fleet.prefill or fleet.colocated, fleet.decode or fleet.colocated
    assert prefill is not None
    assert decode is not None
    num = fleet.num_decode or fleet.num_colocated
    load = load_estimate(prefill, decode, num, demand, rate_rps)
    return load if _kv_known(question) else replace(load, kv_move_s=None)


def _kv_known(question: Question) -> bool:
    return question.cluster.num_nodes == 1 or question.cluster.rdma_bytes_per_s is not None


def _side(arm: Arm) -> Side:
    return Side(
        knee_rps=arm.knee_rps or 0.0,
        ttft_s=arm.ttft_s.p90 if arm.ttft_s else None,
        tpot_s=arm.tpot_s.p90 if arm.tpot_s else None,
    )


def _unpredicted(fleet: Fleet) -> Arm:
    return Arm(fleet.layout, fleet.num_gpus, parallelism_of(fleet))


def _provenance(question: Question) -> Provenance:
    profile = question.profile
    if profile is None:
        return Provenance("roofline", None, roofline_band(question.cluster.gpu.name))
    return Provenance("fitted", profile.id, error_band(profile, question.llm))


def verdict_data(verdict: Verdict) -> dict[str, object]:
    """A verdict as `plan --json` prints it."""
    return {
        "verdict": verdict.verdict,
        "confidence": verdict.confidence,
        "decided_by": verdict.decided_by,
        "rules": [asdict(rule) for rule in verdict.rules],
        "sizing": asdict(verdict.sizing) if verdict.sizing else None,
        "arms": {name: arm_data(arm) for name, arm in verdict.arms.items()},
        "sweep": [arm_data(arm) for arm in verdict.sweep],
        "flips": [{"what": f.what, "from": f.from_, "to": f.to, "at": f.at} for f in verdict.flips],
        "warnings": [*([verdict.unmet] if verdict.unmet else []), *verdict.warnings],
        "provenance": asdict(verdict.provenance),
        "clients": verdict.clients,
        "load": None if verdict.clients is None else load_text(verdict.clients),
    }


def arm_data(arm: Arm) -> dict[str, object]:
    """One arm of verdict_data; tp, pp, dp and ep by role where the roles differ."""
    shapes = {role: asdict(shape) for role, shape in arm.parallelism.items()}
    same = len(set(arm.parallelism.values())) == 1
    spread = next(iter(shapes.values())) if same else {}
    if not same:
        spread = {
            key: {role: shape[key] for role, shape in shapes.items()}
            for key in ("tp", "pp", "dp", "ep")
        }
    return {
        "layout": arm.layout,
        "num_gpus": arm.num_gpus,
        **spread,
        "ttft_s": asdict(arm.ttft_s) if arm.ttft_s else None,
        "tpot_s": asdict(arm.tpot_s) if arm.tpot_s else None,
        "goodput_rps": arm.knee_rps if arm.knee_rps is not None else arm.goodput_rps,
        "attainment": arm.attainment,
        "tokens_per_s_per_gpu": arm.tokens_per_s_per_gpu,
        "kv_usage": arm.kv_usage,
        "infeasible": arm.infeasible,
        "throughput_rps": arm.throughput_rps,
        "steady": asdict(arm.steady) if arm.steady else None,
    }
