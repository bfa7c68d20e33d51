"""What is done about a GPU that is not free although nobody runs on it."""

from dataclasses import replace

from pdctl.engines.fleet import Fleet
from pdctl.engines.gpu_room import waiting_for_gpus
from tests.engines.world import World, fleet_in, fleet_specs, on_gpus, ready_fleet, run, scale, spec


def waits(fleet: Fleet) -> tuple[str, ...]:
    return waiting_for_gpus(fleet.desired, fleet.observed())


def test_one_decode_engine_killed_takes_its_prefill_engine_along_and_both_serve_again() -> None:
    fleet, world = ready_fleet(1, 1, real=True)
    world.end("decode-0", -9)
    run(fleet, world, 25)
    assert [line.split(" ", 1)[1] for line in world.log] == [
        "terminate prefill-0",
        "start prefill-0",
        "start decode-0",
    ]
    run(fleet, world, 10)
    assert fleet.is_quiet


def test_prefill_engines_start_again_one_by_one_while_another_decode_engine_serves() -> None:
    fleet, world = ready_fleet(2, 2, real=True)
    world.end("decode-1", -9)
    for _ in range(200):
        run(fleet, world, 0.25)
        serving = {p.spec.role for p in fleet.processes.values() if p.is_serving}
        assert {"prefill", "decode"} <= serving
    assert [line.split(" ", 1)[1] for line in world.log] == [
        "terminate prefill-0",
        "start prefill-0",
        "terminate prefill-1",
        "start prefill-1",
        "start decode-1",
    ]
    assert fleet.is_quiet


def test_the_only_prefill_engine_goes_on_while_it_can_serve_and_the_state_says_what_waits() -> None:
    fleet, world = ready_fleet(1, 2, real=True)
    world.end("decode-1", -9)
    run(fleet, world, 120)
    assert world.log == []
    assert waits(fleet) == (
        "decode-1 waits for memory (GPU 2: 54 GiB; prefill-0 may keep it until restarted)",
    )


def test_memory_that_comes_back_by_itself_costs_nobody_a_restart() -> None:
    fleet, world = ready_fleet(1, 1, real=True)
    world.foreign.add(1)
    world.mapped.clear()
    world.end("decode-0", -9)
    world.mapped.clear()  # the transfer maps nothing
    run(fleet, world, 8)
    world.foreign.clear()  # the driver has cleaned up
    run(fleet, world, 10)
    assert [line.split(" ", 1)[1] for line in world.log] == ["start decode-0"]


def test_no_prefill_engine_is_restarted_twice_for_memory_that_a_stranger_has() -> None:
    fleet, world = ready_fleet(1, 1, real=True)
    world.end("decode-0", -9)
    world.foreign.add(1)
    run(fleet, world, 200)
    assert sum("start prefill-0" in line for line in world.log) == 1
    assert waits(fleet) == ("decode-0 waits for memory (GPU 1: 20 GiB)",)
    world.foreign.clear()
    run(fleet, world, 10)
    assert fleet.is_quiet


def test_a_prefill_engine_in_the_place_of_a_decode_engine_waits_for_its_memory() -> None:
    fleet, world = ready_fleet(2, 2, real=True)
    router, prefill_0, prefill_1, decode_0, _ = fleet.desired.specs
    (new,) = on_gpus((spec("prefill-2", "prefill", 9, gpu=3),))
    scale(fleet, (router, prefill_0, prefill_1, new, decode_0))
    run(fleet, world, 90)
    assert {name for name, p in fleet.processes.items() if p.is_serving} == {
        *("router", "prefill-0", "prefill-1", "prefill-2", "decode-0")
    }


def test_a_first_start_is_not_held_up_by_a_look_at_gpus() -> None:
    world = World(foreign=set())
    fleet = fleet_in(world, on_gpus(fleet_specs(1, 1)))
    fleet.tick()
    assert len(world.log) == 3


def test_requests_inside_a_prefill_engine_end_before_it_starts_again() -> None:
    fleet, world = ready_fleet(2, 2, real=True)
    fleet.limits = replace(fleet.limits, drain_s=40.0)
    world.busy["prefill-0"] = 3
    world.end("decode-1", -9)
    run(fleet, world, 40)
    assert not any("terminate" in line for line in world.log)
    world.busy.clear()
    run(fleet, world, 5)
    assert any("terminate prefill-0" in line for line in world.log)
