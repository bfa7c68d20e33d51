"""Pages of many ranks: every data-parallel rank once, whatever repeats it."""

import pytest

from pdctl.status.pages import parse_engine_metrics, with_pools
from pdctl.status.records import EngineSample

RANKS = {
    "dp attention": [
        f'dp_rank="{r}",pp_rank="0",tp_rank="{r}",moe_ep_rank="{r}"' for r in range(8)
    ],
    "dp attention over two GPUs a rank": [
        f'dp_rank="{r}",pp_rank="0",tp_rank="{2 * r}"' for r in range(8)
    ],
    "plain dp": [f'dp_rank="{r}",pp_rank="0",tp_rank="0"' for r in range(8)],
    "all schedulers": [f'dp_rank="{r // 2}",pp_rank="0",tp_rank="{r}"' for r in range(16)],
    "plain dp, two pipeline stages": [
        f'dp_rank="{r}",pp_rank="{p}",tp_rank="0"' for r in range(8) for p in range(2)
    ],
}


def page(ranks: list[str]) -> str:
    head = 'engine_type="decode",model_name="m"'
    figures = {
        "num_running_reqs": 5.0,
        "num_queue_reqs": 1.0,
        "token_usage": 0.4,
        "gen_throughput": 100.0,
        "num_decode_prealloc_queue_reqs": 2.0,
        "num_transfer_failed_reqs_total": 3.0,
    }
    return "\n".join(
        f"sglang:{name}{{{head},{rank}}} {value}"
        for rank in ranks
        for name, value in figures.items()
    )


@pytest.mark.parametrize("layout", RANKS)
def test_eight_data_parallel_ranks_are_added_up_once_each(layout: str) -> None:
    sample, counters = parse_engine_metrics(page(RANKS[layout]), "decode", 0.0)
    assert (sample.running, sample.waiting, sample.prealloc) == (40, 8, 16)
    assert sample.tokens_per_s == 800.0
    assert sample.kv_usage == pytest.approx(0.4)
    assert counters.transfer_failures == 24.0


@pytest.mark.parametrize(
    "ranks",
    [
        [f'pp_rank="0",tp_rank="{r}"' for r in range(4)],
        [f'pp_rank="{p}",tp_rank="0"' for p in range(4)],
        [""],
    ],
)
def test_ranks_without_data_parallelism_repeat_one_figure(ranks: list[str]) -> None:
    sample, counters = parse_engine_metrics(page(ranks), "decode", 0.0)
    assert (sample.running, sample.kv_usage) == (5, 0.4)
    assert counters.transfer_failures == 3.0


def test_priorities_are_parts_of_the_total_without_one() -> None:
    rows = ['priority="",tp_rank="0"', 'priority="1",tp_rank="0"', 'priority="2",tp_rank="0"']
    sample, _ = parse_engine_metrics(page(rows), "decode", 0.0)
    assert sample.running == 5


def pools(*, slots: bool) -> str:
    """Two ranks of an engine; the pages of SGLang have the state pool's figures for any model."""
    states = (
        {"mamba_used_tokens": 30.0, "mamba_available_tokens": 60.0, "mamba_evictable_tokens": 10.0}
        if slots
        else dict.fromkeys(
            ("mamba_used_tokens", "mamba_available_tokens", "mamba_evictable_tokens"), 0.0
        )
    )
    figures = {"token_usage": 0.3 if slots else 0.2, "full_token_usage": 0.2, **states}
    return "\n".join(
        f'sglang:{name}{{dp_rank="{rank}",tp_rank="{rank}"}} {value}'
        for rank in range(2)
        for name, value in figures.items()
    )


def test_a_hybrids_state_pool_and_kv_are_told_apart() -> None:
    sample, _ = parse_engine_metrics(pools(slots=True), "decode", 0.0)
    assert (sample.state_usage, sample.kv_usage) == (0.3, 0.2)
    loads = EngineSample(at_s=1.0, role="decode", running=7, kv_usage=0.3)
    both = with_pools(loads, sample)
    assert (both.running, both.state_usage, both.kv_usage) == (7, 0.3, 0.2)


def test_a_model_without_states_has_no_state_pool() -> None:
    sample, _ = parse_engine_metrics(pools(slots=False), "decode", 0.0)
    assert (sample.state_usage, sample.kv_usage) == (None, 0.2)
    loads = EngineSample(at_s=1.0, role="decode", kv_usage=0.25)
    assert with_pools(loads, sample) == loads
