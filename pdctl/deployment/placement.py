"""Which GPUs each engine gets."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

from pdctl.deployment.extra_args import options
from pdctl.deployment.records import Deployment
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.gpus import is_free, taken_gpus
from pdctl.inspection.records import Cluster, Gpu

_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")


def needs_gpus(deployment: Deployment) -> bool:
    """Whether the engines take GPUs of this machine: not simulated, not `--device cpu`."""
    if deployment.engine == "sim":
        return False
    return any(options(role.args).get("--device") != "cpu" for role in deployment.roles.values())


def assign_gpus(deployment: Deployment, gpus: Sequence[Gpu]) -> dict[str, tuple[int, ...]]:
    """The GPU indices of each engine, by name.

    Free GPUs only; an engine inside one NVLink domain where a domain has room, and the smallest
    such domain, so that larger ones stay whole. Simulated engines get the numbers 0, 1, ... and
    engines on the CPU get none.

    Args:
        gpus: the GPUs of this machine; not looked at unless `needs_gpus(deployment)`.

    Raises:
        InvalidInput: --gpus names a GPU that is not there, or, for simulated engines, a kind that
            is not known or fewer than they take.
        EnvironmentProblem: too few of them are free.
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
    """The groups of `gpus` that reach each other over NVLink; without NVLink each is alone."""
    domains: list[list[Gpu]] = []
    for gpu in gpus:
        joined = [d for d in domains if any(_linked(gpu, other) for other in d)]
        merged = [gpu for d in joined for gpu in d] + [gpu]
        domains = [d for d in domains if d not in joined] + [merged]
    return [sorted(d, key=lambda gpu: gpu.index) for d in domains]


def crossing(assigned: Mapping[str, tuple[int, ...]], gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """A sentence for each engine whose GPUs are not all in one NVLink domain."""
    by_index = {gpu.index: gpu for gpu in gpus}
    return tuple(
        f"{name} spans GPU {index_ranges(indices)}, which share no NVLink: its GPUs talk over PCIe."
        for name, indices in assigned.items()
        if len(nvlink_domains([by_index[i] for i in indices if i in by_index])) > 1
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
            f"{deployment.total} engines take {deployment.num_gpus} GPUs; --gpus "
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
        here = index_ranges(list(by_index)) or "none"
        raise InvalidInput(
            f"--gpus {deployment.gpus} names GPU {missing[0]}, which is not here.",
            hint=f"this machine has GPU {here}",
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
    engines = "1 engine needs" if deployment.total == 1 else f"{deployment.total} engines need"
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
