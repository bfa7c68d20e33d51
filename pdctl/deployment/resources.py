"""The node, GPUs and KV transfer backend of each engine."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby, islice

from pdctl.deployment.records import Deployment, GpuPlace, ProcessSpec
from pdctl.deployment.sglang_flags import options
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.gpus import is_free, room_text, taken_gpus
from pdctl.inspection.records import Cluster, Gpu, SglangInstall
from pdctl.units import format_number_of

# backend -> the Python package that must import for it
NEEDS = {
    "mooncake": "mooncake",
    "mooncake_tcp": "mooncake",
    "nixl": "nixl",
    "ascend": "ascend",
    "mori": "mori",
}


def choose_backend(
    install: SglangInstall, *, requested: str = "auto", rdma: bool, nvlink: bool
) -> tuple[str, str]:
    """The KV transfer backend, and the path that KV takes, in words.

    Mooncake, SGLang's default, is built for RDMA; without RDMA its GPU memory transfers fail under
    load, while NIXL uses NVLink or shared memory through UCX.

    Args:
        requested: "auto", or the backend to use.
        rdma: an RDMA port is active.
        nvlink: the GPUs reach each other over NVLink.

    Raises:
        InvalidInput: SGLang has no backend of that name.
        EnvironmentProblem: the requested backend, or every backend, fails to import.

    Source: SGLang issues 7118, 15665 (Mooncake without RDMA), 23272 (NIXL holds where Mooncake
        drops sessions), 21395 (inactive ports).
    Ignores: backends for other vendors' GPUs, unless requested.
    """
    if requested != "auto":
        return _requested(install, requested), f"{requested}, as requested"
    has = set(install.backends)
    if rdma and "mooncake" in has:
        return "mooncake", "Mooncake over RDMA"
    if "nixl" in has:
        way = "RDMA" if rdma else "NVLink" if nvlink else "shared memory and TCP"
        return "nixl", f"NIXL over {way}"
    if "mooncake" in has:
        return "mooncake_tcp", "Mooncake over TCP, slow: no RDMA here, and NIXL is not installed"
    others = [name for name in ("mori", "ascend") if name in has]
    if others:
        return others[0], f"{others[0]}, the only one installed"
    raise _missing(install, "No KV transfer backend imports", "nixl")


def _requested(install: SglangInstall, backend: str) -> str:
    if backend not in NEEDS:
        raise InvalidInput(
            f"SGLang has no KV transfer backend {backend!r}.",
            hint=f"--transfer-backend auto, or one of {', '.join(NEEDS)}",
        )
    if NEEDS[backend] not in install.backends:
        raise _missing(install, f"KV transfer backend {backend} does not import", NEEDS[backend])
    return backend


def _missing(install: SglangInstall, what: str, package: str) -> EnvironmentProblem:
    wheels = {"nixl": "nixl", "mooncake": "mooncake-transfer-engine"}
    hint = f"{install.python} -m pip install {wheels[package]}, or " if package in wheels else ""
    return EnvironmentProblem(
        f"{what} in {install.python}.",
        hint=f"{hint}--engine sim to rehearse",
        code="no_kv_backend",
    )


_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def needs_gpus(deployment: Deployment) -> bool:
    """True if the engines need real GPUs: they are neither simulated nor on `--device cpu`."""
    if deployment.engine == "sim":
        return False
    return any(options(role.args).get("--device") != "cpu" for role in deployment.roles.values())


def assign_gpus(deployment: Deployment, gpus: Sequence[Gpu]) -> dict[str, tuple[int, ...]]:
    """The GPU indices of each engine on one node, by name.

    Only free GPUs. An engine goes into one NVLink domain if a domain has room: into the smallest
    such domain, so that larger ones stay whole. Simulated engines get the numbers 0, 1, ...;
    engines on the CPU get none.

    Args:
        gpus: the GPUs of the node; ignored unless `needs_gpus(deployment)`.

    Raises:
        InvalidInput: --gpus names a missing GPU or, for simulated engines, an unknown kind or too
            few of them.
        EnvironmentProblem: too few GPUs are free.
    """
    if not needs_gpus(deployment):
        return _numbered(deployment)
    chosen = _chosen(deployment, gpus)
    free = [gpu for gpu in chosen if is_free(gpu)]
    if len(free) < deployment.num_gpus:
        raise _too_few(deployment, chosen, free)
    return _placed(deployment, free)


def parse_gpu_list(text: str) -> tuple[int, ...]:
    """The indices in "0-3,6".

    Raises InvalidInput unless it is a list of indices and ranges, each named once.
    """
    parts = [_RANGE.fullmatch(part.strip()) for part in text.split(",")]
    indices = [
        index
        for match in parts
        if match
        for index in range(int(match[1]), int(match[2] or match[1]) + 1)
    ]
    if None in parts or not indices or len(set(indices)) < len(indices):
        raise InvalidInput(
            f"--gpus {text!r} is not a list of GPUs of this machine.",
            hint="--gpus 0-3,6 to choose; --engine sim --gpus 8xH200 to rehearse on others",
        )
    return tuple(indices)


def nvlink_domains(gpus: Sequence[Gpu]) -> list[list[Gpu]]:
    """The groups of `gpus` linked by NVLink; without NVLink each GPU is a group."""
    domains: list[list[Gpu]] = []
    for gpu in gpus:
        joined = [d for d in domains if any(_linked(gpu, other) for other in d)]
        merged = [gpu for d in joined for gpu in d] + [gpu]
        domains = [d for d in domains if d not in joined] + [merged]
    return [sorted(d, key=lambda gpu: gpu.index) for d in domains]


@dataclass(frozen=True)
class Place:
    """The place of an engine: a node, and GPU indices there. others: its parts on other nodes."""

    node: str
    gpus: tuple[int, ...]
    others: "tuple[Place, ...]" = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node that the engine runs on."""
        return (self.node, *(other.node for other in self.others))


