"""The supervisor's loop: observe, decide, act. Everything it touches is handed to it."""

import errno
import queue
import re
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from pdctl.deployment.records import HERE, GpuPlace, ProcessRole, ProcessSpec
from pdctl.engines.launchers.gpu_memory import gpu_uses
from pdctl.engines.launchers.protocol import Launcher, Started
from pdctl.engines.log_file import StartupPhase, read_phases
from pdctl.engines.records import Event, FirstRequest, GpuUse, Listed, Readiness, Switched
from pdctl.engines.supervision import model
from pdctl.engines.supervision.decide import all_serving, step
from pdctl.engines.supervision.gpu_room import to_look_at
from pdctl.engines.supervision.lost_nodes import lost_nodes, nodes_to_leave
from pdctl.engines.supervision.model import (
    Action,
    Desired,
    Fail,
    FirstRequestSeen,
    LostNode,
    Observed,
    Process,
    SupervisorLimits,
)


class EngineCalls(Protocol):
    """The requests that the supervisor sends to engines, over HTTP."""

    def check(self, spec: ProcessSpec) -> Readiness: ...
    def is_alive(self, spec: ProcessSpec) -> bool: ...
    def is_reachable(self, spec: ProcessSpec) -> bool: ...
    def num_requests(self, spec: ProcessSpec) -> int | None: ...
    def send_first_request(self, router_url: str) -> FirstRequest: ...
    def switch_role(
        self, spec: ProcessSpec, role: ProcessRole, peer_url: str | None
    ) -> Switched: ...


class RouterCalls(Protocol):
    """The router's list of engines, which decides who gets requests."""

    url: str

    def is_alive(self) -> bool: ...
    def workers(self) -> tuple[Listed, ...] | None: ...
    def add(self, url: str, role: ProcessRole, bootstrap_port: int | None) -> bool: ...
    def remove(self, url: str) -> bool: ...


Answer = TypeVar("Answer")
MAX_THREADS = 32


class Asks(Protocol):
    """Runs the supervisor's questions in the background; tests answer them at once."""

    def ask(
        self,
        key: tuple[str, ...],
        question: Callable[[], Answer],
        then: Callable[[Answer], None],
        *,
        now: float,
        every_s: float,
    ) -> None: ...

    def take_answers(self) -> None: ...


class Probes:
    """A pool of threads that answer questions.

    A question with the same key is skipped until the last one is answered and `every_s` has passed.
    wake: called from a thread when an answer has arrived.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._todo: queue.SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None], Any]]
        self._todo = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Callable[[Any], None], Any, Any]] = queue.SimpleQueue()
        self._num_threads = 0
        self._asked_at: dict[tuple[str, ...], float] = {}
        self._in_flight: set[tuple[str, ...]] = set()

    def ask(
        self,
        key: tuple[str, ...],
        question: Callable[[], Answer],
        then: Callable[[Answer], None],
        *,
        now: float,
        every_s: float,
    ) -> None:
        """Answer `question` in a thread; take_answers then calls `then` with the answer."""
        if key in self._in_flight or now - self._asked_at.get(key, -1e9) < every_s:
            return
        if every_s:
            self._asked_at[key] = now
        self._in_flight.add(key)
        if self._num_threads < min(MAX_THREADS, len(self._in_flight)):
            self._num_threads += 1
            threading.Thread(target=self._work, daemon=True).start()
        self._todo.put((question, then, key))

    def take_answers(self) -> None:
        """Hand over every answer that has arrived. Call from the loop's thread."""
        while True:
            try:
                then, answer, key = self._done.get_nowait()
            except queue.Empty:
                return
            self._in_flight.discard(key)
            then(answer)

    def _work(self) -> None:
        while True:
            question, then, key = self._todo.get()
            try:
                self._done.put((then, question(), key))
            except Exception:  # noqa: BLE001 - else the question would never be asked again
                traceback.print_exc()
                self._done.put((_ignore, None, key))
            self._wake()


