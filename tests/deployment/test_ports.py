from itertools import chain

import pytest

from pdctl.deployment.ports import DIST_INIT_PORTS, plan_ports
from pdctl.deployment.records import Ports, RouterPlan
from pdctl.errors import EnvironmentProblem
from tests.deployment.examples import split


def all_ports(ports: Ports) -> list[int]:
    assert ports.dist_init is not None
    derived = range(ports.dist_init, ports.dist_init + DIST_INIT_PORTS)
    return [p for p in (ports.http, ports.bootstrap, ports.nccl) if p is not None] + [*derived]


def test_no_two_processes_share_a_port_even_at_the_largest_size() -> None:
    planned = plan_ports(split(25, 75), lambda port: True)
    router = planned.pop("router")
    assert (router.http, router.metrics) == (30000, 29000)
    used = [30000, 29000, *chain.from_iterable(map(all_ports, planned.values()))]
    assert len(used) == len(set(used)) == 2 + 100 * (3 + DIST_INIT_PORTS)
    # Linux hands out ports from 32768, Ray's workers use 10002-19999
    assert all(20000 <= port < 32768 for port in used)


def test_engines_are_spaced_so_that_derived_ports_never_meet() -> None:
    planned = plan_ports(split(), lambda port: True)
    http = [ports.http for name, ports in planned.items() if name != "router"]
    assert min(b - a for a, b in zip(http, http[1:], strict=False)) >= 10


def test_ports_in_use_are_passed_over() -> None:
    taken = {20000, 21010, 24006, 29000}
    planned = plan_ports(split(1, 1), lambda port: port not in taken)
    assert planned["router"].metrics == 29010
    assert planned["prefill-0"] == Ports(http=20010, bootstrap=21000, nccl=25000, dist_init=24010)
    assert planned["decode-0"].bootstrap == 21020


def test_the_routers_own_port_is_given_to_nobody_else() -> None:
    planned = plan_ports(split(1, 1, router=RouterPlan(port=20000)), lambda port: True)
    assert planned["router"].http == 20000
    assert planned["prefill-0"].http == 20010


def test_a_router_port_in_use_is_an_error_that_names_a_free_one() -> None:
    with pytest.raises(EnvironmentProblem, match="Port 30000") as error:
        plan_ports(split(), lambda port: port not in (30000, 30001))
    assert error.value.hint == "--port 30002"
    with pytest.raises(EnvironmentProblem) as error:
        plan_ports(split(), lambda port: False)
    assert error.value.hint == "--port N with a free port"


def test_a_full_band_is_an_error_that_names_it() -> None:
    with pytest.raises(EnvironmentProblem, match="bootstrap registry between 21000 and 21999"):
        plan_ports(split(), lambda port: not 21000 <= port < 22000)
