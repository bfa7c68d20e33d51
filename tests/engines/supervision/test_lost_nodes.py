"""When the engines of a node that left the network start on other nodes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from pdctl.deployment.records import Follower, ProcessSpec
from pdctl.engines.daemon import adopt
from pdctl.engines.records import ProcessState
from pdctl.engines.supervision.loop import SupervisorLoop
from pdctl.engines.supervision.lost_nodes import nodes_to_leave
from pdctl.engines.supervision.model import (
    DEFAULT_LIMITS,
    Desired,
    LostNode,
    Observed,
)
from tests.engines.test_state import some_launch, some_state
from tests.engines.world import NO_LOG, World, fleet_in, fleet_specs, run, scale

LATE = 1000.0 + DEFAULT_LIMITS.move_after_s


def on(nodes: str) -> tuple[ProcessSpec, ...]:
    """A router on node a, and one engine on the node of each letter, the first one for prefill."""
    specs = fleet_specs(1, len(nodes) - 1)
    return tuple(replace(spec, node=node) for spec, node in zip(specs, f"a{nodes}", strict=True))


@pytest.mark.parametrize(
    ("engines", "lost", "now", "leaves"),
    [
        ("abc", "", LATE, ""),
        ("abc", "c", LATE - 1, ""),  # it may come back
        ("abc", "c", LATE, "c"),
        ("aabbcc", "c", LATE, "c"),
        ("ab", "b", LATE, "b"),
        ("abc", "bc", LATE, ""),  # more likely the supervisor's own node
        ("abcd", "cd", LATE, "cd"),
        ("abb", "c", LATE, ""),  # no engine is there
        ("bcd", "a", LATE, ""),  # only the router, whose address clients know
    ],
)
def test_engines_leave_a_node_that_stays_lost(
    engines: str, lost: str, now: float, leaves: str
) -> None:
    specs = on(engines)
    observed = Observed(was_ready=True, lost={n: LostNode(specs[1], 1000.0) for n in lost})
    assert nodes_to_leave(Desired(specs), observed, now, DEFAULT_LIMITS) == tuple(leaves)


def test_no_engine_leaves_a_node_while_the_deployment_starts_or_stops() -> None:
    specs = on("abc")
    observed = Observed(was_ready=True, lost={"c": LostNode(specs[3], 1000.0)})
    starting = replace(observed, was_ready=False)
    assert nodes_to_leave(Desired(specs), starting, LATE, DEFAULT_LIMITS) == ()
    assert nodes_to_leave(Desired(specs, stop="drain"), observed, LATE, DEFAULT_LIMITS) == ()


def test_an_engine_leaves_when_the_node_of_another_rank_is_lost() -> None:
    *specs, last = on("abc")
    rank = Follower(node="d", argv=(), env={}, gpus=(0,), log=NO_LOG)
    two_nodes = (*specs, replace(last, followers=(rank,)))
    observed = Observed(was_ready=True, lost={"d": LostNode(last, 1000.0)})
    assert nodes_to_leave(Desired(two_nodes), observed, LATE, DEFAULT_LIMITS) == ("d",)


@dataclass
class Moves:
    """Gives engines of lost nodes places on node a. full: no node has room."""

    loop: SupervisorLoop
    full: bool = False
    asked: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, nodes: Sequence[str]) -> str:
        self.asked.append(tuple(nodes))
        if self.full:
            return "no node has room"
        scale(self.loop, tuple(_moved(spec, nodes) for spec in self.loop.desired.specs))
        return ""


def _moved(spec: ProcessSpec, nodes: Sequence[str]) -> ProcessSpec:
    return replace(spec, node="a", port=spec.port + 100) if spec.node in nodes else spec


def serving_on(nodes: str) -> tuple[SupervisorLoop, World, Moves]:
    """A deployment that serves; its world; how it moves engines."""
    world = World()
    loop = fleet_in(world, on(nodes))
    moves = Moves(loop)
    loop.move = moves
    run(loop, world, 10)
    assert loop.was_ready
    world.log.clear()
    return loop, world, moves


def test_engines_of_a_lost_node_start_elsewhere_after_a_minute() -> None:
    loop, world, moves = serving_on("abcc")
    world.cut_off.add("c")
    run(loop, world, 55)
    assert (moves.asked, world.log) == ([], [])
    run(loop, world, 25)
    assert moves.asked == [("c",)]
    places = {name: (p.spec.node, p.is_serving) for name, p in loop.processes.items()}
    assert places == {
        "router": ("a", True),
        "prefill-0": ("a", True),
        "decode-0": ("b", True),
        "decode-1": ("a", True),
        "decode-2": ("a", True),
    }


def test_an_engine_whose_node_is_back_moves_if_another_one_of_its_role_serves() -> None:
    for nodes, serves_on in (("abc", "a"), ("ac", "c")):
        loop, world, _ = serving_on(nodes)
        last = loop.desired.specs[-1].name
        scale(loop, tuple(_moved(spec, "c") for spec in loop.desired.specs))
        run(loop, world, 30)
        moved = loop.processes[last]
        assert (moved.spec.node, moved.is_serving) == (serves_on, True)


def test_engines_of_a_node_that_is_lost_during_a_take_over_start_elsewhere_too() -> None:
    loop, world, _ = serving_on("abcc")
    before = replace(some_state(), processes=published(loop), ready_after_s=3.0)
    world.cut_off.add("c")
    after = fleet_in(world, on("abcc"))
    after.move = moves = Moves(after)
    adopt(after, before, replace(some_launch(), specs=on("abcc")))
    run(after, world, 55)
    assert (set(after.lost), moves.asked, world.log) == ({"c"}, [], [])
    run(after, world, 25)
    assert moves.asked == [("c",)]
    assert {name for name, p in after.processes.items() if p.is_serving} == set(loop.processes)


def published(loop: SupervisorLoop) -> tuple[ProcessState, ...]:
    """What its supervisor has written about each process."""
    return tuple(
        ProcessState(
            name, p.spec.role, p.spec.url, "serving", loop.starts[name].process.handle, 1.0
        )
        for name, p in loop.processes.items()
    )


def test_without_room_they_wait_for_their_node_and_the_log_says_so_once() -> None:
    loop, world, moves = serving_on("abc")
    moves.full = True
    world.cut_off.add("c")
    run(loop, world, 180)
    assert len(moves.asked) > 3
    assert loop.why_not_moved == "no node has room"
    world.cut_off.clear()
    run(loop, world, 10)
    assert loop.is_quiet
    assert (loop.lost, world.log) == ({}, [])


def test_a_node_that_no_engine_runs_on_any_more_is_lost_until_it_answers() -> None:
    loop, world, _ = serving_on("abc")
    world.cut_off.add("c")
    run(loop, world, 90)
    assert list(loop.lost) == ["c"]
    world.cut_off.clear()
    run(loop, world, 5)
    assert loop.lost == {}


def test_engines_stay_where_the_supervisor_reaches_hardly_any_node() -> None:
    loop, world, moves = serving_on("abc")
    world.cut_off |= {"b", "c"}
    run(loop, world, 300)
    assert (moves.asked, world.log) == ([], [])


def test_a_supervisor_whose_job_has_ended_ends_too() -> None:
    loop, world, _ = serving_on("abc")
    world.is_gone = True
    for handle in tuple(world.alive):
        world.ends(handle, -9)
    run(loop, world, 20)
    assert loop.is_over


def test_an_engine_that_cannot_start_on_a_lost_node_waits_and_is_not_given_up() -> None:
    loop, world, moves = serving_on("abc")
    moves.full = True
    world.cut_off.add("c")
    run(loop, world, 20)
    world.unreachable.add("c")
    world.end("decode-1", -9)
    run(loop, world, 600)
    process = loop.processes["decode-1"]
    assert (process.running, process.given_up) == (False, "")
    world.cut_off.clear()
    world.unreachable.clear()
    run(loop, world, 20)
    assert loop.processes["decode-1"].is_serving


def test_a_start_that_its_node_does_not_answer_is_no_crash() -> None:
    world = World()
    loop = fleet_in(world, on("abc"))
    run(loop, world, 10)
    world.cut_off.add("c")
    world.unreachable.add("c")
    world.end("decode-1", -9)
    run(loop, world, 300)
    assert len(loop.processes["decode-1"].crashes) == 1
    assert list(loop.lost) == ["c"]
