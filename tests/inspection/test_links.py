from pathlib import Path

import pytest

from pdctl.inspection.links import parse_rate, query_rdma_ports, rdma_bytes_per_s_per_gpu
from pdctl.inspection.records import RdmaPort


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
