"""A verdict's sentences: headline, reason, warnings, and the commands that follow from it."""

from collections.abc import Iterator

from pdctl.perf_model.communication import assumed_cluster
from pdctl.perf_model.records import Parallelism, Percentiles
from pdctl.units import format_rate, format_seconds
from pdctl.verdict.closed_loop import clients_of, clients_reason, meets
from pdctl.verdict.judge import Ruling
from pdctl.verdict.records import Arm, Choice, Question, Rule
from pdctl.verdict.rules import Lean
from pdctl.workload.records import Workload

_RULE_WORDS = {
    "long_prompts": "long prompts",
    "decode_batch": "a high decode batch",
    "moe": "MoE",
    "short_prompts": "short prompts",
    "single_node": "one node",
    "variability": "variable load",
    "kv_path": "the KV path",
}


def headline(choice: Choice, arms: dict[str, Arm]) -> str:
    """The answer in one line."""
    pd = arms["pd"].layout if "pd" in arms else ""
    colocated = arms["colocated"].layout if "colocated" in arms else ""
    if choice == "pd":
        return f"Split prefill and decode: {pd}"
    if choice == "colocated":
        return f"Keep prefill and decode together: {colocated}"
    return f"Too close to call: {colocated} or {pd}"


def goodput_reason(ruling: Ruling, colocated: Arm, pd: Arm, question: Question) -> str:
    """What the headline rests on, with SLOs."""
    ours, theirs = pd.knee_rps or 0.0, colocated.knee_rps or 0.0
    rate = question.workload.rate_rps
    if ruling.evidence == "colocated" and rate is not None and theirs >= rate and ours >= rate:
        return (
            f"Colocated alone holds your SLOs up to {format_rate(theirs)} req/s, "
            f"{theirs / rate:.1f}× your rate; split, {format_rate(ours)}."
        )
    if ours <= 0 and theirs <= 0:
        return ""
    if ours <= 0 or theirs <= 0:
        able, unable, arm = ("PD", "colocated", colocated) if ours > 0 else ("Colocated", "PD", pd)
        return f"Only {able} meets your SLOs; {unable} never does: {misses(arm, question)}."
    return f"{ours / theirs:.2g}× the goodput of colocated at your SLOs{_telling(colocated, pd)}."


def latency_reason(colocated: Arm, pd: Arm, rate_rps: float) -> str:
    """What the headline rests on, without SLOs: who is better at what."""
    if not (colocated.ttft_s and colocated.tpot_s and pd.ttft_s and pd.tpot_s):
        return ""
    parts = [_compared("TTFT", colocated.ttft_s.p90, pd.ttft_s.p90)]
    if _have_tpot(colocated, pd):
        parts.append(_compared("TPOT", colocated.tpot_s.p90, pd.tpot_s.p90))
    depends = _which_slo(colocated, pd)
    return f"At {format_rate(rate_rps)} req/s {' and '.join(parts)} (p90).{depends}"


def _which_slo(colocated: Arm, pd: Arm) -> str:
    """Who an SLO on TTFT, and who one on TPOT would favour, where that differs."""
    if not _have_tpot(colocated, pd):
        return ""
    first = _faster(colocated.ttft_s, pd.ttft_s)
    each = _faster(colocated.tpot_s, pd.tpot_s)
    if first == each:
        return ""
    return f" An SLO on TTFT favours {first}, one on TPOT {each}: --ttft and --tpot decide."


def _faster(colocated: Percentiles | None, pd: Percentiles | None) -> str:
    return "PD" if colocated and pd and pd.p90 < colocated.p90 else "colocated"


def _compared(name: str, colocated_s: float, pd_s: float) -> str:
    return f"{name} is {format_seconds(pd_s)} split, {format_seconds(colocated_s)} colocated"


def _have_tpot(*arms: Arm) -> bool:
    """Whether the 90th percentile of TPOT says anything: not where answers have one token."""
    return all(arm.tpot_s is not None and arm.tpot_s.p90 > 0 for arm in arms)


def _telling(colocated: Arm, pd: Arm) -> str:
    if colocated.tpot_s is None or pd.tpot_s is None:
        return ""
    if not _have_tpot(colocated, pd):
        if colocated.ttft_s is None or pd.ttft_s is None:
            return ""
        split, together = format_seconds(pd.ttft_s.p90), format_seconds(colocated.ttft_s.p90)
        return f": TTFT p90 {split} split, {together} colocated; most answers have one token"
    split, together = format_seconds(pd.tpot_s.p90), format_seconds(colocated.tpot_s.p90)
    return f": TPOT p90 {split} split, {together} colocated"


