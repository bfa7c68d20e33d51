from collections.abc import Callable

import pytest

from pdctl.errors import EnvironmentProblem, ExitCode, InvalidInput
from pdctl.inspection.cluster import (
    detect_cluster,
    gpu_model,
    known_gpu_names,
    machines_text,
    parse_gpus,
    require_gpu_model,
)
from pdctl.inspection.records import Gpu, RdmaPort


@pytest.mark.parametrize(
    ("reported", "kind"),
    [
        ("NVIDIA H200", "H200"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H100 NVL", "H100-NVL"),
        ("NVIDIA H800", "H800"),
        ("NVIDIA H20", "H20"),
        ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("A100-SXM4-40GB", "A100-40GB"),  # drivers before 470 leave the brand out
        ("A100-80G", "A100-80GB"),
        ("A100-SXM4-40G", "A100-40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB"),
        ("NVIDIA A800-SXM4-80GB", "A800"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GB200", "GB200"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("AMD Instinct MI300X", "MI300X"),
    ],
)
def test_the_name_a_driver_reports_is_understood(reported: str, kind: str) -> None:
    model = gpu_model(reported)
    assert model is not None
    assert model.name == kind


@pytest.mark.parametrize("typed", ["h100", "H100-SXM", "h100_sxm", " H100 "])
def test_a_name_is_understood_as_people_type_it(typed: str) -> None:
    model = gpu_model(typed)
    assert model is not None
    assert model.name == "H100"


@pytest.mark.parametrize("name", ["", "H1000", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "T4"])
def test_other_names_are_not_guessed_at(name: str) -> None:
    assert gpu_model(name) is None


def test_every_kind_is_plausible_and_says_where_its_figures_come_from() -> None:
    for name in known_gpu_names():
        model = gpu_model(name)
        assert model is not None
        assert model.name == name
        assert len(model.source) > 20
        assert 20e9 < model.memory_bytes < 320e9
        assert 0.5e12 < model.bandwidth_bytes_per_s < 10e12 or name in ("L40", "L40S", "A10")
        assert model.fp8_flops is None or 1.9 < model.fp8_flops / model.bf16_flops < 2.1
        assert model.fp4_flops is None or model.fp8_flops is not None


def test_the_kinds_the_readme_promises_are_there() -> None:
    promised = {"A100-40GB", "A100-80GB", "H20", "H100", "H100-PCIe", "H200", "B200", "GB200"}
    assert promised | {"MI300X", "L40S", "RTX-4090"} <= set(known_gpu_names())


def test_dense_rates_are_the_datasheet_halved_not_its_sparse_headline() -> None:
    h200 = gpu_model("H200")
    assert h200 is not None
    assert h200.bf16_flops == pytest.approx(1979e12 / 2, rel=0.001)
    assert h200.bandwidth_bytes_per_s == 4.8e12
    assert h200.peer_bytes_per_s == 900e9 / 2


def test_an_unknown_kind_says_which_are_known() -> None:
    nearest = "'H2000'; closest by name: H200, GH200, H20, "
    with pytest.raises(InvalidInput, match=nearest) as caught:
        require_gpu_model("H2000")
    assert "8xH" not in caught.value.hint


@pytest.mark.parametrize(
    "name",
    ["Ascend910B", "Ascend-910C", "Gaudi3", "TPU v6e", "MI450X", "MI250X", "RTX5080", "R200"]
    + ["VR200", "T4", "V100", "H20-3e", "L20", "RTX PRO 4500", "MLU590", "AMD Radeon 7900", "P800"],
)
def test_an_unknown_kind_never_becomes_another(name: str) -> None:
    with pytest.raises(InvalidInput, match="closest by name") as caught:
        require_gpu_model(name)
    assert caught.value.hint == "--gpus NxKIND; pdctl help gpus lists every kind"


def test_a_known_vendors_kinds_are_named_and_no_others() -> None:
    with pytest.raises(InvalidInput, match=r"by name: MI3\d\dX, MI3\d\dX, MI3\d\dX\."):
        require_gpu_model("MI450X")
    with pytest.raises(InvalidInput, match="name: RTX-5090") as caught:
        require_gpu_model("RTX5080")
    assert "MI300X" not in caught.value.message


@pytest.mark.parametrize(("typed", "meant"), [("100H", "H100"), ("300XMI", "MI300X")])
def test_a_name_in_another_order_is_suggested(typed: str, meant: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        require_gpu_model(typed)
    assert caught.value.hint == f"--gpus 8x{meant}"


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
        ("8xT4", "'T4'; closest by name"),
        ("1x2x3xH100", "'3xH100'; closest by name"),
        ("inf x H100", "closest by name"),
    ],
)
def test_a_wrong_description_says_what_is_wrong(text: str, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint) as caught:
        parse_gpus(text)
    assert caught.value.exit_code == ExitCode.BAD_INPUT
    assert "--gpus" in caught.value.message
    assert "--gpus" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "hosts", "again"),
    [
        ("8+4xH100", (8, 4), "8+4xH100"),
        ("4 + 2x8xH100", (8, 8, 4), "2x8+4xH100"),
        ("2x4+8xH100", (8, 4, 4), "8+2x4xH100"),
        ("8+8xH100", (), "2x8xH100"),
    ],
)
def test_nodes_may_have_different_numbers_of_gpus(
    text: str, hosts: tuple[int, ...], again: str
) -> None:
    found = parse_gpus(f"{text}:rdma400")
    assert (found.hosts, found.gpus_per_node, found.rdma_bytes_per_s) == (hosts, 8, 50e9)
    assert found.num_gpus == sum(hosts or (8, 8))
    assert machines_text(found) == again
    assert parse_gpus(machines_text(found)).hosts == hosts


@pytest.mark.parametrize(
    "text", ["4x8xH100+1x8xH20", "8xH100,8xH20", "4x8xRTX5090 + 1x8xH20", "8xH100 and 8xA100"]
)
def test_mixed_kinds_are_refused_in_words(text: str) -> None:
    with pytest.raises(InvalidInput, match="mixes 2 kinds or groups") as caught:
        parse_gpus(text)
    assert "plan each by itself: --gpus" in caught.value.hint


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
    with pytest.raises(EnvironmentProblem, match=r"NVIDIA T4.*closest by name: .*A10") as caught:
        detect_cluster(machine(h200(0, name="NVIDIA T4")), no_ports, {})
    assert "--gpus" in caught.value.hint


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("8H100", "8xH100"), ("H200x8", "8xH200"), ("2x8H100", "2x8xH100"), ("4 B200", "4xB200")],
)
def test_a_count_without_its_x_is_understood_in_the_hint(typed: str, meant: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_gpus(typed)
    assert caught.value.hint == f"did you mean --gpus {meant}?"
