"""Measure single steps of running engines with synthetic requests.

The engine's own counters give a step's duration (SGLang 0.5.23 and later). Without them, the
client's clock does, minus the cost of an answer that needs no step. Requests bypass the router.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

import aiohttp

from pdctl.errors import EngineFailed
from pdctl.measurement.calibration.engine_client import (
    LOOK_S,
    TOGETHER_S,
    Probed,
    Together,
    answers,
    body_of,
    post,
    probe_load,
    prompt,
)
from pdctl.perf_model.fitting.design import DECODE_STEPS
from pdctl.perf_model.fitting.fit import predicted_s
from pdctl.perf_model.records import Measurement, StepTimes
from pdctl.status.pages import EngineCounters, EngineLoad

STALLED_TOKENS = 64  # context of the request that decodes while a prompt is prefilled
LEAST_GAPS = 12
ANSWERS = 8
SETTLE_S = 1.0  # time for an engine to count a finished request
SPANNING_STEPS = 3  # the time of the second decode step after a prefill includes the prefill
TELLING_PREFILLS = 5
PLUGS = 5  # measurements of the plug alone
HOST_TOKENS = 256  # prompts up to this length show the time spent outside the step


async def stall(engine: Probed, step: Measurement, times: StepTimes) -> Measurement | None:
    """Measure how much the prefill of a prompt delays a running request.

    Measures over several tokens: SGLang holds back the token before the prefill step while it
    launches that step.
    """
    every_s = _every_s(times)
    async with Together(engine, 1, STALLED_TOKENS, DECODE_STEPS) as crowd:
        if not await crowd.until(lambda: len(crowd.times) >= LEAST_GAPS, every_s):
            return None
        before = len(crowd.times) - 2
        await answers(engine, [prompt(engine, step.new_tokens)])
        after = len(crowd.times) + 2
        if not await crowd.until(lambda: len(crowd.times) > after, every_s):
            return None
    gaps = [b - a for a, b in pairwise(crowd.times)]
    usual_s = median(gaps[:before])
    took_s = crowd.times[after] - crowd.times[before]
    context = STALLED_TOKENS + before
    return replace(step, context=context, seconds=took_s - (after - before) * usual_s)


async def probe_beside_decodes(
    engine: Probed, step: Measurement, times: StepTimes
) -> Measurement | None:
    """Measure the mean time to answer a prompt while another request decodes."""
    every_s = _every_s(times)
    clock = asyncio.get_running_loop().time
    async with Together(engine, 1, STALLED_TOKENS, ANSWERS * DECODE_STEPS) as crowd:
        if not await crowd.until(lambda: len(crowd.times) >= LEAST_GAPS, every_s):
            return None
        took_s = 0.0
        for _ in range(ANSWERS):
            start = clock()
            await answers(engine, [prompt(engine, step.new_tokens)])
            took_s += clock() - start
            # a random pause, so that prompts do not arrive in step with the decodes
            await asyncio.sleep(engine.rng.random() * every_s)
        if crowd.is_over():
            return None
        context = STALLED_TOKENS + round(crowd.tokens())
    return replace(step, context=context, seconds=took_s / ANSWERS)


async def mixed(engine: Probed, step: Measurement, times: StepTimes) -> Measurement | None:
    """Measure the longest gap between tokens of a running request while a prompt is prefilled."""
    every_s = _every_s(times)
    async with Together(engine, step.batch, step.context // step.batch, DECODE_STEPS) as crowd:
        if not await crowd.until(lambda: crowd.tokens_of_last() > 0, every_s):
            return None
        tokens, asked = crowd.tokens(), len(crowd.times)
        await answers(engine, [prompt(engine, step.new_tokens)])
        await asyncio.sleep(4 * every_s)
        seen = crowd.times[max(0, asked - 2) :]
    gaps = [b - a for a, b in pairwise(seen)]
    if not gaps:
        return None
    context = round((step.context / step.batch + tokens) * step.batch)
    return replace(step, context=context, seconds=max(gaps))


def _every_s(times: StepTimes) -> float:
    """Interval at which to check whether decoding has progressed."""
    return max(LOOK_S, 2 * (times.decode_base_s + times.decode_dense_s))


@dataclass
class EngineSteps:
    """The engines under measurement: one colocated, or one prefill and one decode.

    clock_rate: factor by which a simulated engine runs faster than real time.
    hop_s: time of an answer that needs no step. host_s: time that small requests spent outside
    their step.
    """

    prefill: Probed
    decode: Probed
    bootstrap_port: int | None = None
    clock_rate: float = 1.0
    hop_s: float = 0.0
    plug_tokens: int = 512
    has_counters: bool = True
    is_cramped: bool = False  # its KV cache holds only a few prompts
    host_s: list[float] = field(default_factory=list)
    _plug_s: list[float] = field(default_factory=list)
    _stems: dict[int, list[int]] = field(default_factory=dict)

    async def measure(self, step: Measurement, times: StepTimes) -> Measurement | None:
        """Measure one step. None if the engine did not run it as requested.

        times: current estimate of step times. Raises EngineFailed if an engine is gone.
        """
        kinds = {
            "prefill": self._prefill,
            "stall": self._beside(stall),
            "answer": self._beside(probe_beside_decodes),
            "decode": self._decode,
            "mixed": self._beside(mixed),
            "transfer": self._transfer,
        }
        try:
            found = await kinds[step.kind](step, times)
        except aiohttp.ClientResponseError as problem:
            if problem.status >= 500:
                raise EngineFailed(
                    f"The engine at {self.decode.url} failed with HTTP {problem.status}.",
                    code="engine_failed",
                ) from problem
            return None  # the engine refuses this size
        except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as problem:
            raise EngineFailed(
                f"The engine at {self.decode.url} stopped answering: "
                f"{type(problem).__name__} {problem}".rstrip()
                + ".",
                code="engine_failed",
            ) from problem
        return found if found is not None and found.seconds > 0 else None

    def request(self) -> Measurement | None:
        """Time of a small request outside its step and HTTP: tokenizer, queues, detokenizer."""
        if not self.host_s or self.clock_rate != 1.0:
            return None
        return Measurement("request", max(1e-5, median(self.host_s)))

    async def _prefill(self, step: Measurement, _: StepTimes) -> Measurement | None:
        """Send one prompt or several to an idle engine."""
        return await (self._together(step) if step.batch > 1 else self._prefill_alone(step))

    async def _prefill_alone(self, step: Measurement) -> Measurement | None:
        if self.is_cramped:
            self._stems.clear()  # the engine has evicted all cached prefixes by now
        stem = await self._stem(step.cached_tokens)
        ids = stem + prompt(self.prefill, step.new_tokens)
        before = await self._idle(self.prefill) if self.has_counters else None
        clock = asyncio.get_running_loop().time
        start = clock()
        (cached,) = await answers(self.prefill, [ids])
        seconds = clock() - start - self.hop_s
        new = len(ids) - cached
        if cached < 0.9 * step.cached_tokens:
            self._stems.pop(step.cached_tokens, None)  # the engine has evicted it
            return None
        if before is not None:
            counted = await self._counted(self.prefill, before, new)
            if counted is None:
                return None
            if new <= HOST_TOKENS:
                self.host_s.append(seconds - counted.prefill_busy_s)
            seconds = counted.prefill_busy_s
        return replace(
            step, new_tokens=new, cached_tokens=cached, seconds=seconds * self.clock_rate
        )

    async def _together(self, step: Measurement) -> Measurement | None:
        """Measure a batch of prompts that queue behind a plug and enter the next step together."""
        engine = self.prefill
        plug_s = await self._plug_alone_s()
        if plug_s is None:
            return None
        before = await self._idle(engine)
        plug = asyncio.create_task(answers(engine, [prompt(engine, self.plug_tokens)]))
        await asyncio.sleep(2 * self.hop_s)
        prompts = [prompt(engine, step.new_tokens) for _ in range(step.batch)]
        await answers(engine, prompts)
        await plug
        tokens = self.plug_tokens + step.batch * step.new_tokens
        counted = await self._counted(engine, before, tokens)
        if counted is None:
            return None
        return replace(step, seconds=counted.prefill_busy_s * self.clock_rate - plug_s)

    async def _plug_alone_s(self) -> float | None:
        """Time of a plug by itself, measured because early predictions are unreliable."""
        if not self._plug_s:
            plug = Measurement("prefill", 0.0, new_tokens=self.plug_tokens, counted=True)
            found = [await self._prefill_alone(plug) for _ in range(PLUGS)]
            self._plug_s = [one.seconds for one in found if one is not None]
        return median(self._plug_s) if self._plug_s else None

    def _beside(
        self, measure: Callable[[Probed, Measurement, StepTimes], Awaitable[Measurement | None]]
    ) -> Callable[[Measurement, StepTimes], Awaitable[Measurement | None]]:
        """Adapt a probe of an engine that decodes while it prefills."""

        async def measured(step: Measurement, times: StepTimes) -> Measurement | None:
            found = await measure(self.decode, step, times)
            if found is None:
                return None
            hop_s = self.hop_s if step.kind == "answer" else 0.0
            return replace(found, seconds=(found.seconds - hop_s) * self.clock_rate)

        return measured

    async def _stem(self, tokens: int) -> list[int]:
        """A prefix of this length that the engine has cached."""
        if tokens and tokens not in self._stems:
            self._stems[tokens] = prompt(self.prefill, tokens)
            await answers(self.prefill, [self._stems[tokens]])
        return self._stems.get(tokens, [])

    async def _decode(self, step: Measurement, times: StepTimes) -> Measurement | None:
        if not self.has_counters:
            return await self._decode_timed(step, times)
        context = step.context // step.batch
        every_s = max(LOOK_S, 4 * predicted_s(times, step) / self.clock_rate)
        async with Together(self.decode, step.batch, context, DECODE_STEPS) as crowd:
            first = await self._steady(step.batch, every_s, crowd)
            if first is None or first.counted is None:
                return None
            begin_tokens = crowd.tokens()
            last = await self._steps_after(first.counted, DECODE_STEPS, every_s, crowd)
            end_tokens = crowd.tokens()
        if last is None or last.counted is None:
            return None
        counted = last.counted.since(first.counted)
        if round(counted.batch) != step.batch or counted.steps <= 0:
            return None
        mean = context + (begin_tokens + end_tokens) / 2
        return replace(
            step, context=round(mean * step.batch), seconds=counted.step_s * self.clock_rate
        )

    async def _decode_timed(self, step: Measurement, times: StepTimes) -> Measurement | None:
        """Measure from the first request's token times, once the last request has a token."""
        every_s = max(LOOK_S, 4 * predicted_s(times, step) / self.clock_rate)
        context = step.context // step.batch
        async with Together(self.decode, step.batch, context, DECODE_STEPS) as crowd:
            if not await crowd.until(lambda: crowd.tokens_of_last() > 0, every_s):
                return None
            first = len(crowd.times) + SPANNING_STEPS
            if not await crowd.until(lambda: len(crowd.times) > first, every_s):
                return None
            mean = context + crowd.tokens() + DECODE_STEPS / 2
            last = first + DECODE_STEPS
            if not await crowd.until(lambda: len(crowd.times) > last, every_s):
                return None
        seconds = (crowd.times[last] - crowd.times[first]) / DECODE_STEPS
        return replace(step, context=round(mean * step.batch), seconds=seconds * self.clock_rate)

    async def _steady(self, batch: int, every_s: float, crowd: Together) -> EngineLoad | None:
        """The load once all requests decode and no counted step time spans a prefill."""
        first = await self._until(lambda load: load.running >= batch, every_s, crowd.is_over)
        if first is None or first.counted is None:
            return None
        return await self._steps_after(first.counted, SPANNING_STEPS, every_s, crowd)

    async def _steps_after(
        self, counted: EngineCounters, steps: int, every_s: float, crowd: Together
    ) -> EngineLoad | None:
        def holds(load: EngineLoad) -> bool:
            return load.counted is not None and load.counted.steps >= counted.steps + steps

        return await self._until(holds, every_s, crowd.is_over)

    async def _transfer(self, step: Measurement, times: StepTimes) -> Measurement | None:
        room = self.prefill.rng.randrange(1, 1 << 62)
        body = {
            **body_of(self.prefill, prompt(self.prefill, step.new_tokens), 2),
            "bootstrap_host": "127.0.0.1",
            "bootstrap_port": self.bootstrap_port,
            "bootstrap_room": room,
        }
        before = await probe_load(self.prefill)
        await asyncio.gather(post(self.prefill, body), post(self.decode, body))
        load = before
        for _ in range(TELLING_PREFILLS):
            # an engine reports its last transfer time when it begins another prefill
            await answers(self.prefill, [prompt(self.prefill, HOST_TOKENS // 8)])
            load = await probe_load(self.prefill)
            if load.transfer_s != before.transfer_s:
                break
            await asyncio.sleep(0.01)
        return replace(step, seconds=load.transfer_s * self.clock_rate) if load.transfer_s else None

    async def _idle(self, engine: Probed) -> EngineCounters:
        """Wait until the engine is idle; return its counters."""
        load = await probe_load(engine)
        while load.running + load.waiting:
            await asyncio.sleep(LOOK_S)
            load = await probe_load(engine)
        assert load.counted is not None
        return load.counted

    async def _counted(
        self, engine: Probed, before: EngineCounters, expected: int
    ) -> EngineCounters | None:
        """Counters since `before`. None unless they show exactly the `expected` prompt tokens."""
        deadline = asyncio.get_running_loop().time() + SETTLE_S
        while True:
            load = await probe_load(engine)
            counted = load.counted.since(before) if load.counted else None
            if counted is None or counted.prefill_tokens > expected:
                return None
            if counted.prefill_tokens == expected:
                return counted
            if asyncio.get_running_loop().time() > deadline:
                return None
            await asyncio.sleep(LOOK_S)

    async def _until(
        self, holds: Callable[[EngineLoad], bool], every_s: float, is_over: Callable[[], bool]
    ) -> EngineLoad | None:
        deadline = asyncio.get_running_loop().time() + TOGETHER_S
        while not is_over() and asyncio.get_running_loop().time() < deadline:
            load = await probe_load(self.decode)
            if holds(load):
                return load
            await asyncio.sleep(every_s)
        return None
