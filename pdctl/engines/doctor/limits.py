"""What the operating system grants: rules over values that were read. Pure."""

from collections.abc import Mapping, Sequence

from pdctl.engines.doctor.records import Check
from pdctl.inspection.records import RdmaPort
from pdctl.units import GIB, MIB, format_bytes, format_count

MANY_FILES = 65536  # SGLang raises its own limit to this
FEW_FILES = 4096
BANDS = (20000, 29999)  # of the ports pdctl hands out; those of deployment.ports lie inside
PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
LOOPBACK = ("127.0.0.1", "localhost")


def open_files(hard: int | None) -> Check:
    """Each request is a handful of sockets. hard: RLIMIT_NOFILE's, None: unlimited."""
    if hard is None or hard >= MANY_FILES:
        shown = "any number" if hard is None else format_count(hard)
        return Check("open_files", "pass", f"A process may open {shown} of files.")
    return Check(
        "open_files",
        "fail" if hard < FEW_FILES else "warn",
        f"A process may open {format_count(hard)} files; under load SGLang wants {MANY_FILES:,}.",
        "ulimit -Hn 65536 as root, LimitNOFILE= in a unit, or docker run --ulimit nofile=65536",
        "SGLang set_ulimit",
    )


def locked_memory(limit: int | None, ports: Sequence[RdmaPort]) -> Check:
    """RDMA pins what it sends. limit: RLIMIT_MEMLOCK in bytes, None: unlimited."""
    if not any(port.state == "ACTIVE" for port in ports):
        return Check("locked_memory", "pass", "No RDMA port is active, so no memory gets pinned.")
    if limit is None:
        return Check("locked_memory", "pass", "Any amount of memory may be locked for RDMA.")
    return Check(
        "locked_memory",
        "fail",
        f"Only {format_bytes(limit)} of memory may be locked, and RDMA pins the whole KV cache.",
        "ulimit -l unlimited, LimitMEMLOCK=infinity, or docker run --ulimit memlock=-1",
        "Mooncake#1384, sglang#21395",
    )


def shared_memory(total: int | None, free: int | None) -> Check:
    """NCCL and SGLang's own processes talk through /dev/shm, which containers make small."""
    if total is None or free is None:
        return Check("shared_memory", "unknown", "/dev/shm cannot be read.")
    text = f"/dev/shm has {format_bytes(total)}, {format_bytes(free)} of it free."
    if free >= GIB:
        return Check("shared_memory", "pass", text)
    fix = "docker run --shm-size 32g or --ipc=host; rm leftovers in /dev/shm"
    return Check("shared_memory", "fail" if free < 256 * MIB else "warn", text, fix, "NCCL docs")


def port_range(first: int | None, last: int | None) -> Check:
    """The kernel hands out ports of this range to anybody, a moment before an engine binds one."""
    if first is None or last is None:
        return Check("port_range", "unknown", "ip_local_port_range cannot be read.")
    text = f"The kernel hands out ports {first}-{last} to outgoing connections"
    if first > BANDS[1] or last < BANDS[0]:
        return Check("port_range", "pass", f"{text}, none of those pdctl gives engines.")
    return Check(
        "port_range",
        "warn",
        f"{text}, which overlap {BANDS[0]}-{BANDS[1]} of pdctl's engines: a bind can fail.",
        "sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
        "ip-sysctl.rst of Linux",
    )


def proxy(environ: Mapping[str, str]) -> Check:
    """SGLang's warm-up, the router and curl send requests to 127.0.0.1 through a proxy."""
    name = next((name for name in PROXIES if environ.get(name)), None)
    if name is None:
        return Check("proxy", "pass", "No HTTP proxy is set.")
    exempt = {part.strip() for part in _no_proxy(environ).split(",")}
    if "*" in exempt or exempt.issuperset(LOOPBACK):
        return Check("proxy", "pass", f"{name} is set, and no_proxy exempts this machine.")
    missing = ", ".join(host for host in LOOPBACK if host not in exempt)
    return Check(
        "proxy",
        "warn",
        f"{name} is set and no_proxy lacks {missing}: pdctl exempts its engines and its router,"
        " but your own clients send requests for this machine to the proxy.",
        "export no_proxy=127.0.0.1,localhost NO_PROXY=127.0.0.1,localhost",
        "requests and reqwest read these variables",
    )


def _no_proxy(environ: Mapping[str, str]) -> str:
    return f"{environ.get('no_proxy', '')},{environ.get('NO_PROXY', '')}"


def host_ip(environ: Mapping[str, str], is_here: bool | None) -> Check:
    """SGLANG_HOST_IP decides where the sockets that move KV listen; pdctl sets it for engines.

    is_here: whether this machine has the address; None: not asked, none is set.
    """
    name = next((n for n in ("SGLANG_HOST_IP", "HOST_IP") if environ.get(n)), None)
    if name is None or is_here is None:
        return Check("host_ip", "pass", "KV sockets of engines stay on 127.0.0.1, as pdctl sets.")
    text = f"{name} is {environ[name]!r}"
    if is_here:
        return Check("host_ip", "pass", f"{text}; pdctl's engines use 127.0.0.1 instead.")
    return Check(
        "host_ip",
        "warn",
        f"{text}, no address of this machine: SGLang started by hand cannot bind its KV sockets.",
        f"unset {name}",
        "sglang#15665 (Cannot assign requested address)",
    )


def disk(path: str, free: int | None, is_writable: bool) -> Check:
    """State and logs need room and must be ours."""
    if not is_writable:
        return Check(
            "state_dir",
            "fail",
            f"State and logs cannot be written under {path}.",
            "PDCTL_STATE_HOME=DIR with a directory of yours",
        )
    text = f"State and logs go to {path}, {format_bytes(free)} free."
    if free is not None and free < GIB:
        fix = "free some, or PDCTL_STATE_HOME=DIR on another disk"
        return Check("state_dir", "fail" if free < 64 * MIB else "warn", text, fix)
    return Check("state_dir", "pass", text)


def cpu_memory(available: int | None) -> Check:
    """Weights pass through the host's memory, and the OOM killer says nothing in a log."""
    text = f"{format_bytes(available)} of the host's memory is available."
    if available is None:
        return Check("host_memory", "unknown", "The host's free memory cannot be read.")
    if available >= 8 * GIB:
        return Check("host_memory", "pass", text)
    return Check("host_memory", "warn", text, "free memory, or docker run --memory with more")
