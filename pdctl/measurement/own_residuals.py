"""The errors of predictions that loads and calibrations of this machine show. Pure."""

import math
from collections.abc import Sequence
from statistics import median

from pdctl.inspection.records import Llm
from pdctl.measurement.arms import ArmLoad, inside
from pdctl.measurement.engine_facts import EngineFacts
from pdctl.measurement.results import summary
from pdctl.perf_model.fitting.fit import predicted_s
from pdctl.perf_model.intervals import model_kind
from pdctl.perf_model.records import Measurement, StepTimes
from pdctl.perf_model.residuals import FEW_RUNNING, Region, Residual, region_of

LEAST_REQUESTS = 20  # fewer say little about a median
LEAST_STEPS = 3
MOST_FAILED = 0.02


def of_load(
    played: ArmLoad,
    llm: Llm,
    gpu: str,
    engines: Sequence[EngineFacts],
    layout: str,
    *,
    is_fitted: bool,
) -> Residual | None:
    """The residual of one load: the medians of its requests against those predicted for them.

    gpu: its name. is_fitted: a profile made the prediction. None where the load says nothing:
    no prediction, an interruption, a late generator, failed or too few requests.
    """
    outcome, result = played.predicted, played.result
    sent = inside(result)
    whole = [one for one in sent if one.is_whole]
    if outcome is None or result.is_interrupted or summary(result).is_generator_late:
        return None
    if len(whole) < max(LEAST_REQUESTS, (1 - MOST_FAILED) * len(sent)):
        return None
    places = {id(one): n for n, one in enumerate(result.sent)}
    ttft, tpot, e2e = (
        _logarithm(
            [getattr(one, name) for one in whole],
            [getattr(outcome, name)[places[id(one)]] for one in whole],
        )
        for name in ("ttft_s", "tpot_s", "e2e_s")
    )
    return Residual(
        configuration=f"{llm.name} {gpu} {layout}",
        kind=model_kind(llm),
        gpu=gpu,
        fitted=is_fitted,
        region=region_of(_running(played, engines)),
        ttft=ttft,
        tpot=tpot,
        e2e=e2e,
        simulated=engines[0].is_simulated,
    )


def _running(played: ArmLoad, engines: Sequence[EngineFacts]) -> float:
    """Requests at once in an engine that decodes, on the mean."""
    sent = inside(played.result)
    span_s = max(one.end_s for one in sent) - min(one.intended_s for one in sent)
    busy_s = sum(one.end_s - one.intended_s for one in sent)
    decoding = sum(one.role != "prefill" for one in engines)
    return busy_s / max(span_s, 1e-9) / max(decoding, 1)


def of_steps(
    steps: Sequence[Measurement],
    before: StepTimes,
    llm: Llm,
    gpu: str,
    facts: EngineFacts,
    *,
    is_fitted: bool,
) -> tuple[Residual, ...]:
    """The residuals of a calibration's steps against the step times known before it.

    First tokens are those of an idle engine; tokens after them those of its decode steps, by load
    region. Ignores: queueing, which loads show.
    """
    prompts = [step for step in steps if step.kind in ("prefill", "answer")]
    first = _of_each(prompts, before)
    found = []
    regions: tuple[Region, ...] = ("few", "many")
    for region in regions:
        decodes = [
            step
            for step in steps
            if step.kind == "decode" and (step.batch <= FEW_RUNNING) == (region == "few")
        ]
        ttft, tpot = (first if region == "few" else None), _of_each(decodes, before)
        if ttft is not None or tpot is not None:
            name = f"{llm.name} {gpu} steps"
            kind = model_kind(llm)
            simulated = facts.is_simulated
            found.append(Residual(name, kind, gpu, is_fitted, region, ttft, tpot, None, simulated))
    return tuple(found)


def _of_each(steps: Sequence[Measurement], before: StepTimes) -> float | None:
    """The median residual of steps; None for too few."""
    sizes = [math.log(step.seconds / max(predicted_s(before, step), 1e-9)) for step in steps]
    return round(median(sizes), 4) if len(sizes) >= LEAST_STEPS else None


def _logarithm(measured: Sequence[float | None], predicted: Sequence[float | None]) -> float | None:
    """log(median measured / median predicted); None where either is not positive."""
    ours = [value for value in predicted if value is not None]
    seen = [value for value in measured if value is not None]
    if not ours or not seen or min(median(ours), median(seen)) <= 0:
        return None
    return round(math.log(median(seen) / median(ours)), 4)
