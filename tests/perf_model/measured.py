"""Invented measurements with known coefficients behind them."""

import random
from dataclasses import replace

from pdctl.perf_model.fitting.fit import predicted_s
from pdctl.perf_model.records import Measurement, StepTimes
from pdctl.perf_model.roofline import step_times
from tests.perf_model.shapes import ONE, cluster, llm

TRUE_FACTORS = {
    "prefill_base_s": 1.3,
    "prefill_token_s": 0.8,
    "prefill_pair_s": 1.5,
    "decode_base_s": 1.2,
    "decode_weight_s": 1.4,
    "decode_request_s": 2.0,
    "decode_context_s": 0.9,
    "decode_latency_s": 0.5,
    "transfer_base_s": 0.7,
    "transfer_token_s": 1.6,
}


# short ones tell the fixed cost from the weights read
PROMPTS = (16, 64, 128, 256, 512, 1024, 2048, 4096)


def roofline(name: str) -> StepTimes:
    return step_times(llm(name), cluster(), ONE, "colocated", attention_backend="triton")


def truth(times: StepTimes) -> StepTimes:
    return replace(times, **{k: getattr(times, k) * f for k, f in TRUE_FACTORS.items()})


def plan(repeats: int = 1) -> list[Measurement]:
    """What one would measure: prompts, cached prefixes, decode batches, transfers."""
    steps = [Measurement("prefill", 1.0, new_tokens=n) for n in PROMPTS]
    steps += [Measurement("prefill", 1.0, new_tokens=8192)]
    steps += [
        Measurement("prefill", 1.0, new_tokens=n, cached_tokens=c)
        for n, c in ((1024, 4096), (1024, 16384), (4096, 8192), (4096, 32768))
    ]
    steps += [
        Measurement("decode", 1.0, batch=b, context=b * c)
        for b in (1, 2, 4, 8, 16, 32, 64, 128, 256)
        for c in (256, 2048, 8192)
    ]
    steps += [Measurement("transfer", 1.0, new_tokens=n) for n in (256, 1024, 8192)]
    return steps * repeats


def measured(
    times: StepTimes, steps: list[Measurement], noise: float = 0.0, seed: int = 0
) -> list[Measurement]:
    """`steps` with the seconds `times` gives them, each off by a normal share."""
    dice = random.Random(seed)
    return [replace(m, seconds=predicted_s(times, m) * dice.gauss(1, noise)) for m in steps]
