"""Counters of a simulated engine, which feed /v1/loads, /metrics and the log."""

import logging
import sys
import time
from bisect import bisect_left
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from pdctl.engines.sim.kv import KvCache
from pdctl.engines.sim.requests import Batch, Emission, Moment, Queues, Request
from pdctl.perf_model.records import EngineModel, Role

PUBLISH_STEPS = 15  # decode steps between two snapshots of /v1/loads
GAUGE_STEPS = 40  # decode steps between two updates of the Prometheus gauges

_TTFT = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)
_ITL = (
    *(0.002, 0.004, 0.006, 0.008, 0.010, 0.015, 0.020, 0.025, 0.030, 0.035, 0.040, 0.060),
    *(0.080, 0.100, 0.200, 0.400, 0.600, 0.800, 1.0, 2.0, 4.0, 6.0, 8.0),
)
_E2E = (*_TTFT, 600, 1200, 1800, 2400)
_QUEUE = (
    *(0.0, 0.001, 0.005, 0.010, 0.050, 0.100, 0.200, 0.500, 1, 2, 3, 4, 5, 10, 15, 20, 30, 40),
    *(50, 60, 70, 80, 90, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000, 1200, 1400, 1600),
    *(1800, 2000, 2500, 3000),
)
_STAGE = tuple(0.001 * 1.62**n for n in range(30))
_SPEED = (0.1, 0.5, 1, 5, 10, 25, 50, 100, 200, 400)
_TRANSFER_MS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000)
_TOKENS = (
    *(100, 300, 500, 700, 1000, 1500, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 10000),
    *(12500, 15000, 17500, 20000, 22500, 25000, 27500, 30000, 35000, 40000, 60000, 80000),
    *(100000, 200000),
)
_TYPES: dict[Role, str] = {"colocated": "unified", "prefill": "prefill", "decode": "decode"}


class Scheduler(Protocol):
    """The part of a scheduler that a snapshot needs."""

    kv: KvCache
    model: EngineModel

    @property
    def queues(self) -> Queues: ...

    @property
    def context_tokens(self) -> int: ...

    @property
    def num_held(self) -> int: ...


class HistogramCounter:
    """Counts per bucket, and a sum. As in Prometheus, a bound belongs to the bucket below it."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


@dataclass(frozen=True)
class StatePool:
    """The slots of a hybrid model's state pool."""

    slots: int
    used: int

    @property
    def usage(self) -> float:
        return self.used / max(self.slots, 1)


def state_pool(model: EngineModel, num_held: int) -> StatePool | None:
    """The state pool with `num_held` requests in it; None: the model keeps no states.

    A request beside a radix cache occupies all slots that are reserved for it but one: its own
    state, two that it checkpoints into (with the extra buffer), and the cached one it started from.

    Source: logs of SGLang 0.5.15: "#running-req: 4, mamba num: 16" where 5 are reserved.
    Ignores: states that stay cached for prefixes of requests that have ended.
    """
    if model.state_slots is None:
        return None
    each = max(1, model.slots_per_request - 1)
    return StatePool(model.state_slots, min(model.state_slots, num_held * each))


@dataclass(frozen=True)
class LoadSnapshot:
    """State of an engine at one moment, for /v1/loads and the gauges."""

    at_s: float  # on the engine's clock
    queues: Queues
    used_tokens: int = 0
    evictable_tokens: int = 0
    capacity_tokens: int = 0
    context_tokens: int = 0
    states: StatePool | None = None
    gen_throughput: float = 0.0
    cache_hit_rate: float = 0.0

    @property
    def kv_usage(self) -> float:
        """Share of the KV pool in use: SGLang's full_token_usage."""
        return self.used_tokens / max(self.capacity_tokens, 1)

    @property
    def usage(self) -> float:
        """Share of the fuller pool in use: SGLang's token_usage."""
        return max(self.kv_usage, self.states.usage if self.states else 0.0)


