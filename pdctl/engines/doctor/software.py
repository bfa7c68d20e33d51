"""SGLang, the router and the libraries that move KV: rules over what was found. Pure."""

from collections.abc import Mapping, Sequence

from pdctl.deployment.cautions import NEWEST, OLDEST
from pdctl.deployment.flags import parse_version
from pdctl.engines.doctor.records import Check
from pdctl.inspection.records import SglangInstall

ROUTER = (0, 3)
# backend -> the import SGLang makes, and the wheel that brings it
IMPORTS = {"mooncake": "mooncake.engine", "nixl": "nixl._api", "mori": "mori.io"}
WHEELS = {"mooncake": "mooncake-transfer-engine", "nixl": "nixl", "mori": "mori"}


def sglang(install: SglangInstall | None, why_none: str = "") -> Check:
    """Whether SGLang is installed, in a version whose flags pdctl knows."""
    if install is None:
        return Check("sglang", "fail", why_none, "--python VENV/bin/python")
    if install.version is None:
        return Check(
            "sglang",
            "warn",
            f"SGLang is not installed in {install.python}.",
            "pip install 'pdctl[sglang]', --python VENV/bin/python, or --engine sim",
        )
    version = parse_version(install.version)
    text = f"SGLang {install.version} in {install.python}"
    if version is None or not OLDEST <= version <= NEWEST:
        oldest, newest = (".".join(map(str, v)) for v in (OLDEST, NEWEST))
        text = f"{text} is outside {oldest} to {newest}, whose flags pdctl knows."
        return Check("sglang", "warn", text, f"pip install 'sglang>={oldest},<={newest}'")
    return Check("sglang", "pass", f"{text}.")


def router(version: str | None) -> Check:
    """sglang-router runs in pdctl's own Python."""
    if version is None:
        text = "sglang-router is not installed beside pdctl."
        return Check("router", "fail", text, "pip install 'sglang-router>=0.3.2,<0.4'")
    parsed = parse_version(version)
    if parsed is None or parsed[:2] != ROUTER:
        text = f"sglang-router {version} is not 0.3, whose flags pdctl knows."
        return Check("router", "warn", text, "pip install 'sglang-router>=0.3.2,<0.4'")
    return Check("router", "pass", f"sglang-router {version}.")


def backends(install: SglangInstall | None, *, has_rdma: bool) -> Check | None:
    """Whether KV can move at all, and over what is here; None without SGLang."""
    if install is None or install.version is None:
        return None
    if not install.backends:
        return Check(
            "kv_backend",
            "fail",
            f"No library that moves KV is installed in {install.python}: SGLang brings none.",
            f"{install.python} -m pip install nixl",
            "SGLang's metadata depends on neither mooncake-transfer-engine nor nixl",
        )
    named = ", ".join(install.backends)
    if not has_rdma and "nixl" not in install.backends and "mooncake" in install.backends:
        return Check(
            "kv_backend",
            "warn",
            "Without RDMA Mooncake moves KV over TCP, slow and fragile under load.",
            f"{install.python} -m pip install nixl",
            "sglang#7118, #15665",
        )
    return Check("kv_backend", "pass", f"KV can move with {named}.")


def imports(problems: Mapping[str, str | None]) -> tuple[Check, ...]:
    """Whether each library loads, not just lies there. problems: backend -> why not, or None."""
    return tuple(_import(name, why) for name, why in problems.items())


def _import(backend: str, why: str | None) -> Check:
    id_ = f"import_{backend}"
    if why is None:
        return Check(id_, "pass", f"{IMPORTS[backend]} imports.")
    fix = f"pip install --force-reinstall {WHEELS[backend]}"
    if "libibverbs" in why or "librdmacm" in why:
        fix = "apt-get install libibverbs1 librdmacm1 ibverbs-providers"
    elif "libcuda" in why or "libcudart" in why:
        fix = "install the CUDA runtime that the wheel was built for, or a wheel for yours"
    text = f"{IMPORTS[backend]} does not import: {why}."
    return Check(id_, "fail", text, fix, "sglang#5709, nixl#492")


def nixl_plugins(names: Sequence[str] | None) -> Check | None:
    """NIXL moves KV through its UCX plugin. None: NIXL is not there."""
    if names is None:
        return None
    if "UCX" in names:
        return Check("nixl_plugins", "pass", f"NIXL has its plugins: {', '.join(names)}.")
    text = f"NIXL has no UCX plugin (it has {', '.join(names) or 'none'}), so no KV moves."
    fix = "pip install --force-reinstall nixl; unset NIXL_PLUGIN_DIR"
    return Check("nixl_plugins", "fail", text, fix, "nixl#503")


def ports(taken: Mapping[int, str]) -> Check:
    """The ports everybody starts on. taken: port -> who has it, of those not pdctl's."""
    if not taken:
        return Check("ports", "pass", "The router's usual ports, 30000 and 29000, are free.")
    text = ", ".join(f"{port} ({who})" for port, who in taken.items())
    if 30000 in taken:
        return Check("ports", "warn", f"Usual ports are in use: {text}.", "--port 30001")
    return Check("ports", "pass", f"In use: {text}; pdctl picks another for the router's metrics.")
