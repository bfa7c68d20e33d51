"""A slow simulator, token by token and loop turn by loop turn, to hold the fast one against.

Written from SGLang's loops, one engine of each role, no prefix cache, no retraction. It shares
with the fast one only the evaluation of step times.
"""

from dataclasses import dataclass, field

from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator.steps import (
    decode_step_s,
    prefill_floor_s,
    prefill_s,
    weighted_pairs,
)
from pdctl.workload.records import Requests


@dataclass
class Item:
    """A request in the reference."""

    arrival: float
    isl: int
    osl: int
    done: int = 0
    out: int = 0
    tokens: list[float] = field(default_factory=list)
    reply: float = 0.0

    @property
    def ttft(self) -> float:
        return max(self.tokens[0], self.reply) - self.arrival

    @property
    def e2e(self) -> float:
        return max(self.tokens[-1], self.reply) - self.arrival


def items(requests: Requests) -> list[Item]:
    """The requests of a test as items."""
    return [
        Item(a, i, o)
        for a, i, o in zip(requests.arrival_s, requests.isl, requests.osl, strict=True)
    ]


def prefill_step(model: EngineModel, batch: list[tuple[Item, int]]) -> float:
    """Duration of a prefill batch, whose tokens are then done."""
    tokens = sum(n for _, n in batch)
    pairs = sum(weighted_pairs(model.times, n, item.done) for item, n in batch)
    for item, n in batch:
        item.done += n
    return prefill_s(model.times, tokens, pairs)


def run_colocated(model: EngineModel, all_items: list[Item]) -> None:
    """One colocated engine, deciding the next step when the running one starts."""
    engine = _Colocated(model, all_items)
    while engine.is_busy():
        engine.turn()


def fill(batch: list[tuple[Item, int]], item: Item, chunk: int) -> int:
    """Add as much of an item as the chunk allows; returns how much."""
    tokens = min(item.isl - item.done, chunk)
    batch.append((item, tokens))
    return tokens


class _Colocated:
    def __init__(self, model: EngineModel, all_items: list[Item]) -> None:
        self.model = model
        self.coming = list(all_items)
        self.waiting: list[Item] = []
        self.running: list[Item] = []
        self.joining: list[Item] = []
        self.partial: Item | None = None
        self.ended: list[tuple[float, list[Item]]] = []  # leave the books when their step ends
        self.held: list[Item] = []  # whose KV is taken
        self.untold: list[Item] = []  # prefilled by the step before
        self.now = self.end = 0.0
        self.full = False
        self.ratio = 0.7

    def is_busy(self) -> bool:
        places = (self.coming, self.waiting, self.running, self.joining, self.partial, self.ended)
        return any(places)

    def turn(self) -> None:
        while self.coming and self.coming[0].arrival <= self.now:
            self.waiting.append(self.coming.pop(0))
        while self.ended and self.ended[0][0] <= self.now:
            for item in self.ended.pop(0)[1]:
                self.held.remove(item)
                self.full = False
        self.running += self.joining
        self.joining = []
        start = max(self.now, self.end)
        batch = self.admit() if self.partial or (self.waiting and not self.full) else []
        if batch:
            self.prefill(batch)
            return
        self.untold = []
        if self.running:
            self.decode(start)
        elif self.ended:
            self.now = max(self.now, self.ended[0][0])
        elif self.end > self.now:
            self.now = self.end
        elif self.coming:
            self.now, self.ratio, self.full = self.coming[0].arrival, 0.7, False

    def admit(self) -> list[tuple[Item, int]]:
        batch: list[tuple[Item, int]] = []
        slots = self.model.max_running_requests - len(self.running)
        if not self.partial and slots <= 0:
            self.full = True
            return batch
        free = self.model.kv_capacity_tokens
        free -= sum(i.done + max(i.out - 1, 0) for i in self.held)
        total = free - self.ratio * sum(min(i.osl - i.out, 4096) for i in self.running)
        chunk = self.model.chunked_prefill_size
        if self.partial:
            n = fill(batch, self.partial, chunk)
            chunk -= n
            if n == self.partial.isl - self.partial.done:
                total -= n + 1 + min(self.partial.osl, 4096)
                self.partial = None
        while self.waiting and not self.partial and chunk > 0:
            item = self.waiting[0]
            short = item.isl + min(item.osl, 4096) + 1 >= total
            if short or len(batch) >= slots:
                self.full = bool(batch or self.running)
                break
            n = fill(batch, self.waiting.pop(0), chunk)
            self.held.append(item)
            chunk -= n
            total -= n + 1 + min(item.osl, 4096)
            if n < item.isl:
                self.partial = item
            elif total <= 0:
                self.full = True
                break
        return batch

    def prefill(self, batch: list[tuple[Item, int]]) -> None:
        launched = self.now + prefill_floor_s(self.model.times)
        for item in self.untold:
            item.tokens[0] = max(item.tokens[0], launched)
        start = max(self.now + self.model.times.prefill_start_s, self.end)
        self.end = start + prefill_step(self.model, batch)
        self.untold = [item for item, _ in batch if item.done == item.isl]
        finished: list[Item] = []
        for item in self.untold:
            item.out = 1
            item.tokens.append(self.end)
            (self.joining if item.osl > 1 else finished).append(item)
        if finished:
            self.ended.append((self.end, finished))
        self.now = max(start, launched)

    def decode(self, start: float) -> None:
        context = sum(i.isl + i.out for i in self.running)
        self.end = start + decode_step_s(self.model.times, len(self.running), context)
        finished = one_token_each(self.running, self.end)
        if finished:
            self.ended.append((self.end, finished))
        self.ratio = max(0.7 * 0.14, self.ratio - (0.7 - 0.7 * 0.14) / 600)
        self.now = start


