"""Loads on H200, replayed with step times that were measured on engines that did nothing else."""

from statistics import median

import pytest

from pdctl.workload.records import Slo
from tests.gpu.table import called, sure
from tests.perf_model.loads import FIGURES, Load, figures, loads, pairs, replay


def errors(load: Load, *, has_profile: bool = True) -> dict[str, float]:
    measured, ours = figures(load.measured), figures(replay(load, has_profile=has_profile))
    return {name: abs(ours[name] / measured[name] - 1) for name in FIGURES}


def medians(chosen: list[Load], *, has_profile: bool = True) -> dict[str, float]:
    found = [errors(load, has_profile=has_profile) for load in chosen]
    return {name: median(one[name] for one in found) for name in FIGURES}


COLOCATED = [load for load in loads() if load.layout.endswith("C")]
SPLIT = [load for load in loads() if "P" in load.layout]


def test_the_load_generator_was_on_time() -> None:
    assert max(load.late_p99_ms for load in loads()) < 10


def test_loads_on_colocated_engines_are_replayed_within_a_few_percent() -> None:
    found = medians(COLOCATED)
    limits = {"ttft p50": 0.05, "ttft p99": 0.10, "tpot p50": 0.03, "tpot p99": 0.05}
    assert all(found[name] < limit for name, limit in limits.items()), found


def test_loads_on_split_engines_are_replayed_within_a_few_percent_but_for_short_prompts() -> None:
    found = medians(SPLIT)
    assert found["ttft p50"] < 0.05
    assert found["tpot p50"] < 0.03
    assert found["tpot p99"] < 0.05
    # below a prompt of 2048 tokens SGLang 0.5.15 launches kernels for longer than they run: by how
    # long differed by half between two pairs of engines and from one second to the next
    long = medians([load for load in SPLIT if load.layout == "1P1D" and load.isl >= 4096])
    assert long["ttft p99"] < 0.10


def test_loads_on_h100_are_replayed_with_a_minute_of_calibration_on_the_same_pair() -> None:
    found = medians(list(loads("H100")))
    limits = {"ttft p50": 0.08, "ttft p99": 0.10, "tpot p50": 0.03, "tpot p99": 0.05}
    assert all(found[name] < limit for name, limit in limits.items()), found
    rough = medians(list(loads("H100")), has_profile=False)
    assert rough["tpot p50"] < 0.20
    assert rough["ttft p50"] < 0.30


@pytest.mark.parametrize("chosen", [COLOCATED, SPLIT], ids=["colocated", "split"])
def test_the_roofline_alone_is_near_enough_to_choose_by(chosen: list[Load]) -> None:
    found = medians(chosen, has_profile=False)
    assert found["ttft p50"] < 0.30
    assert found["tpot p50"] < 0.20


@pytest.mark.slow
def test_the_arm_that_surely_met_more_slos_is_the_one_that_the_replay_names() -> None:
    slos = [Slo(ttft_s=t) for t in (0.05, 0.1, 0.25, 0.6)]
    slos += [Slo(tpot_s=t) for t in (0.0053, 0.0056, 0.006, 0.007)]
    slos += [Slo(0.1, 0.006), Slo(0.3, 0.0056)]
    cells = [(sure(*pair, slo), called(*pair, slo)) for slo in slos for pair in pairs()]
    clear = [(real, ours) for real, ours in cells if real]
    assert len(clear) > 30
    assert {real for real, _ in clear} == {1, -1}
    assert sum(real == ours for real, ours in clear) > 0.9 * len(clear)
    assert sum(real * ours < 0 for real, ours in clear) <= 1
