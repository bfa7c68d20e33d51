"""A new supervisor takes over."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.engines import daemon, state
from pdctl.engines.daemon import Supervisor, adopt
from pdctl.engines.records import ProcessState
from pdctl.paths import HOME_VARIABLE
from tests.engines.test_state import some_launch, some_state
from tests.engines.world import World, fleet_in, fleet_specs, run, spec

SPECS = fleet_specs(1, 1)


def before_of(world: World) -> tuple[ProcessState, ...]:
    """What the supervisor that died had published."""
    return tuple(
        ProcessState(its.name, its.role, its.url, "serving", handle, 1.0, restarts=2)
        for handle, its in world.alive.items()
    )


def test_what_serves_goes_on_serving_and_is_not_started_again() -> None:
    world = World(start_s=0)
    for its in SPECS:
        world.start(its)
    state = replace(some_state(), processes=before_of(world), ready_after_s=3.0)
    world.log.clear()
    fleet = fleet_in(world, SPECS)
    adopt(fleet, state, some_launch())
    run(fleet, world, 3)
    assert world.log == []
    assert fleet.was_ready
    assert fleet.is_quiet
    assert fleet.restarts["decode-0"] == 2


def test_what_died_meanwhile_is_started_and_what_is_not_wanted_is_ended() -> None:
    world = World(start_s=0)
    for its in (*SPECS, spec("decode-9", "decode", 9, gpu=9)):
        world.start(its)
    state = replace(some_state(), processes=before_of(world), ready_after_s=3.0)
    world.end("decode-0", -9)
    world.log.clear()
    fleet = fleet_in(world, SPECS)
    adopt(fleet, state, some_launch())
    run(fleet, world, 3)
    assert [line.split(" ", 1)[1] for line in world.log] == ["kill decode-9", "start decode-0"]
    assert fleet.is_quiet


def test_what_was_on_its_way_out_is_drained_and_not_killed() -> None:
    world = World(start_s=0)
    old = spec("decode-9", "decode", 9, gpu=9)
    for its in (*SPECS, old):
        world.start(its)
    state = replace(some_state(), processes=before_of(world), ready_after_s=3.0)
    world.log.clear()
    world.busy["decode-9"] = 1
    fleet = fleet_in(world, SPECS)
    adopt(fleet, state, replace(some_launch(), leaving=(old,)))
    run(fleet, world, 10)
    assert world.log == []
    assert fleet.processes["decode-9"].num_left == 1
    world.busy.clear()
    run(fleet, world, 3)
    assert [line.split(" ", 1)[1] for line in world.log] == ["terminate decode-9"]
    assert fleet.is_quiet


def test_ports_are_claimed_while_an_engine_waits_for_its_restart_and_until_one_has_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(daemon, "CLAIM_EVERY_S", 0.0)
    world = World(start_s=0)
    fleet = fleet_in(world, SPECS)
    supervisor = Supervisor(some_launch(), fleet, state.make_state_dir("chat"))
    every = tuple(one.name for one in SPECS)

    def turn(seconds: float) -> tuple[str, ...]:
        run(fleet, world, seconds)
        supervisor.turn()
        return world.claimed

    supervisor.turn()
    assert world.claimed == every, "before anything has started"
    turn(3)
    world.end("decode-0", 1)
    assert turn(3) == every
    assert "decode-0" not in [one.name for one in world.alive.values()]
    assert turn(10) == every
    world.busy["decode-0"] = 1
    fleet.desired = replace(fleet.desired, specs=SPECS[:-1])
    assert turn(1) == every, "it finishes its requests"
    world.busy.clear()
    turn(10)
    assert turn(1) == every[:-1]


def test_a_state_is_written_though_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(daemon, "WRITE_AT_MOST_EVERY_S", 0.0)
    fleet = fleet_in(World(start_s=0), SPECS)
    supervisor = Supervisor(some_launch(), fleet, state.make_state_dir("chat"))
    supervisor.turn()
    monkeypatch.setattr(time, "time", lambda: 5.0)
    supervisor.turn()
    found = state.read_state("chat")
    assert found is not None
    assert found.updated_at == 5.0
