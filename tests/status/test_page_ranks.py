"""Pages of many ranks: every data-parallel rank once, whatever repeats it."""

import pytest

from pdctl.status.pages import parse_engine_metrics

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
