"""The answer of `pdctl plan`: what the layouts do when simulated, and where the rules point."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Fleet, Role
from pdctl.units import format_number_of
from pdctl.verdict.clients import (
    MOST_COST_S,
    ClientAsker,
    client_flip,
    most_clients,
    provenance_for,
    search_for_clients,
)
from pdctl.verdict.closed_form import (
    Demand,
    demand_of,
    idle_parts_s,
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
    confidence_of,
    confidence_of_no,
    provenance_of,
    running_on_each,
    settled_choice,
    sure,
    with_intervals,
)
from pdctl.verdict.layouts import Engines, engines_that_fit, gpu_budget, state_limits
from pdctl.verdict.records import (
    Arm,
    Choice,
    Flip,
    Floor,
    OneDown,
    Question,
    Rule,
    Site,
    Sizing,
    Verdict,
    fewest_gpus,
)
from pdctl.verdict.rules import LoadEstimate, apply_rules, lean, quarter
from pdctl.verdict.search import (
    LIGHT_USE,
    Contest,
    ParallelMap,
    contest_of,
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
from pdctl.verdict.sizing import TokenLoad, first_sizings, load_of, simulated_sizing
from pdctl.verdict.trials import sample_size, try_layout, unpredicted
from pdctl.verdict.without_slos import Fastest, fastest_at, latency_flip

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
    if clients_of(question.workload.concurrency) is not None:
        return _for_clients(
            question, engines, demand, spread=spread, progress=progress, queues=queues, flips=flips
        )
    contest = contest_of(site, question.slo, engines, demand, seed=question.seed)
    layouts = sum(map(len, contest.entrants.values()))
    progress(f"simulating {format_number_of(layouts, 'layout')}")
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
    asked, too_few = question, 0
    for _ in range(GROWING):
        asked = with_gpus(open_question, needed)
        verdict = decide(asked, spread=spread, progress=progress, queues=queues)
        meeting = {name: arm for name, arm in verdict.arms.items() if arm.meets}
        if not meeting:
            too_few = needed
            needed += max(1, needed // 10)
            continue
        fewest = min(meeting, key=lambda name: (_needed(meeting[name]), name != verdict.verdict))
        fewer = _needed(meeting[fewest])
        if fewer >= needed or fewer <= too_few:
            return asked, _chosen(verdict, "pd" if fewest == "pd" else "colocated")
        needed = fewer
    return asked, verdict


GROWING = 8  # times that a number of GPUs reckoned too low is raised


def _needed(arm: Arm) -> int:
    return arm.gpus_needed or arm.num_gpus


def _chosen(verdict: Verdict, arm: Choice) -> Verdict:
    """The verdict for an arm that needs fewer GPUs, whatever else speaks for the other."""
    if verdict.verdict == arm:
        return verdict
    return replace(
        verdict,
        verdict=arm,
        confidence="low",
        sizing=simulated_sizing(arm, verdict.arms),
        flips=(),
        is_fewest=True,
    )


def with_gpus(question: Question, num_gpus: int) -> Question:
    """The question with so many of its GPUs, or with more nodes of them."""
    cluster = question.cluster
    if num_gpus > cluster.num_gpus:
        nodes = -(-num_gpus // cluster.gpus_per_node)
        cluster = replace(cluster, devices=()).with_equal_nodes(nodes, cluster.gpus_per_node)
    return replace(question, cluster=cluster, max_gpus=num_gpus)


@dataclass(frozen=True)
class _Found:
    """The result of the search.

    choice: by capacities, or without SLOs by latencies. others: layouts tried at the rate in vain.
    """

    rate_rps: float
    is_asked: bool
    capacities: dict[str, float]
    fleets: dict[str, Fleet]
    choice: Choice
    others: tuple[Arm, ...] = ()
    fastest: Fastest | None = None  # without SLOs


def _with_slo(contest: Contest, rate_rps: float | None, spread: ParallelMap) -> _Found:
    capacities = find_capacities(contest, spread)
    rate = usual_rate(contest, capacities) if rate_rps is None else rate_rps
    choice = whole_choice(contest, rate_rps)
    return _Found(rate, rate_rps is not None, capacities, contest.fleets, choice)


def _without_slo(contest: Contest, rate_rps: float | None, spread: ParallelMap) -> _Found:
    rate = usual_rate(contest, free_capacities(contest)) if rate_rps is None else rate_rps
    fastest = fastest_at(contest, rate, spread)
    others = tuple(arm for arms in fastest.tried.values() for arm in arms)
    return _Found(
        rate_rps=rate,
        is_asked=rate_rps is not None,
        capacities=fastest.capacities,
        fleets=contest.fleets,
        choice=fastest.choice,
        others=others,
        fastest=fastest,
    )


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
    names, choice = list(found.fleets), found.choice
    is_sized = contest.slo.is_given and found.is_asked
    shown = "colocated" if choice == "colocated" or "pd" not in names else "pd"
    tasks = [_arm_task(contest, found, name, queues) for name in names]
    if is_sized:
        tasks += [_needed_task(contest, found, name) for name in names]
        tasks += [_down_task(contest, found, role) for role in _roles(found.fleets[shown])]
    if flips and len(names) == 2 and any(found.capacities.values()):
        tasks += _flip_tasks(question, contest, found)
    results = dict(
        spread(lambda task: (task.key, task.work()), tasks, cost_s=2 * contest.run_cost_s)
    )
    arms = {name: _completed(contest, name, results, found) for name in names}
    if is_sized:
        downs = tuple(results["down", role] for role in _roles(found.fleets[shown]))
        arms[shown] = replace(arms[shown], one_down=downs)
    turns = [flip for key, flip in results.items() if key[0] == "flip" and flip is not None]
    return _judged(contest, found, arms, tuple(turns))


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


def _flip_tasks(question: Question, contest: Contest, found: _Found) -> list[_Task]:
    if found.fastest is not None:
        turn = partial(latency_flip, contest, found.fastest, found.rate_rps)
        ways = (1, -1) if found.is_asked else ()
        return [_Task(("flip", "rate_rps", str(way)), partial(turn, way)) for way in ways]
    axes = list(axes_of(question, sample_size(contest.trials)))
    forecast = forecast_of(question, contest, found.capacities)
    asker = Asker(question, contest)
    return [
        _Task(
            ("flip", axis.what, str(direction)),
            lambda axis=axis, direction=direction: find_flip(  # type: ignore[misc]
                found.choice, axis, direction, forecast, asker
            ),
        )
        for direction in (1, -1)
        for axis in axes
    ]


def _judged(
    contest: Contest, found: _Found, arms: dict[str, Arm], flips: tuple[Flip, ...]
) -> Verdict:
    """The verdict: by capacities, and without SLOs by latencies and rules."""
    site, provenance, has_slo = contest.site, contest.provenance, contest.slo.is_given
    asked_rps = found.rate_rps if found.is_asked else None
    rules, starts = _rules_at(site, found.fleets, contest.demand, found.rate_rps)
    leaning = lean(rules)
    choice = evidence = found.choice
    is_both = len(arms) == 2
    if is_both and not has_slo:
        choice = settled_choice(evidence, leaning, is_anchored=found.is_asked)
    is_anchored = has_slo or found.is_asked
    confidence = confidence_of(choice, leaning, provenance.errors, is_anchored=is_anchored)
    is_free = has_slo and not found.is_asked  # then any rate will do
    is_met = any(found.capacities.values() if is_free else [arm.meets for arm in arms.values()])
    if not is_met:
        confidence = confidence_of_no(arms.values(), asked_rps, provenance.errors)
    elif not is_both:
        confidence = "high"
    return Verdict(
        verdict=choice,
        confidence=sure(site, confidence),
        decided_by="evidence" if is_both else "feasibility",
        rules=rules,
        sizing=simulated_sizing(choice, arms),
        arms=arms,
        sweep=tuple(sweep_of(contest, arms, found.others)),
        flips=flips if is_met else (),
        provenance=provenance,
        evidence=evidence,
        lean=leaning,
        starts=starts,
        state_limits=state_limits(site.llm, found.fleets),
        left_out=tuple(left_out(site)) if is_both else (),
        rate_rps=found.rate_rps,
        is_rate_asked=found.is_asked,
        is_met=is_met,
        impossible={} if is_both else why_not_built(site, contest.engines, set(arms)),
        floors=() if is_met else tuple(_floors(contest, found)),
    )


def _for_clients(
    question: Question,
    engines: Engines,
    demand: Demand,
    *,
    spread: ParallelMap,
    progress: Progress,
    queues: bool,
    flips: bool,
) -> Verdict:
    """The verdict for clients in a closed loop: no rate and no capacities."""
    clients = clients_of(question.workload.concurrency) or 1
    found = search_for_clients(
        question, engines, demand, clients, spread=spread, progress=progress, queues=queues
    )
    provenance = provenance_for(question, found.arms, found.fleets)
    arms = {name: with_intervals(arm, provenance.errors) for name, arm in found.arms.items()}
    rules, starts = _rules_at(question, found.fleets, demand, found.throughput_rps)
    leaning = lean(rules)
    is_both = len(arms) == 2
    ruling = judge_clients(leaning, arms, question.slo, provenance.errors) if is_both else None
    only: Choice = "colocated" if "colocated" in arms else "pd"
    told = Verdict(
        verdict=ruling.choice if ruling else only,
        confidence=sure(question, ruling.confidence if ruling else "high"),
        decided_by="evidence" if is_both else "feasibility",
        rules=rules,
        sizing=simulated_sizing(ruling.choice if ruling else only, arms),
        arms=arms,
        sweep=found.sweep,
        flips=(),
        provenance=provenance,
        evidence=ruling.evidence if ruling else only,
        lean=leaning,
        starts=starts,
        state_limits=state_limits(question.llm, found.fleets),
        clients=clients,
        is_met=any(arm.meets for arm in arms.values()),
        impossible={} if is_both else why_not_built(question, engines, set(arms)),
    )
    if not flips:
        return told
    progress("asking about other numbers of clients")
    return _with_client_flips(told, ClientAsker(question, engines, demand, found), spread)


def _with_client_flips(told: Verdict, asker: ClientAsker, spread: ParallelMap) -> Verdict:
    if not told.is_met:
        return replace(told, most_clients=most_clients(asker))
    if len(told.arms) < 2 or asker.cost_s > MOST_COST_S:
        return told
    base = told.verdict
    turns = spread(lambda way: client_flip(asker, base, way), [1, -1], cost_s=10 * asker.cost_s)
    return replace(told, flips=tuple(flip for flip in turns if flip is not None))


def _floors(contest: Contest, found: _Found) -> Iterator[Floor]:
    """Each arm's idle latencies, where even a light load misses the SLOs."""
    if any(found.capacities.values()):
        return
    for name, fleet in found.fleets.items():
        light = LIGHT_USE * contest.entrants[name][0].free_rps
        arm = try_layout(contest.trials, fleet, light, contest.slo)
        prefill_s, *rest = idle_parts_s(fleet, contest.demand)
        if arm.ttft_at_share_s is not None:  # no part takes longer than the whole
            prefill_s = min(prefill_s, arm.ttft_at_share_s)
        yield Floor(arm.layout, light, arm.ttft_at_share_s, arm.tpot_at_share_s, prefill_s, *rest)


