"""Whether the memory of GPUs has come back from engines that ended."""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.actions import Taken
from pdctl.engines.gpu_room import takes_gpus
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.gpus import has_holder, is_empty, is_free, query_gpus, why_not_free
from pdctl.inspection.records import Gpu

GIVEN_BACK_S = 15.0  # a driver needs a second or two for 70 GiB of a killed process


def taken_gpus(
    gpus: Sequence[int], is_enough: Callable[[Gpu], bool] = is_empty
) -> dict[int, Taken]:
    """Who has the memory of each of these GPUs; without NVML nobody is known to.

    Holders of little memory do not count by themselves: a peer's context may stay for good.
    """
    try:
        found = {gpu.index: gpu for gpu in query_gpus()}
    except EnvironmentProblem:
        found = {}
    return {index: _taken(found.get(index), is_enough) for index in gpus}


def _taken(gpu: Gpu | None, is_enough: Callable[[Gpu], bool]) -> Taken:
    if gpu is None or is_enough(gpu):
        return Taken()
    return Taken(why_not_free(gpu), is_named=has_holder(gpu))


def free_again(gpus: Sequence[int]) -> Mapping[int, Taken]:
    """As taken_gpus, but as strict as `up` is: not even a process without memory is there."""
    return taken_gpus(gpus, is_free)


def wait_until_given_back(
    specs: Iterable[ProcessSpec],
    *,
    taken: Callable[[Sequence[int]], Mapping[int, Taken]] = free_again,
    wait_s: float = GIVEN_BACK_S,
) -> None:
    """Wait a while for the memory of engines that have ended, so that others can start there.

    Not longer where the driver hangs.
    """
    gpus = sorted({gpu for spec in specs if takes_gpus(spec) for gpu in spec.gpus})
    over = threading.Event()

    def look() -> None:
        while not over.is_set() and any(one.by for one in taken(gpus).values()):
            over.wait(0.2)

    if gpus:
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(wait_s)
        over.set()
