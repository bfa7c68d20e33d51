"""A world without processes or clocks: a launcher, engines and a router that tests command."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from pdctl.deployment.records import ProcessRole, ProcessSpec
from pdctl.deployment.resources import takes_gpus
from pdctl.engines.launchers.protocol import Running
from pdctl.engines.records import Event, FirstRequest, GpuUse, Listed, Readiness, Switched
from pdctl.engines.supervision.loop import SupervisorLoop
from pdctl.engines.supervision.model import Desired, SupervisorLimits

Answer = TypeVar("Answer")
NO_LOG = Path("/nonexistent/log")


def spec(name: str, role: ProcessRole, number: int, *, gpu: int | None = None) -> ProcessSpec:
    """A process on ports made from `number`."""
    return ProcessSpec(
        name=name,
        role=role,
        argv=("engine", name),
        env={},
        gpus=() if gpu is None else (gpu,),
        host="127.0.0.1",
        port=1000 + number,
        log=NO_LOG,
        bootstrap_port=2000 + number if role == "prefill" else None,
        stop_grace_s=30.0,
    )


ROUTER = spec("router", "router", 0)


def fleet_specs(num_prefill: int, num_decode: int) -> tuple[ProcessSpec, ...]:
    """The router, then prefill and decode engines, each on a GPU of its own."""
    prefill: list[ProcessRole] = ["prefill" for _ in range(num_prefill)]
    decode: list[ProcessRole] = ["decode" for _ in range(num_decode)]
    roles = [*prefill, *decode]
    engines = [
        spec(f"{role}-{i if role == 'prefill' else i - num_prefill}", role, i + 1, gpu=i)
        for i, role in enumerate(roles)
    ]
    return (ROUTER, *engines)


@dataclass
class World:
    """Everything outside the supervisor; `now` is its clock.

    start_s: how long a process takes to answer; drain_s: to end after SIGTERM.
    """

    now: float = 1000.0
    start_s: float = 2.0
    drain_s: float = 0.5
    alive: dict[int, ProcessSpec] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)
    terminated: dict[int, float] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)
    switched: dict[int, str] = field(default_factory=dict)  # pid -> its role since
    listed: dict[str, Listed] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)  # names that answer nothing
    deaf: set[str] = field(default_factory=set)  # names that ignore SIGTERM
    broken: set[str] = field(default_factory=set)  # names that crash as soon as they start
    busy: dict[str, int] = field(default_factory=dict)  # requests inside, by name
    says_role: dict[str, str] = field(default_factory=dict)
    met: set[int] = field(default_factory=set)  # decode engines know it as a prefill engine
    switches_refused: list[str] = field(default_factory=list)  # answers, the next one first
    request_fails: bool = False
    mapped: dict[int, set[int]] = field(default_factory=dict)  # by GPU: who keeps a dead one's KV
    sent: set[int] = field(default_factory=set)  # prefill engines that were listed once
    driver_hangs: bool = False  # nobody says what is on a GPU
    foreign: set[int] = field(default_factory=set)  # GPUs that somebody else uses
    log: list[str] = field(default_factory=list)

    # a launcher

    def start(self, spec: ProcessSpec) -> Running:
        kept = [gpu for gpu in spec.gpus if self.mapped.get(gpu, set()) & set(self.alive)]
        assert self.driver_hangs or not kept, f"{spec.name} finds no memory"
        pid = len(self.started) + 1
        self.alive[pid] = spec
        self.started[pid] = self.now
        self.log.append(f"{self.now - 1000:g} start {spec.name}")
        if spec.name in self.broken:
            self.end(spec.name, 1)
        return Running(pid, self.now, spec.log.stat().st_size if spec.log.exists() else 0)

    def is_alive(self, running: Running) -> bool:
        asked = self.terminated.get(running.pid)
        if running.pid in self.alive and asked is not None and self.now - asked >= self.drain_s:
            self._end(running.pid, 0)
        running.exit_code = self.codes.get(running.pid)
        return running.pid in self.alive

    def terminate(self, running: Running) -> None:
        name = self.alive[running.pid].name
        self.log.append(f"{self.now - 1000:g} terminate {name}")
        if name not in self.deaf:
            self.terminated[running.pid] = self.now

    def kill(self, running: Running) -> None:
        name = self.alive[running.pid].name
        self.log.append(f"{self.now - 1000:g} kill {name}")
        self.end(name, -9)

    # what happens to processes

    def end(self, name: str, code: int) -> None:
        """A process ends by itself, or somebody ends it."""
        for pid, its in tuple(self.alive.items()):
            if its.name == name:
                self._end(pid, code)

    def _end(self, pid: int, code: int) -> None:
        its = self.alive.pop(pid)
        self.codes[pid] = code
        if its.role == "router":
            self.listed.clear()
        if its.role == "decode" and takes_gpus(its):
            self.mapped.update({gpu: self.sent & set(self.alive) for gpu in its.gpus})

    # what is seen from outside

    def taken_gpus(self, gpus: Sequence[int]) -> dict[int, GpuUse]:
        """Memory of a decode engine that ended is free once all who sent to it have ended."""
        if self.driver_hangs:
            return {}
        kept = {
            gpu: GpuUse(
                f"GPU {gpu}: 54 GiB" if self.mapped.get(gpu, set()) & set(self.alive) else ""
            )
            for gpu in gpus
        }
        named = {gpu: GpuUse(f"GPU {gpu}: 20 GiB", True) for gpu in gpus if gpu in self.foreign}
        return kept | named

    def _answers(self, name: str) -> bool:
        return name not in self.frozen and any(
            its.name == name and self.now - self.started[pid] >= self.start_s
            for pid, its in self.alive.items()
        )

    def check(self, spec: ProcessSpec) -> Readiness:
        pid = self._at(spec.url)
        if pid is not None and self.switched.get(pid) == spec.role:
            self.alive[pid] = spec  # it goes by its new name
        role = self.says_role.get(spec.name) or (self.alive[pid].role if pid else spec.role)
        if role != spec.role:
            return Readiness(False, f"answers as {role}", is_wrong=True)
        return Readiness(self._answers(spec.name))

    def is_alive_engine(self, spec: ProcessSpec) -> bool:
        return self._answers(spec.name)

    def num_requests(self, spec: ProcessSpec) -> int | None:
        return self.busy.get(spec.name, 0)

    def switch_role(self, spec: ProcessSpec, role: ProcessRole, peer_url: str | None) -> Switched:
        """The engine on the port of `spec` takes another role, unless it refuses."""
        if self.switches_refused:
            why = self.switches_refused.pop(0)
            return Switched(False, why, is_early="not idle" in why)
        pid = self._at(spec.url)
        if pid is None or spec.name in self.frozen:
            return Switched(False, "no answer")
        if self.busy.get(spec.name):
            return Switched(False, "instance is not idle; drain all requests", is_early=True)
        assert spec.url not in self.listed, f"{spec.name} still gets requests"
        assert role == "decode" or pid not in self.met, f"{spec.name} was a prefill engine before"
        if self.alive[pid].role == "prefill":
            self.met.add(pid)
        self.log.append(f"{self.now - 1000:g} switch {spec.name}")
        self.switched[pid] = role
        self.alive[pid] = replace(self.alive[pid], role=role)
        return Switched(True)

    def _at(self, url: str) -> int | None:
        return next((pid for pid, its in self.alive.items() if its.url == url), None)

    def send_first_request(self, router_url: str) -> FirstRequest:
        return FirstRequest(None, "status 500") if self.request_fails else FirstRequest(0.05)


@dataclass
class Seen:
    """The engines of a World, as the loop looks at them."""

    world: World

    def check(self, spec: ProcessSpec) -> Readiness:
        return self.world.check(spec)

    def is_alive(self, spec: ProcessSpec) -> bool:
        return self.world.is_alive_engine(spec)

    def num_requests(self, spec: ProcessSpec) -> int | None:
        return self.world.num_requests(spec)

    def send_first_request(self, router_url: str) -> FirstRequest:
        return self.world.send_first_request(router_url)


@dataclass
class RouterOf:
    """The router of a World."""

    world: World
    url: str = ROUTER.url

    def is_alive(self) -> bool:
        return self.world._answers("router")

    def workers(self) -> tuple[Listed, ...] | None:
        return tuple(self.world.listed.values()) if self.is_alive() else None

    def add(self, url: str, role: ProcessRole, bootstrap_port: int | None) -> bool:
        if not self.is_alive():
            return False
        self.world.listed[url] = Listed(url[-4:], url, role, True, bootstrap_port)
        if role == "prefill" and (pid := self.world._at(url)) is not None:
            self.world.sent.add(pid)
        return True

    def remove(self, url: str) -> bool:
        return self.world.listed.pop(url, None) is not None


@dataclass
class AtOnce:
    """Answers every question when it is asked, as often as it may be asked."""

    asked_at: dict[tuple[str, ...], float] = field(default_factory=dict)
    answers: list[Callable[[], None]] = field(default_factory=list)

    def ask(
        self,
        key: tuple[str, ...],
        question: Callable[[], Answer],
        then: Callable[[Answer], None],
        *,
        now: float,
        every_s: float,
    ) -> None:
        if now - self.asked_at.get(key, -1e9) < every_s:
            return
        self.asked_at[key] = now
        answer = question()
        self.answers.append(lambda: then(answer))

    def take_answers(self) -> None:
        answers, self.answers = self.answers, []
        for answer in answers:
            answer()


def fleet_in(
    world: World, specs: tuple[ProcessSpec, ...], limits: SupervisorLimits | None = None
) -> SupervisorLoop:
    """A supervisor's loop over this world."""
    events: list[Event] = []
    return SupervisorLoop(
        desired=Desired(specs),
        launcher=world,
        probes=AtOnce(),
        router=RouterOf(world),
        look=Seen(world),
        taken_gpus=world.taken_gpus,
        switch_role=world.switch_role,
        limits=limits or SupervisorLimits(),
        clock=lambda: world.now,
        emit=events.append,
        started_at=world.now,
    )


def run(fleet: SupervisorLoop, world: World, for_s: float, *, every_s: float = 0.25) -> None:
    """Let time pass, the loop turning."""
    end = world.now + for_s
    while world.now < end:
        fleet.tick()
        world.now += every_s


def on_gpus(specs: tuple[ProcessSpec, ...]) -> tuple[ProcessSpec, ...]:
    """The same engines on real GPUs."""
    return tuple(
        replace(one, env={"CUDA_VISIBLE_DEVICES": str(one.gpus[0])}) if one.gpus else one
        for one in specs
    )


def ready_fleet(
    num_prefill: int = 1, num_decode: int = 2, *, real: bool = False
) -> tuple[SupervisorLoop, World]:
    """A deployment that serves."""
    world = World()
    specs = fleet_specs(num_prefill, num_decode)
    fleet = fleet_in(world, on_gpus(specs) if real else specs)
    run(fleet, world, 10)
    assert fleet.was_ready
    world.log.clear()
    return fleet, world


def scale(fleet: SupervisorLoop, specs: tuple[ProcessSpec, ...]) -> None:
    """What commands do to a running deployment."""
    fleet.desired = replace(fleet.desired, specs=specs)