def crossing(placed: Mapping[str, Place], gpus: Mapping[str, Sequence[Gpu]]) -> tuple[str, ...]:
    """A sentence for each engine whose GPUs are not all in one NVLink domain."""
    known = {(node, gpu.index): gpu for node, found in gpus.items() for gpu in found}
    own = {
        name: [known[place.node, i] for i in place.gpus if (place.node, i) in known]
        for name, place in placed.items()
    }
    return tuple(
        f"{name} spans GPUs {index_ranges(placed[name].gpus)}, which have no NVLink between them: "
        "its GPUs communicate over PCIe."
        for name, found in own.items()
        if len(nvlink_domains(found)) > 1
    )


def place_engines(
    deployment: Deployment,
    present: Sequence[ProcessSpec],
    gpus: Mapping[str, Sequence[Gpu]],
    *,
    gpus_per_node: int = 8,
) -> dict[str, Place]:
    """The node and GPUs of each engine by name; engines that stay keep theirs.

    With several nodes, each new engine, largest first, goes to the node with the most free GPUs;
    engines without real GPUs go to the node with the fewest engines. An engine with more GPUs than
    any node has equal parts on several.

    Args:
        present: the running processes.
        gpus: the GPUs of every node, those in use marked so.
        gpus_per_node: of nodes whose GPUs are only pretended.

    Raises:
        InvalidInput, EnvironmentProblem: as `assign_gpus`, or no node has room for an engine.
    """
    held = {s.name: _place_of(s) for s in present if s.name in deployment.engine_names}
    if len(gpus) == 1:
        ((node, here),) = gpus.items()
        indices = assign_more_gpus(deployment, present, here)
        return {name: held.get(name) or Place(node, found) for name, found in indices.items()}
    names = [name for name in deployment.engine_names if name not in held]
    if needs_gpus(deployment):
        leaving = {place for s in present if s.name not in held for place in s.gpu_places}
        try:
            return held | _placed_on_nodes(deployment, names, gpus)
        except EnvironmentProblem:
            return held | _placed_on_nodes(deployment, names, _freed_on_nodes(gpus, leaving))
    numbers = _numbers(deployment, names, (place.gpus for place in held.values()))
    counts = {node: sum(place.node == node for place in held.values()) for node in gpus}
    for name in names:
        num, each = parts(name, len(numbers[name]), gpus_per_node)
        if num > len(counts):
            raise _no_nodes(name, num, each, len(counts))
        nodes = sorted(counts, key=lambda node: counts[node])[:num]
        for node in nodes:
            counts[node] += 1
        held[name] = _joined(
            [Place(node, numbers[name][i * each : (i + 1) * each]) for i, node in enumerate(nodes)]
        )
    return held


