"""A verdict's sentences, written from its facts: headline, reason, warnings."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from pdctl.perf_model.records import Percentiles
from pdctl.units import format_number_of, format_rate, format_seconds, format_share
from pdctl.verdict.caveats import caveats, drawn_ranks, no_times, unknown_release
from pdctl.verdict.closed_loop import clients_text
from pdctl.verdict.records import (
    Arm,
    Choice,
    Flip,
    Floor,
    Question,
    Verdict,
    fewest_gpus,
    most_carried,
)
from pdctl.verdict.rules import NAMES, RULE_WORDS, missing_lengths
from pdctl.verdict.search import site_of


def write(question: Question, verdict: Verdict) -> Verdict:
    """The verdict with its headline, its reason, why the answer is no, and its warnings.

    The reason is that of the headline: where the answer is no, why it is.
    """
    no = unmet(question, verdict)
    return replace(
        verdict,
        headline=headline(question, verdict),
        reason=no or reason(question, verdict),
        unmet=no,
        warnings=tuple(warnings(question, verdict)),
    )


def warnings(question: Question, verdict: Verdict) -> Iterator[str]:
    """Caveats beside the verdict."""
    if not verdict.arms:
        yield from unknown_release(question)
        return
    site = site_of(question)
    if verdict.decided_by == "rules":  # no step times are used
        site = replace(site, profile=None, unused_profile=None)
        lengths = " and ".join(missing_lengths(question.workload))
        yield f"Rules alone: add {lengths}, or --trace, for a prediction."
    if verdict.is_met:
        yield from disagreement(verdict)
    if verdict.rate_rps is not None and not verdict.is_rate_asked and most_carried(verdict.arms):
        yield (
            f"No --rate given: the arms are compared at {format_rate(verdict.rate_rps)} req/s, "
            "70 % of what the better one carries."
        )
    yield from _by_chance(question, verdict)
    if question.workload.rate_rps is None and question.workload.concurrency is None:
        yield from no_times(question.workload.trace, question.workload.origin)
    if split := verdict.arms.get("pd"):
        yield from drawn_ranks(site, split.parallelism["prefill"].dp)
    yield from caveats(site)
    yield from verdict.left_out
    yield from (
        f"{arm.layout} {arm.infeasible}." for arm in verdict.arms.values() if arm.infeasible
    )


def disagreement(verdict: Verdict) -> Iterator[str]:
    """One sentence each for the rules and the simulation, where they disagree."""
    leaning, evidence = verdict.lean, verdict.evidence
    if verdict.decided_by != "evidence" or leaning == "mixed" or evidence in ("too_close", leaning):
        return
    because = [RULE_WORDS[r.id] for r in verdict.rules if r.favours == leaning]
    yield f"The rules favour {NAMES[leaning]} ({', '.join(because)})."
    if evidence == verdict.verdict:
        yield f"The simulation favours {NAMES[evidence]} with low confidence, and overrules them."
    else:
        yield f"The simulation favours {NAMES[evidence]}."


def _by_chance(question: Question, verdict: Verdict) -> Iterator[str]:
    """Layouts so near their capacity that the luck of the requests decides."""
    share = question.slo.attainment
    for arm in verdict.arms.values():
        if arm.by_chance(share):
            yield (
                f"{arm.layout} is near its limit: at {format_rate(verdict.rate_rps)} req/s, "
                f"{share_down(arm.attainment or 0.0)} of the requests meet your SLOs, but "
                f"{format_share(share)} do at {format_rate(arm.capacity_rps)}. "
                "Chance decides there."
            )


def headline(question: Question, verdict: Verdict) -> str:
    """The answer in one line."""
    if not verdict.arms:
        return "No layout can run this"
    if not verdict.is_met:
        return no_layout(question, verdict)
    return advice(verdict.verdict, verdict.arms)


def advice(choice: Choice, arms: Mapping[str, Arm]) -> str:
    """The advice: Split: run 6 prefill and 2 decode engines (6P2D)."""
    if choice == "pd":
        split = arms["pd"]
        decode = format_number_of(split.counts["decode"], "decode engine")
        return f"Split: run {split.counts['prefill']} prefill and {decode} ({split.layout})"
    if choice == "colocated":
        arm = arms["colocated"]
        engines = format_number_of(arm.num_engines, "colocated engine")
        return f"Don't split: run {engines} ({arm.layout})"
    return f"Too close to call: {arms['colocated'].layout} or {arms['pd'].layout}"


def no_layout(question: Question, verdict: Verdict) -> str:
    """The headline where no layout meets the SLOs, or keeps up."""
    if verdict.clients is not None:
        verb = "meets these SLOs for" if question.slo.is_given else "can serve"
        return f"No layout {verb} {clients_text(verdict.clients)}"
    if not most_carried(verdict.arms):
        return "No layout meets these SLOs, not even at a light load"
    at = f"{format_rate(verdict.rate_rps)} req/s"
    if question.slo.is_given:
        return f"No layout meets your SLOs at {at}"
    return f"No layout keeps up with {at}"


def unmet(question: Question, verdict: Verdict) -> str:
    """Why the answer is no; "" where it is not."""
    if verdict.is_met:
        return ""
    if not verdict.arms:
        return verdict.impossible.get("all", "")
    if verdict.clients is not None:
        return _nearest(question, verdict)
    if verdict.floors:
        return _floor(question, verdict)
    best = max(verdict.arms.values(), key=lambda arm: arm.capacity_rps or 0.0)
    within = " within your SLOs" if question.slo.is_given else ""
    carried = format_rate(best.capacity_rps)
    text = f"The best layout, {best.layout}, carries {carried} req/s{within}."
    likely = best.intervals["capacity_rps"]
    if likely.high >= (verdict.rate_rps or math.inf):
        text += f" It may carry {format_rate(likely.low)} to {format_rate(likely.high)} req/s."
    if needed := gpus_sentence(question, verdict):
        text += f" {needed}"
    return " ".join([text, *_not_built(verdict)])


def _not_built(verdict: Verdict) -> Iterator[str]:
    """Why an arm is missing."""
    for why in verdict.impossible.values():
        yield f"{why[0].upper()}{why[1:]}."


def _nearest(question: Question, verdict: Verdict) -> str:
    """The service levels that the arms do reach where too many clients wait for one another."""
    share = format_share(question.slo.attainment)
    parts = [
        f"{arm.layout} has TTFT {format_seconds(arm.ttft_at_share_s)} and TPOT "
        f"{format_seconds(arm.tpot_at_share_s)}"
        for arm in verdict.arms.values()
        if arm.ttft_at_share_s is not None and arm.tpot_at_share_s is not None
    ]
    text = f"For {share} of the requests, {', '.join(parts)}." if parts else ""
    if verdict.most_clients is not None:
        text += f" A layout meets them for up to about {clients_text(verdict.most_clients)}."
    return text.strip()


def _floor(question: Question, verdict: Verdict) -> str:
    """The SLO that even an idle layout cannot meet, and the step that takes that time."""
    slo, told = question.slo, []
    share = share_name(slo.attainment)
    first = _least(verdict, "ttft_s")
    if slo.ttft_s is not None and first is not None and (first.ttft_s or 0.0) > slo.ttft_s:
        told.append(
            f"{_idle(f'TTFT {share}', first.ttft_s, first, slo.ttft_s)} {_first_parts(first)}"
        )
    each = _least(verdict, "tpot_s")
    if slo.tpot_s is not None and each is not None and (each.tpot_s or 0.0) > slo.tpot_s:
        step = f"One decode step takes {format_seconds(each.decode_s)}."
        told.append(f"{_idle(f'TPOT {share}', each.tpot_s, each, slo.tpot_s)} {step}")
    if told:
        return " ".join(told)
    near = [
        f"TTFT {format_seconds(f.ttft_s)} with TPOT {format_seconds(f.tpot_s)} ({f.layout})"
        for f in verdict.floors
    ]
    return f"Idle layouts reach {' or '.join(near)}."


def _idle(name: str, least: float | None, floor: Floor, wanted: float) -> str:
    return (
        f"{name} is {format_seconds(least)} even at {format_rate(floor.rate_rps)} req/s "
        f"({floor.layout}); you ask for {format_seconds(wanted)}."
    )


def _first_parts(floor: Floor) -> str:
    """The parts of an idle layout's time to the first token."""
    text = f"Prefill of a long prompt takes {format_seconds(floor.prefill_s)}"
    if floor.transfer_s:
        text += f", KV transfer {format_seconds(floor.transfer_s)}"
    return f"{text}."


