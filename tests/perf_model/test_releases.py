"""What releases of SGLang changed that step times rest on."""

import pytest

from pdctl.perf_model.records import Parallelism, Role
from pdctl.perf_model.releases import (
    numbers,
    prefill_graphs,
    waits_in_layers,
    why_unknown,
)
from pdctl.perf_model.roofline import step_times
from pdctl.perf_model.simulator.steps import pairs, prefill_s
from tests.perf_model.shapes import cluster, llm


@pytest.mark.parametrize(
    ("release", "role", "graphs"),
    [
        ("0.5.9", "colocated", False),
        ("0.5.6.post2", "colocated", False),
        ("nightly-dev", "colocated", False),
        ("0.5.15", "colocated", True),
        ("0.5.15", "prefill", False),
        ("0.5.17", "prefill", True),
        ("0.5.23", "prefill", True),
        (None, "prefill", True),
    ],
)
def test_prefill_graphs_follow_release_and_role(
    release: str | None, role: Role, graphs: bool
) -> None:
    assert prefill_graphs(release, role, attention="gqa", attention_dp=False) is graphs


def test_mla_and_attention_dp_get_prefill_graphs_later() -> None:
    for release, graphs in (("0.5.15", False), ("0.5.23", True)):
        for attention_dp in (False, True):
            found = prefill_graphs(release, "colocated", attention="mla", attention_dp=attention_dp)
            assert found is graphs


def test_a_release_outside_the_table_is_told() -> None:
    assert why_unknown("0.6.0").startswith("SGLang 0.6.0 is newer than 0.5.23, the newest")
    assert why_unknown("0.4.9").startswith("SGLang 0.4.9 is older than 0.5.1, the oldest")
    assert {why_unknown(known) for known in (None, "0.5.1", "0.5.9", "0.5.23.post1")} == {""}
    assert numbers("v0.5.11rc1") == (0, 5, 11)


def test_an_old_release_launches_a_short_prompt_for_longer_than_it_computes() -> None:
    old, new = (
        step_times(llm("llama-3.1-8b"), cluster(), Parallelism(), "colocated", release=release)
        for release in ("0.5.9", "0.5.23")
    )
    assert not old.prefill_graphs
    assert new.prefill_graphs


def test_a_further_gpu_delays_a_request_in_old_releases_alone() -> None:
    one, two, new = (
        step_times(llm("llama-3.1-8b"), cluster(), Parallelism(tp=tp), "colocated", release=release)
        for tp, release in ((1, "0.5.9"), (2, "0.5.9"), (2, "0.5.17"))
    )
    assert two.request_s == pytest.approx(one.request_s + 0.010)
    assert new.request_s == one.request_s


def test_before_the_graphs_each_layer_of_linear_attention_waits_for_the_gpu() -> None:
    old, new = (
        step_times(
            llm("qwen3-next-80b-a3b"), cluster(), Parallelism(tp=4), "prefill", release=release
        )
        for release in ("0.5.9", "0.5.15")
    )
    assert not new.prefill_graphs
    assert waits_in_layers("0.5.9")
    assert not waits_in_layers("0.5.15")
    assert prefill_s(old, 8192, pairs(8192)) > old.eager_s + 8192 * old.prefill_row_s
    assert prefill_s(new, 64, pairs(64)) == pytest.approx(new.eager_s)


def test_layers_without_states_launch_ahead_in_every_release() -> None:
    times = step_times(llm("llama-3.1-8b"), cluster(), Parallelism(), "prefill", release="0.5.9")
    assert prefill_s(times, 64, pairs(64)) == times.eager_s
