"""Which engines are started able to change their role."""

from pathlib import Path

import pytest

from pdctl.deployment.expand import expand
from pdctl.deployment.flags import engine_argv
from pdctl.deployment.records import Deployment, Ports, RolePlan
from pdctl.deployment.role_switch import FLAG, differing_flags, role_switch_obstacle
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import colocated, split, with_args

PORTS = Ports(http=20000, bootstrap=21000, nccl=25000, dist_init=24000)
NEW = (0, 5, 23)


def both(plan: RolePlan) -> Deployment:
    return split(roles={"prefill": plan, "decode": plan})


def obstacle(deployment: Deployment) -> str:
    return role_switch_obstacle(deployment, version=NEW, backend="mooncake")


@pytest.mark.parametrize("backend", ["mooncake", "mooncake_tcp", "ascend", "mori"])
def test_backends_that_can_be_rebuilt_get_the_flag_on_both_roles(backend: str) -> None:
    for role in ("prefill", "decode"):
        argv = engine_argv(split(), role, PORTS, python="/py", version=NEW, backend=backend)
        assert FLAG in argv


@pytest.mark.parametrize(
    ("version", "backend", "why"),
    [
        (NEW, "nixl", "nixl cannot be rebuilt"),
        ((0, 5, 22), "mooncake", "since 0.5.23"),
        (None, "mooncake", "since 0.5.23"),
    ],
)
def test_other_backends_and_versions_do_not_and_say_why(
    version: tuple[int, ...] | None, backend: str, why: str
) -> None:
    argv = engine_argv(split(), "decode", PORTS, python="/py", version=version, backend=backend)
    assert FLAG not in argv
    assert why in role_switch_obstacle(split(), version=version, backend=backend)


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        (RolePlan(2, Parallelism(tp=2, ep=2)), "expert parallelism"),
        (RolePlan(2, Parallelism(pp=2)), "pipeline parallelism"),
        (RolePlan(2, args=("--speculative-algorithm", "EAGLE")), "speculative decoding"),
        (RolePlan(2, args=("--moe-a2a-backend", "deepep")), "MoE all-to-all"),
        (
            RolePlan(2, args=("--disaggregation-decode-allocation-policy", "prefill_complete")),
            "prefill_complete",
        ),
        (RolePlan(2, env={"SGLANG_DISAGG_STAGING_BUFFER": "1"}), "STAGING_BUFFER"),
    ],
)
def test_what_sglang_refuses_beside_the_flag_keeps_the_flag_away(plan: RolePlan, why: str) -> None:
    assert why in obstacle(both(plan))


def test_roles_of_different_size_and_colocated_engines_do_not_change() -> None:
    sizes = {"prefill": RolePlan(1, Parallelism(tp=2)), "decode": RolePlan(2)}
    assert "one size" in obstacle(split(roles=sizes))
    assert "colocated" in obstacle(colocated())
    assert obstacle(split()) == ""


def test_processes_know_whether_they_can_switch() -> None:
    names = split().engine_names
    specs = expand(
        split(engine="sim"),
        gpus=dict.fromkeys(names, (0,)),
        ports=dict.fromkeys((*names, "router"), PORTS),
        log_dir=Path("/logs"),
    )
    assert [spec.can_switch_role for spec in specs] == [False, *(True for _ in names)]


def test_flags_that_only_one_role_has_are_named() -> None:
    assert differing_flags(with_args("--page-size 64", "--page-size 64")) == ()
    assert differing_flags(with_args("--page-size 64", "--x 1 --page-size 64")) == ("--x",)
