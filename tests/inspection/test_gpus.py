"""query_gpus against a hand-written NVML that can be old, new, or broken in parts."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from pdctl.errors import EnvironmentProblem, ExitCode
from pdctl.inspection.gpus import (
    is_free,
    parse_rate,
    query_gpus,
    query_rdma_ports,
    rdma_bytes_per_s_per_gpu,
    taken_gpus,
    visible_gpus,
    why_not_free,
)
from pdctl.inspection.records import Gpu, Holder, RdmaPort


def make_port(root: Path, device: str, *, state: str, rate: str, numa: str | None = "1") -> None:
    folder = root / device / "ports" / "1"
    folder.mkdir(parents=True)
    (folder / "state").write_text(state + "\n")
    (folder / "rate").write_text(rate + "\n")
    if numa is not None:
        (root / device / "device").mkdir()
        (root / device / "device" / "numa_node").write_text(numa + "\n")


def test_ports_are_read_with_state_rate_and_numa_node(tmp_path: Path) -> None:
    make_port(tmp_path, "mlx5_1", state="1: DOWN", rate="10 Gb/sec (4X SDR)", numa="-1")
    make_port(tmp_path, "mlx5_0", state="4: ACTIVE", rate="400 Gb/sec (4X NDR)")
    assert query_rdma_ports(tmp_path) == (
        RdmaPort("mlx5_0", 1, "ACTIVE", 50e9, 1),
        RdmaPort("mlx5_1", 1, "DOWN", 1.25e9, None),
    )


def test_a_machine_without_rdma_has_no_ports(tmp_path: Path) -> None:
    assert query_rdma_ports(tmp_path / "infiniband") == ()


def test_values_that_cannot_be_read_are_unknown(tmp_path: Path) -> None:
    (tmp_path / "efa_0" / "ports" / "1").mkdir(parents=True)
    (tmp_path / "efa_0" / "ports" / "not-a-port").mkdir()
    (tmp_path / "stray-file").write_text("")
    assert query_rdma_ports(tmp_path) == (RdmaPort("efa_0", 1, "unknown", None, None),)


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [
        ("400 Gb/sec (4X NDR)", 50e9),
        ("2.5 Gb/sec (1X SDR)", 0.3125e9),
        ("100 Gb/sec (4X EDR)\n", 12.5e9),
        ("", None),
        ("unknown", None),
    ],
)
def test_a_rate_is_parsed(text: str, bytes_per_s: float | None) -> None:
    assert parse_rate(text) == bytes_per_s


def port(gbit: float | None, state: str = "ACTIVE") -> RdmaPort:
    return RdmaPort("mlx5", 1, state, None if gbit is None else gbit * 1e9 / 8)


def test_a_gpu_gets_no_more_than_one_port() -> None:
    assert rdma_bytes_per_s_per_gpu([port(400)] * 8, 4) == 50e9


def test_storage_ports_and_ports_that_are_down_do_not_count() -> None:
    ports = [*[port(400)] * 4, port(100), port(800, "DOWN"), port(None)]
    assert rdma_bytes_per_s_per_gpu(ports, 8) == 25e9


def test_without_an_active_port_it_is_unknown() -> None:
    assert rdma_bytes_per_s_per_gpu([port(400, "DOWN")], 8) is None
    assert rdma_bytes_per_s_per_gpu([], 8) is None


GIB = 1024**3


class FakeNvmlError(Exception):
    def __init__(self, value: int, text: str) -> None:
        super().__init__(text)
        self.value = value

    def __str__(self) -> str:
        return str(self.args[0])


NOT_SUPPORTED = FakeNvmlError(3, "Not Supported")
IS_LOST = FakeNvmlError(15, "GPU is lost")
NO_LIBRARY = FakeNvmlError(12, "NVML Shared Library Not Found")


class FakeNvml:
    """Two H200s joined by NVLink, the second in use. `fail` names functions and their errors."""

    NVMLError = FakeNvmlError
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_P2P_STATUS_OK = 0
    NVML_P2P_CAPS_INDEX_NVLINK = 2

    def __init__(self, number: int = 2, **fail: Exception) -> None:
        self.number = number
        self.fail = fail
        self.shut_down = False

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name.startswith("nvml") and name in self.fail:
            error = self.fail[name]

            def failing(*_: Any) -> Any:
                raise error

            return failing
        return found

    def nvmlInit(self) -> None:  # noqa: N802
        pass

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.shut_down = True

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return self.number

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> Any:  # noqa: N802
        return "NVIDIA H200"

    def nvmlDeviceGetUUID(self, handle: int) -> Any:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=140 * GIB, used=handle * 71 * GIB)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:  # noqa: N802
        return [SimpleNamespace(pid=4121, usedGpuMemory=70 * GIB)] if handle == 1 else []

    def nvmlDeviceGetP2PStatus(self, one: int, other: int, caps: int) -> int:  # noqa: N802
        assert caps == 2
        return 0

    def nvmlDeviceGetMigMode(self, handle: int) -> Any:  # noqa: N802
        return [0, 0]

    def nvmlDeviceGetPciInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(busId=f"00000000:1{handle}:00.0".encode())


class RackNvml(FakeNvml):
    """Cards that share an NVLink fabric with other hosts; `cluster` is its id."""

    NVML_GPU_FABRIC_STATE_COMPLETED = pynvml.NVML_GPU_FABRIC_STATE_COMPLETED
    c_nvmlGpuFabricInfoV_t = pynvml.c_nvmlGpuFabricInfoV_t  # noqa: N815

    def __init__(self, cluster: bytes, state: int = 3) -> None:
        super().__init__(number=1)
        self.cluster, self.state = cluster, state

    def nvmlDeviceGetGpuFabricInfoV(self, handle: int, info: Any) -> int:  # noqa: N802
        found = info._obj
        found.clusterUuid[:], found.cliqueId, found.state = self.cluster, 7, self.state
        return 0


class OldNvml(FakeNvml):
    """A driver of years ago: bytes for text, functions that do not exist yet."""

    def __getattribute__(self, name: str) -> Any:
        if name in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetP2PStatus"):
            raise AttributeError(name)
        return super().__getattribute__(name)

    def nvmlDeviceGetName(self, handle: int) -> Any:  # noqa: N802
        return b"A100-SXM4-40GB"

    def nvmlDeviceGetComputeRunningProcesses_v2(self, handle: int) -> Any:  # noqa: N802
        return [SimpleNamespace(pid=7, usedGpuMemory=None)]


def named(pid: int) -> str:
    return f"process-{pid}"


def query(nvml: FakeNvml, sys_pci: Path = Path("/nowhere")) -> tuple[Gpu, ...]:
    return query_gpus(nvml, process_name=named, sys_pci=sys_pci)


def test_each_card_has_memory_holders_peers_and_numa_node(tmp_path: Path) -> None:
    node = tmp_path / "0000:11:00.0"
    node.mkdir()
    (node / "numa_node").write_text("1\n")
    nvml = FakeNvml()
    assert query(nvml, tmp_path) == (
        Gpu(0, "NVIDIA H200", "GPU-0", 140 * GIB, 0, nvlink_peers=(1,)),
        Gpu(
            1,
            "NVIDIA H200",
            "GPU-1",
            140 * GIB,
            71 * GIB,
            holders=(Holder(4121, "process-4121", 70 * GIB),),
            nvlink_peers=(0,),
            numa_node=1,
        ),
    )
    assert nvml.shut_down


@pytest.mark.parametrize(
    ("cluster", "state", "fabric"),
    [
        (bytes(range(16)), 3, "00010203-0405-0607-0809-0a0b0c0d0e0f.7"),
        (bytes(range(16)), 2, ""),  # not joined yet
        (bytes(16), 3, ""),  # NVSwitches of one host
    ],
)
def test_cards_of_a_rack_name_its_nvlink_fabric(cluster: bytes, state: int, fabric: str) -> None:
    assert query(RackNvml(cluster, state))[0].fabric == fabric


def test_a_machine_without_numa_says_minus_one_which_is_unknown(tmp_path: Path) -> None:
    node = tmp_path / "0000:10:00.0"
    node.mkdir()
    (node / "numa_node").write_text("-1\n")
    assert query(FakeNvml(), tmp_path)[0].numa_node is None


def test_an_old_driver_answers_in_bytes_and_knows_less() -> None:
    first, _ = query(OldNvml())
    assert first.name == "A100-SXM4-40GB"
    assert first.holders == (Holder(7, "process-7", None),)
    assert first.nvlink_peers == ()
    assert first.problem is None


def test_what_a_card_does_not_support_is_unknown_not_zero() -> None:
    nvml = FakeNvml(
        nvmlDeviceGetMemoryInfo=NOT_SUPPORTED,
        nvmlDeviceGetUUID=NOT_SUPPORTED,
        nvmlDeviceGetComputeRunningProcesses=NOT_SUPPORTED,
        nvmlDeviceGetP2PStatus=NOT_SUPPORTED,
        nvmlDeviceGetPciInfo=NOT_SUPPORTED,
    )
    first = query(nvml)[0]
    assert first == Gpu(0, "NVIDIA H200", "", None, None)


def test_a_dead_gpu_is_a_row_and_the_others_still_show() -> None:
    class OneDead(FakeNvml):
        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
            if index == 1:
                raise IS_LOST
            return index

    alive, dead = query(OneDead())
    assert alive.problem is None
    assert alive.nvlink_peers == ()
    assert dead == Gpu(1, "unknown", "", None, None, problem="GPU is lost")


def test_a_gpu_lost_after_its_handle_was_given_is_a_row_too() -> None:
    rows = query(FakeNvml(nvmlDeviceGetMemoryInfo=IS_LOST))
    assert [row.problem for row in rows] == ["GPU is lost", "GPU is lost"]


def test_a_gpu_split_by_mig_is_not_for_engines() -> None:
    class Split(FakeNvml):
        def nvmlDeviceGetMigMode(self, handle: int) -> Any:  # noqa: N802
            return [1, 1]

    first = query(Split())[0]
    assert first.problem == "split by MIG, engines need whole GPUs"
    assert not is_free(first)


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("2,0", [2, 0]),
        (" 1 , 1", [1]),
        ("GPU-1", [1]),
        ("0,7,1", [0]),  # CUDA stops at the first it does not know
        ("-1", []),
        ("MIG-abc", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    value: str | None, indices: list[int]
) -> None:
    cards = query(FakeNvml(number=3))
    assert [gpu.index for gpu in visible_gpus(cards, value)] == indices


@pytest.mark.parametrize(
    ("nvml", "why"),
    [
        (FakeNvml(nvmlInit=NO_LIBRARY), "Shared Library Not Found"),
        (FakeNvml(nvmlDeviceGetCount=IS_LOST), "GPU is lost"),
        (FakeNvml(nvmlInit=OSError("libnvidia-ml.so.1: cannot open")), "cannot open"),
    ],
)
def test_without_a_driver_the_error_says_why_and_how_to_go_on(nvml: FakeNvml, why: str) -> None:
    with pytest.raises(EnvironmentProblem, match=why) as caught:
        query(nvml)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert "--gpus" in caught.value.hint


def test_no_cards_at_all_is_an_empty_answer() -> None:
    assert query(FakeNvml(number=0)) == ()


def card(**changes: Any) -> Gpu:
    values = {"memory_total_bytes": 140 * GIB, "memory_used_bytes": 0, **changes}
    return Gpu(3, "NVIDIA H200", "GPU-3", **values)


HELD = Holder(4121, "python", 71 * GIB)
MPS = Holder(99, "nvidia-cuda-mps-server", 30 * 1024**2)


@pytest.mark.parametrize(
    ("gpu", "free"),
    [
        (card(), True),
        (card(memory_used_bytes=600 * 1024**2), True),  # what a driver reserves
        (card(memory_used_bytes=None), True),
        (card(holders=(MPS,)), True),
        (card(memory_used_bytes=3 * GIB), False),  # a holder outside this container
        (card(holders=(HELD,)), False),
        (card(holders=(MPS, HELD)), False),
        (card(problem="GPU is lost"), False),
    ],
)
def test_a_gpu_is_free_when_it_answers_and_nobody_uses_it(gpu: Gpu, free: bool) -> None:
    assert is_free(gpu) is free


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        (
            card(memory_used_bytes=71 * GIB, holders=(MPS, HELD)),
            "GPU 3: 71 GiB held by pid 4121 python",
        ),
        (card(memory_used_bytes=40 * GIB), "GPU 3: 40 GiB held by a process not visible from here"),
        (card(problem="GPU is lost"), "GPU 3: GPU is lost"),
        (
            card(memory_used_bytes=GIB, holders=tuple(Holder(i, "a", None) for i in range(5))),
            "GPU 3: 1 GiB held by pid 0 a, pid 1 a, pid 2 a and 2 more",
        ),
    ],
)
def test_what_holds_a_gpu_is_said_with_pid_and_name(gpu: Gpu, words: str) -> None:
    assert why_not_free(gpu) == words


def test_only_taken_gpus_are_listed() -> None:
    held = card(memory_used_bytes=71 * GIB, holders=(HELD,))
    assert taken_gpus([card(), held]) == ("GPU 3: 71 GiB held by pid 4121 python",)


def test_a_process_of_this_machine_is_called_by_its_name() -> None:
    import os

    import psutil

    class HoldsItself(FakeNvml):
        def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> Any:  # noqa: N802
            gone = SimpleNamespace(pid=2**22 + 1, usedGpuMemory=0)
            return [SimpleNamespace(pid=os.getpid(), usedGpuMemory=1), gone]

    holders = query_gpus(HoldsItself(number=1))[0].holders
    assert [h.name for h in holders] == [psutil.Process().name(), "unknown"]


def test_the_real_pynvml_has_every_function_asked_for() -> None:
    needed: Callable[[str], bool] = lambda name: hasattr(pynvml, name)  # noqa: E731
    fakes = {**vars(FakeNvml), **vars(RackNvml)}
    functions = [name for name in fakes if name.lower().startswith("nvml")]
    assert all(map(needed, functions))


def test_the_bridges_above_a_card_and_a_gpu_come_from_the_same_tree(tmp_path: Path) -> None:
    bridge = tmp_path / "devices" / "pci0000:15" / "0000:15:01.0"
    for name in ("0000:16:00.0", "0000:17:00.0"):
        (bridge / name).mkdir(parents=True)
    make_port(tmp_path / "ib", "mlx5_0", state="4: ACTIVE", rate="400 Gb/sec (4X NDR)", numa=None)
    device = tmp_path / "ib" / "mlx5_0" / "device"
    if device.exists():
        device.rmdir()
    device.symlink_to(bridge / "0000:16:00.0")
    (port,) = query_rdma_ports(tmp_path / "ib")
    assert port.pci_path == "pci0000:15/0000:15:01.0/0000:16:00.0"