def _least(verdict: Verdict, name: str) -> Floor | None:
    known = [floor for floor in verdict.floors if getattr(floor, name) is not None]
    return min(known, key=lambda floor: float(getattr(floor, name)), default=None)


def reason(question: Question, verdict: Verdict) -> str:
    """The grounds of the headline."""
    if not verdict.arms:
        return verdict.impossible.get("all", "")
    if verdict.decided_by == "rules":
        return rules_reason(verdict)
    if verdict.decided_by == "feasibility":
        return " ".join(_not_built(verdict))
    if verdict.clients is not None:
        return clients_reason(question, verdict)
    if question.slo.is_given:
        return slo_reason(question, verdict)
    return latency_reason(verdict)


def slo_reason(question: Question, verdict: Verdict) -> str:
    """The two capacities, what they say at the rate, and where the losing arm misses."""
    colocated, pd = verdict.arms["colocated"], verdict.arms["pd"]
    at_rps = verdict.rate_rps if verdict.is_rate_asked else None
    ours, theirs = (carried_at(arm, at_rps) for arm in (pd, colocated))
    if verdict.is_fewest:
        enough = format_number_of(verdict.arms[verdict.verdict].num_gpus, "GPU")
        return f"No layout meets your SLOs with fewer than {enough}."
    if verdict.verdict == "too_close":
        return _tie(verdict, colocated, pd)
    if ours <= 0 or theirs <= 0:
        able, unable = ("Only a split", "colocated") if ours > 0 else ("Only colocated", "a split")
        arm = colocated if ours > 0 else pd
        return f"{able} meets your SLOs; {unable} {_fails(question, arm)} at any load."
    rate = verdict.rate_rps or 0.0
    if verdict.verdict == "colocated" and verdict.is_rate_asked and theirs >= rate:
        return _enough(rate, theirs, ours, pd)
    winner, loser = (pd, colocated) if verdict.verdict == "pd" else (colocated, pd)
    name, other = ("A split", "colocated") if winner is pd else ("Colocated", "the best split")
    most, least = (format_rate(carried_at(arm, at_rps)) for arm in (winner, loser))
    more = f"{name} carries up to {most} req/s within your SLOs, {other} {least}"
    if verdict.is_rate_asked and not loser.meets:
        return f"{more}. At {format_rate(rate)} req/s, {loser.layout} {_fails(question, loser)}."
    times = max(ours, theirs) / min(ours, theirs)
    told = f"{more} ({times:.2g}×)."
    if not verdict.is_rate_asked or winner is colocated:
        return told
    low, at = format_rate(colocated.intervals["capacity_rps"].low), f"At {format_rate(rate)} req/s"
    return f"{told} {at}, {colocated.layout} should meet them too, but it may carry only {low}."


