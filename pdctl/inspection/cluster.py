"""The GPUs that a plan may use: from a description such as 8xH100, or those of this machine."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from functools import cache
from typing import Any

from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.gpus import (
    query_gpus,
    query_rdma_ports,
    rdma_bytes_per_s_per_gpu,
    visible_gpus,
)
from pdctl.inspection.records import Cluster, Gpu, GpuModel, RdmaPort
from pdctl.paths import profiles_dir
from pdctl.units import GB, MIB

CPU_NAME = "CPU"
NUM_NEAREST = 5  # kinds of GPU that an unknown name is answered with


def cpu_cluster() -> Cluster:
    """A cluster of one "GPU" that is this machine's processor.

    Source: assumed, 20 GB/s of memory and 50 GFLOP/s a core; a calibration replaces them.
    """
    import psutil

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    model = GpuModel(
        name=CPU_NAME,
        memory_bytes=float(psutil.virtual_memory().total),
        bandwidth_bytes_per_s=20 * GB,
        bf16_flops=50e9 * cores,
        fp8_flops=None,
        fp4_flops=None,
        peer_bytes_per_s=None,
        pcie_bytes_per_s=1 * GB,
        source="assumed: 20 GB/s and 50 GFLOP/s a core",
    )
    return Cluster(model, 1, 8, None, "detected")


_OTHERS = ("ascend", "gaudi", "tpu", "trainium", "inferentia", "hygon", "kunlun", "mlu", "xpu")
_NVIDIA = re.compile(r"(a|b|g|h|l|t|v|gb|gh|rtx|quadro|dgx|hgx|tesla)\d")
_AMD = re.compile(r"(mi|w|rx)\d")
_BRANDS = ("nvidia", "amdinstinct", "geforce")


def gpu_model(name: str) -> GpuModel | None:
    """The kind of GPU that `name` means, or None.

    name: as a person types it ("h100", "RTX 4090") or as NVML gives it ("NVIDIA H100 80GB HBM3").
    Source: each record's `source`; figures in profiles/gpus.json.
    """
    return _models().get(_plain(name))


def known_gpu_names() -> tuple[str, ...]:
    """The kinds of GPU there are figures for, one name each."""
    return tuple(dict.fromkeys(model.name for model in _models().values()))


def require_gpu_model(name: str) -> GpuModel:
    """The kind of GPU that `name` means. Raises InvalidInput that names the nearest kinds."""
    model = gpu_model(name)
    if model is None:
        raise InvalidInput(
            f"--gpus: pdctl has no figures for a GPU named {name[:60]!r}; "
            f"closest by name: {_nearest(name)}.",
            hint=known_hint(name),
            code="unknown_gpu",
        )
    return model


def known_hint(name: str) -> str:
    """A hint for an unknown name. Never suggests a kind with other digits than those typed."""
    meant = _misspelt(name)
    return f"--gpus 8x{meant}" if meant else "--gpus NxKIND; pdctl help gpus lists every kind"


def _nearest(name: str) -> str:
    """The kinds with the most similar names, of the same vendor if that is known and has any."""
    vendor, known = _vendor(name), known_gpu_names()
    alike = [kind for kind in known if vendor and _vendor(kind) == vendor] or list(known)
    plain = _plain(name[:60])
    alike.sort(key=lambda kind: -SequenceMatcher(None, plain, _plain(kind)).ratio())
    return ", ".join(alike[:NUM_NEAREST])


def _misspelt(name: str) -> str | None:
    """The known kind whose digits and letters are those of `name`, in another order or spelling."""
    plain = _plain(name[:60])
    number = "".join(c for c in plain if c.isdigit())
    for known in known_gpu_names():
        other = _plain(known)
        same_number = number and number == "".join(c for c in other if c.isdigit())
        if same_number and plain != other and _letters(plain) == _letters(other):
            return known
    return None


def _letters(plain: str) -> list[str]:
    return sorted(c for c in plain if c.isalpha())


def _vendor(name: str) -> str | None:
    text = name.lower()
    if any(word in text for word in _OTHERS):
        return None
    if "nvidia" in text or "geforce" in text or _NVIDIA.match(_plain(name)):
        return "NVIDIA"
    return "AMD" if _AMD.match(_plain(name)) or "amd" in text or "radeon" in text else None


def _plain(name: str) -> str:
    text = "".join(c for c in name.lower() if c.isalnum())
    for brand in _BRANDS:
        text = text.removeprefix(brand)
    return re.sub(r"(\d)g(?!b)", r"\1gb", text)  # people write 80G for 80GB


@cache
def _models() -> dict[str, GpuModel]:
    rows = json.loads((profiles_dir() / "gpus.json").read_text(encoding="utf-8"))["gpus"]
    models: dict[str, GpuModel] = {}
    for row in rows:
        model = _from_row(row)
        models.update((_plain(name), model) for name in (row["name"], *row["aliases"]))
    return models


def _from_row(row: dict[str, Any]) -> GpuModel:
    return GpuModel(
        name=row["name"],
        memory_bytes=row["memory_mib"] * MIB,
        bandwidth_bytes_per_s=row["bandwidth_gb_per_s"] * GB,
        bf16_flops=row["bf16_tflops"] * 1e12,
        fp8_flops=_scaled(row["fp8_tflops"], 1e12),
        fp4_flops=_scaled(row["fp4_tflops"], 1e12),
        peer_bytes_per_s=_scaled(row["peer_gb_per_s"], GB),
        pcie_bytes_per_s=row["pcie_gb_per_s"] * GB,
        source=row["source"],
    )


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit


_EXAMPLES = "--gpus 8xH100, --gpus 4x8xH200 or --gpus 2x8xB200:rdma400"
_DESCRIPTION = re.compile(
    r"(?:(?P<first>\d+)\s*[x×*]\s*)?(?:(?P<second>\d+)\s*[x×*]\s*)?(?P<name>[^:]*?)(?P<rest>:.*)?",
    re.IGNORECASE,
)
_COUNT_AND_KIND = re.compile(
    r"(?P<count>\d{1,4})[\s_-]*(?P<kind>[a-z].*)|(?P<first_kind>.+?)\s*[x×*]\s*(?P<last_count>\d{1,4})",
    re.IGNORECASE,
)
_UNEQUAL = re.compile(
    r"(?P<groups>(?:(?:\d+\s*[x×*]\s*)?\d+\s*\+\s*)+)"
    r"(?P<last>(?:\d+\s*[x×*]\s*){1,2}[a-z].*)",
    re.IGNORECASE,
)
_NUMBERS = re.compile(r"\d+")
_GROUPS = re.compile(r"[+,;&]|\band\b")
_NAME = re.compile(r"\d*\s*[a-z]|\d{3}", re.IGNORECASE)
_RDMA = re.compile(r"rdma(\d+(?:\.\d+)?)(?:g|gb|gbps|gb/s)?", re.IGNORECASE)
_MOST_PER_NODE = 1024
MOST_NODES = 10_000
_FASTEST_RDMA_GBIT_PER_S = 100_000


def described_gpus(num_nodes: int, gpus_per_node: int, name: str) -> str:
    """Machines as `parse_gpus` reads them: "8xH100" or "2x8xH100"."""
    nodes = f"{num_nodes}x" if num_nodes > 1 else ""
    return f"{nodes}{gpus_per_node}x{name}"


def machines_text(cluster: Cluster) -> str:
    """A cluster as `parse_gpus` reads it, without its network: "2x8+4xH100" where nodes differ."""
    if sum(cluster.hosts) in (0, cluster.num_nodes * cluster.gpus_per_node):
        return described_gpus(cluster.num_nodes, cluster.gpus_per_node, cluster.gpu.name)
    counts = sorted(cluster.num_hosts_of.items(), reverse=True)
    groups = "+".join(f"{n}x{each}" if n > 1 else str(each) for each, n in counts)
    return f"{groups}x{cluster.gpu.name}"


def parse_gpus(text: str, *, described: GpuModel | None = None) -> Cluster:
    """The machines in "8xH100", "4x8xH200" (nodes × GPUs × type) or "2x8xB200:rdma400".

    "2x8+4xH100" are two nodes with eight GPUs and one with four.
    described: a kind of GPU from --gpu-file, which `text` must name.
    rdma: Gbit/s between nodes, per GPU and direction; unknown when not given.
    Raises InvalidInput for anything else, naming the part that is wrong.
    """
    unequal = _UNEQUAL.fullmatch(text.strip()) if len(text) <= 200 else None
    if unequal is not None:
        return _unequal(unequal["groups"], parse_gpus(unequal["last"], described=described), text)
    if parts := _kinds(text):
        raise InvalidInput(
            f"--gpus {text[:60]!r} mixes {len(parts)} kinds or groups of GPUs; "
            "pdctl plans for GPUs that are all alike.",
            hint=f"plan each by itself: --gpus {parts[0]}, then --gpus {parts[1]}",
        )
    match = _DESCRIPTION.fullmatch(text.strip()) if len(text) <= 200 else None
    if match is None or not _NAME.match(match["name"]):
        raise InvalidInput(
            f"--gpus {text[:60]!r} does not say how many GPUs of which type.", hint=_EXAMPLES
        )
    numbers = [int(n[:9]) for n in (match["first"], match["second"]) if n is not None]
    per_node = _within(numbers[-1] if numbers else 1, _MOST_PER_NODE, "GPUs per node", text)
    nodes = _within(numbers[0] if len(numbers) == 2 else 1, MOST_NODES, "nodes", text)
    rdma = _rdma_bytes_per_s(match["rest"], text)
    name = match["name"].strip()
    if gpu_model(name) is None and (meant := _with_x(numbers, name)):
        raise InvalidInput(
            f"--gpus {text[:60]!r} does not say how many GPUs of which type.",
            hint=f"did you mean --gpus {meant}?",
        )
    if described is not None and _plain(described.name) != _plain(name):
        raise InvalidInput(
            f"--gpus names {name}, and --gpu-file describes {described.name}.",
            hint=f"--gpus {nodes * per_node}x{described.name}, or no --gpu-file",
        )
    return Cluster(described or require_gpu_model(name), nodes, per_node, rdma, "described")


def _unequal(groups: str, last: Cluster, text: str) -> Cluster:
    """The nodes of `last`, and those of the groups before it."""
    hosts = [last.gpus_per_node] * last.num_nodes
    for group in groups.rstrip("+ ").split("+"):
        each, num = (int(n[:9]) for n in [*_NUMBERS.findall(group)[::-1], "1"][:2])
        hosts += [_within(each, _MOST_PER_NODE, "GPUs per node", text)] * _within(
            num, MOST_NODES, "nodes", text
        )
    return with_hosts(
        replace(last, num_nodes=_within(len(hosts), MOST_NODES, "nodes", text)), hosts
    )


def with_hosts(cluster: Cluster, hosts: Sequence[int]) -> Cluster:
    """The cluster with nodes of so many GPUs, equal or not."""
    differ = tuple(sorted(hosts, reverse=True)) if len(set(hosts)) > 1 else ()
    return replace(cluster, num_nodes=len(hosts), gpus_per_node=max(hosts), hosts=differ)


def _with_x(numbers: Sequence[int], name: str) -> str | None:
    """The meaning of "8H100" or "H100x8", "8xH100". None unless a known kind has a count."""
    found = _COUNT_AND_KIND.fullmatch(name)
    kind = gpu_model(found["kind"] or found["first_kind"]) if found else None
    if found is None or kind is None:
        return None
    count = found["count"] or found["last_count"]
    return "x".join((*map(str, numbers), count, kind.name))


def _kinds(text: str) -> list[str]:
    """The groups of "4x8xH100+1x8xH20" or "8xH100,8xH20". Empty if there is only one group."""
    parts = [part.strip() for part in _GROUPS.split(text[:200]) if part.strip()]
    return parts if len(parts) > 1 else []


def detect_cluster(
    query: Callable[[], tuple[Gpu, ...]] = query_gpus,
    query_ports: Callable[[], tuple[RdmaPort, ...]] = query_rdma_ports,
    environ: Mapping[str, str] = os.environ,
) -> Cluster:
    """This machine as a cluster of one node, with the GPUs of its most common kind.

    devices: every GPU of that kind that answers and that CUDA_VISIBLE_DEVICES allows, free or not.
    Raises EnvironmentProblem if there is no GPU or its kind is unknown.
    """
    limit = environ.get("CUDA_VISIBLE_DEVICES")
    alive = [gpu for gpu in visible_gpus(query(), limit) if gpu.problem is None]
    if not alive:
        within = "" if limit is None else f" within CUDA_VISIBLE_DEVICES={limit[:40]}"
        raise EnvironmentProblem(
            f"No GPU on this machine answers{within}.",
            hint=f"name the GPUs to plan for: {_EXAMPLES}",
            code="no_gpu",
        )
    name = Counter(gpu.name for gpu in alive).most_common(1)[0][0]
    devices = tuple(gpu for gpu in alive if gpu.name == name)
    rdma = rdma_bytes_per_s_per_gpu(query_ports(), len(devices))
    model = _as_installed(_require_detected(name), devices)
    return Cluster(model, 1, len(devices), rdma, "detected", devices)


def cluster_of_nodes(
    free: Mapping[str, Sequence[Gpu]],
    rdma: Mapping[str, float | None],
    *,
    where: str,
    hint: str | None = None,
) -> Cluster:
    """The free GPUs of each node as a cluster; nodes without any are left out.

    rdma: bytes/s between nodes for each GPU, by node; unknown if it is for one of the nodes.
    where: those nodes, for an error. hint: where their kinds differ.
    Raises EnvironmentProblem without a free GPU, for several kinds, and for an unknown kind.
    """
    kinds = Counter(gpu.name for gpus in free.values() for gpu in gpus)
    if not kinds:
        raise EnvironmentProblem(
            f"No GPU of {where} is free.",
            hint=f"name the GPUs to plan for: {_EXAMPLES}",
            code="no_gpu",
        )
    if len(kinds) > 1:
        raise EnvironmentProblem(
            f"The free GPUs of {where} are of {len(kinds)} kinds: {gpus_of_each(free)}.",
            hint=hint or f"plan each kind by itself: {_EXAMPLES}",
        )
    model = _require_detected(next(iter(kinds)), f"the GPUs of {where}")
    used = {node: gpus for node, gpus in free.items() if gpus}
    devices = tuple(gpu for gpus in used.values() for gpu in gpus)
    rates = [rdma.get(node) for node in used]
    known = [rate for rate in rates if rate is not None]
    slowest = min(known) if len(known) == len(rates) else None
    installed = _as_installed(model, devices)
    return with_hosts(Cluster(installed, 1, 1, slowest, "detected"), [*map(len, used.values())])


def gpus_of_each(nodes: Mapping[str, Sequence[Gpu]]) -> str:
    """The GPUs of each node that has some, as in "a has 8 NVIDIA H200, b has 4 NVIDIA L4"."""
    found = (
        (node, " and ".join(f"{n} {kind}" for kind, n in Counter(g.name for g in gpus).items()))
        for node, gpus in nodes.items()
        if gpus
    )
    return ", ".join(f"{node} has {text}" for node, text in found)


def _within(number: int, most: int, what: str, text: str) -> int:
    if not 1 <= number <= most:
        raise InvalidInput(f"--gpus {text[:60]!r}: {what} must be 1 to {most:,}.", hint=_EXAMPLES)
    return number


def _rdma_bytes_per_s(rest: str | None, text: str) -> float | None:
    if rest is None:
        return None
    match = _RDMA.fullmatch(rest[1:].strip())
    if match is None or not 0 < float(match[1]) <= _FASTEST_RDMA_GBIT_PER_S:
        raise InvalidInput(
            f"--gpus {text[:60]!r}: {rest[:20]!r} is not :rdma and Gbit/s per GPU.",
            hint="--gpus 2x8xB200:rdma400",
        )
    return float(match[1]) * 1e9 / 8


def _require_detected(name: str, what: str = "this machine's GPU") -> GpuModel:
    model = gpu_model(name)
    if model is None:
        raise EnvironmentProblem(
            f"pdctl has no figures for {what}, {name!r}; closest by name: {_nearest(name)}.",
            hint=f"name a kind to plan for: {known_hint(name)}",
            code="unknown_gpu",
        )
    return model


def _as_installed(model: GpuModel, devices: tuple[Gpu, ...]) -> GpuModel:
    """`model` with the memory that the installed cards report."""
    reported = [gpu.memory_total_bytes for gpu in devices if gpu.memory_total_bytes]
    return replace(model, memory_bytes=float(min(reported))) if reported else model