def _place_of(spec: ProcessSpec) -> Place:
    return Place(spec.node, spec.gpus, tuple(Place(f.node, f.gpus) for f in spec.followers))


def _joined(places: Sequence[Place]) -> Place:
    return replace(places[0], others=tuple(places[1:]))


def parts(name: str, size: int, gpus_per_node: int) -> tuple[int, int]:
    """The number of nodes that an engine runs on, and its GPUs on each.

    Raises InvalidInput if they cannot be equal.
    """
    num = max(1, -(-size // gpus_per_node))
    if size % num:
        raise InvalidInput(
            f"{name} has {size} GPUs, which {num} nodes of {gpus_per_node} cannot share equally.",
            hint=f"--tp {num * gpus_per_node}, or gpus_per_node in cluster.yaml",
            code="unequal_split",
        )
    return num, size // num


def _placed_on_nodes(
    deployment: Deployment, names: Sequence[str], gpus: Mapping[str, Sequence[Gpu]]
) -> dict[str, Place]:
    size = {n: deployment.roles[deployment.engine_names[n]].parallelism.num_gpus for n in names}
    largest = max((len(_chosen(deployment, found)) for found in gpus.values()), default=0)
    large = [name for name in names if largest and size[name] > largest]
    across, gpus = _placed_across(deployment, {name: size[name] for name in large}, gpus, largest)
    free = {node: sum(map(is_free, _chosen(deployment, found))) for node, found in gpus.items()}
    on_node: dict[str, list[str]] = {node: [] for node in gpus}
    for name in sorted(set(names) - set(large), key=lambda name: (-size[name], names.index(name))):
        node = max(free, key=lambda node: free[node])
        if free[node] < size[name]:
            raise _no_node(name, size[name], free[node], node, _chosen(deployment, gpus[node]))
        free[node] -= size[name]
        on_node[node].append(name)
    return across | {
        name: Place(node, indices)
        for node, chosen in on_node.items()
        if chosen
        for name, indices in _assigned_on(deployment, chosen, gpus[node]).items()
    }


def _placed_across(
    deployment: Deployment,
    sizes: Mapping[str, int],
    gpus: Mapping[str, Sequence[Gpu]],
    per_node: int,
) -> tuple[dict[str, Place], Mapping[str, Sequence[Gpu]]]:
    """Places of engines that need several nodes, and the GPUs with theirs marked as taken."""
    placed: dict[str, Place] = {}
    for name, size in sizes.items():
        num, each = parts(name, size, per_node)
        free = {node: _free_indices(deployment, found) for node, found in gpus.items()}
        roomy = sorted((n for n in free if len(free[n]) >= each), key=lambda n: -len(free[n]))
        if len(roomy) < num:
            fullest = min(free, key=lambda n: len(free[n]))
            has = room_text(len(free[fullest]), _chosen(deployment, gpus[fullest]))
            raise _no_nodes(name, num, each, len(roomy), f"; {fullest} has {has}")
        chosen = [Place(node, free[node][:each]) for node in roomy[:num]]
        placed[name] = _joined(chosen)
        taken = {(place.node, gpu) for place in chosen for gpu in place.gpus}
        gpus = {
            node: [replace(g, problem=name) if (node, g.index) in taken else g for g in found]
            for node, found in gpus.items()
        }
    return placed, gpus


def _free_indices(deployment: Deployment, gpus: Sequence[Gpu]) -> tuple[int, ...]:
    return tuple(gpu.index for gpu in _chosen(deployment, gpus) if is_free(gpu))


def _freed_on_nodes(
    gpus: Mapping[str, Sequence[Gpu]], leaving: Collection[GpuPlace]
) -> dict[str, list[Gpu]]:
    return {
        node: [_freed(gpu, {index for at, index in leaving if at == node}) for gpu in found]
        for node, found in gpus.items()
    }


def _assigned_on(
    deployment: Deployment, names: Collection[str], gpus: Sequence[Gpu]
) -> dict[str, tuple[int, ...]]:
    ordered = [name for name in deployment.engine_names if name in names]
    found = assign_gpus(_only(deployment, ordered), gpus)
    return dict(zip(ordered, found.values(), strict=True))


def _no_nodes(
    name: str, num: int, each: int, num_roomy: int, fullest: str = ""
) -> EnvironmentProblem:
    have = "1 node has" if num_roomy == 1 else f"{num_roomy or 'no'} nodes have"
    return EnvironmentProblem(
        f"{name} needs {each} free GPUs on each of {num} nodes; {have} as many{fullest}.",
        hint="a smaller --total, or a smaller --tp",
        code="not_enough_gpus",
    )


def _no_node(
    name: str, num: int, num_free: int, node: str, gpus: Sequence[Gpu]
) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{name} needs {num} free GPU{'s' * (num != 1)} on one node; the emptiest, {node}, has "
        f"{room_text(num_free, gpus)}.",
        hint="a smaller --total, or a smaller --tp",
        code="not_enough_gpus",
    )


def index_ranges(indices: Sequence[int]) -> str:
    """(0, 1, 2, 4) as "0-2,4"."""
    ordered = sorted(indices)
    runs = [
        [index for _, index in run]
        for _, run in groupby(enumerate(ordered), key=lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _numbered(deployment: Deployment) -> dict[str, tuple[int, ...]]:
    if deployment.engine == "sim" and deployment.gpus is not None:
        _check_described(deployment, parse_gpus(deployment.gpus))
    assigned: dict[str, tuple[int, ...]] = {}
    taken = 0
    for name, role in deployment.engine_names.items():
        num = deployment.roles[role].parallelism.num_gpus if deployment.engine == "sim" else 0
        assigned[name] = tuple(range(taken, taken + num))
        taken += num
    return assigned


def _check_described(deployment: Deployment, cluster: Cluster) -> None:
    if cluster.num_gpus < deployment.num_gpus:
        raise InvalidInput(
            f"{deployment.total} engines need {deployment.num_gpus} GPUs, but --gpus "
            f"{deployment.gpus} describes {cluster.num_gpus}.",
            hint=f"--gpus {deployment.num_gpus}x{cluster.gpu.name}, or a smaller --total",
        )


def _chosen(deployment: Deployment, gpus: Sequence[Gpu]) -> list[Gpu]:
    if deployment.gpus is None:
        return list(gpus)
    by_index = {gpu.index: gpu for gpu in gpus}
    wanted = parse_gpu_list(deployment.gpus)
    missing = [i for i in wanted if i not in by_index]
    if missing:
        here = index_ranges(list(by_index)) or "LIST; no GPU is visible"
        raise InvalidInput(
            f"--gpus {deployment.gpus} names GPU {missing[0]}, which does not exist here.",
            hint=f"--gpus {here}",
        )
    return [by_index[i] for i in wanted]


def _placed(deployment: Deployment, free: Sequence[Gpu]) -> dict[str, tuple[int, ...]]:
    left = nvlink_domains(free)
    sizes = {
        name: deployment.roles[role].parallelism.num_gpus
        for name, role in deployment.engine_names.items()
    }
    assigned: dict[str, tuple[int, ...]] = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        taken = _take(left, sizes[name])
        assigned[name] = tuple(gpu.index for gpu in taken)
        left = [rest for domain in left if (rest := [gpu for gpu in domain if gpu not in taken])]
    return {name: assigned[name] for name in sizes}


def _take(domains: Sequence[list[Gpu]], num: int) -> list[Gpu]:
    roomy = [domain for domain in domains if len(domain) >= num]
    if roomy:
        return min(roomy, key=lambda domain: (len(domain), domain[0].index))[:num]
    rest = [gpu for domain in domains for gpu in domain]
    return sorted(rest, key=lambda gpu: (gpu.numa_node or 0, gpu.index))[:num]


def _linked(one: Gpu, other: Gpu) -> bool:
    return other.index in one.nvlink_peers or one.index in other.nvlink_peers


def _too_few(
    deployment: Deployment, chosen: Sequence[Gpu], free: Sequence[Gpu]
) -> EnvironmentProblem:
    busy = ", ".join(taken_gpus(chosen))
    engines = format_number_of(deployment.total, "engine", "need")
    num, num_free = deployment.num_gpus, len(free)
    verb = "is" if num_free == 1 else "are"
    return EnvironmentProblem(
        f"{engines} {num} free GPU{'s' * (num != 1)}; {num_free} {verb} free"
        + (f" ({busy})." if busy else "."),
        hint=_smaller(deployment, free),
        code="not_enough_gpus",
    )


def _smaller(deployment: Deployment, free: Sequence[Gpu]) -> str:
    ways = []
    per_engine = max(role.parallelism.num_gpus for role in deployment.roles.values())
    fits = len(free) // per_engine
    prefill = deployment.roles.get("prefill")
    if prefill is not None and fits >= 2:
        num = min(prefill.engines, fits - 1)
        ways.append(f"pdctl up {deployment.model} --prefill {num} --total {fits}")
    elif prefill is None and fits >= 1:
        ways.append(f"pdctl up {deployment.model} --prefill 0 --total {fits}")
    if free:
        ways.append(f"--gpus {index_ranges([gpu.index for gpu in free])} to choose")
    return ", or ".join([*ways, "--engine sim to rehearse"]) + "."


def assign_more_gpus(
    deployment: Deployment, present: Sequence[ProcessSpec], gpus: Sequence[Gpu]
) -> dict[str, tuple[int, ...]]:
    """The GPU indices of each engine on one node; engines that stay keep theirs.

    New engines use the GPUs of leaving ones only if too few others are free: on free GPUs they can
    serve before an old engine leaves.

    Args:
        present: the running processes.
        gpus: the GPUs of the node, those in use marked so.

    Raises:
        InvalidInput, EnvironmentProblem: as `assign_gpus`.
    """
    held = {spec.name: spec.gpus for spec in present if spec.name in deployment.engine_names}
    names = [name for name in deployment.engine_names if name not in held]
    if not names or not present:
        return held or assign_gpus(deployment, gpus)
    if not needs_gpus(deployment):
        return {**held, **_numbers(deployment, names, held.values())}
    leaving = {gpu for spec in present if spec.name not in held for gpu in spec.gpus}
    added = _only(deployment, names)
    try:
        found = assign_gpus(added, gpus)
    except EnvironmentProblem:
        found = assign_gpus(added, [_freed(gpu, leaving) for gpu in gpus])
    return {**held, **dict(zip(names, found.values(), strict=True))}


def _only(deployment: Deployment, names: Sequence[str]) -> Deployment:
    """The deployment reduced to the engines in `names`."""
    roles = [deployment.engine_names[name] for name in names]
    return replace(
        deployment,
        roles={
            role: replace(plan, engines=roles.count(role))
            for role, plan in deployment.roles.items()
            if role in roles
        },
    )


def _freed(gpu: Gpu, leaving: Iterable[int]) -> Gpu:
    if gpu.index not in leaving:
        return gpu
    return replace(gpu, problem=None, memory_used_bytes=0, holders=())


def _numbers(
    deployment: Deployment, names: Sequence[str], held: Iterable[tuple[int, ...]]
) -> Mapping[str, tuple[int, ...]]:
    """Unused numbers for simulated engines; none for engines on the CPU."""
    taken = {gpu for gpus in held for gpu in gpus}
    free = (number for number in count() if number not in taken)
    is_sim = deployment.engine == "sim"
    size = {n: deployment.roles[deployment.engine_names[n]].parallelism.num_gpus for n in names}
    return {name: tuple(islice(free, size[name])) if is_sim else () for name in names}
