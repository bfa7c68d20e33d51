"""This machine's processor as a cluster of one: for engines that run on the CPU."""

import os

from pdctl.inspection.records import Cluster, GpuModel
from pdctl.units import GB

CPU_NAME = "CPU"


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
