"""Steps read off the log of an engine at work, for versions of SGLang that do not count them."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Measurement

_NUMBER = re.compile(r"([#a-zA-Z][#a-zA-Z /()-]*): (-?[0-9]+(?:\.[0-9]+)?)")
LEAST_TOKENS = 16  # fewer: health checks
MOST_S = 60.0

# what such lines tell: one prompt after another, decode without prefill in between
WANTED = (
    "prefill_base_s",
    "prefill_token_s",
    "prefill_pair_s",
    "decode_base_s",
    "decode_context_s",
)


def read_log(path: Path) -> tuple[Measurement, ...]:
    """The steps in one engine's log. Raises InvalidInput where it is not such a log."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            found = tuple(steps_of_log(lines))
    except OSError as problem:
        raise InvalidInput(f"{path} cannot be read: {problem.strerror}.") from problem
    if not found:
        raise InvalidInput(
            f"{path} has no 'Prefill batch' or 'Decode batch' lines of an engine under load.",
            hint="a log of an SGLang engine, at --log-level info, with requests waiting",
            code="no_steps",
        )
    return found


def steps_of_log(lines: Iterable[str]) -> Iterator[Measurement]:
    """Steps in a log's lines, in order.

    A prefill line gives its tokens per second since the prefill line before it: the step's time
    only where requests were waiting then. A decode line gives the tokens per second since the
    decode line before it: the step's time only where no prefill was in between.
    Source: managers/scheduler_metrics_mixin.py of SGLang 0.5.15, the same lines in 0.5.23.
    """
    was_waiting = False
    last, running = "", 0
    for line in lines:
        if "Prefill batch" in line:
            fields = _fields(line)
            step = _prefill(fields)
            if step is not None and last == "prefill" and was_waiting:
                yield step
            was_waiting = fields.get("#queue-req", 0) > 0
            last = "prefill"
        elif "Decode batch" in line:
            step = _decode(_fields(line))
            if step is not None and last == "decode" and step.batch == running:
                yield step
            last, running = "decode", step.batch if step else 0


def _fields(line: str) -> dict[str, float]:
    text = line.partition("batch,")[2]
    return {name.strip(" ,"): float(value) for name, value in _NUMBER.findall(text)}


def _prefill(fields: dict[str, float]) -> Measurement | None:
    tokens, prompts = fields.get("#new-token", 0), int(fields.get("#new-seq", 0))
    rate = fields.get("input throughput (token/s)", 0)
    if tokens < LEAST_TOKENS or prompts < 1 or rate <= 0 or tokens / rate > MOST_S:
        return None
    if fields.get("#running-req", 0) > 0:  # a colocated engine may have decoded meanwhile
        return None
    return Measurement(
        "stall",
        tokens / rate,
        batch=prompts,
        new_tokens=round(tokens / prompts),
        cached_tokens=round(fields.get("#cached-token", 0) / prompts),
    )


def _decode(fields: dict[str, float]) -> Measurement | None:
    batch, rate = int(fields.get("#running-req", 0)), fields.get("gen throughput (token/s)", 0)
    context = int(fields.get("#token", fields.get("#full token", 0)))
    if batch < 1 or rate <= 0 or context < batch or batch / rate > MOST_S:
        return None
    return Measurement("decode", batch / rate, batch=batch, context=context)