@dataclass
class Record:
    """Running totals and the last published snapshots.

    Receives times on the engine's clock and records them in real time: `speed` seconds of the
    engine are one real second, as an outside observer would measure.
    """

    speed: float = 1.0
    prefill_tokens: int = 0
    prefill_busy_s: float = 0.0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    num_requests: int = 0
    num_aborted: int = 0
    num_transfer_failed: int = 0
    num_bootstrap_failed: int = 0
    decode_steps: int = 0
    moments: list[float] | None = None
    transfer_gb_per_s: float = 0.0
    transfer_ms: float = 0.0
    ttft_s: HistogramCounter = field(default_factory=lambda: HistogramCounter(_TTFT))
    itl_s: HistogramCounter = field(default_factory=lambda: HistogramCounter(_ITL))
    e2e_s: HistogramCounter = field(default_factory=lambda: HistogramCounter(_E2E))
    tpot_s: HistogramCounter = field(default_factory=lambda: HistogramCounter(_ITL))
    queue_s: HistogramCounter = field(default_factory=lambda: HistogramCounter(_QUEUE))
    prompt_lengths: HistogramCounter = field(default_factory=lambda: HistogramCounter(_TOKENS))
    output_lengths: HistogramCounter = field(default_factory=lambda: HistogramCounter(_TOKENS))
    transfer_speed: HistogramCounter = field(default_factory=lambda: HistogramCounter(_SPEED))
    transfer_latency_ms: HistogramCounter = field(
        default_factory=lambda: HistogramCounter(_TRANSFER_MS)
    )
    stages: dict[str, HistogramCounter] = field(default_factory=dict)
    loads: LoadSnapshot | None = None
    gauges: LoadSnapshot | None = None
    last_prefill_end_s: float = 0.0
    _last_launch_s: float | None = None  # of the previous decode step, if nothing came between
    _window_tokens: int = 0
    _window_start_s: float = 0.0
    gen_throughput: float = 0.0

    def tokens(self, emission: Emission, role: Role, now_s: float) -> None:
        """Count tokens that have left the engine. Prefill engines observe no latencies."""
        request = emission.request
        if request.out == 1:
            request.first_s = now_s
            self.queue_s.observe(request.waited_s / self.speed)
            if role != "prefill":
                self.ttft_s.observe((now_s - request.arrived_s) / self.speed)
        elif role != "prefill":
            for _ in range(emission.tokens):  # as SGLang, an equal part of the gap for each
                self.itl_s.observe((now_s - request.last_s) / emission.tokens / self.speed)
        request.last_s = now_s
        if emission.reason:
            self._ended(request, role, now_s)

    def _ended(self, request: Request, role: Role, now_s: float) -> None:
        self.num_requests += 1
        self.prompt_tokens += request.prompt_tokens
        self.generated_tokens += request.out
        self.cached_tokens += request.cached_tokens
        self.prompt_lengths.observe(request.prompt_tokens)
        self.output_lengths.observe(request.out)
        self.e2e_s.observe((now_s - request.arrived_s) / self.speed)
        if request.out > 1:
            span_s = (now_s - request.first_s) / self.speed
            self.tpot_s.observe(span_s / (request.out - 1))
        if role == "prefill":
            self.stage("prefill_forward", request.forward_s)

    def aborted(self, request: Request) -> None:
        self.num_aborted += 1

    def stage(self, name: str, seconds: float) -> None:
        """Count the time that one request spent in a stage."""
        self.stages.setdefault(name, HistogramCounter(_STAGE)).observe(seconds / self.speed)

    def transferred(self, seconds: float, num_bytes: float) -> None:
        """Count a KV transfer that has reached its decode engine."""
        self.transfer_ms = seconds / self.speed * 1e3
        self.transfer_gb_per_s = num_bytes / self.transfer_ms / 1e6 if seconds > 0 else 0.0
        self.transfer_latency_ms.observe(self.transfer_ms)
        self.transfer_speed.observe(self.transfer_gb_per_s)
        self.stage("prefill_transfer_kv_cache", seconds)

    def ended(self, batch: Batch, queues: Scheduler, now_s: float) -> LoadSnapshot | None:
        """Count an ended batch. Publish when SGLang would, and return the snapshot to log."""
        if batch.parts:
            self._count_prefill(batch)
            self._last_launch_s = None
        else:
            self._count_decode(batch)
        if batch.parts or self.decode_steps % PUBLISH_STEPS == 0:
            self.loads = self.snapshot(queues, now_s)
        if batch.parts or self.decode_steps % GAUGE_STEPS == 0:
            self.gauges = self.snapshot(queues, now_s)
            return self.gauges
        return None

    def paused(self) -> None:
        """Note that the scheduler is idle. The next decode step starts a new series."""
        self._last_launch_s = None
        self._window_tokens = 0
        self.gen_throughput = 0.0
        self.loads = self.gauges = None  # an idle scheduler publishes its current state

    def _count_prefill(self, batch: Batch) -> None:
        self.prefill_tokens += batch.new_tokens
        start_s = max(batch.launched_s, self.last_prefill_end_s)
        self.prefill_busy_s += (batch.end_s - start_s) / self.speed
        self.last_prefill_end_s = batch.end_s

    def _count_decode(self, batch: Batch) -> None:
        self.decode_steps += 1
        rows = len(batch.rows)
        if not self._window_tokens:
            self._window_start_s = batch.launched_s
        self._window_tokens += batch.num_gained
        if self.decode_steps % GAUGE_STEPS == 0:
            span_s = batch.end_s - self._window_start_s
            self.gen_throughput = self._window_tokens / span_s * self.speed if span_s > 0 else 0.0
            self._window_tokens = 0
        last_s, self._last_launch_s = self._last_launch_s, batch.launched_s
        if last_s is None or not 0 < batch.launched_s - last_s < 2.0 * self.speed:
            return
        step_us = (batch.launched_s - last_s) / self.speed * 1e6
        old = self.moments or [0.0] * 6
        new = (1.0, rows, step_us, rows * rows, rows * step_us, batch.num_gained)
        self.moments = [total + x for total, x in zip(old, new, strict=True)]

    def snapshot(self, queues: Scheduler, now_s: float) -> LoadSnapshot:
        """The current state."""
        total = self.prefill_tokens + self.cached_tokens
        kv = queues.kv
        return LoadSnapshot(
            at_s=now_s,
            queues=queues.queues,
            used_tokens=kv.used_tokens,
            evictable_tokens=kv.evictable_tokens,
            capacity_tokens=kv.capacity_tokens,
            context_tokens=queues.context_tokens,
            states=state_pool(queues.model, queues.num_held),
            gen_throughput=self.gen_throughput,
            # a decode engine caches nothing itself; it reports its partner's cached tokens
            cache_hit_rate=self.cached_tokens / total if self.prefill_tokens else 0.0,
        )


