"""The doctor's rules on a machine, applied to values from real machines."""

import os
import subprocess
import sys

import pytest

from pdctl.doctor import machine_facts, machine_rules
from pdctl.doctor.diagnose import quick_checks
from pdctl.doctor.machine_facts import Stray
from pdctl.inspection.records import Gpu, Holder, RdmaPort, SglangInstall
from pdctl.units import GIB, MIB

ACTIVE = RdmaPort("mlx5_0", 1, "ACTIVE", 50e9)
DOWN = RdmaPort("mlx5_1", 1, "DOWN", 50e9)
FREE = Gpu(0, "NVIDIA H200", "GPU-a", 141 * GIB, 0)
HELD = Gpu(1, "NVIDIA H200", "GPU-b", 141 * GIB, 71 * GIB, (Holder(4121, "python", 71 * GIB),))
DEAD = Gpu(2, "unknown", "", None, None, problem="GPU is lost")


@pytest.mark.parametrize(
    ("hard", "outcome"), [(None, "pass"), (65536, "pass"), (20000, "warn"), (1024, "fail")]
)
def test_few_open_files_fail_and_too_few_warn(hard: int | None, outcome: str) -> None:
    assert machine_rules.open_files(hard).outcome == outcome


def test_locked_memory_matters_only_where_rdma_is_active() -> None:
    assert machine_rules.locked_memory(65536, [DOWN]).outcome == "pass"
    assert machine_rules.locked_memory(None, [ACTIVE]).outcome == "pass"
    check = machine_rules.locked_memory(65536, [ACTIVE])
    assert check.outcome == "fail"
    assert "64 KiB" in check.text


def test_a_containers_shared_memory_of_64_mib_fails() -> None:
    check = machine_rules.shared_memory(64 * MIB, 63 * MIB)
    assert check.outcome == "fail"
    assert "--shm-size" in check.fix
    assert machine_rules.shared_memory(16 * GIB, 16 * GIB).outcome == "pass"
    assert machine_rules.shared_memory(None, None).outcome == "unknown"


def test_a_port_range_that_meets_the_engines_ports_warns() -> None:
    assert machine_rules.port_range(32768, 60999).outcome == "pass"
    assert machine_rules.port_range(1024, 65535).outcome == "warn"
    assert machine_rules.port_range(None, None).outcome == "unknown"


def test_a_proxy_warns_unless_it_exempts_loopback() -> None:
    proxy = {"HTTP_PROXY": "http://proxy:3128"}
    assert machine_rules.proxy({}).outcome == "pass"
    assert machine_rules.proxy(proxy).outcome == "warn"
    assert machine_rules.proxy({**proxy, "no_proxy": "localhost"}).outcome == "warn"
    assert machine_rules.proxy({**proxy, "NO_PROXY": "localhost, 127.0.0.1"}).outcome == "pass"
    assert machine_rules.proxy({**proxy, "no_proxy": "*"}).outcome == "pass"


def test_a_host_ip_of_another_machine_warns() -> None:
    assert machine_rules.host_ip({}, None).outcome == "pass"
    assert machine_rules.host_ip({"SGLANG_HOST_IP": "10.1.2.3"}, False).outcome == "warn"
    assert machine_rules.host_ip({"HOST_IP": "10.1.2.3"}, True).outcome == "pass"


def test_a_full_disk_fails_and_a_nearly_full_one_warns() -> None:
    assert machine_rules.disk("/x", 3 * MIB, True).outcome == "fail"
    assert machine_rules.disk("/x", 500 * MIB, True).outcome == "warn"
    assert machine_rules.disk("/x", 5 * GIB, True).outcome == "pass"
    assert machine_rules.disk("/x", 5 * GIB, False).outcome == "fail"


def test_a_lost_gpu_fails_and_a_held_one_warns_naming_the_holder_and_the_rest() -> None:
    answering, free = machine_rules.gpus([FREE, HELD, DEAD])
    assert answering.outcome == "fail"
    assert "GPU 2: GPU is lost" in answering.text
    assert free.outcome == "warn"
    assert "pid 4121 python" in free.text
    assert free.fix == "--gpus 0"


def test_no_gpu_warns_because_simulated_engines_still_run() -> None:
    (check,) = machine_rules.gpus(None, "No NVIDIA GPU can be seen.")
    assert check.outcome == "warn"
    assert "--engine sim" in check.fix


def test_an_orphaned_scheduler_fails_with_its_pid_in_the_fix() -> None:
    check = machine_rules.stray_processes([Stray(7, "sglang::scheduler_TP0", is_orphan=True)])
    assert (check.outcome, check.fix) == ("fail", "kill -9 7")
    assert machine_rules.stray_processes([Stray(8, "sglang.launch_server")]).outcome == "warn"
    ours = Stray(9, "sglang.launch_server", is_ours=True)
    assert machine_rules.stray_processes([ours]).outcome == "pass"


