"""Which library moves KV from prefill to decode engines."""

from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.records import SglangInstall

# backend -> the Python package that must import for it
NEEDS = {
    "mooncake": "mooncake",
    "mooncake_tcp": "mooncake",
    "nixl": "nixl",
    "ascend": "ascend",
    "mori": "mori",
}


def choose_backend(
    install: SglangInstall, *, requested: str = "auto", rdma: bool, nvlink: bool
) -> tuple[str, str]:
    """The KV transfer backend, and why, in words for a person.

    Mooncake, SGLang's default, is built for RDMA; without it, its transfers of GPU memory fail
    under load, while NIXL goes over NVLink or shared memory through UCX.

    Args:
        requested: "auto", or a backend to take if it imports.
        rdma: an RDMA port is active.
        nvlink: the GPUs of this machine reach each other over NVLink.

    Raises:
        InvalidInput: SGLang has no backend of that name.
        EnvironmentProblem: the one requested, or any, does not import.

    Source: SGLang issues 7118, 15665 (Mooncake without RDMA), 23272 (NIXL holds where Mooncake
        drops sessions), 21395 (inactive ports).
    Ignores: backends of other vendors' GPUs unless asked for.
    """
    if requested != "auto":
        return _requested(install, requested), f"{requested}, as asked"
    has = set(install.backends)
    if rdma and "mooncake" in has:
        return "mooncake", "Mooncake over RDMA"
    if "nixl" in has:
        way = "RDMA" if rdma else "NVLink" if nvlink else "shared memory and TCP"
        return "nixl", f"NIXL over {way}"
    if "mooncake" in has:
        return "mooncake_tcp", "Mooncake over TCP, slow: no RDMA here, and NIXL is not installed"
    others = [name for name in ("mori", "ascend") if name in has]
    if others:
        return others[0], f"{others[0]}, the only one installed"
    raise _missing(install, "No KV transfer backend imports", "nixl")


def _requested(install: SglangInstall, backend: str) -> str:
    if backend not in NEEDS:
        raise InvalidInput(
            f"SGLang has no KV transfer backend {backend!r}.",
            hint=f"--transfer-backend auto, or one of {', '.join(NEEDS)}",
        )
    if NEEDS[backend] not in install.backends:
        raise _missing(install, f"KV transfer backend {backend} does not import", NEEDS[backend])
    return backend


def _missing(install: SglangInstall, what: str, package: str) -> EnvironmentProblem:
    wheels = {"nixl": "nixl", "mooncake": "mooncake-transfer-engine"}
    hint = f"{install.python} -m pip install {wheels[package]}, or " if package in wheels else ""
    return EnvironmentProblem(
        f"{what} in {install.python}.",
        hint=f"{hint}--engine sim to rehearse",
        code="no_kv_backend",
    )
