"""What would these engines do with these requests? A discrete-event replay of SGLang's scheduling.

Requests go through the router to engines; engines decide steps (colocated.py, prefill_engine.py,
decode_engine.py); decode is advanced in closed form from one change to the next (decode_run.py).
"""

from collections.abc import Sequence
from heapq import heappop, heappush
from random import Random

from pdctl.perf_model.colocated import ColocatedEngine
from pdctl.perf_model.decode_engine import DecodeEngine
from pdctl.perf_model.decode_run import ITL_BIN_S, DecodeCosts
from pdctl.perf_model.events import NEVER, Agenda, SimulationBroken
from pdctl.perf_model.jobs import Columns, Job
from pdctl.perf_model.metrics import weighted_percentiles
from pdctl.perf_model.prefill_engine import PrefillEngine
from pdctl.perf_model.records import EngineModel, Fleet, Outcome
from pdctl.perf_model.routing import Pool
from pdctl.workload.records import Requests


def simulate(
    fleet: Fleet,
    requests: Requests,
    *,
    seed: int = 0,
    sample_every_s: float | None = None,
    changes: Sequence[object] = (),
    max_decode_steps_per_event: float = NEVER,
) -> Outcome:
    """Replay `requests` at their own times through `fleet`.

    max_decode_steps_per_event: for tests; fewer make it slower and change nothing.
    Returns per-request times in arrival order; None where a request was rejected as too long.
    Raises ValueError for a fleet without engines, SimulationBroken for a bug in the simulator.
    Source: SGLang 0.5.15 and 0.5.23, see the engines' modules. Ignores: tokenizer, detokenizer,
    CPU time between steps, client connections.
    """
    run = _Run(fleet, requests, seed, max_decode_steps_per_event)
    run.replay()
    run.check()
    return run.outcome()


