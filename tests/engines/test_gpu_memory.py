"""Memory that comes back after engines have ended."""

import threading
import time
from collections.abc import Sequence

from pdctl.engines.actions import Taken
from pdctl.engines.gpu_memory import wait_until_given_back
from tests.engines.world import fleet_specs, on_gpus


class Driver:
    """Gives memory back after it was looked at a few times."""

    def __init__(self, looks: int) -> None:
        self.looks, self.asked = looks, 0

    def taken(self, gpus: Sequence[int]) -> dict[int, Taken]:
        self.asked += 1
        return dict.fromkeys(gpus, Taken("70 GiB" if self.asked <= self.looks else ""))


def test_engines_on_gpus_are_waited_for_until_their_memory_is_back() -> None:
    driver = Driver(looks=2)
    wait_until_given_back(on_gpus(fleet_specs(1, 1)), taken=driver.taken)
    assert driver.asked == 3


def test_memory_that_never_comes_back_is_not_waited_for_for_ever() -> None:
    driver = Driver(looks=10**9)
    wait_until_given_back(on_gpus(fleet_specs(1, 1)), taken=driver.taken, wait_s=0.5)
    assert 2 <= driver.asked <= 4


def test_nobody_looks_at_the_gpus_of_simulated_engines() -> None:
    driver = Driver(looks=10**9)
    wait_until_given_back(fleet_specs(2, 2), taken=driver.taken)
    assert driver.asked == 0


def test_a_driver_that_hangs_is_not_waited_for_for_ever() -> None:
    stands = threading.Event()

    def hangs(gpus: Sequence[int]) -> dict[int, Taken]:
        stands.wait(30)
        return {}

    began = time.monotonic()
    wait_until_given_back(on_gpus(fleet_specs(1, 1)), taken=hangs, wait_s=0.3)
    stands.set()
    assert time.monotonic() - began < 10
