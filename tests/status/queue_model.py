"""A small queue model of a PD deployment that yields the moments `status` would see.

Requests queue for KV room on decode, for a prefill engine, for the link, and then decode. Each step
of the model is a quarter of a second. Pure; all randomness comes from the seed in the parameters.
"""

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field, replace

from pdctl.status.records import EngineHealth, EngineMoment, Moment

STEP_S = 0.25
WARM_UP_S = 40.0


@dataclass(frozen=True)
class Setup:
    """A deployment, its load and its fault.

    prefill_s: mean prefill time of a prompt. link_rps: transfers a second the link carries.
    gap_s: time per token at batch 1; gap_per_request_s: what each request of the batch adds.
    slots: requests whose KV fits one decode engine. leak: share of transfers that never end.
    slow: engine name -> factor on its times. held: share of KV that decode refuses to hand out.
    dead: engine that stops answering. frozen: no transfer ends any more. hot: how many times as
    many requests the first decode engine gets as each other one. burst_s: half a period of bursts,
    between 1.7 and 0.3 times the rate; 0: none.
    """

    seed: int
    num_prefill: int
    num_decode: int
    rate_rps: float
    prefill_s: float
    output_tokens: float
    gap_s: float
    gap_per_request_s: float
    slots: int
    link_rps: float
    ramp: float = 1.0  # rate at the end over rate at the beginning of the watched time
    leak: float = 0.0
    leak_on_decode: bool = False
    slow: tuple[tuple[str, float], ...] = ()
    held: float = 0.0
    dead: str = ""
    frozen: bool = False
    hot: float = 1.0
    burst_s: float = 0.0
    sample_s: float = 1.0
    watched_s: float = 66.0


@dataclass
class Request:
    arrived_s: float
    prefill_s: float
    tokens: float
    decode: int
    sent_s: float = 0.0
    first_s: float | None = None
    ended_s: float | None = None


@dataclass
class Prefill:
    name: str
    slow: float
    queue: deque[Request] = field(default_factory=deque)
    left_s: float = 0.0
    busy_s: float = 0.0
    work_s: float = 0.0  # of healthy engine time computed


@dataclass
class Decode:
    name: str
    slow: float
    prealloc: deque[Request] = field(default_factory=deque)
    waiting_kv: int = 0
    running: int = 0
    clock: float = 0.0  # tokens each running request has been given
    ends: list[tuple[float, int, Request]] = field(default_factory=list)
    gap_s: float | None = None


