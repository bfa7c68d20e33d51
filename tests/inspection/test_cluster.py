from collections.abc import Callable

import pytest

from pdctl.errors import EnvironmentProblem, ExitCode, InvalidInput
from pdctl.inspection.cluster import detect_cluster, parse_gpus
from pdctl.inspection.records import Gpu, RdmaPort

GIB = 1024**3


@pytest.mark.parametrize(
    ("text", "name", "nodes", "per_node", "rdma"),
    [
        ("8xH100", "H100", 1, 8, None),
        ("4x8xH200", "H200", 4, 8, None),
        ("2x8xB200:rdma400", "B200", 2, 8, 50e9),
        ("H200", "H200", 1, 1, None),
        ("8xMI300X", "MI300X", 1, 8, None),
        ("2xRTX4090", "RTX-4090", 1, 2, None),
        ("2x4090", "RTX-4090", 1, 2, None),
        (" 8 X h100-pcie ", "H100-PCIe", 1, 8, None),
        ("18x4xGB200:rdma800", "GB200", 18, 4, 100e9),
    ],
)
def test_a_description_becomes_a_cluster(
    text: str, name: str, nodes: int, per_node: int, rdma: float | None
) -> None:
    cluster = parse_gpus(text)
    assert (cluster.gpu.name, cluster.num_nodes, cluster.gpus_per_node) == (name, nodes, per_node)
    assert cluster.rdma_bytes_per_s == rdma
    assert cluster.origin == "described"
    assert cluster.num_gpus == nodes * per_node


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "how many GPUs of which type"),
        ("8", "how many GPUs of which type"),
        ("8x", "how many GPUs of which type"),
        ("-1xH100", "how many GPUs of which type"),
        ("8:H100", "how many GPUs of which type"),
        ("8xH100" * 100, "how many GPUs of which type"),
        ("0xH100", "GPUs per node must be 1 to 1,024"),
        ("0x8xH100", "nodes must be 1 to 10,000"),
        ("9" * 50 + "xH100", "GPUs per node must be"),
        ("2x8xB200:rdma", "':rdma' is not :rdma and Gbit/s"),
        ("2x8xB200:rdma0", "is not :rdma and Gbit/s"),
        ("2x8xB200:nvlink", "is not :rdma and Gbit/s"),
        ("8xT4", "'T4'; known are"),
        ("1x2x3xH100", "'3xH100'; known are"),
        ("inf x H100", "known are"),
    ],
)
def test_a_wrong_description_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint) as caught:
        parse_gpus(text)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert "--gpus" in caught.value.message
    assert "--gpus" in caught.value.hint


def h200(index: int, **changes: object) -> Gpu:
    values: dict[str, object] = {
        "index": index,
        "name": "NVIDIA H200",
        "uuid": f"GPU-{index}",
        "memory_total_bytes": 140 * GIB,
        "memory_used_bytes": 0,
    }
    return Gpu(**{**values, **changes})  # type: ignore[arg-type]


def machine(*gpus: Gpu) -> Callable[[], tuple[Gpu, ...]]:
    return lambda: gpus


def no_ports() -> tuple[RdmaPort, ...]:
    return ()


def test_a_detected_machine_is_one_node_with_its_devices() -> None:
    cluster = detect_cluster(machine(h200(0), h200(1)), no_ports, {})
    assert (cluster.num_nodes, cluster.gpus_per_node, cluster.gpu.name) == (1, 2, "H200")
    assert [gpu.index for gpu in cluster.devices] == [0, 1]
    assert cluster.rdma_bytes_per_s is None


def test_a_dead_gpu_and_a_stray_card_of_another_kind_are_not_counted() -> None:
    dead = h200(1, problem="GPU is lost")
    stray = h200(3, name="NVIDIA A10")
    cluster = detect_cluster(machine(h200(0), dead, h200(2), stray), no_ports, {})
    assert [gpu.index for gpu in cluster.devices] == [0, 2]


def test_the_memory_is_what_the_smallest_card_reports() -> None:
    small = h200(1, memory_total_bytes=100 * GIB)
    assert detect_cluster(machine(h200(0), small), no_ports, {}).gpu.memory_bytes == 100 * GIB


def test_rdma_is_shared_between_the_gpus() -> None:
    ports = tuple(RdmaPort(f"mlx5_{i}", 1, "ACTIVE", 50e9) for i in range(2))
    gpus = machine(*(h200(i) for i in range(4)))
    assert detect_cluster(gpus, lambda: ports, {}).rdma_bytes_per_s == 25e9


def test_only_what_cuda_visible_devices_leaves_is_planned_for() -> None:
    gpus = machine(h200(0), h200(1), h200(2))
    cluster = detect_cluster(gpus, no_ports, {"CUDA_VISIBLE_DEVICES": "1,2"})
    assert [gpu.index for gpu in cluster.devices] == [1, 2]
    with pytest.raises(EnvironmentProblem, match="within CUDA_VISIBLE_DEVICES=9"):
        detect_cluster(gpus, no_ports, {"CUDA_VISIBLE_DEVICES": "9"})


@pytest.mark.parametrize("gpus", [(), (h200(0, problem="GPU is lost"),)])
def test_no_gpu_is_a_problem_of_the_environment_with_a_way_on(gpus: tuple[Gpu, ...]) -> None:
    with pytest.raises(EnvironmentProblem) as caught:
        detect_cluster(machine(*gpus), no_ports, {})
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert "--gpus" in caught.value.hint


def test_a_card_without_figures_is_named_with_those_that_have_them() -> None:
    with pytest.raises(EnvironmentProblem, match=r"NVIDIA T4.*known are .*H200") as caught:
        detect_cluster(machine(h200(0, name="NVIDIA T4")), no_ports, {})
    assert "--gpus" in caught.value.hint
