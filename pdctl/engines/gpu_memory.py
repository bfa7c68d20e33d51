"""Whether the memory of GPUs has come back from engines that ended."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.gpu_room import takes_gpus
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.gpus import is_empty, query_gpus, why_not_free

GIVEN_BACK_S = 15.0  # a driver needs a second or two for 70 GiB of a killed process


def taken_gpus(gpus: Sequence[int]) -> dict[int, str]:
    """What holds the memory of each of these GPUs, in words; "" where it is all but empty.

    Holders of little memory do not count: a peer's context may stay for good.
    """
    try:
        found = {gpu.index: gpu for gpu in query_gpus()}
    except EnvironmentProblem:
        found = {}
    return {
        index: "" if index not in found or is_empty(found[index]) else why_not_free(found[index])
        for index in gpus
    }


def wait_until_given_back(
    specs: Iterable[ProcessSpec],
    *,
    taken: Callable[[Sequence[int]], Mapping[int, str]] = taken_gpus,
    wait_s: float = GIVEN_BACK_S,
) -> None:
    """Wait a while for the memory of engines that have ended, so that others can start there."""
    gpus = sorted({gpu for spec in specs if takes_gpus(spec) for gpu in spec.gpus})
    deadline = time.monotonic() + wait_s
    while gpus and any(taken(gpus).values()) and time.monotonic() < deadline:
        time.sleep(0.2)
