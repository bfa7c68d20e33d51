import pytest

from pdctl.errors import EnvironmentProblem
from pdctl.inspection.addresses import own_address

HERE = {
    "lo": ["127.0.0.1"],
    "docker0": ["172.17.0.1"],
    "bond0": ["10.1.2.3"],
    "ib0": ["169.254.7.7", "10.9.0.3"],
}


def test_an_interface_gives_its_address_that_others_reach() -> None:
    assert own_address("bond0", "", addresses=HERE) == "10.1.2.3"
    assert own_address("ib0", "", addresses=HERE) == "10.9.0.3"


@pytest.mark.parametrize(
    ("interface", "why"),
    [
        ("lo", "has no address that other hosts reach"),
        ("docker0", "has no address that other hosts reach"),
        ("eth7", "does not exist"),
    ],
)
def test_an_interface_without_one_is_refused_and_the_others_are_named(
    interface: str, why: str
) -> None:
    with pytest.raises(EnvironmentProblem) as error:
        own_address(interface, "", addresses=HERE)
    assert why in error.value.message
    assert "bond0 (10.1.2.3), ib0 (10.9.0.3)" in error.value.hint
    assert "docker0" not in error.value.hint


def test_the_way_to_a_peer_over_loopback_is_refused() -> None:
    with pytest.raises(EnvironmentProblem) as error:
        own_address(None, "127.0.0.1", addresses=HERE)
    assert "lo 127.0.0.1, which no other host reaches" in error.value.message
