"""Residuals of loads and of calibrations on this machine."""

import math
from dataclasses import replace

import pytest

from pdctl.inspection.llm import read_llm
from pdctl.measurement.arms import ArmLoad
from pdctl.measurement.engine_facts import EngineFacts
from pdctl.measurement.own_residuals import LEAST_REQUESTS, of_load, of_steps
from pdctl.measurement.results import Sent
from pdctl.perf_model.fitting.design import EngineLimits
from pdctl.perf_model.fitting.fit import predicted_s
from pdctl.perf_model.records import Measurement, Outcome, Parallelism
from pdctl.perf_model.residuals import Residual
from tests.measurement.made import result, sent
from tests.perf_model.measured import roofline

LLM = read_llm("llama-3.1-8b")
ENGINE = EngineFacts(
    url="http://127.0.0.1:30000",
    role="colocated",
    engine="sglang 0.5.23",
    model="llama-3.1-8b",
    attention_backend="fa3",
    parallelism=Parallelism(),
    limits=EngineLimits(8192, 256, 500_000, 131_072),
    accelerator="NVIDIA H200",
    bootstrap_port=None,
    has_counters=False,
)
NUM = 2 * LEAST_REQUESTS


def played(rows: list[Sent], *, slower: float = 1.0) -> ArmLoad:
    """A load whose predicted times are the measured ones over `slower`."""
    num = len(rows)
    outcome = Outcome(
        ttft_s=[0.1 / slower] * num,
        tpot_s=[0.1 / slower] * num,
        e2e_s=[0.3 / slower] * num,
        span_s=1.0,
        output_tokens=num,
        kv_usage_peak={},
    )
    return ArmLoad("colocated", 0, 1.0, result(*rows), outcome)


def rows(num: int = NUM, every_s: float = 0.1) -> list[Sent]:
    return [sent(n, at_s=every_s * n) for n in range(num)]


def residual(one: ArmLoad, *engines: EngineFacts) -> Residual | None:
    return of_load(one, LLM, "H200", engines or (ENGINE,), "1C", is_fitted=True)


def test_a_load_that_was_slower_than_predicted_has_positive_residuals() -> None:
    found = residual(played(rows(), slower=1.25))
    assert found is not None
    assert (found.ttft, found.tpot, found.e2e) == pytest.approx([math.log(1.25)] * 3, abs=1e-4)
    assert (found.machine, found.kind, found.fitted) == ("llama-3.1-8b H200", "dense", True)


def test_the_load_region_is_that_of_the_engines_that_decode() -> None:
    busy = played(rows(every_s=0.02))  # 15 requests at once
    prefill = replace(ENGINE, role="prefill")
    regions = [
        found.region
        for engines in ((ENGINE,), (ENGINE, ENGINE), (prefill, ENGINE))
        if (found := residual(busy, *engines))
    ]
    assert regions == ["many", "few", "many"]


@pytest.mark.parametrize(
    "load",
    [
        replace(played(rows()), predicted=None),
        played(rows(LEAST_REQUESTS - 1)),
        played([sent(n, at_s=0.1 * n, late_s=0.05) for n in range(NUM)]),
        played([sent(n, at_s=0.1 * n, error="reset" if n % 5 == 0 else None) for n in range(NUM)]),
        replace(played(rows()), result=replace(result(*rows()), is_interrupted=True)),
    ],
)
def test_a_load_that_says_nothing_has_no_residual(load: ArmLoad) -> None:
    assert residual(load) is None


def test_a_calibration_has_a_residual_for_each_load_region_of_its_steps() -> None:
    times = roofline("llama-3.1-8b")
    few = [Measurement("decode", 1.0, batch=n, context=1000 * n) for n in (1, 2, 4)]
    many = [Measurement("decode", 1.0, batch=n, context=1000 * n) for n in (16, 32, 64)]
    prompts = [Measurement("prefill", 1.0, new_tokens=n) for n in (256, 1024, 4096)]

    def measured(steps: list[Measurement], slower: float) -> list[Measurement]:
        return [replace(m, seconds=slower * predicted_s(times, m)) for m in steps]

    steps = [*measured(few, 1.1), *measured(many, 1.3), *measured(prompts, 0.8)]
    found = of_steps(steps, times, LLM, "H200", ENGINE, is_fitted=False)
    assert [(r.region, r.fitted) for r in found] == [("few", False), ("many", False)]
    assert [r.tpot for r in found] == pytest.approx([math.log(1.1), math.log(1.3)], abs=1e-4)
    assert found[0].ttft == pytest.approx(math.log(0.8), abs=1e-4)
    assert found[1].ttft is None
    assert of_steps(steps[:2], times, LLM, "H200", ENGINE, is_fitted=False) == ()
