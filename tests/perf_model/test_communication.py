"""KV from prefill to decode: links, shards, and what a request waits for."""

from dataclasses import replace

import pytest

from pdctl.perf_model.communication import (
    assumed_cluster,
    collectives,
    kv_token_s,
    link_between_engines,
    local_link,
    rdma_link,
    tcp_link,
)
from pdctl.perf_model.records import Parallelism
from pdctl.perf_model.roofline import step_times
from pdctl.perf_model.simulator.steps import chunk_s, kv_transfer_s, last_chunk_s
from tests.perf_model.shapes import ONE, cluster, gpu, llm


@pytest.mark.parametrize(
    ("name", "gigabytes"),
    [
        ("qwen3-8b", 1.21),
        ("qwen3-32b", 2.15),
        ("llama-3.1-70b", 2.68),
        ("qwen3-235b-a22b", 1.58),
        ("gpt-oss-120b", 0.307),  # 18 layers whole, of the others the last 128 tokens
        ("deepseek-v3", 0.58),
    ],
)
def test_an_8k_prompt_moves_its_kv_bytes(name: str, gigabytes: float) -> None:
    link = replace(rdma_link(50e9), bytes_per_s=1e9)
    times = step_times(llm(name), cluster(), ONE, "prefill", link=link)
    moved_s = kv_transfer_s(times, 8192) - times.transfer_base_s
    assert moved_s == pytest.approx(gigabytes, rel=0.01)


def test_a_prompt_within_the_window_moves_no_more_of_it_than_it_has() -> None:
    times = step_times(llm("gpt-oss-120b"), cluster(), ONE, "prefill")
    whole = times.transfer_token_s + times.transfer_window_token_s
    assert kv_transfer_s(times, 100) == pytest.approx(times.transfer_base_s + 100 * whole)


def test_windows_go_with_the_last_chunk_only() -> None:
    times = step_times(llm("gpt-oss-120b"), cluster(), ONE, "prefill")
    windows = 128 * times.transfer_window_token_s
    assert last_chunk_s(times, 512, 9000) == pytest.approx(chunk_s(times, 512) + windows)


def test_transfers_between_two_h200s_take_what_they_took() -> None:
    # SGLang 0.5.15, NIXL over UCX: 34.2 ms in all from enqueue to success seen
    times = step_times(llm("llama-3.1-8b"), cluster(), ONE, "prefill")
    total = sum(kv_transfer_s(times, n) for n in (500, 2000, 8000, 8000))
    assert total == pytest.approx(0.0342, rel=0.05)


def test_the_link_is_the_fastest_the_cluster_has_between_two_engines() -> None:
    assert link_between_engines(cluster(), ONE).kind == "nvlink"
    assert link_between_engines(cluster("L40S"), ONE).kind == "pcie"
    assert link_between_engines(cluster(nodes=2, rdma=50e9), ONE).kind == "rdma"
    assert link_between_engines(cluster(nodes=2), ONE).kind == "tcp"


def test_an_unknown_link_between_nvlink_nodes_is_assumed_and_a_given_one_kept() -> None:
    assert assumed_cluster(cluster(nodes=2)).rdma_bytes_per_s == 50e9
    given, one = cluster(nodes=2, rdma=12.5e9), cluster()
    assert assumed_cluster(given) is given
    assert assumed_cluster(one) is one
    unknown = step_times(llm("qwen3-32b"), cluster(nodes=2), ONE, "prefill")
    known = step_times(llm("qwen3-32b"), cluster(nodes=2, rdma=50e9), ONE, "prefill")
    assert unknown == known


def test_links_rank_as_their_hardware_does() -> None:
    rates = [
        local_link(cluster()).bytes_per_s,
        rdma_link(50e9).bytes_per_s,
        rdma_link(12.5e9).bytes_per_s,
        tcp_link(25e9 / 8).bytes_per_s,
    ]
    assert rates == sorted(rates, reverse=True)
    assert rdma_link(50e9).bytes_per_s == 40e9


def test_a_slow_nvlink_is_not_given_the_rate_of_a_fast_one() -> None:
    slow = replace(cluster(), gpu=replace(gpu("H200"), peer_bytes_per_s=100e9))
    assert local_link(slow).bytes_per_s < local_link(cluster()).bytes_per_s


def test_gqa_shards_move_side_by_side_and_copies_move_once() -> None:
    shape, link = llm("llama-3.1-70b"), rdma_link(50e9)
    one, eight, sixteen = (kv_token_s(shape, Parallelism(tp=n), link) for n in (1, 8, 16))
    assert eight == pytest.approx(one / 8)
    assert sixteen == pytest.approx(one / 16)
    assert kv_token_s(shape, Parallelism(pp=2), link) == pytest.approx(one / 2)


def test_mla_moves_its_latent_once_whatever_tp() -> None:
    shape, link = llm("deepseek-v3"), rdma_link(50e9)
    assert kv_token_s(shape, Parallelism(tp=8), link) == kv_token_s(shape, ONE, link)
    by_rank = kv_token_s(shape, Parallelism(tp=8, dp=8), link)
    assert by_rank == pytest.approx(kv_token_s(shape, ONE, link) / 8)


def test_a_given_link_replaces_the_clusters_own() -> None:
    own, slow = (
        step_times(llm("qwen3-8b"), cluster(), ONE, "prefill", link=link)
        for link in (None, tcp_link(3e9))
    )
    assert slow.transfer_token_s > 10 * own.transfer_token_s
    assert replace(slow, transfer_token_s=0.0, transfer_base_s=0.0) == replace(
        own, transfer_token_s=0.0, transfer_base_s=0.0
    )


def test_ranks_bring_prompts_together_by_one_all_reduce_and_results_by_another() -> None:
    shape, ranks = llm("deepseek-v3"), Parallelism(tp=8, dp=8)
    decode, prefill = (
        collectives(shape, cluster(), ranks, dispatch=None, prefill=flag) for flag in (False, True)
    )
    # a ring on NVLink: 2·7/8 of 7,168 values of 2 bytes in each of 61 layers, at 0.8 of 450 GB/s
    moved_s = 61 * 2 * 7 / 8 * 7168 * 2 / (0.8 * 450e9)
    assert decode == pytest.approx((61 * 8e-6, moved_s))
    assert prefill == pytest.approx((2 * 61 * 8e-6, 2 * moved_s))
    # tensor parallelism reduces attention and MLP, both of prompts and of decode
    tensor = [
        collectives(shape, cluster(), Parallelism(tp=8), dispatch=None, prefill=flag)
        for flag in (False, True)
    ]
    assert tensor[0] == tensor[1] == pytest.approx(tuple(prefill))
