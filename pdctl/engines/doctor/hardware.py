"""GPUs, RDMA ports, and what killed engines left behind: rules over what was seen. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.engines.doctor.records import Check
from pdctl.inspection.gpus import is_free, why_not_free
from pdctl.inspection.records import Gpu, RdmaPort
from pdctl.units import format_bytes

NO_RDMA = "KV can go over NVLink, shared memory or TCP, inside this machine"


@dataclass(frozen=True)
class Stray:
    """A process of an SGLang server. is_orphan: its server is gone. is_ours: pdctl runs it."""

    pid: int
    title: str
    is_orphan: bool = False
    is_ours: bool = False


def gpus(found: Sequence[Gpu] | None, why_none: str = "") -> tuple[Check, ...]:
    """Whether there are GPUs, answer, and are free. None: they could not be asked for."""
    if found is None:
        return (Check("gpus", "warn", why_none, "--engine sim to rehearse without a GPU"),)
    return (_answering(found), _free(found))


def _answering(found: Sequence[Gpu]) -> Check:
    broken = [gpu for gpu in found if gpu.problem is not None]
    if not broken:
        names = ", ".join(sorted({gpu.name for gpu in found}))
        return Check("gpus", "pass", f"{len(found)} GPUs answer: {names}.")
    text = "; ".join(f"GPU {gpu.index}: {gpu.problem}" for gpu in broken)
    rest = ",".join(str(gpu.index) for gpu in found if gpu.problem is None)
    fix = f"--gpus {rest} to leave it out" if rest else "nvidia-smi, dmesg | grep -i xid"
    return Check("gpus", "fail", f"{len(broken)} of {len(found)} GPUs cannot be used: {text}.", fix)


def _free(found: Sequence[Gpu]) -> Check:
    usable = [gpu for gpu in found if gpu.problem is None]
    busy = [gpu for gpu in usable if not is_free(gpu)]
    if not busy:
        return Check("gpus_free", "pass", f"{len(usable)} GPUs are free.")
    text = "; ".join(why_not_free(gpu) for gpu in busy)
    rest = ",".join(str(gpu.index) for gpu in usable if is_free(gpu))
    return Check(
        "gpus_free",
        "warn",
        f"{len(busy)} of {len(usable)} GPUs are not free: {text}.",
        f"--gpus {rest}" if rest else "pdctl ls, nvidia-smi: end what holds them",
        "sglang#22779, #23627",
    )


def leftovers(strays: Sequence[Stray]) -> Check:
    """Schedulers whose server was killed hold GPU memory, and a relaunch beside them stalls."""
    orphans = [stray for stray in strays if stray.is_orphan]
    others = [stray for stray in strays if not stray.is_ours and not stray.is_orphan]
    source = "sglang#22779, #23627, dynamo#1889"
    if orphans:
        pids = " ".join(str(stray.pid) for stray in orphans)
        text = f"{len(orphans)} processes of killed SGLang servers live on: {_named(orphans)}."
        return Check("leftovers", "fail", text, f"kill -9 {pids}", source)
    if others:
        text = f"SGLang that pdctl did not start runs here: {_named(others)}."
        fix = "--gpus and --port beside it, or stop it with SIGTERM"
        return Check("leftovers", "warn", text, fix, source)
    ours = f"; {len(strays)} processes belong to running deployments" if strays else ""
    return Check("leftovers", "pass", f"No killed SGLang server left a process behind{ours}.")


def _named(strays: Sequence[Stray]) -> str:
    named = [f"pid {stray.pid} {stray.title}" for stray in strays[:3]]
    return ", ".join(named) + (f" and {len(strays) - 3} more" if len(strays) > 3 else "")


def shared_segments(num: int, size: int, *, has_sglang: bool) -> Check:
    """SIGKILL leaves SGLang's load snapshots in /dev/shm. num, size: of those, bytes."""
    if num == 0 or has_sglang:
        return Check("shm_leftovers", "pass", "No killed engine left anything in /dev/shm.")
    text = f"{num} files of engines that are gone take {format_bytes(size)} of /dev/shm."
    return Check("shm_leftovers", "warn", text, "rm /dev/shm/sglang_loads_*.shm")


def rdma_ports(ports: Sequence[RdmaPort]) -> Check:
    """Mooncake's discovery takes inactive ports too, and fails on them at the first transfer."""
    active = sorted({port.device for port in ports if port.state == "ACTIVE"})
    down = sorted({port.device for port in ports if port.state != "ACTIVE"} - set(active))
    if not ports:
        return Check("rdma", "pass", f"No RDMA device is here; {NO_RDMA}.")
    if not active:
        text = f"None of the RDMA ports is active ({', '.join(down)}); {NO_RDMA}."
        return Check("rdma", "warn", text, "--transfer-backend nixl", "sglang#21395")
    if not down:
        return Check("rdma", "pass", f"RDMA ports are active: {', '.join(active)}.")
    return Check(
        "rdma",
        "warn",
        f"RDMA ports {', '.join(down)} are not active; discovery may take them for"
        f" {', '.join(active)}.",
        f"--args '--disaggregation-ib-device {','.join(active)}'",
        "Mooncake#1384, sglang#21395, #27730",
    )


def peer_memory(*, has_rdma: bool, has_gpus: bool, has_module: bool) -> Check | None:
    """Whether a NIC can read GPU memory by itself; None where the question does not arise."""
    if not (has_rdma and has_gpus):
        return None
    if has_module:
        return Check("peer_memory", "pass", "nvidia_peermem is loaded: NICs read GPU memory.")
    return Check(
        "peer_memory",
        "warn",
        "nvidia_peermem is not loaded: without DMA-BUF every KV transfer goes through the host.",
        "modprobe nvidia_peermem",
        "NVIDIA GPUDirect RDMA documentation",
    )


def visible(cuda_visible_devices: str | None) -> Check | None:
    """A CUDA_VISIBLE_DEVICES that hides every GPU; None where it does not."""
    if cuda_visible_devices is None or cuda_visible_devices.strip() not in ("", "-1"):
        return None
    text = f"CUDA_VISIBLE_DEVICES={cuda_visible_devices!r} hides every GPU from engines."
    return Check("cuda_visible_devices", "fail", text, "unset CUDA_VISIBLE_DEVICES")
