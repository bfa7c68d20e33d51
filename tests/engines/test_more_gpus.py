"""GPUs for more engines of a running deployment."""

from dataclasses import replace

import pytest

from pdctl.deployment.choose import deployment_of
from pdctl.engines.more_gpus import assign_more_gpus
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.records import Gpu
from tests.engines.world import fleet_specs

RUNNING = fleet_specs(1, 2)  # prefill-0 on GPU 0, decode-0 on 1, decode-1 on 2


def gpus(num: int, used: set[int]) -> list[Gpu]:
    full = 80 << 30
    return [Gpu(i, "H100", f"u{i}", full, full if i in used else 0) for i in range(num)]


def test_engines_that_stay_keep_their_gpus_and_new_ones_take_free_ones() -> None:
    wanted = deployment_of(model="m", prefill=1, total=4)
    assert assign_more_gpus(wanted, RUNNING, gpus(4, {0, 1, 2})) == {
        "prefill-0": (0,),
        "decode-0": (1,),
        "decode-1": (2,),
        "decode-2": (3,),
    }


def test_a_change_of_roles_prefers_free_gpus_to_those_of_engines_that_leave() -> None:
    wanted = deployment_of(model="m", prefill=2, total=3)
    assert assign_more_gpus(wanted, RUNNING, gpus(4, {0, 1, 2}))["prefill-1"] == (3,)
    assert assign_more_gpus(wanted, RUNNING, gpus(3, {0, 1, 2}))["prefill-1"] == (2,)


def test_too_few_gpus_are_said_so() -> None:
    wanted = deployment_of(model="m", prefill=1, total=4)
    with pytest.raises(EnvironmentProblem):
        assign_more_gpus(wanted, RUNNING, gpus(3, {0, 1, 2}))


def test_simulated_engines_get_numbers_that_no_other_has() -> None:
    wanted = deployment_of(model="m", prefill=2, total=4, engine="sim")
    assert assign_more_gpus(wanted, RUNNING, ()) == {
        "prefill-0": (0,),
        "decode-0": (1,),
        "decode-1": (2,),
        "prefill-1": (3,),
    }


def test_fewer_engines_need_nothing() -> None:
    wanted = deployment_of(model="m", prefill=1, total=2)
    assert assign_more_gpus(wanted, RUNNING, ()) == {"prefill-0": (0,), "decode-0": (1,)}


def test_a_deployment_that_does_not_run_yet_is_assigned_as_a_whole() -> None:
    wanted = replace(deployment_of(model="m", prefill=1, total=2), gpus="1-2")
    assert assign_more_gpus(wanted, (), gpus(4, set())) == {"prefill-0": (1,), "decode-0": (2,)}
