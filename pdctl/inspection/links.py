"""The network between nodes: RDMA ports from sysfs."""

import re
from collections.abc import Sequence
from pathlib import Path

from pdctl.inspection.records import RdmaPort

SYS_INFINIBAND = Path("/sys/class/infiniband")
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*Gb/sec")


def query_rdma_ports(root: Path = SYS_INFINIBAND) -> tuple[RdmaPort, ...]:
    """Every port of every RDMA device; empty where there are none. Unreadable values are unknown.

    Source: Linux Documentation/ABI/stable/sysfs-class-infiniband.
    """
    folders = (port for device in _listed(root) for port in _listed(device / "ports"))
    return tuple(_port(folder) for folder in folders if folder.name.isdecimal())


def rdma_bytes_per_s_per_gpu(ports: Sequence[RdmaPort], num_gpus: int) -> float | None:
    """What the active ports of the fastest kind give each GPU. None: no active port is known.

    Ignores: slower ports (they mostly serve storage or management), which port is near which GPU.
    """
    rates = [port.bytes_per_s for port in ports if port.state == "ACTIVE" and port.bytes_per_s]
    if not rates or num_gpus < 1:
        return None
    fastest = max(rates)
    return fastest * min(1.0, rates.count(fastest) / num_gpus)


def parse_rate(text: str) -> float | None:
    """Bytes per second in "400 Gb/sec (4X NDR)"; None if it says nothing of the kind."""
    match = _RATE.match(text)
    return float(match.group(1)) * 1e9 / 8 if match else None


def _port(folder: Path) -> RdmaPort:
    device = folder.parent.parent
    state = _read(folder / "state")  # "4: ACTIVE"
    numa = _read(device / "device" / "numa_node")
    return RdmaPort(
        device=device.name,
        port=int(folder.name),
        state=state.rpartition(":")[2].strip() or "unknown",
        bytes_per_s=parse_rate(_read(folder / "rate")),
        numa_node=int(numa) if numa.isdecimal() else None,
    )


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
