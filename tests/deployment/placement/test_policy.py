from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdctl.deployment.placement.policy import (
    Chosen,
    Held,
    NoRoom,
    Unplaced,
    choose_nodes,
    lost_with_a_node,
)
from pdctl.deployment.records import PlacePolicy
from pdctl.perf_model.records import Role


def engines(prefill: Sequence[int], decode: Sequence[int]) -> list[Unplaced]:
    """Engines of one node with these GPUs."""
    sizes: dict[Role, Sequence[int]] = {"prefill": prefill, "decode": decode}
    return [
        Unplaced(f"{role[0].upper()}{i}", role, 1, size)
        for role in sizes
        for i, size in enumerate(sizes[role])
    ]


def shown(chosen: Chosen | NoRoom) -> str:
    """The engines of each node, as in "a:P0,D1 b:D0"."""
    assert not isinstance(chosen, NoRoom), chosen
    nodes = sorted({node for nodes in chosen.values() for node in nodes})
    names = sorted(chosen, key=lambda name: (name[0] == "D", name))
    return " ".join(f"{node}:{','.join(n for n in names if node in chosen[n])}" for node in nodes)


@pytest.mark.parametrize(
    ("policy", "prefill", "decode", "free", "expected"),
    [
        ("auto", (1, 1), (1, 1), {"a": 8, "b": 8}, "a:P0,D1 b:P1,D0"),
        # a node with more room than the other does not take everything
        ("auto", (1, 1), (1, 1), {"a": 8, "b": 4}, "a:P0,D0 b:P1,D1"),
        # large decode engines do not push both prefill engines onto the third node
        ("auto", (2, 2), (4, 4), {"a": 8, "b": 8, "c": 8}, "a:P1,D0 b:D1 c:P0"),
        # prefill engines do not take every small node
        ("auto", (1, 1, 1), (1, 1, 1), {"a": 1, "b": 7, "c": 1}, "a:P1 b:P0,P2,D0,D2 c:D1"),
        # where roles cannot both be spread, one is
        ("auto", (4, 4), (4,), {"a": 8, "b": 4}, "a:P0,D0 b:P1"),
        # sizes that do not divide each other: the tight fit
        ("auto", (3,), (2, 2), {"a": 3, "b": 4}, "a:P0 b:D0,D1"),
        ("spread", (1, 1), (1, 1), {"a": 8, "b": 8}, "a:P0,D1 b:P1,D0"),
        # one node holds all: the smallest that does
        ("pack", (1, 1), (1, 1), {"a": 8, "b": 4, "c": 2}, "b:P0,P1,D0,D1"),
        # none does: the largest first, then the smallest that holds the rest
        ("pack", (4, 4), (2, 2), {"a": 4, "b": 8, "c": 6}, "a:D0,D1 b:P0,P1"),
    ],
)
def test_a_policy_chooses_nodes(
    policy: PlacePolicy,
    prefill: Sequence[int],
    decode: Sequence[int],
    free: Mapping[str, int],
    expected: str,
) -> None:
    assert shown(choose_nodes(engines(prefill, decode), free, policy=policy)) == expected


def test_engines_that_stay_count_for_their_role() -> None:
    held = [Held("prefill", ("a",)), Held("decode", ("b",))]
    free = {"a": 8, "b": 2, "c": 1}
    assert shown(choose_nodes(engines((1,), (1,)), free, held=held)) == "a:D0 b:P0"
    assert shown(choose_nodes(engines((1,), (1,)), free, held=held, policy="pack")) == "b:P0,D0"


@pytest.mark.parametrize("policy", ["auto", "pack"])
def test_ranks_of_one_engine_share_an_nvlink_domain_if_one_has_room(policy: PlacePolicy) -> None:
    free = {"a1": 4, "b1": 4, "a2": 3, "b2": 4}
    domains = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    large = [Unplaced("P0", "prefill", 2, 4)]
    assert choose_nodes(large, free, policy=policy, domains=domains) == {"P0": ("b1", "b2")}
    three = [Unplaced("P0", "prefill", 3, 3)]
    chosen = choose_nodes(three, free, policy=policy, domains=domains)
    assert not isinstance(chosen, NoRoom)
    assert len(chosen["P0"]) == 3


def test_the_engine_without_room_is_named_with_what_is_left() -> None:
    found = choose_nodes(engines((2, 2), (2,)), {"a": 3, "b": 2})
    assert found == NoRoom(Unplaced("D0", "decode", 1, 2), {"a": 1, "b": 0})
    crowded = choose_nodes(engines((2, 2), (2,)), {"a": 3, "b": 2}, may_crowd=True)
    assert shown(crowded) == "a:P0,D0 b:P1"


def every_choice(wanted: Sequence[Unplaced], free: Mapping[str, int]) -> Iterator[Chosen]:
    if not wanted:
        yield {}
        return
    first, *rest = wanted
    for node in free:
        if free[node] >= first.each:
            for chosen in every_choice(rest, {**free, node: free[node] - first.each}):
                yield {first.name: (node,), **chosen}


def num_lost(wanted: Sequence[Unplaced], chosen: Chosen) -> int:
    return len(lost_with_a_node([Held(e.role, chosen[e.name]) for e in wanted]))


@given(
    prefill=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 4])),
    decode=st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 4])),
    free=st.lists(st.integers(0, 8), min_size=2, max_size=3),
)
def test_a_lost_node_ends_no_role_where_any_choice_would_have_kept_it(
    prefill: tuple[int, int], decode: tuple[int, int], free: list[int]
) -> None:
    wanted = engines(*((size,) * num for num, size in (prefill, decode)))
    room = {f"n{i}": num for i, num in enumerate(free)}
    best = min((num_lost(wanted, chosen) for chosen in every_choice(wanted, room)), default=None)
    chosen = choose_nodes(wanted, room)
    if best is None:
        assert isinstance(chosen, NoRoom)
    else:
        assert not isinstance(chosen, NoRoom)
        assert num_lost(wanted, chosen) == best
