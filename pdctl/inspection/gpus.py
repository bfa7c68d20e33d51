"""The GPUs of this machine through NVML, whatever its driver can tell."""

import ctypes
import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pdctl.errors import EnvironmentProblem
from pdctl.inspection.records import Gpu, Holder, RdmaPort
from pdctl.units import GIB, UNKNOWN, format_bytes

SYS_INFINIBAND = Path("/sys/class/infiniband")
_RATE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*Gb/sec")


def query_rdma_ports(root: Path = SYS_INFINIBAND) -> tuple[RdmaPort, ...]:
    """Every port of every RDMA device; empty where there are none. Unreadable values are unknown.

    Source: Linux Documentation/ABI/stable/sysfs-class-infiniband.
    """
    folders = (port for device in _listed(root) for port in _listed(device / "ports"))
    return tuple(_port(folder) for folder in folders if folder.name.isdecimal())


def rdma_bytes_per_s_per_gpu(ports: Sequence[RdmaPort], num_gpus: int) -> float | None:
    """The bandwidth that the active ports of the fastest kind give each GPU. None: no active port.

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
        pci_path=_pci_path(device / "device"),
    )


def _pci_path(device: Path) -> str:
    """The bridges above a device and the device itself, from the root of its PCI tree on."""
    parts = device.resolve().parts
    roots = [i for i, part in enumerate(parts) if part.startswith("pci")]
    return "/".join(parts[roots[0] :]) if roots else ""


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


FREE_BELOW_BYTES = 2 * GIB  # a driver reserves hundreds of MiB of a card that does nothing
SYS_PCI = Path("/sys/bus/pci/devices")
# They hold a context on every card without using it.
_BYSTANDERS = frozenset(("nvidia-cuda-mps-server", "nv-hostengine", "dcgm-exporter"))
_NO_GPU_HINT = "--gpus 8xH100 to plan, or --engine sim for simulated engines"


def query_gpus(
    nvml: Any = None,
    *,
    process_name: Callable[[int], str] | None = None,
    sys_pci: Path = SYS_PCI,
) -> tuple[Gpu, ...]:
    """Every GPU NVML lists; one that cannot be read is a row with `problem`.

    nvml: a module with pynvml's functions, pynvml itself by default.
    Raises EnvironmentProblem without a driver or without NVML.
    Source: NVML API reference (docs.nvidia.com/deploy/nvml-api).
    """
    library = nvml if nvml is not None else _pynvml()
    with _session(library):
        try:
            number = int(library.nvmlDeviceGetCount())
        except library.NVMLError as problem:
            raise _no_gpu(str(problem)) from None
        handles = [_handle(library, index) for index in range(number)]
        name_of = process_name or _process_name
        return tuple(
            _gpu(library, index, handles, name_of, sys_pci) for index in range(len(handles))
        )


def visible_gpus(gpus: Sequence[Gpu], cuda_visible_devices: str | None) -> tuple[Gpu, ...]:
    """The GPUs that a CUDA_VISIBLE_DEVICES leaves over, in its order; all of them for None.

    Source: CUDA C programming guide: indices or UUID prefixes, cut off at the first unknown one.
    Ignores: an index order other than CUDA_DEVICE_ORDER=PCI_BUS_ID, which NVML has.
    """
    if cuda_visible_devices is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for entry in filter(None, map(str.strip, cuda_visible_devices.split(","))):
        found = next((gpu for gpu in gpus if _is_named(gpu, entry)), None)
        if found is None:
            break
        chosen.append(found)
    return tuple(dict.fromkeys(chosen))


def _is_named(gpu: Gpu, entry: str) -> bool:
    return entry == str(gpu.index) or (entry.startswith("GPU-") and gpu.uuid.startswith(entry))


def is_free(gpu: Gpu) -> bool:
    """True if an engine may use it: it answers, runs no process, and its memory is almost empty.

    Memory counts as well as holders: inside a container NVML names no process of another one.
    """
    return gpu.problem is None and not has_holder(gpu) and is_empty(gpu)


def has_holder(gpu: Gpu) -> bool:
    """True if a known process computes on it."""
    return any(holder.name not in _BYSTANDERS for holder in gpu.holders)


def is_empty(gpu: Gpu) -> bool:
    """True if little of its memory is in use. Unknown use counts as little."""
    return gpu.memory_used_bytes is None or gpu.memory_used_bytes < FREE_BELOW_BYTES


def why_not_free(gpu: Gpu) -> str:
    """The processes that hold a GPU, for an error: "GPU 3: 71 GiB held by pid 4121 python"."""
    if gpu.problem is not None:
        return f"GPU {gpu.index}: {gpu.problem}"
    used = format_bytes(gpu.memory_used_bytes)
    holders = [holder for holder in gpu.holders if holder.name not in _BYSTANDERS]
    if not holders:
        return f"GPU {gpu.index}: {used} held by a process not visible from here"
    named = [f"pid {holder.pid} {holder.name}" for holder in holders[:3]]
    more = f" and {len(holders) - 3} more" if len(holders) > 3 else ""
    return f"GPU {gpu.index}: {used} held by {', '.join(named)}{more}"


def taken_gpus(gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """A clause for each GPU that is not free, in the order given."""
    return tuple(why_not_free(gpu) for gpu in gpus if not is_free(gpu))


def room_text(num_free: int, gpus: Sequence[Gpu]) -> str:
    """The number of free GPUs and the holders of the others, as in "6 of 8 (GPU 3: ...)"."""
    busy = f" ({', '.join(taken_gpus(gpus))})" if taken_gpus(gpus) else ""
    return f"{num_free} of {len(gpus)}{busy}"


def _pynvml() -> Any:
    try:
        import pynvml
    except ImportError:
        raise _no_gpu("the Python package nvidia-ml-py is not installed") from None
    return pynvml


@contextmanager
def _session(nvml: Any) -> Iterator[None]:
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError, OSError) as problem:
        raise _no_gpu(_words(problem)) from None
    try:
        yield
    finally:
        _ask(nvml, "nvmlShutdown")


def _no_gpu(why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"No NVIDIA GPU can be seen on this machine ({why}).", hint=_NO_GPU_HINT, code="no_gpu"
    )


def _handle(nvml: Any, index: int) -> Any:
    """The handle of a card, or the error that NVML raises for one that fell off the bus."""
    try:
        return nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as problem:
        return problem


def _gpu(
    nvml: Any, index: int, handles: list[Any], name_of: Callable[[int], str], sys_pci: Path
) -> Gpu:
    handle = handles[index]
    if isinstance(handle, nvml.NVMLError):
        return _dead(index, handle)
    try:
        name = _text(nvml.nvmlDeviceGetName(handle))
        total, used = _memory(nvml, handle)
    except nvml.NVMLError as problem:
        return _dead(index, problem)
    device = _sys_device(nvml, handle, sys_pci)
    return Gpu(
        index=index,
        name=name,
        uuid=_text(_ask(nvml, "nvmlDeviceGetUUID", handle) or ""),
        memory_total_bytes=total,
        memory_used_bytes=used,
        holders=_holders(nvml, handle, name_of),
        nvlink_peers=_nvlink_peers(nvml, index, handles),
        numa_node=_numa_node(device),
        pci_path=_pci_path(device) if device else "",
        fabric=_fabric(nvml, handle),
        problem="split by MIG, engines need whole GPUs" if _is_split(nvml, handle) else None,
    )


def _dead(index: int, problem: Exception) -> Gpu:
    return Gpu(index, UNKNOWN, "", None, None, problem=_words(problem))


def _words(problem: Exception) -> str:
    return str(problem).strip() or type(problem).__name__


def _is_split(nvml: Any, handle: Any) -> bool:
    mode = _ask(nvml, "nvmlDeviceGetMigMode", handle)  # current, pending
    return bool(mode) and mode[0] == 1


def _memory(nvml: Any, handle: Any) -> tuple[int | None, int | None]:
    """Total and used bytes; unknown on cards without memory of their own."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as problem:
        if _is(nvml, problem, "NVML_ERROR_NOT_SUPPORTED"):
            return None, None
        raise
    return int(memory.total), int(memory.used)


