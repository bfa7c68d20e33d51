"""Rules on this machine: limits, libraries, GPUs, and remains of killed engines. Pure."""

from collections.abc import Mapping, Sequence

from pdctl.deployment.checks import NEWEST, OLDEST
from pdctl.deployment.flags import parse_version
from pdctl.doctor.machine_facts import Stray
from pdctl.doctor.records import Check
from pdctl.hosts import LOOPBACK_NAMES
from pdctl.inspection.gpus import is_free, why_not_free
from pdctl.inspection.records import Gpu, RdmaPort, SglangInstall
from pdctl.units import GIB, MIB, format_bytes, format_count, format_number_of

MANY_FILES = 65536  # SGLang raises its own limit to this
FEW_FILES = 4096
BANDS = (20000, 29999)  # the ports that pdctl assigns to engines lie in this range
PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
NO_PROXY_HOSTS = LOOPBACK_NAMES[:2]
ROUTER_VERSION = (0, 3)
# backend -> the module that SGLang imports, and the wheel that has it
IMPORTS = {"mooncake": "mooncake.engine", "nixl": "nixl._api", "mori": "mori.io"}
WHEELS = {"mooncake": "mooncake-transfer-engine", "nixl": "nixl", "mori": "mori"}
NO_RDMA = "KV can use NVLink, shared memory or TCP inside this machine"


def open_files(hard: int | None) -> Check:
    """Check the limit on open files; each request needs several sockets. hard: None: unlimited."""
    if hard is None or hard >= MANY_FILES:
        shown = "any number" if hard is None else format_count(hard)
        return Check("open_files", "pass", f"A process may open {shown} of files.")
    return Check(
        "open_files",
        "fail" if hard < FEW_FILES else "warn",
        f"A process may open {format_count(hard)} files; under load SGLang needs {MANY_FILES:,}.",
        "ulimit -Hn 65536 as root, LimitNOFILE= in a unit, or docker run --ulimit nofile=65536",
        "SGLang set_ulimit",
    )


def locked_memory(limit: int | None, ports: Sequence[RdmaPort]) -> Check:
    """Check the limit on locked memory, which RDMA needs. limit: bytes; None: unlimited."""
    if not any(port.state == "ACTIVE" for port in ports):
        return Check("locked_memory", "pass", "No RDMA port is active, so nothing locks memory.")
    if limit is None:
        return Check("locked_memory", "pass", "RDMA may lock any amount of memory.")
    return Check(
        "locked_memory",
        "fail",
        f"A process may lock only {format_bytes(limit)}, but RDMA locks the whole KV cache.",
        "ulimit -l unlimited, LimitMEMLOCK=infinity, or docker run --ulimit memlock=-1",
        "Mooncake#1384, sglang#21395",
    )


def shared_memory(total: int | None, free: int | None) -> Check:
    """Check /dev/shm. NCCL and SGLang's processes use it, and containers make it small."""
    if total is None or free is None:
        return Check("shared_memory", "unknown", "/dev/shm cannot be read.")
    text = f"/dev/shm has {format_bytes(total)}, of which {format_bytes(free)} is free."
    if free >= GIB:
        return Check("shared_memory", "pass", text)
    fix = "docker run --shm-size 32g or --ipc=host; rm leftovers in /dev/shm"
    return Check("shared_memory", "fail" if free < 256 * MIB else "warn", text, fix, "NCCL docs")


def port_range(first: int | None, last: int | None) -> Check:
    """Check that the kernel does not use pdctl's ports for outgoing connections."""
    if first is None or last is None:
        return Check("port_range", "unknown", "ip_local_port_range cannot be read.")
    text = f"The kernel uses ports {first}-{last} for outgoing connections"
    if first > BANDS[1] or last < BANDS[0]:
        return Check("port_range", "pass", f"{text}, none of which pdctl assigns to engines.")
    return Check(
        "port_range",
        "warn",
        f"{text}. These overlap pdctl's engine ports {BANDS[0]}-{BANDS[1]}, so a bind can fail.",
        "sysctl -w net.ipv4.ip_local_port_range='32768 60999'",
        "ip-sysctl.rst of Linux",
    )