def _enough(rate: float, theirs: float, ours: float, pd: Arm) -> str:
    at = f"{format_rate(rate)} req/s"
    if not pd.meets:
        return (
            f"Colocated meets your SLOs at {at} and up to {format_rate(theirs)}; "
            f"the best split ({pd.layout}) only up to {format_rate(ours)}."
        )
    text = f"Both meet your SLOs at {at}; colocated is simpler."
    if ours > theirs:
        return (
            f"{text} Above about {format_rate(theirs)} req/s, only a split ({pd.layout}) does, "
            f"up to about {format_rate(ours)}."
        )
    return f"{text} It carries up to {format_rate(theirs)} req/s, a split {format_rate(ours)}."


def _tie(verdict: Verdict, colocated: Arm, pd: Arm) -> str:
    """The distance between the arms, the distance that would decide, and the rules."""
    ours, theirs = pd.capacity_rps or 0.0, colocated.capacity_rps or 0.0
    least = verdict.provenance.errors.rate_ratio.high
    text = (
        f"The simulation cannot tell the arms apart: a split carries {ours / theirs:.2f}× what "
        f"colocated does, and a gap below {least:.2f}× is within its error."
    )
    if verdict.is_rate_asked and colocated.meets != pd.meets:
        only = colocated if colocated.meets else pd
        text += f" At {format_rate(verdict.rate_rps)} req/s, only {only.layout} meets your SLOs."
    if verdict.lean == "mixed":
        return text
    because = ", ".join(RULE_WORDS[r.id] for r in verdict.rules if r.favours == verdict.lean)
    return f"{text} The rules lean to {NAMES[verdict.lean]} ({because})."


