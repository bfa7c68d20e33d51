from pathlib import Path

import pytest

from pdctl.deployment.expand import expand
from pdctl.deployment.flags import named_ports
from pdctl.deployment.ports import plan_ports
from pdctl.deployment.records import Deployment, ProcessSpec, RolePlan, RouterPlan
from pdctl.deployment.resources import assign_gpus
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.hosts import in_url
from tests.deployment.examples import colocated, gpu, install, split, with_args

LOGS = Path("/state/logs")


def expanded(deployment: Deployment, version: str | None = "0.5.23") -> tuple[ProcessSpec, ...]:
    return expand(
        deployment,
        gpus=assign_gpus(deployment, [gpu(i) for i in range(8)]),
        ports=plan_ports(deployment, lambda port: True),
        log_dir=LOGS,
        install=install(version, "nixl"),
        backend="nixl",
        pdctl_python="/py",
    )


def test_the_router_comes_first_then_every_engine() -> None:
    specs = expanded(split())
    names = [spec.name for spec in specs]
    assert names == ["router", "prefill-0", "prefill-1", *(f"decode-{i}" for i in range(6))]
    assert [spec.role for spec in specs[:4]] == ["router", "prefill", "prefill", "decode"]
    assert [spec.gpus for spec in specs] == [(), *((i,) for i in range(8))]
    assert specs[1].url == "http://127.0.0.1:20000"
    assert specs[1].log == LOGS / "prefill-0.log"


def test_only_prefill_engines_have_a_bootstrap_registry_and_only_the_router_metrics() -> None:
    specs = {spec.name: spec for spec in expanded(split(1, 1))}
    assert [s.bootstrap_port for s in specs.values()] == [None, 21000, None]
    assert [s.metrics_port for s in specs.values()] == [29000, None, None]


def test_what_argv_says_is_what_the_spec_says() -> None:
    for spec in expanded(split()):
        assert spec.argv[spec.argv.index("--port") + 1] == str(spec.port)
        if spec.gpus:
            assert spec.env["CUDA_VISIBLE_DEVICES"] == ",".join(map(str, spec.gpus))


def test_a_roles_environment_wins_over_pdctls() -> None:
    plan = RolePlan(1, env={"SGLANG_HOST_IP": "10.0.0.1", "X": "1"})
    specs = expanded(split(roles={"prefill": plan, "decode": RolePlan(1)}))
    assert specs[1].env["SGLANG_HOST_IP"] == "10.0.0.1"
    assert specs[1].env["X"] == "1"
    assert "X" not in specs[2].env


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:30000"),
        ("::", "http://[::1]:30000"),
        ("10.0.0.5", "http://10.0.0.5:30000"),
    ],
)
def test_the_routers_url_can_be_reached_from_here(host: str, url: str) -> None:
    router, *engines = expanded(split(router=RouterPlan(host=host)))
    assert router.url == url
    assert in_url(host) in router.argv
    assert all(engine.host == "127.0.0.1" for engine in engines)


def test_simulated_engines_need_no_sglang() -> None:
    wanted = colocated(2, engine="sim")
    specs = expand(
        wanted,
        gpus=assign_gpus(wanted, ()),
        ports=plan_ports(wanted, lambda port: True),
        log_dir=LOGS,
        pdctl_python="/py",
    )
    assert [spec.argv[2] for spec in specs] == [
        "sglang_router.launch_router",
        "pdctl.engines.sim",
        "pdctl.engines.sim",
    ]
    assert all("CUDA_VISIBLE_DEVICES" not in spec.env for spec in specs)


def test_without_sglang_the_error_names_the_extra() -> None:
    with pytest.raises(EnvironmentProblem, match="SGLang is not installed") as error:
        expanded(split(), version=None)
    assert "pip install sglang" in error.value.hint
    assert "--engine sim" in error.value.hint


def test_flags_are_checked_against_the_installed_version() -> None:
    with pytest.raises(InvalidInput, match=r"0\.5\.23 has no --cuda-graph-max-bs"):
        expanded(with_args(decode="--cuda-graph-max-bs 8"))
    assert expanded(with_args(decode="--cuda-graph-max-bs 8"), version="0.5.15")


def test_two_deployments_planned_before_either_listens_share_no_port() -> None:
    first = expanded(split(1, 2))
    taken = named_ports(first)
    said = " ".join(arg for spec in first for arg in spec.argv)
    other = split(1, 2, router=RouterPlan(port=30001))
    for ports in plan_ports(other, lambda port: port not in taken).values():
        for port in (ports.http, ports.bootstrap, ports.nccl, ports.metrics, ports.dist_init):
            assert port is None or str(port) not in said
