"""One random history of a deployment, from its start to its end, and what must hold after it."""

import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pdctl.deployment.build import Counts, deployment_of
from pdctl.engines import state
from pdctl.engines.clients.sglang import EngineClient
from pdctl.engines.launchers.local import marked, sweep
from pdctl.engines.lifecycle import running, start
from pdctl.engines.lifecycle.rescale import rescale
from pdctl.engines.lifecycle.start import planning, prepare
from pdctl.engines.lifecycle.supervisor_process import SupervisorProcess
from pdctl.engines.records import DeploymentState
from pdctl.errors import PdctlError
from pdctl.paths import state_home
from tests.chaos import acts
from tests.chaos.acts import Scene

READY_WITHIN_S = 40.0
START_TIMEOUT_S = 60.0  # after which a start with a frozen engine has failed, as it must
FROZEN_WITHIN_S = START_TIMEOUT_S + 30.0
RECOVERS_WITHIN_S = 45.0
LAYOUTS = ((1, 2), (1, 2), (1, 3), (2, 3), (2, 4))  # prefill, total
STAGES = ("start", "load", "load", "scale", "drain")


@dataclass(frozen=True)
class Outcome:
    """problem: what did not hold; "" if all did."""

    seed: int
    told: tuple[str, ...]
    ended_as: str
    problem: str
    took_s: float


class Broken(Exception):
    """Something that must hold does not."""


def play(seed: int, *, full_disk: bool) -> Outcome:
    """Start a deployment, let things happen to it, see that it recovers, stop it."""
    started = time.monotonic()
    scene = Scene(f"chaos-{seed}", random.Random(seed), full_disk=full_disk)
    one = History(scene)
    problem = ""
    try:
        one.run()
    except (Broken, PdctlError, AssertionError, OSError) as failed:
        problem = f"{type(failed).__name__}: {failed}"
    finally:
        one.clean_up()
    took_s = time.monotonic() - started
    return Outcome(seed, tuple(scene.told), one.ended_as, problem, took_s)