class _Run:
    """One replay: the engines, the router's pools and the columns."""

    def __init__(self, fleet: Fleet, requests: Requests, seed: int, max_steps: float) -> None:
        self.fleet = fleet
        self.requests = requests
        count = len(requests)
        self.columns = Columns(count)
        self.gaps: dict[int, float] = {}
        self.departures: list[tuple[float, int]] = []
        self.max_steps = max_steps
        self.rejected = 0
        rng = Random(seed)
        if fleet.num_colocated:
            self._make_colocated(rng)
        else:
            self._make_disaggregated(rng)
        self.jobs = self._jobs()

    def _make_colocated(self, rng: Random) -> None:
        fleet, model = self.fleet, self.fleet.colocated
        if model is None:
            raise ValueError("a colocated fleet needs an engine model")
        self.agenda = Agenda(fleet.num_colocated)
        costs = DecodeCosts(model.times)
        self.engines: list[ColocatedEngine] = [
            ColocatedEngine(
                number,
                model,
                self.columns,
                costs=costs,
                gaps=self.gaps,
                departures=self.departures,
                block_tokens=self.requests.block_tokens,
                max_steps=self.max_steps,
            )
            for number in range(fleet.num_colocated)
        ]
        self.pool = Pool(fleet.policy, fleet.num_colocated, rng)
        self.limits = [_limit(model)]

    def _make_disaggregated(self, rng: Random) -> None:
        fleet = self.fleet
        if not (fleet.prefill and fleet.decode and fleet.num_prefill and fleet.num_decode):
            raise ValueError("a fleet needs colocated engines, or prefill and decode engines")
        num_decode = fleet.num_decode
        self.agenda = Agenda(num_decode + fleet.num_prefill)
        costs = DecodeCosts(fleet.decode.times)
        self.decoders = [
            DecodeEngine(
                number,
                fleet.decode,
                self.columns,
                costs=costs,
                gaps=self.gaps,
                agenda=self.agenda,
                departures=self.departures,
                max_steps=self.max_steps,
            )
            for number in range(num_decode)
        ]
        self.prefillers = [
            PrefillEngine(
                num_decode + place,
                fleet.prefill,
                self.columns,
                agenda=self.agenda,
                departures=self.departures,
                block_tokens=self.requests.block_tokens,
            )
            for place in range(fleet.num_prefill)
        ]
        for decoder in self.decoders:
            decoder.prefillers = self.prefillers
        for prefiller in self.prefillers:
            prefiller.decoders = self.decoders
        self.decode_pool = Pool(fleet.policy, num_decode, rng)
        self.prefill_pool = Pool(fleet.policy, fleet.num_prefill, rng)
        reserved = fleet.decode.reserved_decode_tokens
        self.limits = [_limit(fleet.prefill), _limit(fleet.decode)]
        self.most_prompt = fleet.decode.kv_capacity_tokens - reserved

    def _jobs(self) -> list[Job | None]:
        requests = self.requests
        longest = min(self.limits)
        jobs: list[Job | None] = []
        blocks = requests.blocks or [()] * len(requests)
        for index, (isl, osl, run) in enumerate(
            zip(requests.isl, requests.osl, blocks, strict=True)
        ):
            room = longest - isl - 1
            jobs.append(Job(index, isl, osl if osl < room else room, run) if room >= 1 else None)
        return jobs

    def replay(self) -> None:
        if self.fleet.num_colocated:
            self._replay_colocated()
        else:
            self._replay_disaggregated()

    def _replay_colocated(self) -> None:
        engines, agenda, pool = self.engines, self.agenda, self.pool
        entries, next_s = agenda.entries, agenda.next_s
        departures, loads, choose = self.departures, pool.loads, pool.choose
        hop_s = self.fleet.router_hop_s
        for job, arrival_s in zip(self.jobs, self.requests.arrival_s, strict=True):
            if job is None:
                continue
            now = arrival_s + hop_s
            while entries and entries[0][0] < now:
                due_s, number = heappop(entries)
                if due_s == next_s[number]:
                    next_s[number] = due_s = engines[number].advance(now)
                    if due_s < NEVER:
                        heappush(entries, (due_s, number))
            while departures and departures[0][0] <= now:
                loads[heappop(departures)[1]] -= 1
            place = choose(job.blocks)
            loads[place] += 1
            due_s = engines[place].arrive(job, now)
            if due_s != next_s[place]:
                next_s[place] = due_s
                heappush(entries, (due_s, place))
        for engine in engines:
            engine.advance(NEVER)

    def _replay_disaggregated(self) -> None:
        hop_s = self.fleet.router_hop_s
        loads = self.decode_pool.loads
        num_decode = len(loads)
        prefill_loads = self.prefill_pool.loads
        departures = self.departures
        for job, arrival_s in zip(self.jobs, self.requests.arrival_s, strict=True):
            if job is None:
                continue
            now = arrival_s + hop_s
            self._advance(now)
            while departures and departures[0][0] <= now:
                number = heappop(departures)[1]
                if number < num_decode:
                    loads[number] -= 1
                else:
                    prefill_loads[number - num_decode] -= 1
            job.prefill = self.prefill_pool.choose(job.blocks)
            prefill_loads[job.prefill] += 1
            job.decode = self.decode_pool.choose(job.blocks)
            loads[job.decode] += 1
            self.decoders[job.decode].arrive(job, now)
        self._advance(NEVER)

    def _advance(self, until: float) -> None:
        """Let engines decide in time order up to `until`."""
        entries, next_s = self.agenda.entries, self.agenda.next_s
        engines: list[DecodeEngine | PrefillEngine] = [*self.decoders, *self.prefillers]
        while entries and entries[0][0] < until:
            now, number = heappop(entries)
            if now != next_s[number]:
                continue
            next_s[number] = NEVER
            due_s = engines[number].decide(now)
            if due_s < next_s[number]:
                next_s[number] = due_s
                heappush(entries, (due_s, number))

    def check(self) -> None:
        """Raise SimulationBroken unless every request and every KV token came out again."""
        columns = self.columns
        for job in self.jobs:
            if job is not None and (
                columns.last_s[job.index] < 0 or columns.first_s[job.index] < 0
            ):
                raise SimulationBroken(f"request {job.index} never finished")

    def outcome(self) -> Outcome:
        columns, requests = self.columns, self.requests
        hold = columns.reply_s
        ttft_s: list[float | None] = []
        tpot_s: list[float | None] = []
        e2e_s: list[float | None] = []
        tokens = 0
        end_s = 0.0
        for job, arrival_s, first, reply, last in zip(
            self.jobs, requests.arrival_s, columns.first_s, hold, columns.last_s, strict=True
        ):
            if job is None:
                ttft_s.append(None)
                tpot_s.append(None)
                e2e_s.append(None)
                continue
            if first < reply:
                first = reply
            if last < first:
                last = first
            ttft_s.append(first - arrival_s)
            tpot_s.append((last - first) / (job.osl - 1) if job.osl > 1 else 0.0)
            e2e_s.append(last - arrival_s)
            tokens += job.osl
            if last > end_s:
                end_s = last
        return Outcome(
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            e2e_s=e2e_s,
            span_s=max(end_s - requests.arrival_s[0], 0.0) if requests.arrival_s else 0.0,
            output_tokens=tokens,
            kv_usage_peak={},
            num_retracted=columns.num_retracted,
            num_rejected=sum(job is None for job in self.jobs),
            itl_s=weighted_percentiles(self.gaps, ITL_BIN_S),
        )


def _limit(model: EngineModel) -> int:
    """SGLang's max_req_len: what prompt and output may come to, less one."""
    return min(model.max_context - 1, model.kv_capacity_tokens - 1)