def proxy(environ: Mapping[str, str]) -> Check:
    """Check that requests from SGLang, the router or curl to 127.0.0.1 bypass every proxy."""
    name = next((name for name in PROXIES if environ.get(name)), None)
    if name is None:
        return Check("proxy", "pass", "No HTTP proxy is set.")
    exempt = {part.strip() for part in _no_proxy(environ).split(",")}
    if "*" in exempt or exempt.issuperset(NO_PROXY_HOSTS):
        return Check("proxy", "pass", f"{name} is set, and no_proxy exempts this machine.")
    missing = ", ".join(host for host in NO_PROXY_HOSTS if host not in exempt)
    return Check(
        "proxy",
        "warn",
        f"{name} is set and no_proxy lacks {missing}. pdctl exempts its engines and router, but"
        " your own clients send requests for this machine to the proxy.",
        "export no_proxy=127.0.0.1,localhost NO_PROXY=127.0.0.1,localhost",
        "requests and reqwest read these variables",
    )


def _no_proxy(environ: Mapping[str, str]) -> str:
    return f"{environ.get('no_proxy', '')},{environ.get('NO_PROXY', '')}"


def host_ip(environ: Mapping[str, str], is_here: bool | None) -> Check:
    """Check SGLANG_HOST_IP, which decides where KV sockets listen. pdctl sets it for its engines.

    is_here: this machine has the address. None: no address is set.
    """
    name = next((n for n in ("SGLANG_HOST_IP", "HOST_IP") if environ.get(n)), None)
    if name is None or is_here is None:
        return Check("host_ip", "pass", "pdctl keeps the KV sockets of engines on 127.0.0.1.")
    text = f"{name} is {environ[name]!r}"
    if is_here:
        return Check("host_ip", "pass", f"{text}; pdctl's engines use 127.0.0.1 instead.")
    return Check(
        "host_ip",
        "warn",
        f"{text}, which is not an address of this machine; SGLang started by hand cannot bind it.",
        f"unset {name}",
        "sglang#15665 (Cannot assign requested address)",
    )


def disk(path: str, free: int | None, is_writable: bool) -> Check:
    """Check that pdctl can write state and logs, and that there is space."""
    if not is_writable:
        return Check(
            "state_dir",
            "fail",
            f"pdctl cannot write state and logs under {path}.",
            "PDCTL_STATE_HOME=DIR, with a directory that you own",
        )
    text = f"State and logs go to {path}, {format_bytes(free)} free."
    if free is not None and free < GIB:
        fix = "free some space, or PDCTL_STATE_HOME=DIR on another disk"
        return Check("state_dir", "fail" if free < 64 * MIB else "warn", text, fix)
    return Check("state_dir", "pass", text)


def cpu_memory(available: int | None) -> Check:
    """Check host memory. Weights pass through it, and the OOM killer leaves no line in a log."""
    text = f"{format_bytes(available)} of host memory is available."
    if available is None:
        return Check("host_memory", "unknown", "Host memory cannot be read.")
    if available >= 8 * GIB:
        return Check("host_memory", "pass", text)
    return Check("host_memory", "warn", text, "free memory, or docker run --memory with more")


def sglang(install: SglangInstall | None, why_none: str = "") -> Check:
    """Check that SGLang is installed in a version whose flags pdctl knows."""
    if install is None:
        return Check("sglang", "fail", why_none, "--python VENV/bin/python")
    if install.version is None:
        return Check(
            "sglang",
            "warn",
            f"SGLang is not installed in {install.python}.",
            "pip install sglang, --python VENV/bin/python, or --engine sim",
        )
    version = parse_version(install.version)
    text = f"SGLang {install.version} in {install.python}"
    if version is None or not OLDEST <= version <= NEWEST:
        oldest, newest = (".".join(map(str, v)) for v in (OLDEST, NEWEST))
        text = f"{text} is outside {oldest} to {newest}, whose flags pdctl knows."
        return Check("sglang", "warn", text, f"pip install 'sglang>={oldest},<={newest}'")
    return Check("sglang", "pass", f"{text}.")


def router(version: str | None) -> Check:
    """Check sglang-router, which runs in pdctl's own Python."""
    if version is None:
        text = "sglang-router is not installed beside pdctl."
        return Check("router", "fail", text, "pip install 'sglang-router>=0.3.2,<0.4'")
    parsed = parse_version(version)
    if parsed is None or parsed[:2] != ROUTER_VERSION:
        text = f"sglang-router {version} is not 0.3, whose flags pdctl knows."
        return Check("router", "warn", text, "pip install 'sglang-router>=0.3.2,<0.4'")
    return Check("router", "pass", f"sglang-router {version}.")