def clients_reason(question: Question, verdict: Verdict) -> str:
    """The arms' difference for clients in a closed loop, or that it is too small to tell."""
    colocated, pd = verdict.arms["colocated"], verdict.arms["pd"]
    with_them = f"With {clients_text(verdict.clients or 1)},"
    rates = (
        f"colocated answers {format_rate(colocated.throughput_rps)} req/s and "
        f"split {format_rate(pd.throughput_rps)}"
    )
    if question.slo.is_given:
        ours, theirs = (share_down(arm.attainment or 0.0) for arm in (pd, colocated))
        text = (
            f"{with_them} {theirs} of the requests meet your SLOs colocated and {ours} split; "
            f"{rates}."
        )
        return text if verdict.verdict != "too_close" else f"{text} {_clients_tie(verdict)}"
    if not (colocated.ttft_s and colocated.tpot_s and pd.ttft_s and pd.tpot_s):
        return f"{with_them} {rates}."
    text = f"{with_them} {rates}; TTFT p90 is {_both(colocated.ttft_s, pd.ttft_s)}"
    if _have_tpot(colocated, pd):
        text += f", TPOT p90 {_both(colocated.tpot_s, pd.tpot_s)}"
    return f"{text}."


def _clients_tie(verdict: Verdict) -> str:
    """Why arms that serve clients differently are too close to call."""
    good = [verdict.arms[name].goodput_rps or 0.0 for name in ("colocated", "pd")]
    least = verdict.provenance.errors.rate_ratio.high
    low, high = sorted(good)
    if low <= 0:
        return ""
    return (
        f"The better arm has {high / low:.2f}× as many good requests per second; a gap below "
        f"{least:.2f}× is within the error of the simulation."
    )


def latency_reason(verdict: Verdict) -> str:
    """The grounds of the headline without SLOs: each arm's better figures."""
    colocated, pd = verdict.arms["colocated"], verdict.arms["pd"]
    rate = f"{format_rate(verdict.rate_rps)} req/s"
    slow = [arm.layout for arm in (colocated, pd) if not arm.keeps_up]
    if slow:
        return f"At {rate}, {' and '.join(slow)} cannot keep up."
    if not (colocated.ttft_s and colocated.tpot_s and pd.ttft_s and pd.tpot_s):
        return ""
    has_tpot = _have_tpot(colocated, pd)
    text = f"At {rate}, TTFT p90 is {_both(colocated.ttft_s, pd.ttft_s)}"
    if has_tpot:
        text += f"; TPOT p90 is {_both(colocated.tpot_s, pd.tpot_s)}"
    text += "." if has_tpot else "; most answers have one token."
    if verdict.verdict != "too_close":
        return text
    first = pd.ttft_s.p90 < colocated.ttft_s.p90
    each = pd.tpot_s.p90 < colocated.tpot_s.p90 if has_tpot else first
    ahead = "a split" if first else "colocated"
    if first == each:
        ending = "is ahead in both, but not clearly" if has_tpot else "is ahead, but not clearly"
        return f"{text} Give --ttft{' and --tpot' if has_tpot else ''}: {ahead} {ending}."
    other = "colocated" if first else "a split"
    return (
        f"{text} Give --ttft and --tpot: a target for TTFT favours {ahead}, one for TPOT {other}."
    )


def _both(colocated: Percentiles, pd: Percentiles) -> str:
    return f"{format_seconds(pd.p90)} split and {format_seconds(colocated.p90)} colocated"


def _have_tpot(*arms: Arm) -> bool:
    """True if the 90th percentile of TPOT means anything: answers have more than one token."""
    return all(arm.tpot_s is not None and arm.tpot_s.p90 > 0 for arm in arms)


def rules_reason(verdict: Verdict) -> str:
    """The rules for each side."""
    sides = []
    for side in ("pd", "colocated"):
        because = [RULE_WORDS[r.id] for r in verdict.rules if r.favours == side]
        if because:
            verb = "points" if len(because) == 1 else "point"
            sides.append(f"{_listed(because)} {verb} to {NAMES[side]}")
    text = "; ".join(sides) or "no rule points to either"
    return f"{text[0].upper()}{text[1:]}."


