"""A running decode batch, advanced from one change of its members to the next in closed form.

With B requests a step costs a constant plus a slope times the context, and the context grows by
the same amount each step; so n steps cost n·a + b·n(n−1)/2 (a: the first step, b: the growth).
"""

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush
from math import ceil, sqrt

from pdctl.perf_model.simulator.job import Job
from pdctl.perf_model.simulator.scheduling import (
    CLIP_MAX_NEW_TOKENS,
    INIT_NEW_TOKEN_RATIO,
    ratio_after,
    ratio_after_retraction,
    retraction_key,
)
from pdctl.perf_model.simulator.steps import DecodeCosts


class DecodeRun:
    """The running requests of one engine and the steps planned for them.

    running: heap of (step at which it finishes, number, job); context: their KV tokens;
    planned: steps decided and not yet accounted, the first of which starts at start_s. _far: heap
    of (step at which it finishes, number) of those with more to come than SGLang counts.
    """

    __slots__ = (
        "_clip", "_far", "_ratio", "_ratio_step", "context", "costs", "finish_sum", "first_s",
        "gain", "growth_s", "last_token_s", "planned", "running", "start_s", "steps",
    )  # fmt: skip

    def __init__(self, costs: DecodeCosts, accept_length: float) -> None:
        self.costs = costs
        # tokens per request and step; integers keep the inner loop fast
        self.gain = int(accept_length) if accept_length == int(accept_length) else accept_length
        self._ratio = INIT_NEW_TOKEN_RATIO  # at step _ratio_step; it decays from there
        self._ratio_step = 0
        self._clip = CLIP_MAX_NEW_TOKENS / self.gain  # in steps
        self._far: list[tuple[int, int]] = []
        self.running: list[tuple[int, int, Job]] = []
        self.steps = 0
        self.context: float = 0.0
        self.finish_sum = 0
        self.planned = 0
        self.start_s = self.first_s = self.growth_s = 0.0
        self.last_token_s = 0.0

    def join(self, jobs: Sequence[Job]) -> None:
        """Let requests take part from the next step on."""
        steps = self.steps
        for job in jobs:
            left = job.left
            finish = steps + (left if self.gain == 1 else ceil(left / self.gain))
            job.joined_step = steps
            self.finish_sum += finish
            if left > CLIP_MAX_NEW_TOKENS:
                heappush(self._far, (finish, job.index))
            self.context += job.prompt
            heappush(self.running, (finish, job.index, job))

    def plan(self, start_s: float, limit: float) -> float:
        """Plan the steps until a member finishes, `limit` at most; returns the last one's start."""
        batch = len(self.running)
        constant, slope, least = self.costs[batch]
        first = constant + slope * (self.context + batch)
        growth = slope * batch * self.gain
        count: float = float(self.running[0][0] - self.steps)
        if count > limit:
            count = limit
        if first < least:
            if growth:
                count = min(count, ceil((least - first) / growth))
            first = least
            growth = 0.0
        self.start_s = start_s
        self.first_s = first
        self.growth_s = growth
        self.planned = n = int(count)
        return start_s + (n - 1) * (first + growth * (n - 2) / 2)

    def start_of(self, step: int) -> float:
        """The start of planned step `step` (0: the first)."""
        return self.start_s + step * (self.first_s + self.growth_s * (step - 1) / 2)

    def step_at(self, at_s: float) -> int:
        """The first planned step that starts at or after `at_s`; the last one at most."""
        past = at_s - self.start_s
        if past <= 0:
            return 0
        first, growth = self.first_s, self.growth_s
        half = first - growth / 2
        step = ceil(2 * past / (half + sqrt(half * half + 2 * growth * past)))
        if self.start_s + step * (first + growth * (step - 1) / 2) < at_s:
            step += 1
        elif self.start_s + (step - 1) * (first + growth * (step - 2) / 2) >= at_s:
            step -= 1
        return step if step < self.planned else self.planned - 1

    def cut(self, at_s: float) -> float:
        """Drop the steps that start after the first one at or after `at_s`; returns its start."""
        step = self.step_at(at_s)
        self.planned = step + 1
        return self.start_s + step * (self.first_s + self.growth_s * (step - 1) / 2)

    def settle(self) -> list[Job]:
        """Account for the planned steps up to last_token_s; returns who finishes then."""
        n = self.planned
        running = self.running
        batch = len(running)
        gain = self.gain
        self.last_token_s = self.start_s + n * (self.first_s + self.growth_s * (n - 1) / 2)
        self.planned = 0
        self.steps = steps = self.steps + n
        context = self.context + n * batch * gain
        finished = []
        while running and running[0][0] <= steps:
            finish, _, job = heappop(running)
            self.finish_sum -= finish
            context -= job.prompt + (steps - job.joined_step) * gain
            finished.append(job)
        self.context = context if running else 0
        return finished

    def plan_one(self, start_s: float, seconds: float) -> None:
        """Plan one step of known length."""
        self.start_s, self.first_s, self.growth_s, self.planned = start_s, seconds, 0.0, 1

    def promised(self) -> float:
        """Output tokens to expect of the running requests: a share of what they may ask for."""
        running, steps, clip, far = self.running, self.steps, self._clip, self._far
        if not running:
            return 0.0
        while far and far[0][0] - steps <= clip:
            heappop(far)
        beyond = sum([end - steps - clip for end, _ in far])
        asked = (self.finish_sum - len(running) * steps - beyond) * self.gain
        return asked * ratio_after(self._ratio, steps - self._ratio_step)

    def note_idle(self) -> None:
        """Expect all of what is asked for again, as at the start."""
        self._ratio, self._ratio_step = INIT_NEW_TOKEN_RATIO, self.steps

    def retract(
        self, is_short: Callable[[int], bool], give_back: Callable[[Job, int], None]
    ) -> list[Job]:
        """Take requests out, shortest output first, until the others can have one more token.

        is_short(n): whether KV is short for n requests; give_back(job, made): free a request's KV,
        `made` tokens of output since it joined included. At least one request stays.
        """
        order = sorted(
            (job for _, _, job in self.running),
            key=lambda job: retraction_key(job.osl - job.left + self.made_by(job), job.isl),
        )
        victims: list[Job] = []
        while len(victims) + 1 < len(order) and is_short(len(order) - len(victims)):
            job = order[len(victims)]
            victims.append(job)
            made = self.made_by(job)
            give_back(job, made)
            self.context -= job.prompt + (self.steps - job.joined_step) * self.gain
            job.left -= made
        gone = {job.index for job in victims}
        self.finish_sum -= sum(finish for finish, index, _ in self.running if index in gone)
        self.running = [entry for entry in self.running if entry[1] not in gone]
        heapify(self.running)
        self._far = [entry for entry in self._far if entry[1] not in gone]
        heapify(self._far)
        staying = [job for _, _, job in self.running]
        out = sum(job.osl - job.left + self.made_by(job) for job in staying)
        asked = sum(job.osl for job in staying)
        self._ratio, self._ratio_step = (
            ratio_after_retraction(out, asked, len(staying)),
            self.steps,
        )
        return victims

    def made_by(self, job: Job) -> int:
        """Tokens a request has made since it joined."""
        return int((self.steps - job.joined_step) * self.gain)
