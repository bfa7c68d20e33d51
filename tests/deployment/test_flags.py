from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pdctl.deployment import flags
from pdctl.deployment.build import validated
from pdctl.deployment.checks import check_args
from pdctl.deployment.expand import expand
from pdctl.deployment.flags import (
    FLAG,
    differing_flags,
    parallelism_flags,
    parse_version,
    role_switch_obstacle,
)
from pdctl.deployment.records import (
    Deployment,
    ObservePlan,
    PlannedFor,
    Ports,
    RolePlan,
    RouterPlan,
)
from pdctl.errors import InvalidInput
from pdctl.hosts import LOOPBACK
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import colocated, split, with_args

engine_argv = partial(flags.engine_argv, address=LOOPBACK)
engine_env = partial(flags.engine_env, plan=RolePlan(1), address=LOOPBACK)
router_argv = partial(flags.router_argv, address=LOOPBACK)
simulated_argv = partial(flags.simulated_argv, address=LOOPBACK)
PORTS = Ports(http=20000, bootstrap=21000, nccl=25000, dist_init=24000)
SWITCHED = (0, 5, 23)


def both(plan: RolePlan) -> Deployment:
    return split(roles={"prefill": plan, "decode": plan})


def obstacle(deployment: Deployment) -> str:
    return role_switch_obstacle(deployment, version=SWITCHED, backend="mooncake")


@pytest.mark.parametrize("backend", ["mooncake", "mooncake_tcp", "ascend", "mori"])
def test_backends_that_can_be_rebuilt_get_the_flag_on_both_roles(backend: str) -> None:
    for role in ("prefill", "decode"):
        argv = engine_argv(split(), role, PORTS, python="/py", version=SWITCHED, backend=backend)
        assert FLAG in argv


