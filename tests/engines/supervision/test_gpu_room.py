"""What is done about a GPU that is not free although nobody runs on it."""

from dataclasses import replace

from pdctl.engines.supervision.gpu_room import waiting_engines
from pdctl.engines.supervision.loop import SupervisorLoop
from pdctl.engines.supervision.model import LostNode
from tests.engines.world import World, fleet_in, fleet_specs, on_gpus, ready_fleet, run, scale, spec


def waits(fleet: SupervisorLoop) -> dict[str, str]:
    return dict(waiting_engines(fleet.desired, fleet.observed()))


def told(world: World) -> list[str]:
    return [line.split(" ", 1)[1] for line in world.log]


def test_one_decode_engine_killed_takes_its_prefill_engine_along_and_both_serve_again() -> None:
    fleet, world = ready_fleet(1, 1, real=True)
    world.end("decode-0", -9)
    run(fleet, world, 25)
    assert told(world)[0] == "terminate prefill-0"
    assert sorted(told(world)[1:]) == ["start decode-0", "start prefill-0"]
    run(fleet, world, 10)
    assert fleet.is_quiet


def test_prefill_engines_start_again_one_by_one_while_another_decode_engine_serves() -> None:
    fleet, world = ready_fleet(2, 2, real=True)
    world.end("decode-1", -9)
    for _ in range(200):
        run(fleet, world, 0.25)
        serving = {p.spec.role for p in fleet.processes.values() if p.is_serving}
        assert {"prefill", "decode"} <= serving
    assert told(world)[:3] == ["terminate prefill-0", "start prefill-0", "terminate prefill-1"]
    assert sorted(told(world)[3:]) == ["start decode-1", "start prefill-1"]
    assert fleet.is_quiet


def test_the_only_prefill_engine_goes_on_while_it_can_serve_and_the_state_says_what_waits() -> None:
    fleet, world = ready_fleet(1, 2, real=True)
    world.end("decode-1", -9)
    run(fleet, world, 120)
    assert world.log == []
    assert waits(fleet) == {
        "decode-1": "waits for memory (GPU 2: 54 GiB; prefill-0 may keep it until restarted)"
    }


def test_the_state_names_the_engine_or_the_lost_node_that_another_one_waits_for() -> None:
    fleet, _ = ready_fleet(1, 2)
    *specs, last = fleet.desired.specs
    added = replace(last, name="decode-2", port=last.port + 1, gpus=last.gpus)
    elsewhere = replace(last, name="decode-3", port=last.port + 2, gpus=(7,), node="c")
    fleet.desired = replace(fleet.desired, specs=(*specs, last, added, elsewhere))
    fleet.lost["c"] = LostNode(elsewhere, since=0.0)
    assert waits(fleet) == {
        "decode-2": "waits for the place of decode-1",
        "decode-3": "waits for c, which has left the network",
    }


def test_memory_that_comes_back_by_itself_costs_nobody_a_restart() -> None:
    fleet, world = ready_fleet(1, 1, real=True)
    world.foreign.add(1)
    world.end("decode-0", -9)
    world.mapped.clear()  # the transfer maps nothing
    run(fleet, world, 8)
    world.foreign.clear()  # the driver has cleaned up
    run(fleet, world, 10)
    assert told(world) == ["start decode-0"]


def test_memory_that_a_stranger_has_restarts_nobody_and_holds_nobody_up_for_long() -> None:
    fleet, world = ready_fleet(1, 1, real=True)
    world.foreign.add(1)
    world.end("decode-0", -9)
    world.mapped.clear()
    run(fleet, world, 9)
    assert waits(fleet) == {"decode-0": "waits for memory (GPU 1: 20 GiB)"}
    run(fleet, world, 8)
    assert told(world) == ["start decode-0"]


def test_a_driver_that_does_not_answer_holds_nobody_up_for_long() -> None:
    fleet, world = ready_fleet(1, 1, real=True)
    world.driver_hangs = True
    world.end("decode-0", -9)
    run(fleet, world, 9)
    assert waits(fleet) == {
        "decode-0": "waits for memory (the driver has not answered whether its GPUs are free)"
    }
    run(fleet, world, 8)
    assert told(world) == ["start decode-0"]


def test_a_router_that_is_away_for_a_moment_costs_the_only_prefill_engine_nothing() -> None:
    fleet, world = ready_fleet(1, 2, real=True)
    world.end("decode-1", -9)
    run(fleet, world, 30)
    world.end("router", -9)
    run(fleet, world, 60)
    assert told(world) == ["start router"]


def test_a_decode_engine_that_the_router_finds_unhealthy_still_serves() -> None:
    fleet, world = ready_fleet(1, 2, real=True)
    world.end("decode-1", -9)
    run(fleet, world, 30)
    url = fleet.processes["decode-0"].spec.url
    world.listed[url] = replace(world.listed[url], is_healthy=False)
    run(fleet, world, 30)
    assert told(world) == []


def test_an_engine_whose_memory_a_stranger_has_does_not_hide_another_one() -> None:
    fleet, world = ready_fleet(2, 3, real=True)
    world.foreign.add(3)
    world.end("decode-1", -9)
    world.mapped.clear()
    run(fleet, world, 5)
    world.end("decode-2", -9)
    run(fleet, world, 120)
    serving = {name for name, p in fleet.processes.items() if p.is_serving}
    assert {"decode-0", "decode-2", "prefill-0", "prefill-1"} <= serving


def test_memory_that_a_prefill_engine_left_restarts_no_other() -> None:
    fleet, world = ready_fleet(3, 1, real=True)
    world.end("prefill-2", -9)
    world.mapped["", 2] = set(world.alive)  # whoever has it: nobody sends KV to a prefill engine
    run(fleet, world, 8)
    assert told(world) == []
    world.mapped.clear()
    run(fleet, world, 15)
    assert told(world) == ["start prefill-2"]


def test_what_was_seen_before_an_engine_was_scaled_away_is_forgotten() -> None:
    fleet, world = ready_fleet(2, 2, real=True)
    whole = fleet.desired.specs
    world.end("decode-1", -9)
    run(fleet, world, 3)
    scale(fleet, whole[:-1])
    run(fleet, world, 20)
    world.mapped.clear()
    world.log.clear()
    run(fleet, world, 3600, every_s=5.0)
    scale(fleet, whole)
    run(fleet, world, 20)
    assert told(world) == ["start decode-1"]


def test_the_prefill_engine_that_leaves_goes_first_where_memory_is_kept() -> None:
    fleet, world = ready_fleet(2, 2, real=True)
    router, prefill_0, _, decode_0, decode_1 = fleet.desired.specs
    world.end("decode-1", -9)
    run(fleet, world, 5)
    scale(fleet, (router, prefill_0, decode_0, decode_1))
    run(fleet, world, 120)
    assert {name for name, p in fleet.processes.items() if p.is_serving} == {
        *("router", "prefill-0", "decode-0", "decode-1")
    }


def test_a_prefill_engine_that_is_lost_while_it_drains_is_killed_at_once() -> None:
    fleet, world = ready_fleet(2, 2, real=True)
    world.busy["prefill-0"] = 3
    world.end("decode-1", -9)
    run(fleet, world, 14)
    fleet.processes["prefill-0"] = replace(fleet.processes["prefill-0"], lost="its scheduler died")
    run(fleet, world, 1)
    assert "kill prefill-0" in told(world)


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
    world = World()
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