def _is(nvml: Any, problem: Any, code: str) -> bool:
    return getattr(problem, "value", None) == getattr(nvml, code, object())


def _ask(nvml: Any, function: str, *arguments: Any) -> Any:
    """The result of an NVML function, or None if this driver or pynvml lacks it."""
    call = getattr(nvml, function, None)
    if call is None:
        return None
    try:
        return call(*arguments)
    except (nvml.NVMLError, AttributeError, TypeError):
        return None


def _holders(nvml: Any, handle: Any, name_of: Callable[[int], str]) -> tuple[Holder, ...]:
    for version in ("", "_v3", "_v2"):
        found = _ask(nvml, f"nvmlDeviceGetComputeRunningProcesses{version}", handle)
        if found is not None:
            used = {int(p.pid): getattr(p, "usedGpuMemory", None) for p in found}
            return tuple(Holder(pid, name_of(pid), bytes_) for pid, bytes_ in used.items())
    return ()


def _process_name(pid: int) -> str:
    import psutil

    try:
        return psutil.Process(pid).name()
    except (psutil.Error, ValueError, OSError):
        return UNKNOWN


def _nvlink_peers(nvml: Any, index: int, handles: list[Any]) -> tuple[int, ...]:
    """The cards reached over NVLink, directly or through a switch."""
    reached = getattr(nvml, "NVML_P2P_STATUS_OK", 0)
    caps = getattr(nvml, "NVML_P2P_CAPS_INDEX_NVLINK", 2)
    others = ((i, h) for i, h in enumerate(handles) if i != index)
    return tuple(
        i
        for i, other in others
        if not isinstance(other, nvml.NVMLError)
        and _ask(nvml, "nvmlDeviceGetP2PStatus", handles[index], other, caps) == reached
    )


