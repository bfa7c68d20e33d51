"""Measure single steps of several kinds of engine, one engine after the other on each GPU.

    python -m tests.gpu.kinds OUT MODELS PLAN [--minutes 9.2] [--turns] [--engine sim]

PLAN is JSON: a list of tracks that run side by side, each a list of kinds (see Kind). A kind that
fails to start or times out does not affect the others. Every result goes to OUT/trackN.jsonl at
once. tests/gpu/foretold.py prints the predictions beforehand.
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import aiohttp

from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.measurement.calibration.engine_client import Probed, Together, answers, body_of, hop_s
from pdctl.measurement.calibration.probe_steps import EngineSteps
from pdctl.measurement.load import token_ids_for
from pdctl.perf_model.records import Measurement, Parallelism, Role, StepTimes
from pdctl.perf_model.roofline import step_times
from tests.gpu.crowd import beside, verify_gaps
from tests.gpu.kernels import summary
from tests.gpu.servers import (
    BOOTSTRAP_PORT,
    Running,
    Server,
    end_left_over,
    memory_used,
    scheduler_of,
    start,
)
from tests.gpu.turns import Turns

ROLES: dict[str, Role] = {"null": "colocated", "prefill": "prefill", "decode": "decode"}
PREFILLS = (256, 512, 1024, 2048, 4096, 8192, 16384)
STALLS = (256, 1024, 4096)
DECODES = (
    (1, 256), (1, 4096), (2, 1024), (4, 1024), (8, 1024), (16, 1024), (32, 1024), (64, 1024),
    (128, 512), (256, 256),
)  # fmt: skip
BURST = 8
LEAST_LEFT_S = 40.0  # a server is not started for less
STEP_S, WARM_STEP_S = 20.0, 90.0
PROFILED_STEPS = 3
LEAST_LOAD_S = 5  # a shorter load only warms an engine up
TAIL_CV = "1.3"  # prompts of conversations
LOOP_CV = "0.2"  # clients whose outputs are equally long stay in step with one another
SPY = ("py-spy", "record", "--nonblocking", "-d", "4", "-r", "400", "-f", "raw")


@dataclass(frozen=True)
class Kind:
    """One engine, or one 1P1D pair, and the measurements to take.

    parts: steps, burst, crowd, load, profile, and with py-spy spy, spy-prefill and spy-crowd; a
    pair also has pair, and kill (of the decode engine); a speculating engine verify; arms:
    tests/gpu/arms.py plays the loads. rounds: of steps, the first of which only compiles kernels.
    gpus: one engine on all of them, or one engine of the pair on each. seconds: budget for steps.
    loads: requests per second, prompt tokens, output tokens, seconds. loops: loads of so many
    clients, each with one request under way. tails: as loads, with drawn lengths (deviations of
    TAIL_CV times the mean). most: largest decode batch. prefills, stalls: tokens of the steps.
    verified: requests and prompt tokens of verify steps. crowds: requests that decode meanwhile.
    """

    name: str
    model: str
    gpus: str = "0"
    args: str = ""
    env: dict[str, str] = field(default_factory=dict)
    parts: Sequence[str] = ("steps", "burst", "load", "profile")
    loads: Sequence[tuple[float, int, int, int]] = ()
    loops: Sequence[tuple[int, int, int, int]] = ()
    tails: Sequence[tuple[float, int, int, int]] = ()
    pair: bool = False
    seconds: float = 70.0
    start_s: float = 240.0
    most: int = 256
    prefills: Sequence[int] = PREFILLS
    stalls: Sequence[int] = STALLS
    verified: Sequence[tuple[int, int]] = ((1, 512), (4, 512), (16, 512), (32, 512))
    rounds: int = 5
    crowds: Sequence[int] = (1, 4, 16, 64)


class Track:
    """Runs kinds one after the other and appends each result to one file."""

    def __init__(self, options: argparse.Namespace, number: int, num_tracks: int) -> None:
        self.options, self.number = options, number
        self.out: Path = options.out
        self.ends = options.ends
        self._file = self.out / f"track{number}.jsonl"
        self._group = 0  # of the engine's processes; the decode engine's of a pair
        self.turns = Turns(self.out, number, num_tracks) if options.turns else None

    @property
    def left_s(self) -> float:
        return float(self.ends) - time.time()

    def say(self, text: str) -> None:
        at = float(self.options.minutes) * 60 - self.left_s
        sys.stdout.write(f"[{at:4.0f} s] {self.number} {text}\n")
        sys.stdout.flush()

    def keep(self, kind: Kind, what: str, **found: Any) -> None:
        with self._file.open("a") as into:
            into.write(json.dumps({"kind": kind.name, "what": what, **found}) + "\n")

    def play(self, kind: Kind) -> None:
        """Start a kind, take its measurements, stop it. Report every failure and go on."""
        if self.left_s < LEAST_LEFT_S:
            self.say(f"{kind.name}: no time left")
            return
        running: list[Running] = []
        try:
            running = start(self._servers(kind), self.out, self.options.engine)
            patience = min(kind.start_s, self.left_s - 15)
            took = [one.wait(patience) for one in running]
            self._group = running[-1].group
            self.say(f"{kind.name} serves after {max(took):.0f} s")
            for one in running:
                name, info = one.server.name, one.info()
                self.keep(kind, "up", name=name, ready_s=took, info=info, told=one.told())
            if self.turns:
                self.turns.started()
                self.turns.wait(self.ends - LEAST_LEFT_S)
            asyncio.run(self._ask(kind, [one.server for one in running]))
            if "kill" in kind.parts:
                self._kill(kind, running[-1])
            for one in running:
                self.keep(kind, "log", name=one.server.name, told=one.told())
        except Exception as problem:  # noqa: BLE001  # whatever it is, the next kind goes on
            self.say(f"{kind.name} FAILED: {type(problem).__name__} {problem}"[:1500])
            self.keep(kind, "failed", why=traceback.format_exc()[-3000:])
        finally:
            for one in running:
                one.stop()
            if self.turns:
                self.turns.ended()

    def _kill(self, kind: Kind, engine: Running) -> None:
        """Kill an engine and record how many MiB of its GPU stay in use."""
        used = [(0.0, memory_used(engine.server.gpus))]
        engine.kill()
        began = time.monotonic()
        for _ in range(16):
            time.sleep(0.5)
            used.append((time.monotonic() - began, memory_used(engine.server.gpus)))
        self.keep(kind, "kill", used_mib=used)
        self.say(f"{kind.name}: memory used before and after SIGKILL {used[0]} … {used[-1]}")

    def _servers(self, kind: Kind) -> list[Server]:
        model = str(Path(self.options.models) / kind.model)
        kind = replace(kind, args=kind.args.replace("MODELS", str(self.options.models)))
        port = 31000 + 100 * self.number
        if not kind.pair:
            return [Server(kind.name, model, kind.gpus, port, "null", kind.args, kind.env)]
        first, second = kind.gpus.split(",")
        roles = (("prefill", first, port), ("decode", second, port + 10))
        return [
            Server(
                f"{kind.name}-{role}", model, gpu, at, role, kind.args, kind.env, 8998 + self.number
            )
            for role, gpu, at in roles
        ]

    async def _ask(self, kind: Kind, servers: Sequence[Server]) -> None:
        llm = read_llm(servers[0].model)
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=4.0)
        timeout = aiohttp.ClientTimeout(total=300, sock_connect=10)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
            rng, ids = Random(), token_ids_for(llm.vocab_size)
            engines = [Probed(s.url, ROLES[s.role], http, rng, ids) for s in servers]
            hop = await hop_s(engines[0])
            self.keep(kind, "hop", seconds=hop)
            tp = len(kind.gpus.split(",")) if not kind.pair else 1
            times = step_times(llm, parse_gpus(f"{tp}xH200"), Parallelism(tp=tp), "colocated")
            parts: dict[str, Callable[[], Awaitable[None]]] = {
                "steps": lambda: self._steps(kind, engines, hop, times),
                "pair": lambda: self._pair(kind, engines),
                "burst": lambda: self._burst(kind, engines[0], hop),
                "crowd": lambda: self._crowd(kind, engines[0]),
                "spy-crowd": lambda: self._spy_crowd(kind, engines[0]),
                "verify": lambda: self._verify(kind, engines[0]),
                "profile": lambda: self._profiles(kind, engines),
                "spy": lambda: self._spy(kind, engines[-1]),
                "spy-prefill": lambda: self._spy_prefill(kind, engines[0]),
                "load": lambda: self._loads(kind, servers[0]),
            }
            for part in (part for part in kind.parts if part in parts):
                if self.left_s < 12:
                    self.say(f"{kind.name}: no time for {part}")
                    return
                try:
                    await parts[part]()
                except Exception as problem:  # noqa: BLE001  # the other parts may still work
                    self.say(f"{kind.name} {part} FAILED: {type(problem).__name__} {problem}"[:600])
                    self.keep(kind, "failed", part=part, why=traceback.format_exc()[-2000:])

    async def _steps(
        self, kind: Kind, engines: Sequence[Probed], hop: float, times: StepTimes
    ) -> None:
        """Measure all steps in rounds. Round 0 compiles kernels and does not count."""
        steps = EngineSteps(engines[0], engines[-1], hop_s=hop, has_counters=False)
        began = time.time()
        until, latest = min(began + kind.seconds, self.ends - 10), began + 3 * kind.seconds
        for rounds in range(kind.rounds):
            began = time.time()
            for step in steps_of_kind(kind, engines[0].role):
                late = time.time() > min(latest, self.ends - 10)
                if late or (rounds > 1 and time.time() > until):
                    self.say(f"{kind.name}: {rounds} rounds of steps")
                    return
                limit_s = min(STEP_S if rounds else WARM_STEP_S, self.ends - time.time() - 5)
                found = None
                with suppress(asyncio.TimeoutError):
                    found = await asyncio.wait_for(steps.measure(step, times), limit_s)
                self._keep_step(kind, rounds, step, found)
            self.say(f"{kind.name}: round {rounds} of steps in {time.time() - began:.0f} s")

    def _keep_step(
        self, kind: Kind, rounds: int, step: Measurement, found: Measurement | None
    ) -> None:
        one = found or step
        shape = [one.kind, one.batch, one.new_tokens, one.context]
        seconds = found.seconds if found else None
        self.keep(kind, "step", round=rounds, step=shape, seconds=seconds)

    async def _verify(self, kind: Kind, engine: Probed) -> None:
        """Time the verify steps of a speculating engine: a stream gets one chunk a step."""
        for rounds in range(3):
            for batch, context in kind.verified:
                gaps = await verify_gaps(engine, batch, context)
                self.keep(kind, "verify", round=rounds, batch=batch, context=context, gaps_s=gaps)
        async with engine.http.get(f"{engine.url}/get_server_info") as answer:
            page = json.loads(await answer.read())
        told = [one.get("avg_spec_accept_length") for one in page.get("internal_states", ())]
        self.keep(kind, "accepted", length=told)
        self.say(f"{kind.name}: verify steps, {told} tokens each")

    async def _crowd(self, kind: Kind, engine: Probed) -> None:
        """Send prompts one after the other while other requests decode."""
        for batch in kind.crowds:
            for tokens in kind.stalls:
                found = await beside(engine, batch, tokens)
                self.keep(kind, "crowd", batch=batch, tokens=tokens, **found)
        self.say(f"{kind.name}: prompts beside {kind.crowds}")

    async def _spy_crowd(self, kind: Kind, engine: Probed) -> None:
        """Sample the scheduler's stacks meanwhile."""
        for batch in kind.crowds:
            spying = asyncio.create_task(self._stacks(kind, f"crowd-{batch}"))
            while not spying.done():
                await beside(engine, batch, kind.stalls[0])
            await spying

    async def _burst(self, kind: Kind, engine: Probed, hop: float) -> None:
        """Send several short prompts at once and record when each is answered."""
        clock = asyncio.get_running_loop().time

        async def one(tokens: int) -> float:
            ids = [engine.rng.randrange(*engine.token_ids) for _ in range(tokens)]
            start_s = clock()
            await answers(engine, [ids])
            return clock() - start_s - hop

        for tokens in (16, 256, 1024):
            for _ in range(4):
                alone = await one(tokens)
                took = sorted(await asyncio.gather(*(one(tokens) for _ in range(BURST))))
                self.keep(kind, "burst", tokens=tokens, alone=alone, seconds=took)

    async def _pair(self, kind: Kind, engines: Sequence[Probed]) -> None:
        """Send prompts through both engines and time the decode engine's first token."""
        prefill, decode = engines
        for rounds in range(4):
            for tokens in (256, 1024, 4096, 8192):
                ids = [prefill.rng.randrange(*prefill.token_ids) for _ in range(tokens)]
                where = {
                    "bootstrap_host": "127.0.0.1",
                    "bootstrap_port": BOOTSTRAP_PORT + self.number,
                    "bootstrap_room": prefill.rng.randrange(1, 1 << 62),
                }
                body = {**body_of(decode, ids, 4), **where}
                first, tpot = await asyncio.wait_for(_first_token(prefill, decode, body), 60)
                self.keep(kind, "pair", round=rounds, tokens=tokens, seconds=first, tpot_s=tpot)
        self.say(f"{kind.name}: pair answers")

    async def _profiles(self, kind: Kind, engines: Sequence[Probed]) -> None:
        """Trace the kernels of a few prefill and decode steps."""
        first, last = engines[0], engines[-1]
        if first.role != "decode":
            for tokens in (256, 1024, 4096):
                await self._profile(kind, first, f"prefill-{tokens}", "EXTEND", tokens)
        for batch in (1, 16) if last.role != "prefill" else ():
            async with Together(last, batch, 512, 120) as crowd:
                await crowd.until(lambda: crowd.tokens_of_last() > 4, 0.01)
                await self._profile(kind, last, f"decode-{batch}", "DECODE", 0)
        self.say(f"{kind.name}: profiles")

    async def _profile(
        self, kind: Kind, engine: Probed, name: str, stage: str, tokens: int
    ) -> None:
        folder = (self.out / "traces" / kind.name / name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        wanted = {
            "output_dir": str(folder), "num_steps": PROFILED_STEPS, "activities": ["GPU"],
            "profile_by_stage": True, "with_stack": False, "record_shapes": False,
        }  # fmt: skip
        async with engine.http.post(f"{engine.url}/start_profile", json=wanted) as answer:
            answer.raise_for_status()
        for _ in range(PROFILED_STEPS + 1 if tokens else 0):
            await answers(engine, [_ids(engine, tokens)])
        until = time.time() + 12
        while time.time() < until:
            found = [path for path in folder.glob(f"*{stage}*.json.gz") if path.stat().st_size]
            if found:
                break
            await asyncio.sleep(0.2)
        with suppress(aiohttp.ClientError):
            async with engine.http.post(f"{engine.url}/stop_profile") as answer:
                await answer.read()
        await asyncio.sleep(0.5)
        for path in sorted(folder.glob(f"*{stage}*.json.gz"))[:1]:
            self.keep(kind, "kernels", name=name, **summary(path))

    async def _spy(self, kind: Kind, engine: Probed) -> None:
        """Sample the Python stacks of the scheduler while it decodes."""
        for batch in (1, 16):
            async with Together(engine, batch, 512, 2000) as crowd:
                await crowd.until(lambda: crowd.tokens_of_last() > 8, 0.01)
                await self._stacks(kind, str(batch))

    async def _spy_prefill(self, kind: Kind, engine: Probed) -> None:
        """The same while it answers one short prompt after another."""
        spying = asyncio.create_task(self._stacks(kind, "prefill"))
        took = []
        while not spying.done():
            began = time.perf_counter()
            await answers(engine, [_ids(engine, 256)])
            took.append(time.perf_counter() - began)
        await spying
        self.keep(kind, "answers", tokens=256, seconds=took)

    async def _stacks(self, kind: Kind, name: str) -> None:
        file = self.out / "logs" / f"spy-{kind.name}-{name}.txt"
        words = [*SPY, "-p", str(scheduler_of(self._group)), "-o", str(file)]
        done = await asyncio.create_subprocess_exec(
            *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        said, _ = await asyncio.wait_for(done.communicate(), 30)
        if not file.exists():
            raise RuntimeError(said.decode()[-300:])
        self.say(f"{kind.name}: stacks of {name}")

    async def _loads(self, kind: Kind, server: Server) -> None:
        """Run `pdctl measure` against the engine."""
        planned = [("--rate", ("0", "0"), load) for load in kind.loads]
        planned += [("--rate", (TAIL_CV, TAIL_CV), load) for load in kind.tails]
        planned += [("--concurrency", ("0", LOOP_CV), load) for load in kind.loops]
        for by, (isl_cv, osl_cv), (much, isl, osl, seconds) in planned:
            shape = [much, isl, osl, seconds]
            if self.left_s < seconds + 12:
                self.say(f"{kind.name}: no time for {by} {shape}")
                return
            words = [
                *("measure", server.model, "--target", server.url, by, str(much)),
                *("--isl", str(isl), "--osl", str(osl), "--duration", f"{seconds}s", "--json"),
                *("--isl-cv", isl_cv, "--osl-cv", osl_cv),
                *("-o", str(self.out / f"loads-{kind.name}.jsonl")),
            ]
            done = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "pdctl", *words,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            said, complained = await asyncio.wait_for(done.communicate(), self.left_s - 4)
            if done.returncode not in (0, 3):
                self.say(f"{kind.name} load: {complained.decode()[-300:]}")
                self.keep(kind, "failed", part="load", why=complained.decode()[-1500:])
                return
            arm = json.loads(said)["data"]["arms"]["target"]
            kept = {k: arm[k] for k in ("figures", "num_requests", "num_failed", "lateness_p99_s")}
            self.keep(kind, "load", by=by, isl_cv=isl_cv, load=shape, **kept)
            found = {f["figure"]: (f["predicted"], f["measured"]) for f in arm["figures"]}
            shown = {
                name: f"{1e3 * p:.4g}→{1e3 * m:.4g}"
                for name, (p, m) in found.items()
                if p and m and name in ("ttft p50", "ttft p99", "tpot p50", "tpot p99")
            }
            self.say(f"{kind.name} load {by} {shape} CV {isl_cv}: {shown}")


async def _first_token(
    prefill: Probed, decode: Probed, body: dict[str, object]
) -> tuple[float, float]:
    """Seconds to the decode engine's first token, and per token after that."""
    clock = asyncio.get_running_loop().time
    began = clock()
    other = asyncio.create_task(_post(prefill, {**body, "stream": False}))
    seen: list[float] = []
    asked = decode.http.post(f"{decode.url}/generate", json={**body, "stream": True})
    async with asked as answer:
        answer.raise_for_status()
        async for line in answer.content:
            if line.startswith(b"data: {"):
                seen.append(clock())
    await other
    return seen[0] - began, (seen[-1] - seen[0]) / max(1, len(seen) - 1)


async def _post(engine: Probed, body: dict[str, object]) -> None:
    async with engine.http.post(f"{engine.url}/generate", json=body) as answer:
        answer.raise_for_status()
        await answer.read()


def _ids(engine: Probed, tokens: int) -> list[int]:
    return [engine.rng.randrange(*engine.token_ids) for _ in range(tokens)]


def steps_of_kind(kind: Kind, role: Role) -> list[Measurement]:
    """Steps to measure. role: the role of the engine that prefills."""
    prefills = [Measurement("prefill", 0.0, new_tokens=n) for n in kind.prefills]
    stalls = [Measurement("stall", 0.0, new_tokens=n) for n in kind.stalls]
    decodes = [
        Measurement("decode", 0.0, batch=b, context=b * c) for b, c in DECODES if b <= kind.most
    ]
    if role == "prefill":
        # a prefill engine restarts a prompt longer than a chunk when no decode engine takes its KV
        return [one for one in prefills if one.new_tokens <= 8192] + decodes
    return prefills + stalls + decodes


def kinds(plan: Path) -> list[list[Kind]]:
    """Read the tracks of a plan."""
    tracks = json.loads(plan.read_text())
    return [[replace(Kind(k["name"], k["model"]), **k) for k in track] for track in tracks]


def _leave(*_: object) -> None:
    """Exit through the `finally` blocks that stop the servers."""
    raise SystemExit(1)


def main() -> None:
    """Run each track in its own process, so that no track waits for another's Python."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("models", type=Path)
    parser.add_argument("plan", type=Path)
    parser.add_argument("--minutes", type=float, default=9.2)
    parser.add_argument("--engine", default="sglang")
    parser.add_argument("--track", type=int)
    parser.add_argument("--ends", type=float)
    parser.add_argument("--turns", action="store_true", help="the tracks share a GPU")
    options = parser.parse_args()
    options.ends = options.ends or time.time() + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    tracks = kinds(options.plan)
    if options.track is not None:
        signal.signal(signal.SIGTERM, _leave)
        track = Track(options, options.track, len(tracks))
        for kind in tracks[options.track]:
            track.play(kind)
        return
    more = [f"--ends={options.ends}", f"--minutes={options.minutes}", f"--engine={options.engine}"]
    more += ["--turns"] if options.turns else []
    command = [sys.executable, "-m", "tests.gpu.kinds", *map(str, (options.out, options.models))]
    end_left_over()
    running = [
        subprocess.Popen([*command, str(options.plan), f"--track={n}", *more])
        for n in range(len(tracks))
    ]
    for one in running:
        with suppress(subprocess.TimeoutExpired):
            one.wait(max(1.0, options.ends + 5 - time.time()))
    for one in running:
        one.terminate()
    for one in running:
        one.wait()


if __name__ == "__main__":
    main()
