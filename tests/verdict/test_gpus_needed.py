from dataclasses import replace

import pytest

from pdctl.inspection.cluster import parse_gpus
from pdctl.verdict.gpus_needed import gpus_needed
from pdctl.verdict.search import find_capacities
from pdctl.verdict.verdict import decide
from pdctl.workload.records import Slo
from tests.verdict.examples import question
from tests.verdict.test_search import SLO, TP2, asked, contest


@pytest.mark.slow
def test_fewer_gpus_than_needed_miss_the_slos_and_as_many_meet_them() -> None:
    one = asked(rate=2.0)
    ours = contest(one)
    capacity = find_capacities(ours)["colocated"]
    needed = gpus_needed(ours, "colocated", 2.0, capacity)
    assert needed is not None
    assert needed < 16
    for gpus, meets in ((needed, True), (needed - 2, False)):
        fewer = question("qwen3-32b", "2x8xH200:rdma400", rate=2.0, parallelism=TP2, slo=SLO,
                         max_gpus=gpus)  # fmt: skip
        assert decide(fewer, flips=False).arms["colocated"].meets == meets


def test_a_rate_beyond_the_gpus_says_about_how_many_would_do() -> None:
    ours = contest(asked())
    needed = gpus_needed(ours, "colocated", 100.0, 10.0)
    assert needed == 160
    assert gpus_needed(ours, "colocated", 100.0, 0.0) is None


@pytest.mark.slow
def test_gpus_beyond_a_part_of_a_node_are_those_of_engines_that_fit_a_whole_one() -> None:
    one = question("qwen3-32b", "1xH100", isl=8000, osl=256, rate=3, slo=Slo(3.0, 0.04))
    told = decide(one, flips=False).arms["colocated"]
    assert not told.meets
    assert told.gpus_needed is not None
    assert told.gpus_needed <= 16
    gpus = f"{-(-told.gpus_needed // 8)}x8xH100:rdma400"
    assert decide(replace(one, cluster=parse_gpus(gpus)), flips=False).is_met