def one_token_each(running: list[Item], end: float) -> list[Item]:
    """Let every running item have a token at `end`; those that have all leave the list."""
    for item in running:
        item.out += 1
        item.tokens.append(end)
    finished = [i for i in running if i.out == i.osl]
    running[:] = [i for i in running if i.out < i.osl]
    return finished


def run_split(prefill: EngineModel, decode: EngineModel, all_items: list[Item]) -> None:
    """One prefill and one decode engine, each loop turn by loop turn."""
    _Split(prefill, decode, all_items).run()


class _Split:
    def __init__(self, prefill: EngineModel, decode: EngineModel, all_items: list[Item]) -> None:
        self.p, self.d = prefill, decode
        self.coming = list(all_items)
        self.boot: list[tuple[float, Item]] = []
        self.waiting: list[Item] = []
        self.partial: Item | None = None
        self.computed: list[tuple[float, list[tuple[Item, int, bool]]]] = []
        self.inflight: list[tuple[float, Item]] = []
        self.p_end = self.p_open = self.d_end = self.link = 0.0
        self.prealloc: list[Item] = []
        self.landing: list[tuple[float, Item]] = []
        self.ready: list[Item] = []
        self.running: list[Item] = []
        self.leaving: list[tuple[float, list[Item]]] = []
        self.holders: list[Item] = []

    def run(self) -> None:
        """Whoever's turn is earlier goes first, decode first at equal times."""
        never = float("inf")
        p_next = d_next = never
        while True:
            arrival = self.coming[0].arrival if self.coming else never
            now = min(arrival, p_next, d_next)
            if now == never:
                return
            if arrival <= now:
                self.prealloc.append(self.coming.pop(0))
                d_next = min(d_next, max(arrival, self.d_end))
            elif d_next <= p_next:
                d_next = self.decode_turn(now)
                if self.boot:
                    told = self.boot[-1][0]
                    p_next = min(
                        p_next, max(told, self.p_open if told <= self.p_open else self.p_end)
                    )
            else:
                p_next = self.prefill_turn(now)
                if self.landing:
                    soonest = max(min(x for x, _ in self.landing), self.d_end)
                    d_next = min(d_next, soonest)

    def prefill_turn(self, now: float) -> float:
        while self.computed and self.computed[0][0] <= now:
            self.send(now, self.computed.pop(0)[1])
        for at, item in list(self.inflight):
            if at <= now:
                item.reply = now
                self.inflight.remove((at, item))
        while self.boot and self.boot[0][0] <= now:
            self.waiting.append(self.boot.pop(0)[1])
        batch = self.prefill_batch()
        if batch:
            given = self.p.times
            start = max(now + given.prefill_start_s, self.p_end)
            parts = given.prefill_start_s, prefill_floor_s(given)
            launched = now + (sum(parts) if given.prefill_graphs else max(parts))
            self.p_open = max(launched, self.computed[0][0] if self.computed else 0.0)
            self.p_end = start + prefill_step(self.p, batch)
            chunks = [(item, n, item.done == item.isl) for item, n in batch]
            self.computed.append((self.p_end, chunks))
            return self.p_open
        if self.computed:
            return self.computed[0][0]
        times = [at for at, _ in self.inflight] + [at for at, _ in self.boot[:1]]
        return min(times, default=float("inf"))

    def send(self, now: float, chunks: list[tuple[Item, int, bool]]) -> None:
        for item, n, last in chunks:
            seconds = self.p.times.transfer_base_s + n * self.p.times.transfer_token_s
            self.link = max(self.link, now) + seconds
            if last:
                self.inflight.append((self.link, item))
                self.landing.append((self.link, item))

    def prefill_batch(self) -> list[tuple[Item, int]]:
        chunk = self.p.chunked_prefill_size
        batch: list[tuple[Item, int]] = []
        if self.partial:
            chunk -= fill(batch, self.partial, chunk)
            if batch[0][1] == self.partial.isl - self.partial.done:
                self.partial = None
        while self.waiting and not self.partial and chunk > 0:
            item = self.waiting.pop(0)
            n = fill(batch, item, chunk)
            chunk -= n
            if n < item.isl:
                self.partial = item
        return batch

    def decode_turn(self, now: float) -> float:
        while self.leaving and self.leaving[0][0] <= now:
            for item in self.leaving.pop(0)[1]:
                self.holders.remove(item)
        self.preallocate(now)
        for at, item in sorted(self.landing, key=lambda entry: entry[0]):
            if at <= now:
                self.landing.remove((at, item))
                self.ready.append(item)
        self.join(now)
        if not self.running:
            if self.prealloc and not self.holders:
                return now
            later = [at for at, _ in self.leaving] or [max(at, now) for at, _ in self.landing]
            return min(later, default=float("inf"))
        start = max(now, self.d_end)
        context = sum(i.isl + i.out for i in self.running)
        self.d_end = start + decode_step_s(self.d.times, len(self.running), context)
        finished = one_token_each(self.running, self.d_end)
        if finished:
            self.leaving.append((self.d_end, finished))
        return start

    def preallocate(self, now: float) -> None:
        reserved, capacity = self.d.reserved_decode_tokens, self.d.kv_capacity_tokens
        slots = self.d.max_running_requests * (3 if self.d.max_running_requests <= 32 else 1)
        context = sum(i.isl + i.out - 1 for i in self.running)
        while self.prealloc and len(self.holders) < slots:
            item = self.prealloc[0]
            free = capacity - sum(i.isl + max(i.out - 1, 0) for i in self.holders)
            longest = max((i.isl + i.osl for i in self.running), default=0) - context
            room = free - max(reserved * len(self.holders), longest)
            if max(item.isl + reserved, item.isl + min(item.osl, 4096) - context) > room:
                break
            self.holders.append(self.prealloc.pop(0))
            self.boot.append((now, item))

    def join(self, now: float) -> None:
        while self.ready and len(self.running) < self.d.max_running_requests:
            item = self.ready.pop(0)
            item.out = 1
            item.tokens.append(now)
            if item.osl > 1:
                self.running.append(item)
            else:
                self.holders.remove(item)
