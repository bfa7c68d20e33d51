"""The prefix cache against a plain dictionary of prefixes."""

from random import Random

from pdctl.perf_model.simulator.kv import PrefixCache, shared_prefixes


def test_segments_part_where_prompts_part() -> None:
    found = shared_prefixes([(1, 2, 3, 4), (1, 2, 5), (1, 2, 3, 4, 6)], 10, [40, 30, 45])
    assert found is not None
    shared, first = found.paths[0]
    assert [found.tokens[s] for s in found.paths[0]] == [20, 20]
    assert found.paths[1][0] == shared
    assert found.paths[2][:2] == (shared, first)
    assert [sum(found.tokens[s] for s in path) for path in found.paths] == [40, 30, 45]


def test_equal_ids_after_different_ids_are_different_prefixes() -> None:
    found = shared_prefixes([(1, 9), (2, 9)], 10, [20, 20])
    assert found is not None
    assert not set(found.paths[0]) & set(found.paths[1])


def test_without_block_ids_nothing_is_shared() -> None:
    assert shared_prefixes(None, 512, [10]) is None


def test_random_prompts_have_the_lengths_and_shared_runs_of_their_blocks() -> None:
    rng = Random(0)
    runs = [tuple(rng.randrange(3) for _ in range(rng.randrange(1, 9))) for _ in range(300)]
    found = shared_prefixes(runs, 16, [16 * len(run) for run in runs])
    assert found is not None

    def common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
        pairs = enumerate(zip(one, other, strict=False))
        return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))

    for one, mine in zip(runs[:60], found.paths, strict=False):
        assert sum(found.tokens[s] for s in mine) == 16 * len(one)
        for other, theirs in zip(runs, found.paths, strict=True):
            shared = sum(found.tokens[s] for s in mine[: common(mine, theirs)])
            assert shared == 16 * common(one, other)


def test_what_is_in_use_stays_and_the_rest_goes_oldest_first() -> None:
    cache = PrefixCache([10, 20, 30])
    assert cache.claim((0, 1)) == (0, 0, 0)
    assert cache.publish((0, 1)) == 30
    assert cache.claim((0, 2)) == (1, 10, 0)
    cache.publish((2,))
    cache.release((0, 1), 2)
    assert (cache.total_tokens, cache.locked_tokens) == (60, 40)
    cache.evict(1)
    assert (cache.total_tokens, cache.locked_tokens) == (40, 40)
    cache.release((0, 2), 2)
    cache.evict(1)
    assert cache.claim((0, 2)) == (1, 10, 10), "the leaf goes before what it hangs on"


def test_random_use_keeps_the_books_straight() -> None:
    rng = Random(1)
    paths = [(0,), (0, 1), (0, 1, 2), (0, 3), (4,), (4, 5), (4, 5, 6), (7,)]
    tokens = [rng.randrange(1, 9) for _ in range(8)]
    cache = PrefixCache(tokens)
    users: list[tuple[int, ...]] = []
    for _ in range(3000):
        if users and rng.random() < 0.5:
            path = users.pop(rng.randrange(len(users)))
            cache.release(path, len(path))
        else:
            path = rng.choice(paths)
            covered, _, _ = cache.claim(path)
            cache.publish(path[covered:])
            users.append(path)
        if rng.random() < 0.2:
            cache.evict(rng.randrange(20))
        used = {segment for path in users for segment in path}
        assert cache.locked_tokens == sum(tokens[s] for s in used)
        assert cache.total_tokens >= cache.locked_tokens
    for path in users:
        cache.release(path, len(path))
    cache.evict(1000)
    assert (cache.total_tokens, cache.locked_tokens) == (0, 0)