def backends(install: SglangInstall | None, *, has_rdma: bool) -> Check | None:
    """Check that a library can move KV between engines. None without SGLang."""
    if install is None or install.version is None:
        return None
    if not install.backends:
        return Check(
            "kv_backend",
            "fail",
            f"{install.python} has no library that moves KV; SGLang does not bring one.",
            f"{install.python} -m pip install nixl",
            "SGLang's metadata depends on neither mooncake-transfer-engine nor nixl",
        )
    named = ", ".join(install.backends)
    if not has_rdma and "nixl" not in install.backends and "mooncake" in install.backends:
        return Check(
            "kv_backend",
            "warn",
            "Without RDMA, Mooncake moves KV over TCP, which is slow and fails under load.",
            f"{install.python} -m pip install nixl",
            "sglang#7118, #15665",
        )
    return Check("kv_backend", "pass", f"KV can move with {named}.")


def imports(problems: Mapping[str, str | None]) -> tuple[Check, ...]:
    """Check that each library loads. problems: backend -> the reason why not, or None."""
    return tuple(_import(name, why) for name, why in problems.items())


def _import(backend: str, why: str | None) -> Check:
    id_ = f"import_{backend}"
    if why is None:
        return Check(id_, "pass", f"{IMPORTS[backend]} imports.")
    fix = f"pip install --force-reinstall {WHEELS[backend]}"
    if "libibverbs" in why or "librdmacm" in why:
        fix = "apt-get install libibverbs1 librdmacm1 ibverbs-providers"
    elif "libcuda" in why or "libcudart" in why:
        fix = "install the CUDA runtime for which the wheel was built, or a wheel for yours"
    text = f"Python cannot import {IMPORTS[backend]}: {why}."
    return Check(id_, "fail", text, fix, "sglang#5709, nixl#492")


def nixl_plugins(names: Sequence[str] | None) -> Check | None:
    """Check NIXL's UCX plugin, which moves KV. None if NIXL does not run."""
    if names is None:
        return None
    if "UCX" in names:
        return Check("nixl_plugins", "pass", f"NIXL has these plugins: {', '.join(names)}.")
    text = f"NIXL has no UCX plugin (only {', '.join(names) or 'none'}), so it cannot move KV."
    fix = "pip install --force-reinstall nixl; unset NIXL_PLUGIN_DIR"
    return Check("nixl_plugins", "fail", text, fix, "nixl#503")


def ports(taken: Mapping[int, str]) -> Check:
    """Check the router's default ports. taken: port -> its owner, unless that is pdctl."""
    if not taken:
        text = "No other program uses the router's default ports, 30000 and 29000."
        return Check("ports", "pass", text)
    text = ", ".join(f"{port} ({who})" for port, who in taken.items())
    if 30000 in taken:
        return Check("ports", "warn", f"Default ports are in use: {text}.", "--port 30001")
    return Check("ports", "pass", f"In use: {text}. pdctl picks another port for router metrics.")


def gpus(found: Sequence[Gpu] | None, why_none: str = "") -> tuple[Check, ...]:
    """Check that there are GPUs, that they work and are free. found: None: unknown."""
    if found is None:
        return (Check("gpus", "warn", why_none, "--engine sim to rehearse without a GPU"),)
    return (_answering(found), _free(found))


def _answering(found: Sequence[Gpu]) -> Check:
    broken = [gpu for gpu in found if gpu.problem is not None]
    if not broken:
        names = ", ".join(sorted({gpu.name for gpu in found}))
        return Check("gpus", "pass", f"{format_number_of(len(found), 'GPU', 'work')}: {names}.")
    text = "; ".join(f"GPU {gpu.index}: {gpu.problem}" for gpu in broken)
    rest = ",".join(str(gpu.index) for gpu in found if gpu.problem is None)
    fix = f"--gpus {rest} avoids it" if rest else "nvidia-smi, dmesg | grep -i xid"
    return Check("gpus", "fail", f"{len(broken)} of {len(found)} GPUs are unusable: {text}.", fix)


def _free(found: Sequence[Gpu]) -> Check:
    usable = [gpu for gpu in found if gpu.problem is None]
    busy = [gpu for gpu in usable if not is_free(gpu)]
    if not busy:
        return Check("gpus_free", "pass", f"{format_number_of(len(usable), 'GPU', 'are')} free.")
    text = "; ".join(why_not_free(gpu) for gpu in busy)
    rest = ",".join(str(gpu.index) for gpu in usable if is_free(gpu))
    return Check(
        "gpus_free",
        "warn",
        f"{len(busy)} of {len(usable)} GPUs are not free: {text}.",
        f"--gpus {rest}" if rest else "pdctl ls, nvidia-smi: end the processes that use them",
        "sglang#22779, #23627",
    )


