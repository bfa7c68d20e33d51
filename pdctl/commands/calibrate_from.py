"""`calibrate --from` and `--from-logs`: from engines at work, which are not disturbed."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pdctl.errors import InvalidInput

if TYPE_CHECKING:
    from pdctl.commands.calibrate_wish import Wish
    from pdctl.inspection.records import Cluster, Llm
    from pdctl.measurement.calibrated import Calibration
    from pdctl.measurement.engine_facts import EngineFacts
    from pdctl.perf_model.records import Measurement, StepTimes

LIVE_NOTE = (
    "From counters of engines at work: prefill without its attention (how long the prompts of a "
    "step were is not counted), KV transfer and cached prefixes stay at the roofline."
)
LOGS_NOTE = (
    "From log lines: only steps with others waiting before them; KV transfer and reading of "
    "weights stay at the roofline."
)


def watched(wish: "Wish") -> "Calibration":
    """A calibration without asking the engines for anything."""
    return _from_logs(wish) if wish.from_logs else _from_urls(wish)


def _from_urls(wish: "Wish") -> "Calibration":
    from pdctl.commands.calibrate_wish import cluster_of, kept
    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.calibrate_engines import facts_of, roofline_of
    from pdctl.measurement.calibrate_live import WANTED, steps_of_loads, watch_loads
    from pdctl.measurement.trial import engines_of

    facts = asyncio.run(facts_of(engines_of(wish.from_urls)))
    llm = read_llm(wish.model or facts[0].model)
    cluster = cluster_of(wish.gpus, facts[0])
    histories = asyncio.run(watch_loads(facts, wish.window_s, tell=_telling(wish.window_s)))
    steps = [
        step
        for one, loads in zip(facts, histories, strict=True)
        for step in steps_of_loads(loads, one.role, one.limits.chunk)
    ]
    if not steps:
        raise InvalidInput(
            f"In {wish.window_s:g} s the {len(facts)} engines did nothing that tells step times.",
            hint="--window 5min, while they have requests",
            code="idle",
        )
    roofline = roofline_of(facts[0], llm, cluster)
    return kept(_fitted(steps, roofline, WANTED, llm, cluster, facts[0], wish), wish.output)


def _from_logs(wish: "Wish") -> "Calibration":
    from pdctl.commands.calibrate_wish import kept
    from pdctl.inspection.cluster import detect_cluster, parse_gpus
    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.calibrate_engines import roofline_of
    from pdctl.measurement.calibrate_logs import WANTED, read_log
    from pdctl.measurement.engine_facts import facts_of_log

    steps = [step for path in wish.from_logs for step in read_log(path)]
    llm = read_llm(wish.model)
    cluster = parse_gpus(wish.gpus) if wish.gpus else detect_cluster()
    facts = facts_of_log(wish.from_logs[0], wish.sizes)
    roofline = roofline_of(facts, llm, cluster)
    return kept(_fitted(steps, roofline, WANTED, llm, cluster, facts, wish), wish.output)


def _fitted(
    steps: "Sequence[Measurement]",
    roofline: "StepTimes",
    wanted: Sequence[str],
    llm: "Llm",
    cluster: "Cluster",
    facts: "EngineFacts",
    wish: "Wish",
) -> "Calibration":
    from pdctl.commands.calibrate_wish import command_line
    from pdctl.measurement.calibrate import Taken
    from pdctl.measurement.calibrate_engines import calibration
    from pdctl.perf_model.partial_fit import fit_identified

    fit, unidentified = fit_identified(steps, roofline, wanted=wanted)
    taken = Taken(
        measurements=tuple(steps),
        fit=fit,
        unidentified=unidentified,
        uncertainty=None,
        elapsed_s=wish.window_s if wish.from_urls else 0.0,
        given_up=(),
        is_complete=True,
    )
    kinds = {step.kind for step in steps}
    missing = [kind for kind in ("prefill", "decode") if kind not in kinds]
    notes = [LOGS_NOTE if wish.from_logs else LIVE_NOTE]
    notes += [f"No {kind} steps were seen: they stay at the roofline." for kind in missing]
    return calibration(
        taken,
        roofline,
        llm,
        cluster,
        facts,
        command=command_line(),
        notes=tuple(notes),
    )


def _telling(window_s: float) -> "Callable[[float], None]":
    import sys

    if not sys.stderr.isatty():
        return lambda elapsed_s: None

    def tell(elapsed_s: float) -> None:
        sys.stderr.write(f"\r\x1b[2Kwatching · {elapsed_s:.0f} s of {window_s:.0f} s")
        sys.stderr.flush()

    return tell
