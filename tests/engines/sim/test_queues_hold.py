"""Invariants of the schedulers under random requests, aborts and KV sizes, with overlap."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from pdctl.engines.sim.engine import SchedulerQueues, queues_for
from pdctl.engines.sim.requests import BLOCK_TOKENS, Batch, Emission, Request
from pdctl.perf_model.records import Role
from tests.engines.sim.models import model

ROLES: tuple[Role, ...] = ("colocated", "prefill", "decode")


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[int, int, int, int | None, int]]:
    """Rows of (pass of arrival, prompt, output, passes until aborted, shared blocks)."""
    row = st.tuples(
        st.integers(0, 30),
        st.integers(1, 300),
        st.integers(1, 40),
        st.none() | st.integers(0, 20),
        st.integers(0, 6),
    )
    return draw(st.lists(row, min_size=1, max_size=12))


class History:
    """A scheduler that always has one batch in flight, as in SGLang's overlapped loop."""

    def __init__(self, role: Role, kv: int, chunk: int, max_running: int) -> None:
        limits = model(role, kv=kv, chunk=chunk, max_running=max_running, reserved=2)
        self.queues: SchedulerQueues = queues_for(role, limits)
        self.role = role
        self.now_s = 0.0
        self.in_flight: Batch | None = None
        self.tokens: Counter[str] = Counter()
        self.ended: Counter[str] = Counter()

    def submit(self, request: Request) -> None:
        request.is_ready = True
        self.queues.submit(request, self.now_s)

    def one_pass(self) -> None:
        decision = self.queues.decide(self.now_s)
        self._note(decision.emissions)
        for request in decision.allocated:
            request.is_transferred = True
        ended, self.in_flight = self.in_flight, decision.batch
        if ended:
            self.now_s += ended.duration_s
            self._note(self.queues.finish(ended, self.now_s).emissions)
        elif not decision.batch:
            self.now_s = max(self.now_s, self.queues.wake_s() or 0.0)
            self._note(self.queues.poll(self.now_s).emissions)
        self.check()

    def check(self) -> None:
        kv = self.queues.kv
        assert 0 <= kv.free_tokens <= kv.capacity_tokens
        assert kv.held_tokens >= 0
        running = self.queues.queues.running
        assert self.role == "prefill" or running <= self.queues.model.max_running_requests

    def _note(self, emissions: list[Emission]) -> None:
        for emission in emissions:
            self.tokens[emission.request.rid] += emission.tokens
            self.ended[emission.request.rid] += emission.reason is not None


@settings(max_examples=150, deadline=None)
@given(
    role=st.sampled_from(ROLES),
    history=histories(),
    kv=st.integers(150, 1500),
    chunk=st.integers(20, 400),
    max_running=st.integers(1, 8),
)
def test_every_request_gets_all_its_tokens_once_and_all_kv_comes_back(
    role: Role,
    history: list[tuple[int, int, int, int | None, int]],
    kv: int,
    chunk: int,
    max_running: int,
) -> None:
    run = History(role, kv, chunk, max_running)
    requests: list[tuple[int, int | None, Request]] = []
    for n, (comes, prompt, new, aborted, shared) in enumerate(history):
        prompt = min(prompt, kv // 2)
        own = tuple(1000 * (n + 1) + k for k in range(prompt // BLOCK_TOKENS))
        blocks = (*range(min(shared, len(own))), *own[shared:]) if role != "decode" else ()
        new = 1 if role == "prefill" else new
        request = Request(str(n), prompt, new, blocks=blocks, room=n)
        requests.append((comes, aborted, request))
    for step in range(4000):
        for comes, aborted, request in requests:
            if comes == step:
                run.submit(request)
            if aborted is not None and comes + aborted == step and not request.is_done:
                run.queues.abort(request)
                run.ended[request.rid] += 1
        run.one_pass()
        if step > 60 and run.queues.is_idle and run.in_flight is None:
            break
    assert run.queues.is_idle, run.queues.queues
    assert all(run.ended[request.rid] == 1 for _, _, request in requests)
    for _, aborted, request in requests:
        wanted = request.max_new
        assert run.tokens[request.rid] == wanted or (aborted is not None)
        assert run.tokens[request.rid] <= wanted
    assert run.queues.kv.held_tokens == 0
    assert run.queues.kv.available_tokens == kv, "no block stays locked"
