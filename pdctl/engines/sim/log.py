"""SGLang's log lines, as pdctl and people read them."""

import logging
import sys
import time
from contextlib import suppress

from pdctl.engines.sim.record import LoadSnapshot
from pdctl.engines.sim.requests import Batch


def log(text: str) -> None:
    """One line with SGLang's time stamp."""
    say(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n")


def say(text: str) -> None:
    """Write to the log; a full disk loses it, as Python's logging would, and never an engine."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def batch_line(batch: Batch, state: LoadSnapshot) -> str:
    """What SGLang says of a prefill batch, or of the last decode steps."""
    queues, usage = state.queues, state.used_tokens / max(state.capacity_tokens, 1)
    if batch.parts:
        cached = sum(part.request.cached_tokens for part in batch.parts if part.is_final)
        speed = batch.new_tokens / batch.duration_s if batch.duration_s > 0 else 0.0
        return (
            f"Prefill batch, #new-seq: {len(batch.parts)}, #new-token: {batch.new_tokens}, "
            f"#cached-token: {cached}, token usage: {usage:.2f}, #running-req: {len(batch.rows)}, "
            f"#queue-req: {queues.waiting}, #pending-token: 0, "
            f"#bootstrap-req: {queues.bootstrap}, #inflight-req: {queues.inflight}, "
            f"cuda graph: False, input throughput (token/s): {speed:.2f}"
        )
    return (
        f"Decode batch, #running-req: {len(batch.rows)}, #token: {state.used_tokens}, "
        f"token usage: {usage:.2f}, pre-allocated usage: 0.00, #prealloc-req: {queues.prealloc}, "
        f"#transfer-req: {queues.transfer}, #retracted-req: {queues.retracted}, cuda graph: True, "
        f"gen throughput (token/s): {state.gen_throughput:.2f}, #queue-req: {queues.waiting}"
    )


def quieten() -> None:
    """Drop aiohttp's traceback for each HTTP/2 greeting: the router tries gRPC first."""
    logger = logging.getLogger("aiohttp.server")
    logger.addFilter(lambda record: "Error handling request" not in record.getMessage())
