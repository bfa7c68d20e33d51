import pytest

from pdctl.deployment.backend import choose_backend
from pdctl.errors import EnvironmentProblem, InvalidInput
from tests.deployment.examples import install


@pytest.mark.parametrize(
    ("has", "rdma", "nvlink", "backend", "why"),
    [
        (("mooncake", "nixl"), True, True, "mooncake", "RDMA"),
        (("mooncake", "nixl"), False, True, "nixl", "NVLink"),
        (("nixl",), True, False, "nixl", "RDMA"),
        (("nixl",), False, False, "nixl", "shared memory"),
        (("mooncake",), False, True, "mooncake_tcp", "slow"),
        (("mori",), False, False, "mori", "only one"),
    ],
)
def test_the_backend_is_what_imports_and_the_hardware_carries(
    has: tuple[str, ...], rdma: bool, nvlink: bool, backend: str, why: str
) -> None:
    chosen, reason = choose_backend(install("0.5.23", *has), rdma=rdma, nvlink=nvlink)
    assert chosen == backend
    assert why in reason


def test_without_any_backend_the_error_says_what_to_install() -> None:
    with pytest.raises(EnvironmentProblem, match="No KV transfer backend imports") as error:
        choose_backend(install(), rdma=True, nvlink=True)
    assert "/venv/bin/python -m pip install nixl" in error.value.hint
    assert "--engine sim" in error.value.hint


def test_a_requested_backend_is_taken_if_it_imports() -> None:
    has = install("0.5.23", "mooncake")
    chosen, _ = choose_backend(has, requested="mooncake_tcp", rdma=True, nvlink=True)
    assert chosen == "mooncake_tcp"
    with pytest.raises(EnvironmentProblem, match="nixl does not import"):
        choose_backend(has, requested="nixl", rdma=True, nvlink=True)
    with pytest.raises(InvalidInput, match="no KV transfer backend 'smoke'"):
        choose_backend(has, requested="smoke", rdma=True, nvlink=True)
