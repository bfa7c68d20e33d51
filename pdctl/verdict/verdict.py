"""The answer of `pdctl plan`: rules as the prior, simulation as the evidence."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

from pdctl.perf_model.profiles import error_band
from pdctl.perf_model.records import Fleet
from pdctl.verdict import words
from pdctl.verdict.capacity import Demand, demand_of, prefill_tokens_per_s, tpot_at
from pdctl.verdict.flips import Point, find_flips, scale_of
from pdctl.verdict.judge import Ruling, Side, judge, roofline_band
from pdctl.verdict.layouts import engines_that_fit, gpu_budget
from pdctl.verdict.picks import Picks, compared_rate, first_picks
from pdctl.verdict.records import Arm, Choice, Flip, Provenance, Question, Rule, Sizing, Verdict
from pdctl.verdict.refusals import does_not_fit, too_long
from pdctl.verdict.rules import Lean, Load, apply_rules, lean
from pdctl.verdict.scores import load_of
from pdctl.verdict.search import Findings, Spread, one_by_one, search
from pdctl.verdict.sizing import quarter, rate_match
from pdctl.verdict.trial import parallelism_of

Progress = Callable[[str], None]


def decide(
    question: Question,
    *,
    spread: Spread = one_by_one,
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
        return does_not_fit(question, _rules(question, Load()))
    if demand is None:
        return _by_rules(question, picks)
    if refusal := too_long(question, engines, demand, _rules(question, Load())):
        return refusal
    rate, asked = compared_rate(question, picks, demand)
    found = search(question, engines, demand, rate, spread=spread, progress=progress, queues=queues)
    if len(found.arms) < 2:
        return _by_feasibility(question, found, demand, asked)
    progress("finding what flips the verdict")
    return _by_evidence(question, found, demand, asked)


def _rules(question: Question, load: Load) -> tuple[Rule, ...]:
    return apply_rules(question.llm, question.cluster, question.workload, load)


def _by_rules(question: Question, picks: Picks) -> Verdict:
    """Lengths are unknown: what the rules lean to, and a quarter of the engines to prefill."""
    rules = _rules(question, Load())
    leaning = lean(rules)
    arms = {name: _unpredicted(f) for name, f in picks.fleets().items()}
    choice = _leant_to(leaning) if "pd" in arms else "colocated"
    sizing = quarter(sum(arms["pd"].num_engines)) if "pd" in arms else None
    return Verdict(
        verdict=choice,
        confidence="low",
        decided_by="rules" if "pd" in arms else "feasibility",
        headline=words.headline(choice, arms),
        rules=rules,
        sizing=sizing,
        arms=arms,
        sweep=(),
        flips=(),
        warnings=("Rules alone: add --isl, --osl and --rate, or --trace, for a prediction.",),
        provenance=_provenance(question),
        starts=(sizing,) if sizing else (),
        reason=words.rules_reason(rules, leaning),
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
        confidence="high",
        decided_by="feasibility",
        headline=words.headline(choice, found.arms),
        rules=_rules(question, load),
        sizing=Sizing(sum(arm.num_engines), None, None, "simulation"),
        arms=found.arms,
        sweep=found.sweep,
        flips=(),
        warnings=tuple(words.warnings(question, found.arms, None if asked else found.rate_rps)),
        provenance=_provenance(question),
        reason=why if choice == "colocated" else "",
        rate_rps=found.rate_rps,
        unmet=words.unmet(question, found.arms, _provenance(question).band),
    )


def _by_evidence(question: Question, found: Findings, demand: Demand, asked: bool) -> Verdict:
    arms, fleet = found.arms, found.scored["pd"].fleet
    provenance = _provenance(question)
    rules = _rules(question, _load(question, fleet, demand, found.rate_rps))
    leaning = lean(rules)
    ruling = judge(
        leaning,
        _side(arms["colocated"]),
        _side(arms["pd"]),
        rate_rps=found.rate_rps if asked else None,
        has_slo=question.slo.is_given,
        band=provenance.band,
    )
    unmet = words.unmet(question, arms, provenance.band)
    prefill, decode = arms["pd"].num_engines
    split = ruling.choice != "colocated"
    total = prefill + decode if split else sum(arms["colocated"].num_engines)
    return Verdict(
        verdict=ruling.choice,
        confidence=ruling.confidence,
        decided_by=ruling.decided_by,
        headline=words.headline(ruling.choice, arms),
        rules=rules,
        sizing=Sizing(total, prefill if split else None, decode if split else None, "simulation"),
        arms=arms,
        sweep=found.sweep,
        flips=() if unmet else _flips(question, found, ruling, asked, provenance.band),
        warnings=(
            *words.disagreement(rules, leaning, ruling),
            *words.warnings(question, arms, None if asked else found.rate_rps),
        ),
        provenance=provenance,
        starts=tuple(_starts(fleet, demand, found.rate_rps)),
        reason=words.reason(ruling, arms, question, found.rate_rps),
        rate_rps=found.rate_rps,
        unmet=unmet,
        settle=words.measure_command(question, arms["pd"]) if ruling.choice == "too_close" else "",
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


def _load(question: Question, fleet: Fleet, demand: Demand, rate_rps: float) -> Load:
    prefill, decode = fleet.prefill or fleet.colocated, fleet.decode or fleet.colocated
    assert prefill is not None
    assert decode is not None
    num = fleet.num_decode or fleet.num_colocated
    load = load_of(prefill, decode, num, demand, rate_rps)
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
    }
