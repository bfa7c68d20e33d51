"""GPUs for the engines that a running deployment gets in addition: pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count, islice

from pdctl.deployment.placement import assign_gpus, needs_gpus
from pdctl.deployment.records import Deployment, ProcessSpec
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.records import Gpu


def assign_more_gpus(
    deployment: Deployment, present: Sequence[ProcessSpec], gpus: Sequence[Gpu]
) -> dict[str, tuple[int, ...]]:
    """The GPU indices of each engine by name; engines that stay keep theirs.

    GPUs of engines that leave are taken only where too few others are free: a new engine on free
    ones can serve before an old one goes.

    Args:
        present: what runs now.
        gpus: of this machine, those in use marked so.

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
    """The deployment with as many engines of each role as `names` has."""
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
    """Numbers for simulated engines that no other has; none for engines on the CPU."""
    taken = {gpu for gpus in held for gpu in gpus}
    free = (number for number in count() if number not in taken)
    is_sim = deployment.engine == "sim"
    size = {n: deployment.roles[deployment.engine_names[n]].parallelism.num_gpus for n in names}
    return {name: tuple(islice(free, size[name])) if is_sim else () for name in names}