@pytest.mark.parametrize(
    ("version", "backend", "why"),
    [
        (SWITCHED, "nixl", "nixl cannot be rebuilt"),
        ((0, 5, 22), "mooncake", "only from 0.5.23"),
        (None, "mooncake", "only from 0.5.23"),
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
    assert "differ in size" in obstacle(split(roles=sizes))
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


NEW, OLD = (0, 5, 23), (0, 5, 10)


def value(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_a_prefill_engine_is_told_its_role_its_ports_and_its_backend() -> None:
    argv = engine_argv(split(), "prefill", PORTS, python="/py", version=NEW, backend="nixl")
    assert argv[:3] == ("/py", "-m", "sglang.launch_server")
    expected = {
        "--model-path": "llama-3.1-8b",
        "--host": "127.0.0.1",
        "--port": "20000",
        "--nccl-port": "25000",
        "--dist-init-addr": "127.0.0.1:24000",
        "--disaggregation-mode": "prefill",
        "--disaggregation-transfer-backend": "nixl",
        "--disaggregation-bootstrap-port": "21000",
    }
    assert {flag: value(argv, flag) for flag in expected} == expected
    assert "--enable-metrics" in argv
    assert "--trust-remote-code" not in argv


def test_a_colocated_engine_knows_nothing_of_disaggregation() -> None:
    argv = engine_argv(colocated(), "colocated", PORTS, python="/py", version=NEW, backend=None)
    assert not [arg for arg in argv if "disaggregation" in arg]


def test_the_users_flags_come_last_and_remote_code_only_when_asked() -> None:
    plan = RolePlan(1, args=("--page-size", "64"))
    wanted = split(roles={"prefill": plan, "decode": plan}, trust_remote_code=True)
    argv = engine_argv(wanted, "decode", PORTS, python="/py", version=NEW, backend="nixl")
    assert argv[-2:] == ("--page-size", "64")
    assert "--trust-remote-code" in argv


@pytest.mark.parametrize("version", [None, OLD, (0, 5, 22)])
def test_attention_dp_is_the_old_pair_before_the_new_flag_exists(
    version: tuple[int, ...] | None,
) -> None:
    flags = parallelism_flags(Parallelism(tp=16, pp=2, dp=8, ep=16), version)
    assert " ".join(flags) == (
        "--tp-size 16 --pp-size 2 --dp-size 8 --enable-dp-attention --ep-size 16"
    )


def test_attention_dp_is_one_flag_where_the_old_pair_is_deprecated() -> None:
    assert parallelism_flags(Parallelism(tp=8, dp=8), NEW) == (
        "--tp-size",
        "8",
        "--attn-dp-size",
        "8",
    )
    assert parallelism_flags(Parallelism(), NEW) == ()


def test_mooncake_over_tcp_is_a_backend_of_new_versions_and_a_variable_of_old_ones() -> None:
    for version, backend, forced in ((NEW, "mooncake_tcp", False), (OLD, "mooncake", True)):
        argv = engine_argv(
            split(), "decode", PORTS, python="/py", version=version, backend="mooncake_tcp"
        )
        assert value(argv, "--disaggregation-transfer-backend") == backend
        env = engine_env("decode", (), version=version, backend="mooncake_tcp")
        assert ("MC_FORCE_TCP" in env) is forced
        assert env["MC_TCP_ENABLE_CONNECTION_POOL"] == "1"


def test_an_engines_environment_names_its_gpus_and_keeps_kv_sockets_on_loopback() -> None:
    env = engine_env("prefill", (2, 3), version=NEW, backend="mooncake")
    assert env == {
        "CUDA_VISIBLE_DEVICES": "2,3",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "PYTHONUNBUFFERED": "1",
        "SGLANG_HOST_IP": "127.0.0.1",
        "SGLANG_ENABLE_FAILED_SESSION_PROBE": "true",
    }
    plain = engine_env("colocated", (), version=NEW, backend=None)
    assert plain == {"PYTHONUNBUFFERED": "1", "SGLANG_HOST_IP": "127.0.0.1"}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("0.5.23", (0, 5, 23)),
        ("0.5.15.post1", (0, 5, 15)),
        ("0.6.0rc1", (0, 6, 0)),
        (None, None),
        ("main", None),
    ],
)
def test_versions_are_read_as_far_as_they_are_numbers(
    text: str | None, version: tuple[int, ...] | None
) -> None:
    assert parse_version(text) == version


def test_a_simulated_engine_gets_sglangs_flags_and_its_gpus() -> None:
    wanted = split(1, 1, engine="sim", sim_speed=0.5, parallelism=Parallelism(tp=4))
    argv = simulated_argv(wanted, "decode", PORTS, pdctl_python="/py")
    assert " ".join(argv) == (
        "/py -m pdctl.engines.sim --model-path llama-3.1-8b --sim-gpus 8xH200 --sim-speed 0.5"
        " --host 127.0.0.1 --port 20000 --disaggregation-mode decode"
        " --disaggregation-bootstrap-port 21000 --enable-pd-role-switch --tp-size 4"
        " --enable-metrics --enable-request-time-stats-logging"
    )
    together = colocated(engine="sim", gpus="2xB200")
    argv = simulated_argv(together, "colocated", PORTS, pdctl_python="/py")
    assert value(argv, "--disaggregation-mode") == "null"
    assert value(argv, "--sim-gpus") == "2xB200"


def test_a_simulated_engine_of_a_plan_has_the_gpus_of_the_plan() -> None:
    wanted = replace(colocated(engine="sim"), planned=PlannedFor(gpus="4xH100"))
    argv = simulated_argv(wanted, "colocated", PORTS, pdctl_python="/py")
    assert value(argv, "--sim-gpus") == "4xH100"


def test_a_simulated_engine_reads_the_file_of_a_kind_of_gpu_that_was_planned_for() -> None:
    planned = PlannedFor(gpus="2xmy-gpu", gpu_file="/gpus/my-gpu.yaml")
    wanted = colocated(engine="sim", gpus="2xmy-gpu", planned=planned)
    argv = simulated_argv(wanted, "colocated", PORTS, pdctl_python="/py")
    assert value(argv, "--sim-gpu-file") == "/gpus/my-gpu.yaml"
    other = simulated_argv(replace(wanted, gpus="2xB200"), "colocated", PORTS, pdctl_python="/py")
    assert "--sim-gpu-file" not in other


def test_engines_log_times_of_requests_unless_that_is_refused_or_given() -> None:
    flag = "--enable-request-time-stats-logging"
    given = RolePlan(1, args=(flag,))
    for wanted, count in (
        (split(), 1),
        (split(request_times=False), 0),
        (split(roles={"prefill": given, "decode": given}), 1),
    ):
        argv = engine_argv(wanted, "decode", PORTS, python="/py", version=NEW, backend="nixl")
        assert argv.count(flag) == count


ROUTER = Ports(http=30000, metrics=29000)


def test_the_router_starts_empty_on_loopback_with_short_breakers() -> None:
    argv = router_argv(split(), ROUTER, pdctl_python="/py", version=NEW)
    assert argv[:4] == ("/py", "-m", "sglang_router.launch_router", "--pd-disaggregation")
    expected = {
        "--host": "127.0.0.1",
        "--port": "30000",
        "--prometheus-host": "127.0.0.1",
        "--prometheus-port": "29000",
        "--cb-timeout-duration-secs": "15",
        "--health-check-endpoint": "/ready",
    }
    assert {flag: value(argv, flag) for flag in expected} == expected
    assert not {"--prefill", "--decode", "--worker-urls", "--dp-aware"} & set(argv)
    assert value(argv, "--policy") == "round_robin"


def test_the_router_of_colocated_or_older_engines_differs_where_they_do() -> None:
    wanted = colocated(router=RouterPlan(policy="round_robin", args=("--queue-size", "5")))
    argv = router_argv(wanted, ROUTER, pdctl_python="/py", version=OLD)
    assert "--policy" not in router_argv(colocated(), ROUTER, pdctl_python="/py", version=OLD)
    assert "--pd-disaggregation" not in argv
    assert "--health-check-endpoint" not in argv
    assert value(argv, "--policy") == "round_robin"
    assert argv[-2:] == ("--queue-size", "5")


def test_traces_go_from_engines_and_router_to_the_collector() -> None:
    traced = replace(split(), observe=ObservePlan(traces="10.0.0.9:4317"))
    flags_of_traces = ("--enable-trace", "--otlp-traces-endpoint", "10.0.0.9:4317")
    engine = engine_argv(
        traced, "decode", PORTS, python="/py", version=SWITCHED, backend="mooncake"
    )
    router = router_argv(traced, Ports(30000, metrics=29000), pdctl_python="/py", version=SWITCHED)
    for argv in (engine, router):
        at = argv.index("--enable-trace")
        assert argv[at : at + 3] == flags_of_traces
    plain = engine_argv(
        split(), "decode", PORTS, python="/py", version=SWITCHED, backend="mooncake"
    )
    assert "--enable-trace" not in plain


def test_a_release_that_cannot_send_traces_is_refused() -> None:
    traced = replace(split(), observe=ObservePlan(traces="10.0.0.9:4317"))
    check_args(traced, (0, 5, 10))
    with pytest.raises(InvalidInput, match="0.5.9 has no --otlp-traces-endpoint"):
        check_args(traced, (0, 5, 9))


@pytest.mark.parametrize("text", ["localhost", "http://h:1", "h:0", "h:99999", ":4317", "::1:4317"])
def test_an_endpoint_is_a_host_and_a_port(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not HOST:PORT"):
        validated(replace(split(), observe=ObservePlan(metrics=text)))
    assert validated(replace(split(), observe=ObservePlan(metrics="[::1]:4317")))
