"""The answer of `pdctl plan`: what the layouts do when simulated, and where the rules point."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Fleet, Role
from pdctl.verdict.client_search import ClientArms, search_for_clients
from pdctl.verdict.closed_form import (
    Demand,
    demand_of,
    load_estimate,
    prefill_tokens_per_s,
    tpot_at,
)
from pdctl.verdict.closed_loop import clients_of, judge_clients
from pdctl.verdict.feasibility import (
    left_out,
    where_it_fits,
    why_not_built,
    why_nothing_fits,
    why_too_long,
)
from pdctl.verdict.flips import Asker, axes_of, find_flip, forecast_of
from pdctl.verdict.judge import (
    by_latency,
    confidence_of,
    provenance_of,
    roofline_band,
    settled_choice,
    sure,
)
from pdctl.verdict.layouts import Engines, engines_that_fit, gpu_budget, state_limits
from pdctl.verdict.records import (
    Arm,
    Choice,
    Flip,
    Floor,
    OneDown,
    Provenance,
    Question,
    Rule,
    Site,
    Sizing,
    Verdict,
    fewest_gpus,
)
from pdctl.verdict.rules import LoadEstimate, apply_rules, lean, quarter, rate_match
from pdctl.verdict.search import (
    LIGHT_USE,
    Contest,
    ParallelMap,
    contest_of,
    fastest_layouts,
    find_capacities,
    first_fleets,
    free_capacities,
    gpus_needed,
    one_by_one,
    site_of,
    sweep_of,
    usual_rate,
    whole_choice,
)
from pdctl.verdict.trials import sample_size, try_layout, unpredicted

Progress = Callable[[str], None]


def decide(
    question: Question,
    *,
    spread: ParallelMap = one_by_one,
    progress: Progress = lambda _: None,
    queues: bool = False,
    flips: bool = True,
) -> Verdict:
    """Should prefill and decode be split, into how many engines, and why? Facts, no sentences.

    Without lengths the rules alone answer. spread: how simulations run over processes.
    queues: keep queue lengths over time with the arms. flips: also find what changes the answer.
    Raises InvalidInput when the engines asked for need more GPUs than there are.
    """
    site = site_of(question)
    gpu_budget(site)
    engines = engines_that_fit(site)
    demand = demand_of(site.workload)
    if demand is not None and (why := why_too_long(site, demand)):
        return _refusal(site, why)
    fleets = first_fleets(site, engines)
    if not fleets:
        return _does_not_fit(site)
    if demand is None:
        return _by_rules(site, fleets)
    if (clients := clients_of(question.workload.concurrency)) is not None:
        served = search_for_clients(
            question, engines, demand, clients, spread=spread, progress=progress, queues=queues
        )
        return _for_clients(question, engines, demand, served)
    contest = contest_of(site, question.slo, engines, demand, seed=question.seed)
    progress(f"simulating {sum(map(len, contest.entrants.values()))} layouts")
    search = _with_slo if question.slo.is_given else _without_slo
    found = search(contest, question.workload.rate_rps, spread)
    progress("asking again what would change the answer" if flips else "simulating both arms")
    return _told(question, contest, found, spread, queues=queues, flips=flips)


def decide_fewest(
    question: Question,
    *,
    spread: ParallelMap = one_by_one,
    progress: Progress = lambda _: None,
    queues: bool = False,
) -> tuple[Question, Verdict]:
    """The question for as few GPUs as meet the SLOs at its rate, and its verdict.

    Where none of the GPUs there are do, more of the same kind are tried. The arm that needs
    fewest is the answer. Raises InvalidInput without a rate or SLOs.
    """
    if not question.slo.is_given or question.workload.rate_rps is None:
        raise InvalidInput(
            "--fewest needs a rate and SLOs: without them one GPU is as good as any.",
            hint="--rate 5 --ttft 1s --tpot 30ms",
        )
    open_question = replace(question, total=None)
    verdict = decide(open_question, spread=spread, progress=progress, flips=False)
    needed = fewest_gpus(verdict.arms)
    if needed is None:
        return question, verdict
    asked = question
    for _ in range(GROWING):
        asked = with_gpus(open_question, needed)
        verdict = decide(asked, spread=spread, progress=progress, queues=queues)
        meeting = {name: arm for name, arm in verdict.arms.items() if arm.meets}
        if meeting:
            needs = {name: arm.gpus_needed or arm.num_gpus for name, arm in meeting.items()}
            fewest = min(needs, key=lambda name: (needs[name], name))  # in a tie colocated
            return asked, _chosen(verdict, "pd" if fewest == "pd" else "colocated")
        needed += max(1, needed // 10)
    return asked, verdict


GROWING = 8  # times that a number of GPUs reckoned too low is raised


def _chosen(verdict: Verdict, arm: Choice) -> Verdict:
    """The verdict for an arm that needs fewer GPUs, whatever else speaks for the other."""
    if verdict.verdict == arm:
        return verdict
    return replace(
        verdict,
        verdict=arm,
        confidence="low",
        sizing=_sizing(arm, verdict.arms),
        flips=(),
        is_fewest=True,
    )


def with_gpus(question: Question, num_gpus: int) -> Question:
    """The question with so many of its GPUs, or with more nodes of them."""
    cluster = question.cluster
    if num_gpus > cluster.num_gpus:
        nodes = -(-num_gpus // cluster.gpus_per_node)
        cluster = replace(cluster, num_nodes=nodes, devices=())
    return replace(question, cluster=cluster, max_gpus=num_gpus)


@dataclass(frozen=True)
class _Found:
    """What the search found. others: layouts simulated at the rate that did not win."""

    rate_rps: float
    is_asked: bool
    capacities: dict[str, float]
    fleets: dict[str, Fleet]
    others: tuple[Arm, ...] = ()


def _with_slo(contest: Contest, rate_rps: float | None, spread: ParallelMap) -> _Found:
    capacities = find_capacities(contest, spread)
    rate = usual_rate(contest, capacities) if rate_rps is None else rate_rps
    return _Found(rate, rate_rps is not None, capacities, _fleets(contest))


def _without_slo(contest: Contest, rate_rps: float | None, spread: ParallelMap) -> _Found:
    rate = usual_rate(contest, free_capacities(contest)) if rate_rps is None else rate_rps
    tried = fastest_layouts(contest, rate, spread)
    capacities = find_capacities(contest, spread)
    others = tuple(arm for arms in tried.values() for arm in arms)
    return _Found(rate, rate_rps is not None, capacities, _fleets(contest), others)


def _fleets(contest: Contest) -> dict[str, Fleet]:
    return {
        name: contest.search(name).best or entrants[0].fleet
        for name, entrants in contest.entrants.items()
    }


def _told(
    question: Question,
    contest: Contest,
    found: _Found,
    spread: ParallelMap,
    *,
    queues: bool,
    flips: bool,
) -> Verdict:
    """Everything shown of the arms, simulated, and the verdict on them."""
    names, has_slo = list(found.fleets), question.slo.is_given
    provenance = provenance_of(contest.site)
    asked_rps = found.rate_rps if found.is_asked else None
    choice = whole_choice(contest, asked_rps, provenance.band) if has_slo else None
    shown = "colocated" if choice == "colocated" or "pd" not in names else "pd"
    tasks = [_arm_task(contest, found, name, queues) for name in names]
    if has_slo and found.is_asked:
        tasks += [_needed_task(contest, found, name) for name in names]
        tasks += [_down_task(contest, found, role) for role in _roles(found.fleets[shown])]
    if flips and choice and len(names) == 2 and any(found.capacities.values()):
        tasks += _flip_tasks(question, contest, found, choice, provenance.band)
    results = dict(
        spread(lambda task: (task.key, task.work()), tasks, cost_s=2 * contest.run_cost_s)
    )
    arms = {name: _completed(name, results, found) for name in names}
    if has_slo and found.is_asked:
        downs = tuple(results["down", role] for role in _roles(found.fleets[shown]))
        arms[shown] = replace(arms[shown], one_down=downs)
    turns = [flip for key, flip in results.items() if key[0] == "flip" and flip is not None]
    return _judged(question, contest, found, arms, choice, tuple(turns), provenance)


@dataclass(frozen=True)
class _Task:
    """Work for one processor. key: what it is: ("arm", name), ("flip", axis, direction), ..."""

    key: tuple[str, ...]
    work: Callable[[], Any]


def _arm_task(contest: Contest, found: _Found, name: str, queues: bool) -> _Task:
    fleet, rate_rps = found.fleets[name], found.rate_rps
    shape = unpredicted(fleet)
    for arm in () if queues else found.others:
        if (arm.layout, arm.parallelism) == (shape.layout, shape.parallelism):
            return _Task(("arm", name), lambda known=arm: known)  # type: ignore[misc]
    return _Task(
        ("arm", name),
        lambda: try_layout(contest.trials, fleet, rate_rps, contest.slo, queues=queues),
    )


def _needed_task(contest: Contest, found: _Found, name: str) -> _Task:
    capacity = found.capacities[name]
    return _Task(("needed", name), lambda: gpus_needed(contest, name, found.rate_rps, capacity))


def _down_task(contest: Contest, found: _Found, role: Role) -> _Task:
    name = "colocated" if role == "colocated" else "pd"
    field_name = f"num_{role}"
    fleet = found.fleets[name]
    fewer = replace(fleet, **{field_name: getattr(fleet, field_name) - 1})

    def work() -> OneDown:
        if not getattr(fewer, field_name):
            return OneDown(role, 0.0)
        run = contest.trials.run(fewer, found.rate_rps)
        return OneDown(role, run.attainment(contest.slo))

    return _Task(("down", role), work)


def _roles(fleet: Fleet) -> tuple[Role, ...]:
    return ("colocated",) if fleet.colocated else ("prefill", "decode")


def _flip_tasks(
    question: Question, contest: Contest, found: _Found, choice: Choice, band: float
) -> list[_Task]:
    axes = list(axes_of(question, sample_size(contest.trials)))
    forecast = forecast_of(question, contest, found.capacities, band)
    asker = Asker(question, contest, band)
    return [
        _Task(
            ("flip", axis.what, str(direction)),
            lambda axis=axis, direction=direction: find_flip(  # type: ignore[misc]
                choice, axis, direction, forecast, asker
            ),
        )
        for direction in (1, -1)
        for axis in axes
    ]


def _judged(
    question: Question,
    contest: Contest,
    found: _Found,
    arms: dict[str, Arm],
    choice: Choice | None,
    flips: tuple[Flip, ...],
    provenance: Provenance,
) -> Verdict:
    """The verdict. choice: by capacities, with SLOs; else latencies and rules decide."""
    site, demand, rate_rps = contest.site, contest.demand, found.rate_rps
    is_both, has_slo = len(arms) == 2, contest.slo.is_given
    starts = tuple(_starts(found.fleets["pd"], demand, rate_rps)) if is_both else ()
    shown = found.fleets.get("pd") or found.fleets["colocated"]
    rules = _rules(site, _load(site, shown, demand, rate_rps))
    leaning = lean(rules)
    evidence = choice or _by_latency(arms, provenance.band)
    settled = choice or (
        settled_choice(evidence, leaning, is_anchored=found.is_asked) if is_both else evidence
    )
    confidence = confidence_of(
        settled,
        leaning,
        band=provenance.band,
        is_anchored=has_slo or found.is_asked,
        rate_rps=rate_rps if found.is_asked else None,
        capacities=(
            (found.capacities["colocated"], found.capacities["pd"]) if is_both and has_slo else None
        ),
    )
    is_met = _is_met(arms, None if found.is_asked else found.capacities, has_slo)
    return Verdict(
        verdict=settled,
        confidence=sure(site.llm, confidence if is_both else "high"),
        decided_by="evidence" if is_both else "feasibility",
        rules=rules,
        sizing=_sizing(settled, arms),
        arms=arms,
        sweep=tuple(sweep_of(contest, arms, found.others)),
        flips=flips if is_met else (),
        provenance=provenance,
        evidence=evidence,
        lean=leaning,
        starts=starts,
        state_limits=state_limits(site.llm, found.fleets),
        left_out=tuple(left_out(site)) if is_both else (),
        rate_rps=rate_rps,
        is_rate_asked=found.is_asked,
        is_met=is_met,
        impossible={} if is_both else why_not_built(site, contest.engines, set(arms)),
        floors=() if is_met else tuple(_floors(contest, found)),
    )


def _for_clients(
    question: Question, engines: Engines, demand: Demand, found: ClientArms
) -> Verdict:
    """The verdict for clients in a closed loop: no rate, no capacities, and no flips."""
    arms, provenance, rate = found.arms, provenance_of(question), found.throughput_rps
    shown = found.fleets.get("pd") or found.fleets["colocated"]
    rules = _rules(question, _load(question, shown, demand, rate))
    leaning = lean(rules)
    is_both = len(arms) == 2
    ruling = judge_clients(leaning, arms, question.slo, provenance.band) if is_both else None
    only: Choice = "colocated" if "colocated" in arms else "pd"
    choice = ruling.choice if ruling else only
    return Verdict(
        verdict=choice,
        confidence=sure(question.llm, ruling.confidence if ruling else "high"),
        decided_by="evidence" if is_both else "feasibility",
        rules=rules,
        sizing=_sizing(choice, arms),
        arms=arms,
        sweep=found.sweep,
        flips=(),
        provenance=provenance,
        evidence=ruling.evidence if ruling else only,
        lean=leaning,
        starts=tuple(_starts(found.fleets["pd"], demand, rate)) if is_both else (),
        state_limits=state_limits(question.llm, found.fleets),
        clients=clients_of(question.workload.concurrency),
        is_met=any(arm.meets for arm in arms.values()),
        impossible={} if is_both else why_not_built(question, engines, set(arms)),
    )


def _by_latency(arms: Mapping[str, Arm], band: float) -> Choice:
    """Without SLOs: what the latencies say, or the only arm there is."""
    if len(arms) == 2:
        return by_latency(arms["colocated"], arms["pd"], band)
    return "pd" if "pd" in arms else "colocated"


def _is_met(arms: Mapping[str, Arm], capacities: Mapping[str, float] | None, has_slo: bool) -> bool:
    """Whether some layout meets the SLOs, or keeps up, at the rate.

    capacities: where no rate was asked about; with SLOs some rate has to hold then.
    """
    if capacities is not None and has_slo:
        return any(capacities.values())
    return any(arm.meets for arm in arms.values())


def _floors(contest: Contest, found: _Found) -> Iterator[Floor]:
    """Where even a light load misses the SLOs: what each arm takes when idle."""
    if any(found.capacities.values()):
        return
    for name, fleet in found.fleets.items():
        light = LIGHT_USE * contest.entrants[name][0].free_rps
        arm = try_layout(contest.trials, fleet, light, contest.slo)
        yield Floor(arm.layout, arm.ttft_at_share_s, arm.tpot_at_share_s)


def _completed(name: str, results: Mapping[Any, Any], found: _Found) -> Arm:
    arm: Arm = results["arm", name]
    needed = results.get(("needed", name))
    return replace(arm, capacity_rps=found.capacities[name], gpus_needed=needed)


def _sizing(choice: Choice, arms: Mapping[str, Arm]) -> Sizing:
    if choice == "colocated" or "pd" not in arms:
        total = sum(arms["colocated"].num_engines)
        return Sizing(total, None, None, "simulation")
    prefill, decode = arms["pd"].num_engines
    return Sizing(prefill + decode, prefill, decode, "simulation")


def _does_not_fit(site: Site) -> Verdict:
    """No engine of any size fits these GPUs."""
    return replace(_refusal(site, why_nothing_fits(site)), fits_on=where_it_fits(site))


def _refusal(site: Site, why: str) -> Verdict:
    return Verdict(
        verdict="too_close",
        confidence=sure(site.llm, "high"),
        decided_by="feasibility",
        rules=_rules(site, LoadEstimate()),
        sizing=None,
        arms={},
        sweep=(),
        flips=(),
        provenance=Provenance("roofline", None, roofline_band(site.cluster.gpu.name)),
        is_met=False,
        impossible={"all": why},
    )


def _by_rules(site: Site, fleets: Mapping[str, Fleet]) -> Verdict:
    """Lengths are unknown: what the rules lean to, and a quarter of the engines to prefill."""
    rules = _rules(site, LoadEstimate())
    leaning = lean(rules)
    arms = {name: unpredicted(fleet) for name, fleet in fleets.items()}
    choice: Choice = "too_close" if leaning == "mixed" else leaning
    is_both = len(arms) == 2
    sizing = quarter(sum(arms["pd"].num_engines)) if "pd" in arms else None
    engines = engines_that_fit(site)
    return Verdict(
        verdict=choice if is_both else "pd" if "pd" in arms else "colocated",
        confidence="low",
        decided_by="rules" if is_both else "feasibility",
        rules=rules,
        sizing=sizing,
        arms=arms,
        sweep=(),
        flips=(),
        provenance=provenance_of(site),
        lean=leaning,
        starts=(sizing,) if sizing else (),
        impossible={} if is_both else why_not_built(site, engines, set(arms)),
    )


def _rules(site: Site, load: LoadEstimate) -> tuple[Rule, ...]:
    return apply_rules(site.llm, site.cluster, site.workload, load, site.speculation)


def _starts(fleet: Fleet, demand: Demand, rate_rps: float) -> Iterator[Sizing]:
    """The sizings by rule that the simulated one is compared with.

    A decode engine's tokens per second count what one verify step of a batch yields.
    """
    assert fleet.prefill is not None
    assert fleet.decode is not None
    total = fleet.num_prefill + fleet.num_decode
    batch = min(64.0, fleet.decode.max_running_requests)
    yield quarter(total)
    yield rate_match(
        total,
        prompt_tokens_per_s=rate_rps * demand.fresh,
        prefill_tokens_per_s=prefill_tokens_per_s(fleet.prefill, demand),
        output_tokens_per_s=rate_rps * demand.osl,
        decode_tokens_per_s=batch / tpot_at(fleet.decode, demand, batch),
    )


def _load(site: Site, fleet: Fleet, demand: Demand, rate_rps: float) -> LoadEstimate:
    prefill, decode = fleet.prefill or fleet.colocated, fleet.decode or fleet.colocated
    assert prefill is not None
    assert decode is not None
    num = fleet.num_decode or fleet.num_colocated
    load = load_estimate(prefill, decode, num, demand, rate_rps)
    cluster = site.cluster
    is_known = cluster.num_nodes == 1 or cluster.rdma_bytes_per_s is not None
    return load if is_known else replace(load, kv_move_s=None)
