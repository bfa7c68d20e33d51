"""What the router does with each policy."""

from random import Random

from pdctl.perf_model.jobs import Job
from pdctl.perf_model.routing import Policy, Pool


def pool(policy: Policy, size: int = 4, tokens: list[int] | None = None) -> Pool:
    return Pool(policy, size, Random(0), tokens)


def job(path: tuple[int, ...] = (), isl: int = 100) -> Job:
    return Job(0, isl, 1, path)


def test_round_robin_takes_turns() -> None:
    router = pool("round_robin", 3)
    assert [router.choose(job()) for _ in range(5)] == [0, 1, 2, 0, 1]


def test_random_reaches_every_engine() -> None:
    router = pool("random")
    assert {router.choose(job()) for _ in range(100)} == {0, 1, 2, 3}


def test_power_of_two_never_takes_the_busier_of_two() -> None:
    router = pool("power_of_two", 2)
    router.loads[0] = 5
    assert {router.choose(job()) for _ in range(50)} == {1}


def test_cache_aware_follows_a_known_prefix() -> None:
    router = pool("cache_aware", tokens=[60, 40, 40])
    first = router.choose(job((0, 1)))
    for _ in range(3):
        router.choose(job())
    assert router.choose(job((0, 2))) == first


def test_cache_aware_ignores_a_match_of_less_than_a_third() -> None:
    router = pool("cache_aware", tokens=[30, 70, 70])
    first = router.choose(job((0, 1)))
    router.loads[first] = 1
    assert router.choose(job((0, 2))) != first


def test_cache_aware_balances_when_loads_are_far_apart() -> None:
    router = pool("cache_aware", tokens=[100])
    first = router.choose(job((0,)))
    router.loads[first] = 64
    assert router.choose(job((0,))) == first, "a difference of 64 is still balanced"
    router.loads[first] = 65
    assert router.choose(job((0,))) != first


def test_cache_aware_counts_a_high_load_everywhere_as_balanced() -> None:
    router = pool("cache_aware", 2, tokens=[100])
    first = router.choose(job((0,)))
    router.loads[first], router.loads[1 - first] = 300, 200
    assert router.choose(job((0,))) == first, "1.5 times the lowest is still balanced"


def test_a_closed_engine_gets_nothing_and_none_open_gives_none() -> None:
    policies: tuple[Policy, ...] = ("random", "round_robin", "power_of_two", "cache_aware")
    for policy in policies:
        router = pool(policy, 3, tokens=[100])
        router.close(1)
        assert {router.choose(job((0,))) for _ in range(60)} <= {0, 2}
        router.close(0)
        router.close(2)
        assert router.choose(job((0,))) == -1