def _fabric(nvml: Any, handle: Any) -> str:
    """The NVLink fabric of a card and its clique there, as in an NVL72 rack; "" without one.

    Source: NVML API reference (nvmlDeviceGetGpuFabricInfoV): cards of one cluster and one clique
        reach each other. A single host with NVSwitches has a cluster of zeros, or none.
    """
    make = getattr(nvml, "c_nvmlGpuFabricInfoV_t", None)
    if make is None:
        return ""
    info = make()
    if _ask(nvml, "nvmlDeviceGetGpuFabricInfoV", handle, ctypes.byref(info)) is None:
        return ""
    cluster = bytes(info.clusterUuid)
    is_complete = info.state == nvml.NVML_GPU_FABRIC_STATE_COMPLETED and info.status == 0
    return f"{uuid.UUID(bytes=cluster)}.{info.cliqueId}" if is_complete and any(cluster) else ""


def _sys_device(nvml: Any, handle: Any, sys_pci: Path) -> Path | None:
    """The folder of a card under /sys."""
    pci = _ask(nvml, "nvmlDeviceGetPciInfo", handle)
    if pci is None:
        return None
    domain, _, rest = _text(pci.busId).lower().partition(":")
    return sys_pci / f"{domain[-4:]}:{rest}"


def _numa_node(device: Path | None) -> int | None:
    # nvmlDeviceGetNumaNodeId means something else: a card that is itself a NUMA node
    text = _read(device / "numa_node") if device else ""
    return int(text) if text.isdecimal() else None


def _text(value: Any) -> str:
    """Decode a name: older versions of pynvml return bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
