"""A world without processes or clocks: a launcher, engines and a router that tests command."""

import errno
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pdctl.deployment.records import (
    ROLE_OF_WORKER_TYPE,
    GpuPlace,
    ProcessRole,
    ProcessSpec,
)
from pdctl.engines.clients.protocol import Http
from pdctl.engines.clients.router import RouterClient
from pdctl.engines.clients.sglang import EngineClient
from pdctl.engines.launchers.protocol import Started
from pdctl.engines.records import Event, GpuUse, Handle, Listed, Readiness
from pdctl.engines.supervision.loop import SupervisorLoop
from pdctl.engines.supervision.model import Desired, SupervisorLimits
from tests.engines.launchers.in_memory import InMemoryLauncher

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
class World(InMemoryLauncher):
    """Engines and a router that answer HTTP as SGLang does, on an in-memory launcher.

    start_s: how long a process takes to answer.
    """

    start_s: float = 2.0
    switched: dict[Handle, str] = field(default_factory=dict)  # its role since
    listed: dict[str, Listed] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)  # names that answer nothing
    cut_off: set[str] = field(default_factory=set)  # nodes that are off the network
    unreachable: set[str] = field(default_factory=set)  # nodes whose agents do not answer
    node_of: dict[str, str] = field(
        default_factory=dict
    )  # by the URL of an engine, also a dead one
    busy: dict[str, int] = field(default_factory=dict)  # requests inside, by name
    says_role: dict[str, str] = field(default_factory=dict)
    met: set[Handle] = field(default_factory=set)  # decode engines know it as a prefill engine
    switches_refused: list[str] = field(default_factory=list)  # answers, the next one first
    request_fails: bool = False
    mapped: dict[GpuPlace, set[Handle]] = field(default_factory=dict)  # who keeps a dead one's KV
    sent: set[Handle] = field(default_factory=set)  # prefill engines that were listed once
    driver_hangs: bool = False  # nobody says what is on a GPU
    foreign: set[int] = field(default_factory=set)  # GPUs that somebody else uses

    def start(self, spec: ProcessSpec) -> Started:
        kept = [at for at in spec.gpu_places if self.mapped.get(at, set()) & set(self.alive)]
        assert self.driver_hangs or not kept, f"{spec.name} finds no memory"
        if spec.node in self.unreachable:
            raise OSError(errno.EHOSTUNREACH, f"{spec.node} does not answer")
        self.node_of[spec.url] = spec.node
        return super().start(spec)

    def ends(self, handle: Handle, code: int) -> None:
        its = self.alive[handle]
        super().ends(handle, code)
        if its.role == "router":
            self.listed.clear()
        if its.role == "decode" and its.needs_gpus:
            here = {handle for handle, other in self.alive.items() if other.node == its.node}
            self.mapped.update(dict.fromkeys(its.gpu_places, self.sent & here))

    def gpu_use(
        self, node: str, gpus: Sequence[int], *, is_strict: bool = False
    ) -> dict[int, GpuUse]:
        """Memory of a decode engine that ended is free once all who sent to it have ended."""
        if self.driver_hangs:
            return {}
        alive = set(self.alive)
        kept = {
            gpu: GpuUse(f"GPU {gpu}: 54 GiB" if self.mapped.get((node, gpu), set()) & alive else "")
            for gpu in gpus
        }
        named = {gpu: GpuUse(f"GPU {gpu}: 20 GiB", True) for gpu in gpus if gpu in self.foreign}
        return kept | named

    def knows(self, spec: ProcessSpec) -> None:
        """An engine that took another role goes by its new name."""
        handle = self._at(spec.url)
        if handle is not None and self.switched.get(handle) == spec.role:
            self.alive[handle] = spec

    # HTTP

    def http(self, node: str) -> Http:
        return self

    def request(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        body: object = None,
        is_authorized: bool = True,
    ) -> tuple[int, bytes] | None:
        parts = urlsplit(url)
        handle = self._at(f"http://{parts.netloc}")
        if handle is None or not self._answers(handle):
            return None
        asked = body if isinstance(body, dict) else {}
        its = self.alive[handle]
        page = self._of_router if its.role == "router" else self._of_engine
        status, document = page(method, parts.path, asked, handle)
        return status, json.dumps(document).encode()

    def can_connect(self, url: str, *, timeout_s: float) -> bool:
        return self.node_of.get(url) not in self.cut_off

    def first_event(
        self, url: str, body: object, *, timeout_s: float
    ) -> tuple[int, str, float] | None:
        return (500, "", 0.0) if self.request_fails else (200, "data: {}", 0.05)

    def _at(self, url: str) -> Handle | None:
        """The process on a port: its HTTP port or its bootstrap port."""
        return next((h for h, its in self.alive.items() if url in _urls(its)), None)

    def _answers(self, handle: Handle) -> bool:
        its = self.alive[handle]
        if its.name in self.frozen or its.node in self.cut_off:
            return False
        return self.now - self.started[handle] >= self.start_s

    def _of_router(
        self, method: str, path: str, asked: dict[str, object], handle: Handle
    ) -> tuple[int, object]:
        if method == "POST":
            self._list(str(asked["url"]), str(asked["worker_type"]), asked.get("bootstrap_port"))
            return 202, {}
        if method == "DELETE":
            gone = [url for url, row in self.listed.items() if row.id == path.rpartition("/")[2]]
            for url in gone:
                del self.listed[url]
            return (202 if gone else 404), {}
        rows = [
            {
                "id": row.id,
                "url": row.url,
                "worker_type": _worker_type(row.role),
                "is_healthy": row.is_healthy,
                "bootstrap_port": row.bootstrap_port,
            }
            for row in self.listed.values()
        ]
        return 200, {"workers": rows}

    def _list(self, url: str, kind: str, port: object) -> None:
        number = url.rpartition("/")[2].replace(":", "-")
        role = ROLE_OF_WORKER_TYPE[kind]
        self.listed[url] = Listed(number, url, role, True, port if isinstance(port, int) else None)
        if kind == "prefill" and (handle := self._at(url)) is not None:
            self.sent.add(handle)

    def _of_engine(
        self, method: str, path: str, asked: dict[str, object], handle: Handle
    ) -> tuple[int, object]:
        its = self.alive[handle]
        if path == "/model_info":
            return 200, {"disaggregation_mode": self.says_role.get(its.name, its.role)}
        if path == "/v1/loads":
            return 200, {"loads": [{"num_running_reqs": self.busy.get(its.name, 0)}]}
        if path == "/route":
            return 200, {"prefill_http_port": its.port}
        if path == "/pd_role_switch":
            why = self._switch(handle, str(asked["new_role"]))
            return (400 if why else 200), {"success": not why, "message": why}
        return (200 if path in ("/ready", "/health") else 404), {}

    def _switch(self, handle: Handle, role: str) -> str:
        """The engine takes another role; why it refuses, or ""."""
        its = self.alive[handle]
        if self.switches_refused:
            return self.switches_refused.pop(0)
        if self.busy.get(its.name):
            return "instance is not idle; drain all requests"
        assert its.url not in self.listed, f"{its.name} still gets requests"
        assert role == "decode" or handle not in self.met, f"{its.name} was a prefill engine before"
        if its.role == "prefill":
            self.met.add(handle)
        self._say("switch", its.name)
        self.switched[handle] = role
        self.alive[handle] = replace(its, role=role)  # type: ignore[arg-type]
        return ""


def _worker_type(role: ProcessRole | None) -> str:
    return next((kind for kind, its in ROLE_OF_WORKER_TYPE.items() if its == role), "")


def _urls(spec: ProcessSpec) -> tuple[str, ...]:
    bootstrap = f"http://{spec.host}:{spec.bootstrap_port}" if spec.bootstrap_port else spec.url
    return (spec.url, bootstrap)


class Clients(EngineClient):
    """The real client, which tells the world the new names of engines that changed roles."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._world = world

    def check(self, spec: ProcessSpec) -> Readiness:
        self._world.knows(spec)
        return super().check(spec)


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
        router=RouterClient(specs[0].url, http=world),
        engines=Clients(world),
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
