"""The GPUs of each engine on one node, and the KV transfer backend."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, groupby, islice

from pdctl.deployment.records import Deployment, ProcessSpec
from pdctl.deployment.sglang_flags import options
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.gpus import is_free, taken_gpus
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
    chosen = chosen_gpus(deployment, gpus)
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
        planned = deployment.planned
        if not (planned and planned.file_of(deployment.gpus)):
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


def chosen_gpus(deployment: Deployment, gpus: Sequence[Gpu]) -> list[Gpu]:
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
    gpus = format_number_of(deployment.num_gpus, "free GPU")
    verb = "is" if len(free) == 1 else "are"
    return EnvironmentProblem(
        f"{engines} {gpus}; {len(free)} {verb} free" + (f" ({busy})." if busy else "."),
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
        return {**held, **unused_numbers(deployment, names, held.values())}
    leaving = {gpu for spec in present if spec.name not in held for gpu in spec.gpus}
    added = only_engines(deployment, names)
    try:
        found = assign_gpus(added, gpus)
    except EnvironmentProblem:
        found = assign_gpus(added, [freed(gpu, leaving) for gpu in gpus])
    return {**held, **dict(zip(names, found.values(), strict=True))}


def only_engines(deployment: Deployment, names: Sequence[str]) -> Deployment:
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


def freed(gpu: Gpu, leaving: Iterable[int]) -> Gpu:
    if gpu.index not in leaving:
        return gpu
    return replace(gpu, problem=None, memory_used_bytes=0, holders=())


def unused_numbers(
    deployment: Deployment, names: Sequence[str], held: Iterable[tuple[int, ...]]
) -> Mapping[str, tuple[int, ...]]:
    """Unused numbers for simulated engines; none for engines on the CPU."""
    taken = {gpu for gpus in held for gpu in gpus}
    free = (number for number in count() if number not in taken)
    is_sim = deployment.engine == "sim"
    size = {n: deployment.roles[deployment.engine_names[n]].parallelism.num_gpus for n in names}
    return {name: tuple(islice(free, size[name])) if is_sim else () for name in names}