def _completed(contest: Contest, name: str, results: Mapping[Any, Any], found: _Found) -> Arm:
    arm: Arm = results["arm", name]
    needed, fleet = results.get(("needed", name)), found.fleets[name]
    capacity, carried = found.capacities[name], contest.interval(name)
    meets = arm.meets or (arm.keeps_up and capacity >= found.rate_rps)
    arm = replace(arm, capacity_rps=capacity, gpus_needed=needed, meets=meets)
    running = running_on_each(arm, found.rate_rps)
    errors = provenance_of(contest.site, [fleet], running).errors
    return with_intervals(arm, errors, carried)


def _does_not_fit(site: Site) -> Verdict:
    """No engine of any size fits these GPUs."""
    return replace(_refusal(site, why_nothing_fits(site)), fits_on=where_it_fits(site))


def _refusal(site: Site, why: str) -> Verdict:
    return Verdict(
        verdict="too_close",
        confidence=sure(site, "high"),
        decided_by="feasibility",
        rules=_rules(site, LoadEstimate()),
        sizing=None,
        arms={},
        sweep=(),
        flips=(),
        provenance=provenance_of(site),
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
    sizing = quarter(arms["pd"].num_engines) if "pd" in arms else None
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


def _rules_at(
    site: Site, fleets: Mapping[str, Fleet], demand: Demand, rate_rps: float
) -> tuple[tuple[Rule, ...], tuple[Sizing, ...]]:
    """The rules at a rate, and the first sizings by rule."""
    load = TokenLoad(rate_rps * demand.fresh, rate_rps * demand.osl)
    shown = fleets.get("pd") or fleets["colocated"]
    starts = tuple(first_sizings(fleets["pd"], demand, load)) if len(fleets) == 2 else ()
    return _rules(site, load_of(site, shown, demand, load)), starts


def _rules(site: Site, load: LoadEstimate) -> tuple[Rule, ...]:
    return apply_rules(site.llm, site.cluster, site.workload, load, site.speculation)
