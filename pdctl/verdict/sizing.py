"""How many of the engines prefill: a quarter without measurements, by rate with them."""

import math
from typing import Literal

from pdctl.errors import InvalidInput
from pdctl.verdict.records import Sizing


def quarter(total: int) -> Sizing:
    """A quarter of the engines prefill, at least one, and at least one decodes.

    Raises InvalidInput below two engines.
    Source: Miles guide, "prefill = N/4" as the start without measurements.
    Ignores: lengths, rates and the model.
    """
    return _sizing(total, (total + 2) // 4, "quarter")


def rate_match(
    total: int,
    *,
    rate_rps: float,
    uncached_prompt_tokens: float,
    prefill_tokens_per_s: float,
    output_tokens: float = 0.0,
    decode_tokens_per_s: float | None = None,
) -> Sizing:
    """As many prefill engines as the prompt tokens per second need, bounded by the total.

    prefill_tokens_per_s: of one engine. decode_tokens_per_s: of one decode engine; when given,
    decode is left the engines it needs, as far as prefill's own need allows in proportion.
    Raises InvalidInput below two engines.
    Source: Miles guide, prefill = ceil(rate × ISL / tokens per second of one engine).
    Ignores: queueing; an engine is taken as busy all the time.
    """
    need = rate_rps * uncached_prompt_tokens / prefill_tokens_per_s
    prefill = math.ceil(need - 1e-9)
    if decode_tokens_per_s is not None:
        decode = rate_rps * output_tokens / decode_tokens_per_s
        if prefill + math.ceil(decode - 1e-9) > total:
            prefill = round(total * need / (need + decode))
    return _sizing(total, prefill, "rate_match")


def verify_batch(running: float, verify_tokens: int) -> float:
    """Rows of a decode step: each running request brings its draft tokens and one more."""
    return running * verify_tokens


def _sizing(total: int, prefill: int, basis: Literal["quarter", "rate_match"]) -> Sizing:
    if total < 2:
        raise InvalidInput(
            f"A split needs at least 2 engines, not {total}.", hint="--total 2, or a smaller --tp"
        )
    bounded = min(max(prefill, 1), total - 1)
    return Sizing(total, bounded, total - bounded, basis)
