"""What the router does with each policy."""

from random import Random

from pdctl.perf_model.simulator.job import Job
from pdctl.perf_model.simulator.routing import Policy, Pool, SeenPrefixes, _order, known_policy


def pool(policy: Policy, size: int = 4) -> Pool:
    return Pool(policy, size, Random(0))


def job(path: tuple[int, ...] = (), isl: int = 100) -> Job:
    return Job(0, isl, 1, path)


def test_round_robin_takes_turns() -> None:
    router = pool("round_robin", 3)
    assert [router.choose(-1) for _ in range(5)] == [0, 1, 2, 0, 1]


def test_random_reaches_every_engine() -> None:
    router = pool("random")
    assert {router.choose(-1) for _ in range(100)} == {0, 1, 2, 3}


def test_power_of_two_never_takes_the_busier_of_two() -> None:
    router = pool("power_of_two", 2)
    router.loads[0] = 5
    assert {router.choose(-1) for _ in range(50)} == {1}


def test_a_known_prefix_is_found_at_an_engine_to_which_it_went() -> None:
    seen = SeenPrefixes([60, 40, 40])
    assert seen.owner(job((0, 1))) == -1
    seen.note(job((0, 1)), 2)
    assert seen.owner(job((0, 2))) == 2
    seen.note(job((0, 2)), 1)
    assert seen.owner(job((0, 1))) == 2
    assert seen.owner(job((0,), isl=60)) in (1, 2)


def test_of_several_engines_with_a_prefix_it_is_any_whatever_their_order_but_the_same_again() -> (
    None
):
    places = (3, 0, 6, 1, 5)
    found = []
    for segment in range(200):
        seen, backwards = SeenPrefixes([100] * 200), SeenPrefixes([100] * 200)
        for place in places:
            seen.note(job((segment,)), place)
        for place in reversed(places):
            backwards.note(job((segment,)), place)
        found.append(seen.owner(job((segment,))))
        assert found[-1] == backwards.owner(job((segment,)))
    assert all(20 < found.count(place) < 60 for place in places)


def test_a_match_of_less_than_three_tenths_does_not_count() -> None:
    seen = SeenPrefixes([30, 70, 70])
    seen.note(job((0, 1)), 2)
    assert seen.owner(job((0, 2))) == -1
    assert seen.owner(job((0, 2), isl=99)) == 2


def test_cache_aware_balances_when_loads_are_far_apart() -> None:
    router = pool("cache_aware")
    router.loads[2] = 64
    assert router.choose(2) == 2, "a difference of 64 is still balanced"
    router.loads[2] = 65
    assert router.choose(2) != 2


def test_cache_aware_counts_a_high_load_everywhere_as_balanced() -> None:
    router = pool("cache_aware", 2)
    router.loads[:] = [300, 200]
    assert router.choose(0) == 0, "1.5 times the lowest is still balanced"
    router.loads[:] = [301, 200]
    assert router.choose(0) == 1


def test_cache_aware_sends_what_it_does_not_know_to_the_first_of_the_idlest() -> None:
    router = pool("cache_aware", 3)
    assert [router.choose(-1) for _ in range(3)] == [0, 0, 0]
    router.loads[:] = [1, 1, 0]
    assert router.choose(-1) == 2


def test_a_policy_that_is_not_simulated_is_taken_for_random() -> None:
    assert known_policy("round_robin") == "round_robin"
    assert known_policy("manual") == "random"


def test_a_closed_engine_gets_nothing_and_none_open_gives_none() -> None:
    policies: tuple[Policy, ...] = ("random", "round_robin", "power_of_two", "cache_aware")
    for policy in policies:
        router = pool(policy, 3)
        router.close(1)
        assert {router.choose(1) for _ in range(60)} <= {0, 2}
        router.close(0)
        router.close(2)
        assert router.choose(1) == -1


def test_the_order_of_engines_is_that_of_products_modulo_two_to_the_32nd() -> None:
    dice = Random(3)
    for _ in range(500):
        segment, place = dice.randrange(2_000_000), dice.randrange(600)
        mixed = ((segment + 1) * 0x9E3779B1 ^ (place + 1) * 0x85EBCA77) & 0xFFFFFFFF
        assert _order(segment, place) == (mixed ^ (mixed >> 15)) * 0x2C1B3C6D & 0xFFFFFFFF