READ_EVERY_S = 1.0  # the log of an engine that is ready


@dataclass
class StartedProcess:
    """One start of a process. log_at: the byte up to which the loop has read its log."""

    process: Started
    launched_at: float
    log_at: int = 0
    read_at: float = float("-inf")
    phase: StartupPhase | None = None
    ready_after_s: float | None = None

    def read(self, launcher: Launcher, spec: ProcessSpec, now: float, *, is_ready: bool) -> str:
        """The new text in its log. Updates the start-up phase while it is not ready."""
        if is_ready and now - self.read_at < READ_EVERY_S:
            return ""
        self.read_at = now
        text, self.log_at = launcher.read_added(spec.node, spec.log, self.log_at)
        if text and not is_ready:
            self.phase = read_phases(self.phase, text)
        return text


ALIVE_EVERY_S = 15.0
REACH_EVERY_S = 2.0  # with as long to answer, a node is known to be lost after some 8 s
LISTED_EVERY_S = 5.0
PLACE_EVERY_S = 5.0
MOVE_EVERY_S = 15.0  # where no other node had room


def stay(nodes: Sequence[str]) -> str:
    """Move no engine off lost nodes."""
    return ""


@dataclass
class SupervisorLoop:
    """One deployment: its target, its processes and everything the supervisor remembers.

    move: gives the engines of lost nodes places on others, as a new target; why it cannot, or "".
    """

    desired: Desired
    launcher: Launcher
    probes: Asks
    router: RouterCalls
    engines: EngineCalls
    limits: SupervisorLimits = field(default_factory=SupervisorLimits)
    clock: Callable[[], float] = time.monotonic
    emit: Callable[[Event], None] = lambda event: None
    move: Callable[[Sequence[str]], str] = stay
    processes: dict[str, Process] = field(default_factory=dict)
    starts: dict[str, StartedProcess] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    started_at: float = 0.0
    was_ready: bool = False
    ready_after_s: float | None = None
    first_request: FirstRequestSeen = FirstRequestSeen()
    first_request_ttft_s: float | None = None
    failure: Fail | None = None
    gpus: dict[GpuPlace, model.GpuSeen] = field(default_factory=dict)
    left_by: dict[GpuPlace, ProcessRole] = field(default_factory=dict)  # of the last engine there
    lost: dict[str, LostNode] = field(default_factory=dict)
    why_not_moved: str = ""

    def observed(self) -> Observed:
        """The observation on which `step` decides."""
        processes = dict(self.processes)
        return Observed(
            processes, self.started_at, self.was_ready, self.first_request, self.gpus, self.lost
        )

    def tick(self) -> None:
        """One turn of the loop."""
        now = self.clock()
        self.probes.take_answers()
        self._look_for_ends(now)
        self._read_logs(now)
        for action in step(self.desired, self.observed(), now, self.limits):
            self._act(action, now)
        self._ask(now)

    @property
    def is_over(self) -> bool:
        """True once everything was told to stop and nothing runs."""
        return bool(self.desired.stop) and not any(p.running for p in self.processes.values())

    @property
    def is_quiet(self) -> bool:
        """True while nothing changes, so that the loop may turn slowly."""
        if not self.was_ready or self.desired.stop:
            return False
        return all_serving(self.desired, self.observed()) and len(self.processes) == len(
            self.desired.specs
        )

    def say(self, event: str, process: str, text: str) -> None:
        """Write one line into the event log."""
        self.emit(Event(at=round(time.time(), 3), event=event, process=process, text=text))

    # look

    def _look_for_ends(self, now: float) -> None:
        for name, process in tuple(self.processes.items()):
            start = self.starts.get(name)
            if not process.running or start is None:
                continue
            ended = self.launcher.poll(start.process.handle)
            if ended is None:
                continue
            code = ended.code
            after = model.ended(process, code, now, self.limits)
            self.processes[name] = after
            crashed = len(after.crashes) > len(process.crashes) or len(after.crashes) == 1
            asked = process.terminate_sent is not None or bool(self.desired.stop)
            self.say("ended" if asked or not crashed else "crash", name, f"exit code {code}")
            self.left_by.update(dict.fromkeys(process.spec.gpu_places, process.spec.role))
            if process.is_router:
                self._each(model.router_lost)

    def _each(self, change: Callable[[Process], Process]) -> None:
        self.processes = {name: change(process) for name, process in self.processes.items()}

    def _read_logs(self, now: float) -> None:
        for name, start in self.starts.items():
            process = self.processes[name]
            if process.running and not process.is_router:
                text = start.read(self.launcher, process.spec, now, is_ready=process.ready)
                self.processes[name] = model.log_grew(process, text) if text else process

    # ask

    def _ask(self, now: float) -> None:
        for name, process in self.processes.items():
            if process.running and process.terminate_sent is None:
                self._ask_process(name, process, now)
        places = to_look_at(self.desired, self.observed())
        self.gpus = model.gpus_awaited(self.gpus, places, self.left_by, now)
        if places:
            uses = lambda: gpu_uses(self.launcher, places)  # noqa: E731
            self.probes.ask(("gpus",), uses, self._fold_gpus, now=now, every_s=1.0)
        if any(p.is_router and p.running and p.ready for p in self.processes.values()):
            every_s = LISTED_EVERY_S if self.is_quiet else 0.1
            self.probes.ask(
                ("workers",), self.router.workers, self._fold_workers, now=now, every_s=every_s
            )
        self._ask_lost_nodes(now)
        if not self.is_quiet or any(p.unanswered_since for p in self.processes.values()):
            is_over = self.launcher.is_over
            self.probes.ask(("place",), is_over, self._fold_place, now=now, every_s=PLACE_EVERY_S)

    def _ask_lost_nodes(self, now: float) -> None:
        self.lost = lost_nodes(self.lost, self.processes, now)
        for node, its in self.lost.items():
            reach = partial(self.engines.is_reachable, its.probe)
            then = partial(self._fold_node, node)
            self.probes.ask(("node", node), reach, then, now=now, every_s=REACH_EVERY_S)
        if nodes := nodes_to_leave(self.desired, self.observed(), now, self.limits):
            move = lambda: self.move(nodes)  # noqa: E731
            self.probes.ask(("move",), move, self._fold_moved, now=now, every_s=MOVE_EVERY_S)

    def _ask_process(self, name: str, process: Process, now: float) -> None:
        start, spec = self.starts[name], process.spec
        key = (name, start.process.handle)
        if spec.node != HERE and (process.ready or process.served):
            reach = lambda: self.engines.is_reachable(spec)  # noqa: E731
            reached = self._fold(name, start, self._fold_reached)
            self.probes.ask(("reach", *key), reach, reached, now=now, every_s=REACH_EVERY_S)
        if not process.ready:
            # the longer a start takes, the less often it is asked
            every_s = min(max((now - start.launched_at) / 60, 0.05), 0.5)
            check = self._check_router if process.is_router else lambda: self.engines.check(spec)
            then = self._fold(name, start, self._fold_check)
            self.probes.ask(("check", *key), check, then, now=now, every_s=every_s)
        elif process.deregister_sent is not None and process.listed is None:
            then = self._fold(name, start, self._fold_drained)
            num = lambda: self.engines.num_requests(spec)  # noqa: E731
            self.probes.ask(("drained", *key), num, then, now=now, every_s=0.25)
        else:
            every_s = ALIVE_EVERY_S if process.unanswered_since is None else 5.0
            then = self._fold(name, start, self._fold_alive)
            ask = self.router.is_alive if process.is_router else lambda: self.engines.is_alive(spec)
            self.probes.ask(("alive", *key), ask, then, now=now, every_s=every_s)

    def _check_router(self) -> Readiness:
        return Readiness(self.router.is_alive())

    def _fold(
        self, name: str, start: StartedProcess, fold: Callable[[str, "object"], None]
    ) -> Callable[[object], None]:
        """Wrap `fold` so that it ignores answers about an earlier start."""

        def then(answer: object) -> None:
            process = self.processes.get(name)
            if self.starts.get(name) is start and process is not None and process.running:
                fold(name, answer)

        return then

    def _fold_check(self, name: str, answer: object) -> None:
        assert isinstance(answer, Readiness)
        now = self.clock()
        process = model.checked(self.processes[name], answer, now)
        if answer.is_ready:
            start = self.starts[name]
            took_s = now - start.launched_at
            start.ready_after_s = start.ready_after_s or took_s  # an adopted one had its own
            self.say("ready", name, f"after {took_s:.2f} s")
        self.processes[name] = model.serving(process, now)

    def _fold_alive(self, name: str, answer: object) -> None:
        self.processes[name] = model.answered(self.processes[name], bool(answer), self.clock())

    def _fold_reached(self, name: str, answer: object) -> None:
        before = self.processes[name]
        self.processes[name] = after = model.reached(before, bool(answer))
        if before.is_cut_off and not after.is_cut_off:
            self.say("reachable", name, f"{after.spec.node} answers again")

    def _fold_place(self, is_over: bool) -> None:
        if is_over and not self.desired.stop:
            self.say("stop", "", "the job has ended, and with it the right to its machines")
            self.desired = replace(self.desired, stop="now")

    def _fold_node(self, node: str, is_reachable: bool) -> None:
        if is_reachable and node in self.lost:
            del self.lost[node]
            self.say("reachable", "", f"{node} is on the network again")

    def _fold_moved(self, why_not: str) -> None:
        if why_not and why_not != self.why_not_moved:
            self.say("not_moved", "", why_not)
        self.why_not_moved = why_not

    def _fold_drained(self, name: str, answer: object) -> None:
        assert answer is None or isinstance(answer, int)
        self.processes[name] = model.drained(self.processes[name], answer, self.clock())

    def _fold_switched(self, name: str, answer: object) -> None:
        assert isinstance(answer, Switched)
        process = self.processes[name]
        spec = process.switch_to
        assert spec is not None
        if not answer.is_done:
            self.processes[name] = model.not_switched(process, answer)
            self.say("not_switched", name, answer.why)
            return
        self.starts[spec.name] = replace(self.starts.pop(name), launched_at=self.clock())
        self.restarts[spec.name] = self.restarts.pop(name, 0)
        self.launcher.rename_log(spec.node, process.spec.log, spec.log)
        self.processes = model.switched(self.processes, name, spec, self.clock())
        self.say("switched", spec.name, f"was {name}; it kept running")

    def _fold_workers(self, rows: tuple[Listed, ...] | None) -> None:
        if rows is None:
            return
        by_url = {row.url: row for row in rows}
        now = self.clock()
        for name, process in self.processes.items():
            if process.is_router:
                continue
            after = model.listed(process, by_url.get(process.spec.url), now)
            if after.is_serving and not process.is_serving:
                self.say("serving", name, "listed by the router as healthy")
            self.processes[name] = after

    def _fold_gpus(self, uses: Mapping[GpuPlace, GpuUse]) -> None:
        self.gpus = model.gpus_seen(self.gpus, uses, self.clock())

    def _fold_first_request(self, answer: FirstRequest) -> None:
        tries = self.first_request.tries
        if answer.ttft_s is None:
            self.first_request = FirstRequestSeen("failed", tries, answer.detail)
            self.say("first_request", "", f"failed: {answer.detail}")
            return
        self.first_request = FirstRequestSeen("passed", tries)
        self.first_request_ttft_s = answer.ttft_s
        self.was_ready = True
        self.ready_after_s = self.clock() - self.started_at
        self.say("serving", "", f"all serve after {self.ready_after_s:.2f} s")

    # act

    def _act(self, action: Action, now: float) -> None:
        name = getattr(action, "name", "")
        if isinstance(action, model.Start):
            self._start(action.spec, now)
        elif isinstance(action, model.SendFirstRequest):
            self._send_first_request(now)
        elif isinstance(action, Fail):
            self.failure = action
            self.desired = replace(self.desired, stop="drain")
        elif isinstance(action, model.Forget):
            del self.processes[name]
            self.starts.pop(name, None)
        else:
            self._act_on(action, self.processes[name], now)
        if not isinstance(action, model.Start):
            self.say(_snake(type(action).__name__), name, action.why)

    def _act_on(self, action: Action, process: Process, now: float) -> None:
        name, spec = process.name, process.spec
        if isinstance(action, model.Terminate):
            self.launcher.terminate(self.starts[name].process.handle)
            self.processes[name] = replace(process, terminate_sent=now)
        elif isinstance(action, model.Kill):
            self.launcher.kill(self.starts[name].process.handle)
            self.processes[name] = replace(process, kill_sent=True)
        elif isinstance(action, model.GiveUp):
            self.processes[name] = replace(process, given_up=action.why)
        elif isinstance(action, model.SwitchRole):
            self._switch_role(action.spec, process, now)
        elif isinstance(action, model.Register):
            self.processes[name] = replace(process, register_sent=now, deregister_sent=None)
            add = lambda: self.router.add(spec.url, spec.role, spec.bootstrap_port)  # noqa: E731
            self.probes.ask(("add", name, str(now)), add, _ignore, now=now, every_s=0.0)
        elif isinstance(action, model.Deregister):
            self.processes[name] = model.leaves_router(process, now)
            remove = lambda: self.router.remove(spec.url)  # noqa: E731
            self.probes.ask(("remove", name, str(now)), remove, _ignore, now=now, every_s=0.0)

    def _switch_role(self, to: ProcessSpec, process: Process, now: float) -> None:
        name, spec = process.name, process.spec
        self.processes[name] = replace(process, switch_to=to)
        peers = (p.spec.url for p in self.processes.values() if p.spec.role == to.role and p.ready)
        peer_url = next(peers, None)
        then = self._fold(name, self.starts[name], self._fold_switched)
        ask = lambda: self.engines.switch_role(spec, to.role, peer_url)  # noqa: E731
        self.probes.ask(("switch", name, str(now)), ask, then, now=now, every_s=0.0)

    def _start(self, spec: ProcessSpec, now: float) -> None:
        before = self.processes.get(spec.name)
        if before is not None and before.spec == spec:
            self.restarts[spec.name] = self.restarts.get(spec.name, 0) + 1
        try:
            process = self.launcher.start(spec)
        except OSError as problem:
            why = problem.strerror or str(problem)
            is_lost = problem.errno == errno.EHOSTUNREACH
            if is_lost:
                self.lost.setdefault(spec.node, LostNode(spec, now))
            self.processes[spec.name] = model.not_started(
                spec, before, why, now, is_crash=not is_lost
            )
            self.say("lost" if is_lost else "crash", spec.name, f"{model.NOT_STARTED}: {why}")
            return
        self.starts[spec.name] = StartedProcess(process, now, log_at=process.log_offset)
        self.processes[spec.name] = model.started(spec, before, now)
        self.say("start", spec.name, process.label)

    def _send_first_request(self, now: float) -> None:
        self.first_request = FirstRequestSeen("sent", self.first_request.tries + 1)
        send = lambda: self.engines.send_first_request(self.router.url)  # noqa: E731
        key = ("first_request", str(self.first_request.tries))
        self.probes.ask(key, send, self._fold_first_request, now=now, every_s=0.0)


def _ignore(answer: object) -> None:
    """Drop an answer: the router's list shows the outcome."""


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