def stray_processes(strays: Sequence[Stray]) -> Check:
    """Check for processes of killed servers. They hold GPU memory, and a relaunch stalls."""
    orphans = [stray for stray in strays if stray.is_orphan]
    others = [stray for stray in strays if not stray.is_ours and not stray.is_orphan]
    source = "sglang#22779, #23627, dynamo#1889"
    if orphans:
        pids = " ".join(str(stray.pid) for stray in orphans)
        number = format_number_of(len(orphans), "process")
        text = f"{number} of killed SGLang servers left running: {_named(orphans)}."
        return Check("leftovers", "fail", text, f"kill -9 {pids}", source)
    if others:
        text = f"SGLang processes that pdctl did not start run here: {_named(others)}."
        fix = "--gpus and --port to avoid them, or stop them with SIGTERM"
        return Check("leftovers", "warn", text, fix, source)
    number = format_number_of(len(strays), "process", "belong")
    ours = f" {number} to running deployments." if strays else ""
    return Check("leftovers", "pass", f"No process of a killed SGLang server is left.{ours}")


def _named(strays: Sequence[Stray]) -> str:
    named = [f"pid {stray.pid} {stray.title}" for stray in strays[:3]]
    return ", ".join(named) + (f" and {len(strays) - 3} more" if len(strays) > 3 else "")


def stale_snapshots(num: int, size: int, *, has_sglang: bool) -> Check:
    """Check for SGLang's load snapshots, which SIGKILL leaves in /dev/shm. size: their bytes."""
    if num == 0 or has_sglang:
        return Check("shm_leftovers", "pass", "No killed engine left files in /dev/shm.")
    files = format_number_of(num, "file")
    text = f"Dead engines left {files} of {format_bytes(size)} in /dev/shm."
    return Check("shm_leftovers", "warn", text, "rm /dev/shm/sglang_loads_*.shm")


def rdma_ports(ports: Sequence[RdmaPort]) -> Check:
    """Check RDMA ports. Mooncake also picks inactive ones and fails at the first transfer."""
    active = sorted({port.device for port in ports if port.state == "ACTIVE"})
    down = sorted({port.device for port in ports if port.state != "ACTIVE"} - set(active))
    if not ports:
        return Check("rdma", "pass", f"This machine has no RDMA device; {NO_RDMA}.")
    if not active:
        text = f"No RDMA port is active ({', '.join(down)}); {NO_RDMA}."
        return Check("rdma", "warn", text, "--transfer-backend nixl", "sglang#21395")
    if not down:
        return Check("rdma", "pass", f"RDMA ports are active: {', '.join(active)}.")
    return Check(
        "rdma",
        "warn",
        f"RDMA ports {', '.join(down)} are not active, but Mooncake may pick them instead of"
        f" {', '.join(active)}.",
        f"--args '--disaggregation-ib-device {','.join(active)}'",
        "Mooncake#1384, sglang#21395, #27730",
    )


def peer_memory(*, has_rdma: bool, has_gpus: bool, has_module: bool) -> Check | None:
    """Check that NICs can read GPU memory directly. None without RDMA or GPUs."""
    if not (has_rdma and has_gpus):
        return None
    if has_module:
        return Check("peer_memory", "pass", "nvidia_peermem is loaded, so NICs read GPU memory.")
    return Check(
        "peer_memory",
        "warn",
        "nvidia_peermem is not loaded: without DMA-BUF, KV transfers go through host memory.",
        "modprobe nvidia_peermem",
        "NVIDIA GPUDirect RDMA documentation",
    )


def hidden_gpus(cuda_visible_devices: str | None) -> Check | None:
    """Check for a CUDA_VISIBLE_DEVICES that hides every GPU. None if it does not."""
    if cuda_visible_devices is None or cuda_visible_devices.strip() not in ("", "-1"):
        return None
    text = f"CUDA_VISIBLE_DEVICES={cuda_visible_devices!r} hides every GPU from engines."
    return Check("cuda_visible_devices", "fail", text, "unset CUDA_VISIBLE_DEVICES")