def misses(arm: Arm, question: Question) -> str:
    """Which SLO an arm misses and by how much: TPOT p90 74 ms for 40."""
    slo = question.slo
    parts = []
    if slo.ttft_s is not None and arm.ttft_s is not None and arm.ttft_s.p90 > slo.ttft_s:
        parts.append(f"TTFT p90 {format_seconds(arm.ttft_s.p90)} for {format_seconds(slo.ttft_s)}")
    if slo.tpot_s is not None and arm.tpot_s is not None and arm.tpot_s.p90 > slo.tpot_s:
        parts.append(f"TPOT p90 {format_seconds(arm.tpot_s.p90)} for {format_seconds(slo.tpot_s)}")
    return ", ".join(parts) or "TTFT and TPOT together"


def nearest(arms: dict[str, Arm]) -> str:
    """The latencies the arms do reach, where no layout meets the SLOs."""
    parts = [
        f"TTFT {format_seconds(a.ttft_s.p90)} with TPOT {format_seconds(a.tpot_s.p90)} ({a.layout})"
        for a in arms.values()
        if a.ttft_s is not None and a.tpot_s is not None
    ]
    return f"the nearest: {' or '.join(parts)}"


def reason(ruling: Ruling, arms: dict[str, Arm], question: Question, rate_rps: float) -> str:
    """One sentence: what the headline rests on."""
    if (clients := clients_of(question)) is not None:
        return clients_reason(arms, question, clients)
    if question.slo.is_given:
        return goodput_reason(ruling, arms["colocated"], arms["pd"], question)
    return latency_reason(arms["colocated"], arms["pd"], rate_rps)


def unmet(question: Question, arms: dict[str, Arm], band: float) -> str:
    """Why the answer is no, or nothing: SLOs that no arm meets, a rate that none carries."""
    if (clients := clients_of(question)) is not None:
        if not question.slo.is_given or any(meets(arm, question.slo) for arm in arms.values()):
            return ""
        return f"No layout meets these SLOs for {clients:,} clients; {nearest(arms)}."
    top = max((arm.knee_rps or 0.0 for arm in arms.values()), default=0.0)
    if question.slo.is_given and top <= 0:
        return f"No layout meets these SLOs; {nearest(arms)}."
    rate = question.workload.rate_rps
    if rate is not None and rate > top * (1 + band):
        within = " within the SLOs" if question.slo.is_given else ""
        return (
            f"{format_rate(rate)} req/s is more than any layout here carries{within}: "
            f"the most is {format_rate(top)}."
        )
    return ""


def share_too_long(question: Question) -> float:
    """The share of a trace's requests longer than the LLM's context, which engines refuse."""
    requests, context = question.workload.requests, question.llm.max_context
    if requests is None or context is None:
        return 0.0
    long = sum(i + o >= context for i, o in zip(requests.isl, requests.osl, strict=True))
    return long / len(requests)


def warnings(
    question: Question, arms: dict[str, Arm], assumed_rate_rps: float | None
) -> Iterator[str]:
    """What the reader should know beside the verdict."""
    if assumed_rate_rps is not None:
        yield (
            f"No --rate: compared at {format_rate(assumed_rate_rps)} req/s, 70 % of what the "
            "better arm carries."
        )
    cluster = question.cluster
    if assumed_cluster(cluster) is not cluster:
        yield (
            "The rate between nodes is unknown: 400 Gbit/s per GPU assumed; say it as in "
            f"--gpus {cluster.num_nodes}x{cluster.gpus_per_node}x{cluster.gpu.name}:rdma400."
        )
    if question.profile is not None:
        measured = question.profile
        yield (
            f"Step times as measured on {measured.gpu} with {measured.llm}, {measured.engine}, "
            f"{measured.attention_backend} attention; another backend is another profile."
        )
    if question.unused_profile is not None:
        yield (
            f"Step times are the roofline's: {question.unused_profile.id} was measured with "
            f"{question.unused_profile.attention_backend} attention and is used only with "
            f"--attention-backend {question.unused_profile.attention_backend}."
        )
    yield from question.llm.assumptions
    if share := share_too_long(question):
        yield (
            f"{100 * share:.1f} % of the requests exceed the {question.llm.max_context:,} tokens "
            f"of context of {question.llm.name}: engines refuse them or cut their output."
        )
    if question.workload.trace is not None:
        yield from question.workload.trace.notes
        yield from _no_times(question.workload)
    if skipped := question.workload.skipped_lines:
        noun = "line" if skipped == 1 else "lines"
        yield f"{skipped:,} {noun} of {question.workload.origin} left out."
    for arm in arms.values():
        if arm.infeasible:
            yield f"{arm.layout} {arm.infeasible}."


