"""The supervisor's loop over a world of fakes: what it does after what happens."""

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.supervision.loop import Probes, SupervisorLoop
from pdctl.engines.supervision.model import SupervisorLimits
from tests.engines.world import (
    AtOnce,
    Clients,
    World,
    fleet_in,
    fleet_specs,
    ready_fleet,
    run,
    scale,
    spec,
)


def nothing() -> None:
    return


def take_until(probes: Probes, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "no answer came"
        probes.take_answers()
        time.sleep(0.001)


def test_an_answer_is_handed_over_in_the_thread_that_takes_it() -> None:
    woken = threading.Event()
    probes = Probes(woken.set)
    seen: list[tuple[int, int]] = []
    probes.ask(
        ("a",),
        threading.get_ident,
        lambda ident: seen.append((ident, threading.get_ident())),
        now=0.0,
        every_s=1.0,
    )
    assert woken.wait(10)
    take_until(probes, lambda: bool(seen))
    asked_in, taken_in = seen[0]
    assert asked_in != threading.get_ident() == taken_in


def test_a_key_is_asked_again_only_after_its_answer_and_its_time() -> None:
    probes = Probes(nothing)
    may_answer = threading.Event()
    seen: list[float] = []

    def ask(now: float) -> None:
        probes.ask(
            ("a",), lambda: may_answer.wait(10), lambda _: seen.append(now), now=now, every_s=1
        )

    ask(0.0)
    ask(5.0)  # the first has not been answered
    may_answer.set()
    take_until(probes, lambda: seen == [0.0])
    ask(0.5)  # too early
    ask(6.0)
    take_until(probes, lambda: seen == [0.0, 6.0])


def test_a_question_that_fails_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    probes = Probes(nothing)
    seen: list[str] = []

    def fail() -> str:
        raise ValueError("no such node")

    probes.ask(("a",), fail, seen.append, now=0, every_s=0)

    def asked_again() -> bool:
        probes.ask(("a",), lambda: "answer", seen.append, now=0, every_s=0)
        return seen == ["answer"]

    take_until(probes, asked_again)
    assert "ValueError: no such node" in capsys.readouterr().err


def test_a_slow_answer_does_not_keep_others_waiting() -> None:
    probes = Probes(nothing)
    may_answer = threading.Event()
    seen: list[str] = []
    probes.ask(
        ("slow",), lambda: may_answer.wait(10), lambda _: seen.append("slow"), now=0, every_s=1
    )
    for name in ("a", "b", "c"):
        probes.ask((name,), nothing, lambda _, name=name: seen.append(name), now=0, every_s=1)  # type: ignore[misc]
    take_until(probes, lambda: len(seen) == 3)
    assert "slow" not in seen
    may_answer.set()
    take_until(probes, lambda: "slow" in seen)


DECODE = fleet_specs(1, 2)[2]
DIED = Path(__file__).parents[2] / "data/logs/failed/sglang-0.5.15-prefill-died.log"


def starts(world: World) -> list[str]:
    return [line for line in world.log if " start " in line]


def test_everything_starts_at_once_and_is_listed_when_ready() -> None:
    world = World()
    fleet = fleet_in(world, fleet_specs(1, 2))
    fleet.tick()
    assert world.log == [
        "0 start router",
        "0 start prefill-0",
        "0 start decode-0",
        "0 start decode-1",
    ]
    run(fleet, world, 5)
    assert {row.url[-4:] for row in world.listed.values()} == {"1001", "1002", "1003"}
    assert fleet.was_ready
    assert fleet.first_request_ttft_s == 0.05
    assert fleet.is_quiet


def test_a_prefill_engine_is_listed_with_its_bootstrap_port() -> None:
    _, world = ready_fleet()
    assert world.listed["http://127.0.0.1:1001"].bootstrap_port == 2001
    assert world.listed["http://127.0.0.1:1002"].bootstrap_port is None


@pytest.mark.parametrize("name", ["router", "prefill-0", "decode-1"])
def test_a_process_that_fails_during_the_first_start_ends_everything(name: str) -> None:
    world = World(broken={name})
    fleet = fleet_in(world, fleet_specs(1, 2))
    run(fleet, world, 10)
    assert fleet.is_over
    assert not world.alive
    assert fleet.failure is not None
    assert (fleet.failure.name, fleet.failure.failure) == (name, "engine_failed")
    assert fleet.failure.why == "exited with status 1"


def test_what_is_not_ready_in_time_is_stopped() -> None:
    world = World(frozen={"decode-0"})
    fleet = fleet_in(world, fleet_specs(1, 1), SupervisorLimits(ready_timeout_s=60))
    run(fleet, world, 70)
    assert fleet.failure is not None
    assert (fleet.failure.name, fleet.failure.failure) == ("decode-0", "not_ready")
    assert not world.alive


def test_an_engine_that_answers_as_another_role_fails_the_start() -> None:
    world = World(says_role={"decode-0": "prefill"})
    fleet = fleet_in(world, fleet_specs(1, 1))
    run(fleet, world, 30)
    assert fleet.failure is not None
    assert fleet.failure.why == "http://127.0.0.1:1002 runs as prefill, not as decode"
    assert not world.alive


def test_without_a_passing_request_it_is_not_ready() -> None:
    world = World(request_fails=True)
    fleet = fleet_in(world, fleet_specs(1, 1))
    run(fleet, world, 30)
    assert not fleet.was_ready
    assert fleet.failure is not None
    assert "first request failed: status 500" in fleet.failure.why
    assert fleet.first_request.tries == 3


def test_a_crashed_engine_leaves_the_router_and_comes_back_after_its_backoff() -> None:
    fleet, world = ready_fleet()
    crashed_at = world.now - 1000
    world.end("decode-1", -9)
    run(fleet, world, 1)
    assert "http://127.0.0.1:1003" not in world.listed
    run(fleet, world, 15)
    assert starts(world) == [f"{crashed_at + 10:g} start decode-1"]
    assert "http://127.0.0.1:1003" in world.listed
    assert fleet.is_quiet
    assert fleet.restarts == {"decode-1": 1}


def test_backoff_doubles_up_to_its_limit() -> None:
    fleet, world = ready_fleet()
    world.broken.add("decode-1")
    world.end("decode-1", 1)
    run(fleet, world, 1400, every_s=0.5)
    at = [float(line.split()[0]) for line in starts(world)]
    gaps = [round(later - earlier) for earlier, later in zip(at, at[1:], strict=False)]
    assert gaps == [20, 40, 80, 160, 300, 300, 300]


def test_crashes_long_ago_are_forgiven() -> None:
    fleet, world = ready_fleet()
    for _ in range(3):
        world.end("decode-1", 1)
        run(fleet, world, 700, every_s=1)
    at = world.now - 1000
    world.end("decode-1", 1)
    run(fleet, world, 20)
    assert starts(world)[-1] == f"{at + 10:g} start decode-1"


def test_a_new_engine_that_never_serves_is_given_up_and_the_rest_goes_on() -> None:
    fleet, world = ready_fleet()
    world.broken.add("decode-2")
    scale(fleet, (*fleet.desired.specs, spec("decode-2", "decode", 9, gpu=9)))
    run(fleet, world, 400, every_s=0.5)
    assert len(starts(world)) == 3
    assert "never served" in fleet.processes["decode-2"].given_up
    assert fleet.processes["decode-1"].is_serving


def test_an_engine_that_has_served_is_never_given_up() -> None:
    fleet, world = ready_fleet()
    world.broken.add("decode-1")
    world.end("decode-1", 1)
    run(fleet, world, 3000, every_s=1)
    assert not fleet.processes["decode-1"].given_up
    assert len(starts(world)) > 8


def test_a_crashed_router_is_started_at_once_and_every_engine_added_again() -> None:
    fleet, world = ready_fleet()
    world.end("router", 101)
    run(fleet, world, 5)
    assert [line.split()[1:] for line in starts(world)] == [["start", "router"]]
    assert len(world.listed) == 3
    assert fleet.is_quiet


def test_a_router_that_crashes_again_and_again_is_not_a_restart_storm() -> None:
    fleet, world = ready_fleet()
    world.broken.add("router")
    world.end("router", 101)
    run(fleet, world, 60)
    assert len(starts(world)) == 3  # at once, then after 10 s and 20 s more


def test_a_hanging_engine_is_killed_after_what_no_long_prefill_takes() -> None:
    fleet, world = ready_fleet()
    run(fleet, world, 20)
    world.frozen.add("decode-0")
    run(fleet, world, 200)
    assert world.log == []
    run(fleet, world, 60)
    assert any("kill decode-0" in line for line in world.log)
    world.frozen.clear()
    run(fleet, world, 30)
    assert fleet.processes["decode-0"].is_serving


def test_an_engine_whose_scheduler_died_is_killed_though_its_main_process_lives(
    tmp_path: Path,
) -> None:
    log = tmp_path / "decode-0.log"
    specs = tuple(
        replace(its, log=log) if its.name == "decode-0" else its for its in fleet_specs(1, 2)
    )
    world = World()
    fleet = fleet_in(world, specs)
    run(fleet, world, 5)
    world.log.clear()
    world.files["", log] += DIED.read_text()
    run(fleet, world, 2)
    assert any("kill decode-0" in line for line in world.log)
    assert "http://127.0.0.1:1002" not in world.listed
    run(fleet, world, 30)
    assert fleet.processes["decode-0"].is_serving
    assert len(starts(world)) == 1


def test_stopping_takes_the_router_out_first() -> None:
    fleet, world = ready_fleet()
    fleet.desired = replace(fleet.desired, stop="drain")
    run(fleet, world, 5)
    assert [line.split()[-1] for line in world.log] == [
        "router",
        "prefill-0",
        "decode-0",
        "decode-1",
    ]
    assert fleet.is_over


def test_what_ignores_sigterm_is_killed_after_its_grace() -> None:
    fleet, world = ready_fleet()
    world.deaf.add("decode-0")
    fleet.desired = replace(fleet.desired, stop="drain")
    run(fleet, world, 40)
    terminated, killed = (
        float(line.split()[0])
        for line in world.log
        if line.endswith(("terminate decode-0", "kill decode-0"))
    )
    assert killed - terminated == 30
    assert fleet.is_over


def test_stopping_at_once_kills_everything() -> None:
    fleet, world = ready_fleet()
    world.deaf.update({"decode-0", "router"})
    fleet.desired = replace(fleet.desired, stop="now")
    run(fleet, world, 1)
    assert not world.alive


def test_an_engine_leaves_after_the_new_one_serves_and_only_when_drained() -> None:
    fleet, world = ready_fleet()
    new = spec("decode-2", "decode", 9, gpu=9)
    world.busy["decode-1"] = 3
    kept = tuple(s for s in fleet.desired.specs if s.name != "decode-1")
    scale(fleet, (*kept, new))
    run(fleet, world, 1)
    assert "http://127.0.0.1:1003" in world.listed
    run(fleet, world, 9)
    assert new.url in world.listed
    assert "http://127.0.0.1:1003" not in world.listed
    assert not any("terminate" in line for line in world.log)
    world.busy.clear()
    run(fleet, world, 3)
    assert world.log[-1].endswith("terminate decode-1")
    assert "decode-1" not in fleet.processes


def test_a_request_that_was_on_its_way_keeps_an_engine_from_leaving() -> None:
    fleet, world = ready_fleet()
    scale(fleet, fleet.desired.specs[:-1])
    run(fleet, world, 1)  # nothing inside, for less than a second
    world.busy["decode-1"] = 1
    run(fleet, world, 20)
    assert fleet.processes["decode-1"].running
    world.busy.clear()
    run(fleet, world, 3)
    assert "decode-1" not in fleet.processes


def test_draining_is_bounded() -> None:
    fleet, world = ready_fleet()
    world.busy["decode-1"] = 3
    scale(fleet, fleet.desired.specs[:-1])
    run(fleet, world, 70)
    assert world.log[-1].endswith("terminate decode-1")


def test_an_engine_whose_gpu_the_new_one_needs_leaves_first() -> None:
    fleet, world = ready_fleet()
    new = spec("prefill-1", "prefill", 9, gpu=2)  # decode-1 has GPU 2
    kept = tuple(s for s in fleet.desired.specs if s.name != "decode-1")
    scale(fleet, (*kept, new))
    run(fleet, world, 10)
    assert [line.split(" ", 1)[1] for line in world.log] == [
        "terminate decode-1",
        "start prefill-1",
    ]
    assert fleet.is_quiet


def test_the_last_serving_decode_engine_never_leaves_for_one_that_does_not_serve_yet() -> None:
    fleet, world = ready_fleet(1, 1)
    new = spec("decode-1", "decode", 9, gpu=1)  # decode-0 has GPU 1
    scale(fleet, (*fleet.desired.specs[:-1], new))
    run(fleet, world, 120)
    assert fleet.processes["decode-0"].is_serving
    assert world.log == []


def test_an_engine_wanted_again_while_it_drains_ends_and_comes_back() -> None:
    fleet, world = ready_fleet()
    before = fleet.desired.specs
    scale(fleet, before[:-1])
    run(fleet, world, 1.5)
    scale(fleet, before)
    run(fleet, world, 10)
    assert fleet.is_quiet
    assert fleet.processes["decode-1"].crashes == ()


def test_a_program_that_cannot_be_started_fails_the_start_with_the_reason() -> None:
    class Refuses(World):
        def start(self, spec: object) -> object:  # type: ignore[override]
            raise OSError(11, "Resource temporarily unavailable")

    world = Refuses()
    fleet = fleet_in(world, fleet_specs(1, 1))
    run(fleet, world, 1)
    assert fleet.failure is not None
    assert fleet.failure.why == "could not be started: Resource temporarily unavailable"
    assert fleet.is_over


def test_an_answer_about_an_earlier_start_is_not_taken_for_the_present_one() -> None:
    fleet, world = ready_fleet()
    world.end("decode-0", 1)
    probes = fleet.probes
    assert isinstance(probes, AtOnce)
    while not any(
        fleet.processes["decode-0"].running and Clients(world).check(s).is_ready for s in [DECODE]
    ):
        run(fleet, world, 0.25)
    fleet.tick()  # asks, and is told that it is ready
    stale = probes.answers
    probes.answers = []
    world.end("decode-0", 1)
    while not fleet.processes["decode-0"].crashes[1:] or not fleet.processes["decode-0"].running:
        run(fleet, world, 0.25)
    for answer in stale:
        answer()
    assert stale
    assert not fleet.processes["decode-0"].ready


def role_change(switchable: bool = True) -> tuple[SupervisorLoop, World, ProcessSpec]:
    """1P2D whose decode-1 is to become prefill-1 on its port and GPU."""
    world = World()
    specs = tuple(
        replace(s, can_switch_role=switchable and s.role != "router") for s in fleet_specs(1, 2)
    )
    fleet = fleet_in(world, specs)
    run(fleet, world, 10)
    assert fleet.was_ready
    world.log.clear()
    new = replace(specs[3], name="prefill-1", role="prefill", bootstrap_port=2003)
    scale(fleet, (*specs[:3], new))
    return fleet, world, new


def happened(world: World) -> list[str]:
    return [line.split(" ", 1)[1] for line in world.log]


def test_an_engine_takes_its_new_role_without_a_restart_once_it_is_empty() -> None:
    fleet, world, new = role_change()
    world.busy["decode-1"] = 2
    run(fleet, world, 5)
    assert new.url not in world.listed
    assert fleet.processes["decode-1"].num_left == 2
    assert happened(world) == []
    world.busy.clear()
    run(fleet, world, 5)
    assert happened(world) == ["switch decode-1"]
    assert world.listed[new.url].role == "prefill"
    assert world.listed[new.url].bootstrap_port == 2003
    assert list(fleet.processes) == ["router", "prefill-0", "decode-0", "prefill-1"]
    assert fleet.is_quiet
    world.end("prefill-1", -9)
    run(fleet, world, 15)
    assert happened(world)[-1] == "start prefill-1"
    assert fleet.is_quiet


def test_an_engine_does_not_become_a_prefill_engine_twice_in_one_process() -> None:
    fleet, world, new = role_change()
    before = (*fleet.desired.specs[:3], replace(new, name="decode-1", role="decode"))
    run(fleet, world, 8)
    scale(fleet, before)
    run(fleet, world, 8)
    assert happened(world) == ["switch decode-1", "switch prefill-1"]
    scale(fleet, (*before[:3], new))
    run(fleet, world, 8)
    assert happened(world)[2:] == ["terminate decode-1", "start prefill-1"]
    assert fleet.is_quiet
    scale(fleet, before)
    run(fleet, world, 8)
    assert happened(world)[4:] == ["switch prefill-1"]


def test_an_engine_that_is_not_quite_idle_is_asked_again() -> None:
    fleet, world, _ = role_change()
    world.switches_refused = ["instance is not idle; drain all requests before switching"]
    run(fleet, world, 8)
    assert happened(world) == ["switch decode-1"]
    assert fleet.is_quiet


@pytest.mark.parametrize("switchable", [True, False])
def test_an_engine_that_cannot_change_its_role_is_restarted_in_it(switchable: bool) -> None:
    fleet, world, _ = role_change(switchable)
    world.switches_refused = ["transfer backend 'nixl' does not support runtime role switch"]
    run(fleet, world, 10)
    assert happened(world) == ["terminate decode-1", "start prefill-1"]
    assert fleet.is_quiet


def test_an_engine_that_never_empties_is_restarted_in_its_new_role() -> None:
    fleet, world, _ = role_change()
    world.busy["decode-1"] = 2
    run(fleet, world, 80)
    assert happened(world) == ["terminate decode-1", "start prefill-1"]


def test_a_role_change_taken_back_while_it_drains_keeps_the_engine() -> None:
    fleet, world, _ = role_change()
    before = tuple(replace(s, can_switch_role=s.role != "router") for s in fleet_specs(1, 2))
    world.busy["decode-1"] = 2
    run(fleet, world, 3)
    scale(fleet, before)
    run(fleet, world, 3)
    assert happened(world) == []
    assert world.listed[before[3].url].role == "decode"
    assert fleet.is_quiet


def test_the_last_decode_engine_does_not_become_a_prefill_engine() -> None:
    fleet, world, _ = role_change()
    both = tuple(
        replace(s, name=f"prefill-{i}", role="prefill", bootstrap_port=2000 + i)
        if s.role == "decode"
        else s
        for i, s in enumerate(fleet.desired.specs)
    )
    scale(fleet, (*both, spec("decode-9", "decode", 9, gpu=9)))
    world.broken.add("decode-9")
    run(fleet, world, 300)
    assert [p.name for p in fleet.processes.values() if p.is_serving and p.spec.role == "decode"]


def test_an_engine_wanted_again_is_asked_anew_what_it_has_inside() -> None:
    fleet, world = ready_fleet()
    before = fleet.desired.specs
    scale(fleet, before[:-1])
    run(fleet, world, 1.0)
    scale(fleet, before)
    run(fleet, world, 3)
    world.busy["decode-1"] = 1
    world.log.clear()
    scale(fleet, before[:-1])
    run(fleet, world, 10)
    assert world.log == []


def test_engines_of_a_node_off_the_network_get_no_requests_until_it_is_back() -> None:
    world = World()
    specs = tuple(
        replace(spec, node="far" if spec.name in ("prefill-1", "decode-2") else "near")
        for spec in fleet_specs(2, 3)
    )
    loop = fleet_in(world, specs)
    run(loop, world, 10)
    assert loop.was_ready
    far = {spec.url for spec in specs if spec.node == "far"}
    started = len(world.started)
    world.cut_off.add("far")
    run(loop, world, 12)
    assert not far & set(world.listed)
    assert {loop.processes[name].is_cut_off for name in ("prefill-1", "decode-2")} == {True}
    assert len(world.listed) == 3
    world.cut_off.clear()
    run(loop, world, 6)
    assert far <= set(world.listed)
    assert len(world.started) == started, "nothing was started anew"
