from pdctl.engines.sim.kv import KvCache
from pdctl.engines.sim.requests import BLOCK_TOKENS


def test_held_cached_and_free_tokens_add_up_to_the_capacity() -> None:
    kv = KvCache(1000, radix=True)
    assert kv.hold(100)
    kv.insert([1, 2, 3])
    assert (kv.held_tokens, kv.free_tokens) == (100 - 3 * BLOCK_TOKENS, 900)


def test_an_unlocked_block_can_be_found_until_its_room_is_needed() -> None:
    kv = KvCache(4 * BLOCK_TOKENS, radix=True)
    kv.hold(2 * BLOCK_TOKENS)
    kv.insert([1, 2])
    kv.unlock([1, 2])
    assert kv.match([1, 2, 3]) == 2
    assert kv.hold(3 * BLOCK_TOKENS)
    assert kv.match([1, 2, 3]) == 1, "the end of the chain goes first"


def test_a_locked_block_is_never_evicted() -> None:
    kv = KvCache(2 * BLOCK_TOKENS, radix=True)
    kv.hold(2 * BLOCK_TOKENS)
    kv.insert([1, 2])
    kv.unlock([2])
    assert not kv.hold(2 * BLOCK_TOKENS)
    assert kv.hold(BLOCK_TOKENS)
    assert kv.match([1]) == 1


def test_a_block_that_two_requests_made_is_kept_once() -> None:
    kv = KvCache(1000, radix=True)
    kv.hold(2 * BLOCK_TOKENS)
    kv.insert([1])
    kv.insert([1])
    assert (kv.held_tokens, kv.used_tokens) == (0, BLOCK_TOKENS)


def test_a_flush_forgets_only_what_nobody_uses() -> None:
    kv = KvCache(1000, radix=True)
    kv.hold(2 * BLOCK_TOKENS)
    kv.insert([1, 2])
    kv.unlock([2])
    kv.flush()
    assert (kv.match([1, 2]), kv.free_tokens) == (1, 1000 - BLOCK_TOKENS)