def test_an_inactive_rdma_port_beside_an_active_one_warns_and_names_the_active_one() -> None:
    check = machine_rules.rdma_ports([ACTIVE, DOWN])
    assert check.outcome == "warn"
    assert "--disaggregation-ib-device mlx5_0" in check.fix
    assert machine_rules.rdma_ports([ACTIVE]).outcome == "pass"
    assert machine_rules.rdma_ports([DOWN]).outcome == "warn"
    assert machine_rules.rdma_ports([]).outcome == "pass"


def test_files_in_dev_shm_warn_only_if_no_engine_runs() -> None:
    assert machine_rules.stale_snapshots(3, 1000, has_sglang=True).outcome == "pass"
    assert machine_rules.stale_snapshots(3, 1000, has_sglang=False).outcome == "warn"


def test_an_empty_cuda_visible_devices_fails() -> None:
    check = machine_rules.hidden_gpus("")
    assert check is not None
    assert check.outcome == "fail"
    assert machine_rules.hidden_gpus("0,1") is None
    assert machine_rules.hidden_gpus(None) is None


def test_peer_memory_is_asked_for_only_with_rdma_and_gpus() -> None:
    assert machine_rules.peer_memory(has_rdma=False, has_gpus=True, has_module=False) is None
    check = machine_rules.peer_memory(has_rdma=True, has_gpus=True, has_module=False)
    assert check is not None
    assert check.fix == "modprobe nvidia_peermem"


def _install(version: str | None, *backends: str) -> SglangInstall:
    return SglangInstall("/venv/bin/python", version, backends, "0.3.2")


def test_an_sglang_of_unknown_flags_warns() -> None:
    assert machine_rules.sglang(_install("0.5.15")).outcome == "pass"
    assert machine_rules.sglang(_install("0.6.0")).outcome == "warn"
    assert machine_rules.sglang(_install(None)).outcome == "warn"
    assert machine_rules.sglang(None, "The Python at x did not run.").outcome == "fail"


def test_a_router_of_another_version_warns_and_none_fails() -> None:
    assert machine_rules.router("0.3.2").outcome == "pass"
    assert machine_rules.router("0.4.1").outcome == "warn"
    assert machine_rules.router(None).outcome == "fail"


def test_sglang_without_a_kv_backend_fails() -> None:
    check = machine_rules.backends(_install("0.5.23"), has_rdma=True)
    assert check is not None
    assert check.outcome == "fail"
    assert "/venv/bin/python -m pip install nixl" in check.fix


def test_mooncake_alone_without_rdma_warns() -> None:
    for has_rdma, outcome in ((False, "warn"), (True, "pass")):
        check = machine_rules.backends(_install("0.5.23", "mooncake"), has_rdma=has_rdma)
        assert check is not None
        assert check.outcome == outcome


def test_a_backend_whose_library_is_missing_names_the_package_that_brings_it() -> None:
    why = "ImportError: libibverbs.so.1: cannot open shared object file"
    bad, good = machine_rules.imports({"mooncake": why, "nixl": None})
    assert bad.outcome == "fail"
    assert "apt-get install libibverbs1" in bad.fix
    assert good.outcome == "pass"


def test_nixl_without_ucx_fails() -> None:
    check = machine_rules.nixl_plugins(("POSIX",))
    assert check is not None
    assert check.outcome == "fail"
    assert machine_rules.nixl_plugins(None) is None


def test_a_usual_port_in_use_names_who_has_it() -> None:
    check = machine_rules.ports({30000: "pid 7 nginx"})
    assert check.outcome == "warn"
    assert "30000 (pid 7 nginx)" in check.text
    assert check.fix == "--port 30001"
    assert machine_rules.ports({}).outcome == "pass"


def test_this_machine_is_checked_without_a_crash_and_every_trouble_has_a_fix() -> None:
    checks = quick_checks()
    assert len({check.id for check in checks}) == len(checks) >= 12
    assert all(check.fix for check in checks if check.outcome in ("warn", "fail"))


def test_a_module_that_does_not_import_says_why() -> None:

    assert machine_facts.import_problem(sys.executable, "json") is None
    why = machine_facts.import_problem(sys.executable, "no_such_module_here")
    assert why is not None
    assert why.startswith("ModuleNotFoundError: No module named")
    assert machine_facts.import_problem("/nope/python", "json") is not None


def test_an_address_of_this_machine_is_distinguished_from_others() -> None:
    assert machine_facts.has_address("127.0.0.1")
    assert not machine_facts.has_address("192.0.2.1")


def test_a_scheduler_on_this_machine_is_seen_and_its_living_parent_too() -> None:
    with subprocess.Popen(["sglang::scheduler_TP0", "60"], executable="/bin/sleep") as child:
        try:
            found = next(stray for stray in machine_facts.strays() if stray.pid == child.pid)
        finally:
            child.kill()
    assert found == Stray(child.pid, "sglang::scheduler_TP0")


def test_a_scheduler_whose_server_is_gone_is_an_orphan() -> None:
    assert not machine_facts.has_server(1)
    assert machine_facts.has_server(os.getpid())
    with subprocess.Popen(["/bin/sleep", "60"]) as other:
        assert not machine_facts.has_server(other.pid)
        other.kill()
    assert not machine_facts.has_server(other.pid)