def _no_times(workload: Workload) -> Iterator[str]:
    """A file with columns that may be times under a name nobody knows, and no rate either."""
    facts, known = workload.trace, (workload.rate_rps, workload.concurrency)
    if (
        facts is not None
        and facts.span_s is None
        and facts.unused_columns
        and known == (None, None)
    ):
        unused = ", ".join(facts.unused_columns[:6])
        yield f"No column of {workload.origin} was read as times (not used: {unused}); add --rate."


def disagreement(rules: tuple[Rule, ...], leaning: Lean, ruling: Ruling) -> Iterator[str]:
    """One sentence each for the rules and the simulation, where they disagree."""
    if leaning == "mixed" or ruling.evidence in ("too_close", leaning):
        return
    because = [_RULE_WORDS[r.id] for r in rules if r.favours == leaning]
    yield f"The rules favour {_name(leaning)}: {', '.join(because)}."
    yield f"The simulation favours {_name(ruling.evidence)}; it decided, with low confidence."


def rules_reason(rules: tuple[Rule, ...], leaning: Lean) -> str:
    """What speaks for which side, by the rules."""
    sides = {}
    for side in ("pd", "colocated"):
        because = [_RULE_WORDS[r.id] for r in rules if r.favours == side]
        if because:
            sides[side] = f"{', '.join(because)} speak{'s' * (len(because) == 1)} for {_name(side)}"
    text = "; ".join(sides.values()) or "no rule speaks for either"
    return f"{text[0].upper()}{text[1:]}."


def measure_command(question: Question, pd: Arm) -> str:
    """The measurement that would settle a verdict that is too close."""
    model = question.llm.path or question.llm.name
    prefill, decode = pd.num_engines
    words = [f"pdctl measure {model} --prefill {prefill} --total {prefill + decode}"]
    words += [*parallelism_flags(pd), *backend_flags(question)]
    workload = question.workload
    if workload.requests is not None:
        words.append(f"--trace {workload.origin}")
        words += _reading_flags(workload)
    elif workload.isl is not None and workload.osl is not None:
        words.append(f"--isl {workload.isl.mean:g} --osl {workload.osl.mean:g}")
        spreads = (("--isl-cv", workload.isl), ("--osl-cv", workload.osl))
        words += [f"{flag} {lengths.cv:g}" for flag, lengths in spreads if lengths.cv]
    if workload.concurrency is not None:
        words.append(f"--concurrency {clients_of(question)}")
    elif workload.rate_rps is not None and workload.requests is None:
        words.append(f"--rate {workload.rate_rps:g}")
    return " ".join(words)


def _reading_flags(workload: Workload) -> Iterator[str]:
    """What makes another verb read the trace as this one did, where it could read it otherwise."""
    facts = workload.trace
    if facts is not None and facts.is_unit_given and facts.time_unit:
        yield f"--time-unit {facts.time_unit}"
    if facts is not None and facts.filled_osl is not None:
        yield f"--osl {facts.filled_osl}"


def backend_flags(question: Question) -> Iterator[str]:
    """--args "--attention-backend fa3", where one was asked for."""
    if question.attention_backend:
        yield f'--args "--attention-backend {question.attention_backend}"'


def parallelism_flags(arm: Arm) -> Iterator[str]:
    """--tp 2, or --prefill-tp 2 --decode-tp 8, with pp, dp and ep where they are not 1."""
    shapes = list(arm.parallelism.values())
    first = shapes[0]
    if all(shape.tp == first.tp for shape in shapes):
        if first.tp > 1:
            yield f"--tp {first.tp}"
    else:
        for role, shape in arm.parallelism.items():
            yield f"--{role}-tp {shape.tp}"
    if all(shape == first for shape in shapes):
        yield from _other_flags(first)


def _other_flags(shape: Parallelism) -> Iterator[str]:
    for name in ("pp", "dp", "ep"):
        if getattr(shape, name) > 1:
            yield f"--{name} {getattr(shape, name)}"


def _name(side: str) -> str:
    return "PD" if side == "pd" else side