def _listed(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def misses(question: Question, arm: Arm) -> str:
    """The SLO that an arm misses, and by how much: TPOT (p90 74 ms against 40 ms)."""
    slo = question.slo
    share = share_name(slo.attainment)
    parts = []
    for name, wanted, found in (
        ("TTFT", slo.ttft_s, arm.ttft_at_share_s),
        ("TPOT", slo.tpot_s, arm.tpot_at_share_s),
    ):
        if wanted is not None and found is not None and found > wanted:
            parts.append(
                f"{name} ({share} {format_seconds(found)} against {format_seconds(wanted)})"
            )
    return " and ".join(parts) or "TTFT and TPOT together"


def _fails(question: Question, arm: Arm) -> str:
    if not arm.keeps_up:
        return "cannot keep up"
    return f"misses {misses(question, arm)}"


def share_name(attainment: float) -> str:
    """The percentile that decides: p90, p99, p99.9."""
    return f"p{attainment * 100:.4g}"


def gpus_sentence(question: Question, verdict: Verdict) -> str:
    """The fewest GPUs that meet the SLOs: 8 of these 16 GPUs are enough (colocated)."""
    needed = fewest_gpus(verdict.arms)
    if needed is None:
        return ""
    have = min(question.cluster.num_gpus, question.max_gpus or question.cluster.num_gpus)
    if needed > have:
        return f"About {needed:,} GPUs of this kind would be enough."
    if needed == have:
        all_of_them = {1: "The GPU is", 2: "Both GPUs are"}.get(have, f"All {have} GPUs are")
        return f"{all_of_them} needed."
    which = [name for name, arm in verdict.arms.items() if arm.gpus_needed == needed]
    arm = "colocated" if "colocated" in which else "split"
    return f"{needed} of these {have} GPUs {'is' if needed == 1 else 'are'} enough ({arm})."


def down_sentences(question: Question, verdict: Verdict) -> Iterator[str]:
    """With one decode engine down, 84 % of the requests meet your SLOs."""
    told = [arm for name, arm in verdict.arms.items() if verdict.verdict in (name, "too_close")]
    for arm in told:
        for down in arm.one_down:
            what = f"one {down.role} engine"
            if arm.num_engines == 1:
                continue
            if arm.counts.get(down.role) == 1:
                yield f"With its only {down.role} engine down, {arm.layout} serves nothing."
            elif down.attainment <= 0:
                yield f"With {what} down, {arm.layout} cannot keep up."
            else:
                share = share_down(down.attainment)
                yield f"With {what} down, {share} of the requests meet your SLOs."


def share_down(share: float) -> str:
    """A share, rounded so that it never claims more than is: 89.96 % as 89.9 %."""
    tenths = math.floor(share * 1000 + 1e-6)
    return f"{tenths // 10} %" if tenths % 10 == 0 else f"{tenths / 10:.1f} %"


def flip_sentences(flips: Sequence[Flip], arms: Mapping[str, Arm]) -> Iterator[str]:
    """TPOT target of 23 ms or tighter → split."""
    for flip in flips:
        yield f"{_flip_words(flip)} → {_flip_answer(flip)}{_flip_cause(flip, arms)}"


def _flip_words(flip: Flip) -> str:
    """The value, and the side of it that has the answer; what is too close is so near it only."""
    what, is_down = flip.what, flip.from_at is not None and flip.at < flip.from_at
    fewer = {"rate_rps": "less", "tpot_s": "tighter", "ttft_s": "tighter"}.get(what, "fewer")
    more = "looser" if fewer == "tighter" else "more"
    is_close = flip.is_met and flip.to == "too_close"
    about, side = ("about ", "") if is_close else ("", f" or {fewer if is_down else more}")
    if what in ("tpot_s", "ttft_s"):
        return f"{what[:4].upper()} target of {about}{format_seconds(flip.at)}{side}"
    if what == "rate_rps":
        return f"{about}{format_rate(flip.at)} req/s{side}"
    if what == "isl":
        return f"prompts of {about}{flip.at:,.0f} tokens{side}"
    text = clients_text(round(flip.at)) if what == "concurrency" else f"{flip.at:.0f} engines"
    return f"{about}{text}{side}"


def _flip_answer(flip: Flip) -> str:
    return NAMES[flip.to].removeprefix("a ") if flip.is_met else "no layout meets your SLOs"


def _flip_cause(flip: Flip, arms: Mapping[str, Arm]) -> str:
    """Why the answer changes below the rate that colocated is predicted to carry; else ""."""
    colocated = arms.get("colocated")
    carried = (colocated and colocated.capacity_rps) or 0.0
    if flip.what != "rate_rps" or flip.from_ != "colocated" or not flip.is_met:
        return ""
    if flip.from_at is not None and flip.at < flip.from_at:
        return ""
    if colocated is None or colocated.attainment is None or flip.at >= carried:
        return ""
    least = format_rate(colocated.intervals["capacity_rps"].low)
    return f": {colocated.layout} carries {format_rate(carried)}, but it may be {least}"


def carried_at(arm: Arm, rate_rps: float | None) -> float:
    """The highest rate known to be met; one that was asked about may lie above the capacity.

    Capacities are rungs, 2.5 % apart; a tenth above one the SLOs are missed.
    """
    known, asked = arm.capacity_rps or 0.0, (rate_rps or 0.0) if arm.meets else 0.0
    return asked if known < asked <= 1.1 * known else known