class History:
    """A deployment and what happens to it. The dice decide everything but the exact moments."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.name = scene.name
        self.supervisor: SupervisorProcess | None = None
        self.ended_as = ""
        self.load = Load()

    def run(self) -> None:
        dice = self.scene.dice
        stage = dice.choice(STAGES)
        is_detached = dice.random() < 0.8
        self._up(is_detached)
        if stage == "start":
            time.sleep(dice.uniform(0.0, 2.5))
            self._something_happens(dice.randint(1, 2))
        self._until_up()
        if stage != "start" and self.ended_as == "":
            self._go_through(stage)
        if self.ended_as == "":
            self._until_recovered()
        self._down(stage == "drain")
        self._check_that_nothing_is_left()

    def _up(self, is_detached: bool) -> None:
        prefill, total = self.scene.dice.choice(LAYOUTS)
        self.scene.tell(f"up {prefill} of {total}{' -d' if is_detached else ''}")
        chosen = deployment_of(
            model="qwen3-8b",
            prefill=prefill,
            total=total,
            engine="sim",
            sim_speed=20.0,
            name=self.name,
        )
        with planning():
            prepared = prepare(chosen)
            self.supervisor = start.launch(
                prepared,
                detached=is_detached,
                ready_timeout_s=START_TIMEOUT_S,
            )

    def _until_up(self) -> None:
        """It serves, or its start failed, as it says."""
        assert self.supervisor is not None
        began = time.monotonic()
        while time.monotonic() < began + (
            FROZEN_WITHIN_S if self.scene.stopped else READY_WITHIN_S
        ):
            found = self.scene.look()
            if found is not None and found.ready_after_s is not None:
                self.load.begin(found.endpoint)
                return
            if self._has_ended():
                self._ended(self.scene.look())
                return
            time.sleep(0.05)
        raise Broken(f"not up after {READY_WITHIN_S:.0f} s: {self._words()}")

    def _has_ended(self) -> bool:
        """Neither the guard nor a supervisor of its own or a person's making is there."""
        assert self.supervisor is not None
        return not self.supervisor.is_alive() and not state.is_supervised(self.name)

    def _ended(self, last: DeploymentState | None) -> None:
        """The supervisor has gone by itself: only with a reason."""
        was_killed = any(told.startswith("kill supervisor") for told in self.scene.told)
        if last is not None and last.failure is not None and last.detail:
            self.ended_as = f"failed: {last.detail}"
        elif was_killed:
            self.ended_as = "its supervisor was killed"
        else:
            raise Broken(f"the supervisor ended without a word: {self._words()}")

    def _go_through(self, stage: str) -> None:
        dice = self.scene.dice
        if stage in ("scale", "drain"):
            prefill, decode = dice.choice([(1, 1), (1, 2), (2, 1), (2, 2)])
            self.scene.tell(f"scale to {prefill}P{decode}D")
            with suppress(PdctlError):
                rescale(self.name, Counts(prefill, decode))
            time.sleep(dice.uniform(0.0, 2.0))
        self._something_happens(dice.randint(1, 3))

    def _something_happens(self, times: int) -> None:
        for _ in range(times):
            self.scene.dice.choice(acts.ACTS)(self.scene)
            time.sleep(self.scene.dice.uniform(0.0, 0.5))
        if self.scene.dice.random() < 0.05:
            acts.freeze(self.scene)

    def _until_recovered(self) -> None:
        """It serves again, a request passing; or is degraded and says by what."""
        assert self.supervisor is not None
        deadline = time.monotonic() + RECOVERS_WITHIN_S
        while time.monotonic() < deadline:
            found = self.scene.look()
            if self._has_ended():
                self._ended(found)
                return
            if self._is_settled(found) or self.scene.stopped:
                self.ended_as = found.phase if found else "unknown"
                self._request_passes(found)
                return
            time.sleep(0.05)
        found = self.scene.look()
        if found is None or found.phase != "degraded" or not found.detail:
            raise Broken(f"neither serving nor degraded with a reason: {self._words()}")
        self.ended_as = f"degraded: {found.detail}"

    def _is_settled(self, found: DeploymentState | None) -> bool:
        wanted = state.read_launch(self.name)
        if found is None or wanted is None or found.phase != "serving":
            return False
        names = {spec.name for spec in wanted.specs}
        is_lively = state.is_supervised(self.name) and time.time() - found.updated_at < 12.0
        return is_lively and {p.name for p in found.processes} == names

    def _request_passes(self, found: DeploymentState | None) -> None:
        """One of a few: the router has 15 s of circuit breaking in it after failures."""
        if found is None or self.scene.stopped:
            return
        deadline = time.monotonic() + 25.0
        answer = EngineClient().send_first_request(found.endpoint, timeout_s=10.0)
        while answer.ttft_s is None and time.monotonic() < deadline:
            time.sleep(0.5)
            answer = EngineClient().send_first_request(found.endpoint, timeout_s=10.0)
        if answer.ttft_s is None:
            raise Broken(f"it says {found.phase}, and no request passes: {answer.detail}")

    def _down(self, is_disturbed: bool) -> None:
        """Stop it; disturbed, things happen meanwhile and it is stopped once more."""
        dice = self.scene.dice
        now = dice.random() < 0.5 or bool(self.scene.stopped)
        if is_disturbed:
            first = acts.pdctl("down", self.name, *(("--now",) if now else ()))
            time.sleep(dice.uniform(0.3, 1.0))
            disturb: Callable[[Scene], None] = dice.choice(
                [acts.kill_supervisor, acts.kill_engine, acts.pause, acts.two_commands]
            )
            disturb(self.scene)
            first.wait(60)
        with suppress(PdctlError):  # it may have ended by itself
            running.stop(self.name, now=now)
        if self.supervisor is not None:
            self.supervisor.child.wait(20)

    def _check_that_nothing_is_left(self) -> None:
        assert self.supervisor is not None
        run_id = self.supervisor.launch.run_id
        if left := marked(run_id):
            raise Broken(f"processes are left: {left}")
        if ports := acts.listening_ports():
            raise Broken(f"ports are left: {sorted(ports)}")
        if state.is_supervised(self.name) or self.name in running.names():
            raise Broken("it counts as running")
        if state.read_state(self.name) is not None or state.read_launch(self.name) is not None:
            raise Broken("its state is left")
        if not state.read(state.state_dir(self.name)):
            raise Broken("its events cannot be read")

    def _words(self) -> str:
        found = self.scene.look()
        if found is None:
            return "no state"
        parts = [f"{p.name} {p.phase} {p.detail}".strip() for p in found.processes]
        return f"{found.phase} ({found.detail}): {', '.join(parts)}"

    def clean_up(self) -> None:
        """Whatever became of the history, the next one begins with nothing."""
        self.load.end()
        for pid in self.scene.stopped:
            acts.send(pid, 9)
        if self.supervisor is not None:
            if self.supervisor.is_alive():
                self.supervisor.child.kill()
                self.supervisor.child.wait()
            found = self.scene.look()
            if found is not None and state.is_supervised(self.name):
                acts.send(found.supervisor_pid, 9)
            sweep(self.supervisor.launch.run_id)
        (state_home() / "filler").unlink(missing_ok=True)


class Load:
    """A few requests a second, whatever becomes of them."""

    def __init__(self) -> None:
        self._is_over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, url: str) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, args=(url,), daemon=True)
            self._thread.start()

    def end(self) -> None:
        self._is_over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, url: str) -> None:
        while not self._is_over.wait(0.2):
            EngineClient().send_first_request(url, timeout_s=3.0)
