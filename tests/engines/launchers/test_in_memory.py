"""A whole deployment on two nodes that exist only in memory: the launcher is the only door."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.build import Counts, deployment_of
from pdctl.deployment.records import Deployment, RouterPlan
from pdctl.engines import daemon, state
from pdctl.engines.daemon import Supervisor
from pdctl.engines.launchers import registry
from pdctl.engines.launchers.protocol import Launcher
from pdctl.engines.lifecycle import logs, running, start
from pdctl.engines.lifecycle.rescale import rescale
from pdctl.engines.records import DeploymentState
from pdctl.errors import EnvironmentProblem
from tests.engines.world import AtOnce, Clients, World

NAME = "chat"


@pytest.fixture
def world(home: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Two nodes with three GPUs each."""
    made = World(names=("left", "right"))
    launcher: Launcher = made
    monkeypatch.setitem(registry.LAUNCHERS, "memory", lambda scope: launcher)
    return made


class Up:
    """A deployment with its supervisor in this process, whose clock is the world's."""

    def __init__(self, world: World, deployment: Deployment) -> None:
        self.world = world
        state.make_state_dir(NAME)
        held = state.lock(NAME)
        assert held is not None
        self.lock = held
        prepared = start.prepare(deployment, launcher="memory")
        start.write_start_files(prepared, detached=True, ready_timeout_s=60.0)
        self.supervisor = self.supervise()

    def supervise(self) -> Supervisor:
        """A supervisor as the daemon makes it, from launch.json and state.json alone."""
        launch = state.read_launch(NAME)
        assert launch is not None
        made = daemon.supervisor_of(launch, wake=lambda: None)
        made.loop.probes = AtOnce()
        made.loop.engines = Clients(self.world)
        made.loop.clock = lambda: self.world.now
        made.loop.started_at = self.world.now
        for process in made.loop.processes.values():
            made.loop.processes[process.name] = replace(process, since=self.world.now)
        return made

    def turn(self, for_s: float) -> DeploymentState:
        end = self.world.now + for_s
        while self.world.now < end and not self.supervisor.turn():
            self.world.now += 0.25
        self.supervisor.written = None  # publish now, however little real time has passed
        self.supervisor.turn()
        found = state.read_state(NAME)
        assert found is not None
        return found


def split(prefill: int, total: int) -> Deployment:
    made = deployment_of(model="some/model", prefill=prefill, total=total, name=NAME)
    return replace(made, router=RouterPlan(port=30000))


def serving_nodes(found: DeploymentState) -> dict[str, str]:
    return {p.name: p.node for p in found.processes if p.phase == "serving"}


def test_up_scale_and_down_need_nothing_but_the_launcher(world: World) -> None:
    up = Up(world, split(1, 4))
    found = up.turn(10)
    assert found.phase == "serving"
    assert found.endpoint == "http://10.0.0.1:30000"
    nodes = serving_nodes(found)
    assert nodes["router"] == "left"
    assert set(nodes.values()) == {"left", "right"}
    places = [(p.node, gpu) for p in found.processes for gpu in p.gpus]
    assert len(set(places)) == 4
    assert len({gpu for _, gpu in places}) < 4  # both nodes have a GPU 0
    assert running.names() == (NAME,)

    changed = rescale(NAME, Counts(prefill=2, decode=4))
    assert "prefill-1 starts on GPU" in " ".join(changed.changes)
    assert len(serving_nodes(up.turn(20))) == 7
    rescale(NAME, Counts(prefill=1, decode=2))
    found = up.turn(20)
    assert (found.phase, sorted(serving_nodes(found))) == (
        "serving",
        ["decode-0", "decode-1", "prefill-0", "router"],
    )

    up.supervisor.loop.desired = replace(up.supervisor.loop.desired, stop="drain")
    up.turn(20)
    assert up.supervisor.finish().phase == "stopped"
    assert not world.alive
    os.close(up.lock)
    assert running.names() == ()


def test_an_engine_that_no_node_has_room_for_is_refused(world: World) -> None:
    with pytest.raises(EnvironmentProblem, match="on one node; the emptiest, .*, has 0 of"):
        start.prepare(split(2, 7), launcher="memory")


def test_a_second_supervisor_adopts_what_runs_on_both_nodes(world: World) -> None:
    up = Up(world, split(1, 4))
    up.turn(10)
    world.log.clear()
    up.supervisor = up.supervise()
    assert up.turn(10).phase == "serving"
    assert world.log == []
    world.end("decode-2", -9)
    assert up.turn(30).phase == "serving"
    assert [line.split(" ", 1)[1] for line in world.log] == ["start decode-2"]
    os.close(up.lock)


def test_a_deployment_without_supervisor_is_stopped_through_the_launcher(world: World) -> None:
    up = Up(world, split(1, 2))
    up.turn(10)
    world.deaf.add("decode-0")
    os.close(up.lock)
    assert len(running.leftovers(NAME)) == 3
    assert len(running.stop(NAME)) == 1
    assert not world.alive


def test_logs_are_read_on_the_node_that_wrote_them(world: World) -> None:
    up = Up(world, split(1, 2))
    up.turn(10)
    assert logs.lines(NAME, "decode-0", tail=5) == ("# pdctl decode-0",)
    os.close(up.lock)
