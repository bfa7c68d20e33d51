import json

import pytest

from pdctl.measurement.prompts import TOKEN_IDS, Prompts, token_ids_for
from pdctl.workload.records import Requests


def ids(prompts: Prompts, index: int) -> list[int]:
    return list(json.loads(prompts.body(index))["input_ids"])


def test_a_body_asks_for_exactly_the_lengths_wanted() -> None:
    requests = Requests([0.0] * 4, [1, 16, 17, 9000], [3, 4, 5, 6])
    prompts = Prompts(requests)
    for n, (isl, osl) in enumerate(zip(requests.isl, requests.osl, strict=True)):
        body = json.loads(prompts.body(n))
        assert len(body["input_ids"]) == isl
        assert body["sampling_params"]["max_new_tokens"] == osl
        assert body["stream"] is True


def test_prompts_without_blocks_share_no_prefix() -> None:
    prompts = Prompts(Requests([0.0] * 50, [40] * 50, [1] * 50))
    heads = {tuple(ids(prompts, n)[:8]) for n in range(50)}
    assert len(heads) == 50


def test_equal_leading_blocks_are_equal_tokens_and_other_blocks_are_not() -> None:
    blocks = [(1, 2, 3), (1, 2, 4), (5, 2, 3)]
    prompts = Prompts(Requests([0.0] * 3, [75] * 3, [1] * 3, blocks, 30))
    first, second, third = (ids(prompts, n) for n in range(3))
    assert len(first) == 75
    assert first[:60] == second[:60]
    assert first[60:] != second[60:]
    assert first[:30] != third[:30]
    assert first[30:] == third[30:], "a block has its tokens wherever it stands"


def test_a_prompt_longer_than_its_blocks_is_filled_up() -> None:
    prompts = Prompts(Requests([0.0, 0.0], [35, 35], [1, 1], [(1,), (1,)], 10))
    first, second = ids(prompts, 0), ids(prompts, 1)
    assert (len(first), len(second)) == (35, 35)
    assert first[:10] == second[:10]
    assert first[10] != second[10]


def test_a_last_block_cut_short_is_a_prefix_of_the_whole_one() -> None:
    prompts = Prompts(Requests([0.0, 0.0], [50, 64], [1, 1], [(1, 2), (1, 2)], 32))
    assert ids(prompts, 0) == ids(prompts, 1)[:50]


@pytest.mark.parametrize("vocab", [256, 4096, 32_000, 151_936])
def test_token_ids_stay_inside_a_vocabulary(vocab: int) -> None:
    low, high = token_ids_for(vocab)
    assert 0 < low < high < vocab
    assert TOKEN_IDS[0] >= low
    assert TOKEN_IDS[1] >= high


def test_the_same_seed_makes_the_same_prompts_and_tokens_stay_in_their_range() -> None:
    requests = Requests([0.0], [5000], [1])
    assert Prompts(requests, seed=1).body(0) == Prompts(requests, seed=1).body(0)
    assert Prompts(requests, seed=1).body(0) != Prompts(requests, seed=2).body(0)
    few = ids(Prompts(requests, token_ids=(10, 20)), 0)
    assert set(few) == set(range(10, 20))


def test_prompts_differ_in_their_whole_content_not_only_where_they_begin() -> None:
    """An MoE that meets the same tokens everywhere reads a few experts and seems fast."""
    prompts = Prompts(Requests([0.0] * 2, [2000] * 2, [1] * 2))
    first, second = ids(prompts, 0), ids(prompts, 1)
    assert len(set(first)) > 1500
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 20


def test_a_prompt_longer_than_the_pool_has_every_token() -> None:
    assert len(ids(Prompts(Requests([0.0], [100_000], [1])), 0)) == 100_000
