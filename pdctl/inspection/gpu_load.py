"""Utilisation, power and memory of GPUs while they work, through NVML."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pdctl.inspection.records import GpuLoad


class GpuMeter:
    """Reads the GPUs of this machine again and again. Knows nothing where there is no NVML.

    nvml: a module with pynvml's functions, pynvml itself by default.
    """

    def __init__(self, nvml: Any = None) -> None:
        self._nvml = nvml
        self._is_open = False
        self._handles: dict[int, Any] = {}

    def read(self, gpus: Sequence[int]) -> GpuLoad | None:
        """These GPUs together: mean utilisation, sums of power and memory. None: unknown.

        Source: NVML API reference; utilisation is the share of time in which a kernel ran.
        """
        if not gpus or not self._opened():
            return None
        try:
            loads = [self._load(index) for index in gpus]
        except self._nvml.NVMLError:
            return None
        return GpuLoad(
            utilization=sum(one.utilization for one in loads) / len(loads),
            power_w=sum(one.power_w for one in loads),
            memory_used_bytes=sum(one.memory_used_bytes for one in loads),
            memory_total_bytes=sum(one.memory_total_bytes for one in loads),
        )

    def close(self) -> None:
        """End the session with NVML."""
        if self._is_open:
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
        self._is_open = False

    def _opened(self) -> bool:
        if self._nvml is False:
            return False
        if not self._is_open:
            self._nvml = self._nvml or _pynvml()
            self._is_open = bool(self._nvml) and self._init()
        return self._is_open

    def _init(self) -> bool:
        try:
            self._nvml.nvmlInit()
        except (self._nvml.NVMLError, OSError):
            self._nvml = False  # no driver; asking every second would not bring one
            return False
        return True

    def _load(self, index: int) -> GpuLoad:
        nvml = self._nvml
        if index not in self._handles:
            self._handles[index] = nvml.nvmlDeviceGetHandleByIndex(index)
        handle = self._handles[index]
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        return GpuLoad(
            utilization=nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100,
            power_w=nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,  # milliwatts
            memory_used_bytes=int(memory.used),
            memory_total_bytes=int(memory.total),
        )


def _pynvml() -> Any:
    try:
        import pynvml
    except ImportError:
        return False
    return pynvml