class Model:
    """The deployment of one Setup in motion."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.random = setup, random.Random(setup.seed)
        self.arrivals = random.Random(setup.seed + 1)  # equal for every layout of this load
        slow = dict(setup.slow)
        self.prefills = [
            Prefill(n, slow.get(n, 1.0)) for n in map("prefill-{}".format, range(setup.num_prefill))
        ]
        self.decodes = [
            Decode(n, slow.get(n, 1.0)) for n in map("decode-{}".format, range(setup.num_decode))
        ]
        self.inflight: deque[Request] = deque()
        self.stuck = 0
        self.lost = 0  # stuck on decode: prefill has let go of them
        self.link_credit = 0.0
        self.latency_s: float | None = None
        self.requests: list[Request] = []
        self.now_s = 0.0

    def step(self) -> None:
        """A quarter of a second."""
        self._arrive()
        for engine in self.decodes:
            self._admit(engine)
        for prefill in self.prefills:
            self._prefill(prefill)
        self._transfer()
        for engine in self.decodes:
            self._decode(engine)
        self.now_s += STEP_S

    def _arrive(self) -> None:
        s = self.setup
        share = min(1.0, max(0.0, (self.now_s - WARM_UP_S) / s.watched_s))
        mean = s.rate_rps * (1 + (s.ramp - 1) * share) * STEP_S
        if s.burst_s:
            mean *= 1.7 if self.now_s // s.burst_s % 2 else 0.3
        for _ in range(self._poisson(mean)):
            request = Request(
                self.now_s,
                s.prefill_s * self.arrivals.lognormvariate(-0.125, 0.5),
                max(2.0, s.output_tokens * self.arrivals.lognormvariate(-0.125, 0.5)),
                self._pick_decode(),
            )
            self.requests.append(request)
            self.decodes[request.decode].prealloc.append(request)

    def _pick_decode(self) -> int:
        others = self.setup.num_decode - 1
        picked = self.random.random() * (self.setup.hot + others) - self.setup.hot
        return 0 if picked < 0 else 1 + min(others - 1, int(picked))

    def _poisson(self, mean: float) -> int:
        limit, count, product = math.exp(-mean), 0, self.arrivals.random()
        while product > limit:
            count, product = count + 1, product * self.arrivals.random()
        return count

    def _admit(self, engine: Decode) -> None:
        """Give requests KV room; they go to the prefill engine with the shortest queue of two."""
        room = self.setup.slots * (1 - self.setup.held)
        while engine.prealloc and engine.waiting_kv + engine.running < room:
            request = engine.prealloc.popleft()
            engine.waiting_kv += 1
            two = [self.random.choice(self.prefills) for _ in range(2)]
            min(two, key=lambda one: len(one.queue)).queue.append(request)

    def _prefill(self, engine: Prefill) -> None:
        engine.left_s += STEP_S
        while engine.queue and engine.left_s > 0:
            request = engine.queue[0]
            takes = request.prefill_s * engine.slow
            used = min(takes, engine.left_s)
            engine.left_s -= used
            engine.busy_s += used
            engine.work_s += used / engine.slow
            request.prefill_s -= used / engine.slow
            if request.prefill_s > 1e-9:
                return
            engine.queue.popleft()
            request.sent_s = self.now_s
            self.inflight.append(request)
        engine.left_s = 0.0

    def _transfer(self) -> None:
        s = self.setup
        if s.frozen and self.now_s > WARM_UP_S / 2:
            return
        self.link_credit = min(self.link_credit + s.link_rps * STEP_S, s.link_rps)
        while self.inflight and self.link_credit >= 1:
            self.link_credit -= 1
            request = self.inflight.popleft()
            if self.random.random() < s.leak:
                if s.leak_on_decode:
                    self.lost += 1
                else:
                    self.stuck += 1
                continue
            # the model's steps are longer than a quick transfer
            self.latency_s = max(1 / s.link_rps, self.now_s - request.sent_s)
            engine = self.decodes[request.decode]
            engine.waiting_kv -= 1
            engine.running += 1
            request.first_s = self.now_s
            heapq.heappush(engine.ends, (engine.clock + request.tokens, id(request), request))

    def _decode(self, engine: Decode) -> None:
        s = self.setup
        if not engine.running:
            engine.gap_s = None
            return
        engine.gap_s = (s.gap_s + s.gap_per_request_s * engine.running) * engine.slow
        engine.clock += STEP_S / engine.gap_s
        while engine.ends and engine.ends[0][0] <= engine.clock:
            _, _, request = heapq.heappop(engine.ends)
            engine.running -= 1
            request.ended_s = self.now_s

    def moment(self, before: dict[str, tuple[float, float]], elapsed_s: float) -> Moment:
        """What status would see now. before: busy and work time of prefill engines at the last."""
        s = self.setup
        engines = [self._prefill_moment(one, before) for one in self.prefills]
        engines += [self._decode_moment(one) for one in self.decodes]
        healthy = not s.dead or self.now_s < WARM_UP_S
        gaps = [one.gap_s for one in self.decodes if one.gap_s is not None]
        busy = [(p.busy_s - before[p.name][0]) / elapsed_s for p in self.prefills]
        held = [one.waiting_kv + one.running for one in self.decodes]
        return Moment(
            at_s=self.now_s,
            num_prefill=s.num_prefill,
            num_decode=s.num_decode,
            waiting=float(sum(len(p.queue) for p in self.prefills)) if healthy else None,
            bootstrap=float(sum(len(d.prealloc) for d in self.decodes)),
            inflight=float(len(self.inflight) + self.stuck),
            prealloc=float(sum(len(d.prealloc) for d in self.decodes)),
            transfer=float(sum(d.waiting_kv for d in self.decodes)),
            decode_waiting=0.0,
            running=float(sum(d.running for d in self.decodes)),
            kv_usage=min(1.0, sum(held) / s.slots / len(held)),
            itl_s=sum(gaps) / len(gaps) if gaps else None,
            busy_share=min(1.0, sum(busy) / len(busy)),
            transfer_latency_s=self.latency_s,
            requests=float(len(self.requests)),
            engines=tuple(engines),
        )

    def _health(self, name: str) -> EngineHealth:
        is_dead = name == self.setup.dead and self.now_s >= WARM_UP_S
        return "unreachable" if is_dead else "up"

    def _prefill_moment(self, one: Prefill, before: dict[str, tuple[float, float]]) -> EngineMoment:
        busy_s, work_s = one.busy_s - before[one.name][0], one.work_s - before[one.name][1]
        pace = busy_s / work_s * 1e-4 if work_s > 0 else None
        return EngineMoment(
            one.name,
            "prefill",
            self._health(one.name),
            queued=float(len(one.queue)),
            prefill_s_per_token=pace and pace * self.random.lognormvariate(0.0, 0.05),
        )

    def _decode_moment(self, one: Decode) -> EngineMoment:
        return EngineMoment(
            one.name,
            "decode",
            self._health(one.name),
            queued=float(len(one.prealloc) + one.waiting_kv),
            running=float(one.running),
            itl_s=one.gap_s,
        )


def history(setup: Setup) -> list[Moment]:
    """The moments of the watched time, after the warm-up."""
    model, moments = Model(setup), []
    steps = round(setup.sample_s / STEP_S)
    while model.now_s < WARM_UP_S:
        model.step()
    while model.now_s < WARM_UP_S + setup.watched_s:
        before = {one.name: (one.busy_s, one.work_s) for one in model.prefills}
        for _ in range(steps):
            model.step()
        moments.append(model.moment(before, setup.sample_s))
    return moments


def share_served(setup: Setup, *, ttft_s: float, tpot_s: float, lasting_s: float = 120.0) -> float:
    """Share of the requests of a longer run that met both limits; those unfinished did not."""
    model = Model(replace(setup, watched_s=lasting_s))
    while model.now_s < WARM_UP_S + lasting_s:
        model.step()
    judged = [r for r in model.requests if WARM_UP_S / 2 < r.arrived_s < lasting_s / 2 + WARM_UP_S]
    met = [r for r in judged if _meets(r, model.now_s, ttft_s, tpot_s)]
    return len(met) / max(1, len(judged))


def _meets(request: Request, now_s: float, ttft_s: float, tpot_s: float) -> bool:
    if request.first_s is None or request.first_s - request.arrived_s > ttft_s:
        return False
    ended_s = request.ended_s if request.ended_s is not None else now_s
    return (ended_s - request.first_s) / request.tokens <= tpot_s
