"""Deployments and machines that several tests of this folder look at."""

from dataclasses import replace
from typing import Any

from pdctl.deployment.records import Deployment, RolePlan
from pdctl.inspection.records import Gpu, Holder, SglangInstall
from pdctl.perf_model.records import Parallelism, Role
from pdctl.units import GIB

ONE_GPU = Parallelism()


def split(
    prefill: int = 2, decode: int = 6, *, parallelism: Parallelism = ONE_GPU, **fields: Any
) -> Deployment:
    """A deployment of llama-3.1-8b, split."""
    roles: dict[Role, RolePlan] = {
        "prefill": RolePlan(prefill, parallelism),
        "decode": RolePlan(decode, parallelism),
    }
    return replace(Deployment("llama", "llama-3.1-8b", roles), **fields)


def colocated(engines: int = 8, **fields: Any) -> Deployment:
    """A deployment of llama-3.1-8b, colocated."""
    roles: dict[Role, RolePlan] = {"colocated": RolePlan(engines)}
    return replace(Deployment("llama", "llama-3.1-8b", roles), **fields)


def with_args(prefill: str = "", decode: str = "") -> Deployment:
    """1P1D with flags added to each role."""
    roles: dict[Role, RolePlan] = {
        "prefill": RolePlan(1, args=tuple(prefill.split())),
        "decode": RolePlan(1, args=tuple(decode.split())),
    }
    return split(roles=roles)


def gpu(index: int, *, held_gib: float = 0, by: str = "", peers: tuple[int, ...] = ()) -> Gpu:
    """An 80 GiB card, free unless `held_gib` are held by a process "pid name"."""
    pid, _, name = by.partition(" ")
    held = int(held_gib * GIB)
    holders = (Holder(int(pid), name, held),) if by else ()
    return Gpu(index, "H100", f"GPU-{index}", 80 * GIB, held, holders, peers)


def install(version: str | None = "0.5.23", *backends: str) -> SglangInstall:
    """An SGLang in /venv."""
    return SglangInstall("/venv/bin/python", version, backends, "0.3.2")
