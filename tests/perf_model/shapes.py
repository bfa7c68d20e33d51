"""LLMs, GPUs and clusters the tests of perf_model share."""

from dataclasses import replace
from functools import cache

from pdctl.inspection.cluster import require_gpu_model
from pdctl.inspection.llm import read_llm
from pdctl.inspection.llm_layers.formats import stored
from pdctl.inspection.quantization import FP8, Quantization
from pdctl.inspection.records import Cluster, GpuModel, Llm
from pdctl.perf_model.records import Parallelism

ONE = Parallelism()


@cache
def llm(name: str) -> Llm:
    return read_llm(name)


def fp8(shape: Llm) -> Llm:
    """The same shape with its matrices in FP8, as published FP8 checkpoints are."""
    return stored(replace(shape, name=shape.name + "-fp8"), Quantization(FP8))


def gpu(name: str) -> GpuModel:
    return require_gpu_model(name)


def cluster(name: str = "H200", nodes: int = 1, rdma: float | None = None) -> Cluster:
    return Cluster(gpu(name), nodes, 8, rdma, "described")
