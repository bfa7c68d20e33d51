"""Wait for the GPU memory of engines that have ended, on whatever nodes they ran."""

import threading
from collections.abc import Iterable

from pdctl.deployment.records import GpuPlace, ProcessSpec
from pdctl.engines.launchers.protocol import Launcher
from pdctl.engines.records import GpuUse

RELEASE_WAIT_S = 15.0  # a driver needs a second or two for 70 GiB of a killed process
LOOK_EVERY_S = 0.2


def gpu_uses(
    launcher: Launcher, places: Iterable[GpuPlace], *, is_strict: bool = False
) -> dict[GpuPlace, GpuUse]:
    """The users of these GPUs. Ignores: GPUs that their node does not report."""
    by_node: dict[str, list[int]] = {}
    for node, gpu in places:
        by_node.setdefault(node, []).append(gpu)
    return {
        (node, gpu): use
        for node, gpus in by_node.items()
        for gpu, use in launcher.gpu_use(node, gpus, is_strict=is_strict).items()
    }


def wait_for_gpu_memory(
    launcher: Launcher, specs: Iterable[ProcessSpec], *, wait_s: float = RELEASE_WAIT_S
) -> None:
    """Wait until nobody uses the GPUs of these engines, so that others can start there.

    Gives up after `wait_s`, also where the driver hangs.
    """
    places = sorted({place for s in specs if s.needs_gpus for place in s.gpu_places})
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            if not any(use.by for use in gpu_uses(launcher, places, is_strict=True).values()):
                return
            is_over.wait(LOOK_EVERY_S)

    if places:
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(wait_s)
        is_over.set()