def log(text: str) -> None:
    """Write one log line with SGLang's time stamp."""
    write_log(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n")


def write_log(text: str) -> None:
    """Write to the log. On a full disk the text is lost, as in Python's logging; never fails."""
    with suppress(OSError):
        sys.stderr.write(text)
        sys.stderr.flush()


def batch_line(batch: Batch, state: LoadSnapshot) -> str:
    """SGLang's log line for a prefill batch, or for the last decode steps."""
    queues = state.queues
    if batch.parts:
        cached = sum(part.request.cached_tokens for part in batch.parts if part.is_final)
        speed = batch.new_tokens / batch.duration_s if batch.duration_s > 0 else 0.0
        return (
            f"Prefill batch, #new-seq: {len(batch.parts)}, #new-token: {batch.new_tokens}, "
            f"#cached-token: {cached}, {_usage(state)}#running-req: {len(batch.rows)}, "
            f"#queue-req: {queues.waiting}, #pending-token: 0, "
            f"#bootstrap-req: {queues.bootstrap}, #inflight-req: {queues.inflight}, "
            f"cuda graph: False, input throughput (token/s): {speed:.2f}"
        )
    return (
        f"Decode batch, #running-req: {len(batch.rows)}, {_pools(state)}"
        f"pre-allocated usage: 0.00, #prealloc-req: {queues.prealloc}, "
        f"#transfer-req: {queues.transfer}, #retracted-req: {queues.retracted}, cuda graph: True, "
        f"gen throughput (token/s): {state.gen_throughput:.2f}, #queue-req: {queues.waiting}"
    )


def _usage(state: LoadSnapshot) -> str:
    if state.states is None:
        return f"token usage: {state.kv_usage:.2f}, "
    return f"full token usage: {state.kv_usage:.2f}, mamba usage: {state.states.usage:.2f}, "


def _pools(state: LoadSnapshot) -> str:
    """SGLang's words for the pools: those of a hybrid have both of them."""
    if state.states is None:
        return f"#token: {state.used_tokens}, {_usage(state)}"
    return (
        f"#full token: {state.used_tokens}, full token usage: {state.kv_usage:.2f}, "
        f"mamba num: {state.states.used}, mamba usage: {state.states.usage:.2f}, "
    )


def quieten() -> None:
    """Silence aiohttp's traceback for HTTP/2 greetings, which the router sends to try gRPC."""
    logger = logging.getLogger("aiohttp.server")
    logger.addFilter(lambda record: "Error handling request" not in record.getMessage())


def time_stats_line(
    request: Request,
    role: Role,
    end_s: float,
    *,
    speed: float,
    unix_s: Callable[[float], float],
    kv_bytes: float,
) -> str:
    """The line of --enable-request-time-stats-logging for a request that ended at `end_s`.

    Times are on the engine's clock.

    Args:
        speed: model seconds per real second; the line has real ones.
        unix_s: converts a time on the engine's clock.
        kv_bytes: sent by a prefill engine.

    Source: Req.log_time_stats and convert_to_duration of SGLang 0.5.23.
    """

    def ms(start: Moment, end: Moment | None) -> str:
        until_s = end_s if end is None else request.moments.get(end, end_s)
        return f"{(until_s - request.moments.get(start, until_s)) / speed * 1e3:.2f}ms"

    entry = f"entry_time={unix_s(request.moments['entry']):.3f}"
    forward = f"forward_duration={ms('started', None)}"
    if role == "decode":
        durations = (
            f"bootstrap_duration={ms('entry', 'bootstrapped')}, "
            f"alloc_wait_duration={ms('bootstrapped', 'allocated')}, "
            f"transfer_duration={ms('allocated', 'transferred')}, "
            f"queue_duration={ms('transferred', 'started')}, {forward}, {entry}"
        )
    elif role == "prefill":
        sent_s = (end_s - request.moments.get("computed", end_s)) / speed
        gib_per_s = kv_bytes / sent_s / 2**30 if sent_s > 0 else 0.0
        durations = (
            f"bootstrap_duration={ms('entry', 'bootstrapped')}, "
            f"queue_duration={ms('bootstrapped', 'started')}, {forward}, {entry}, "
            f"transfer_speed={gib_per_s:.2f} GB/s, transfer_total={kv_bytes / 2**20:.2f} MB"
        )
    else:
        durations = f"queue_duration={ms('entry', 'started')}, {forward}, {entry}"
    room = "" if request.room is None else f"bootstrap_room={request.room}, "
    return (
        f"ReqTimeStats(rid={request.rid}, {room}input_len={request.prompt_tokens}, "
        f"cached_input_len={request.cached_tokens}, output_len={request.out}, attempts=0, "
        f"type={_TYPES[role]}): {durations}"
    )
