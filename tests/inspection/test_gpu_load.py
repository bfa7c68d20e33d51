"""The GPU meter on a fake NVML."""

from types import SimpleNamespace
from typing import Any

from pdctl.inspection.gpu_load import GpuMeter
from tests.inspection.test_gpus import GIB, IS_LOST, NO_LIBRARY, FakeNvml


class BusyNvml(FakeNvml):
    """Two H200s at work; counts its sessions."""

    sessions = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.sessions += 1

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(gpu=90 + 10 * handle)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return 600_000 + handle


def test_gpus_of_one_engine_are_read_together() -> None:
    found = GpuMeter(BusyNvml()).read((0, 1))
    assert found is not None
    assert found.utilization == 0.95
    assert round(found.power_w) == 1200
    assert found.memory_used_bytes == 71 * GIB
    assert found.memory_total_bytes == 280 * GIB


def test_one_session_serves_every_reading_until_it_is_closed() -> None:
    nvml = BusyNvml()
    meter = GpuMeter(nvml)
    for _ in range(3):
        meter.read((0,))
    assert nvml.sessions == 1
    meter.close()
    assert nvml.shut_down


def test_without_gpus_or_nvml_or_an_answer_nothing_is_known() -> None:
    assert GpuMeter(BusyNvml()).read(()) is None
    without = BusyNvml(nvmlInit=NO_LIBRARY)
    meter = GpuMeter(without)
    assert meter.read((0,)) is None
    assert meter.read((0,)) is None
    assert GpuMeter(BusyNvml(nvmlDeviceGetPowerUsage=IS_LOST)).read((0,)) is None
