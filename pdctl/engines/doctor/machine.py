"""Everything the doctor checks of this machine, in the order it is shown."""

import os
import resource
from collections.abc import Iterator

from pdctl.engines import state
from pdctl.engines.doctor import hardware, limits, look, software
from pdctl.engines.doctor.records import Check
from pdctl.inspection.links import query_rdma_ports
from pdctl.inspection.records import SglangInstall
from pdctl.inspection.sglang_probe import version

USUAL_PORTS = (30000, 29000)


def machine_checks(*, python: str | None = None, quick: bool = False) -> tuple[Check, ...]:
    """All checks of this machine.

    python: the interpreter that has SGLang; None: the one `up` would find.
    quick: leave out what imports libraries.
    """
    install, why = look.install(python)
    checks = [*quick_checks(), *_software(install, why)]
    if not quick and install is not None and install.version is not None:
        checks += _libraries(install)
    return tuple(checks)


def quick_checks() -> tuple[Check, ...]:
    """What can be seen in milliseconds, before every start: limits, room, GPUs, leftovers."""
    return (*_system(), *_hardware(), software.ports(look.taken_ports(USUAL_PORTS)))


def _system() -> Iterator[Check]:
    environ = os.environ
    ports = query_rdma_ports()
    home = state.state_home()
    yield limits.open_files(look.limit(resource.RLIMIT_NOFILE))
    yield limits.locked_memory(look.soft_limit(resource.RLIMIT_MEMLOCK), ports)
    yield limits.shared_memory(*look.room(look.SHM))
    yield limits.cpu_memory(look.free_memory())
    yield limits.port_range(*look.local_port_range())
    yield limits.disk(str(home), look.room(home)[1], look.is_writable(home))
    yield limits.proxy(environ)
    address = environ.get("SGLANG_HOST_IP") or environ.get("HOST_IP")
    yield limits.host_ip(environ, look.has_address(address) if address else None)


def _hardware() -> Iterator[Check]:
    found, why = look.visible()
    ports = query_rdma_ports()
    yield from hardware.gpus(found, why)
    yield hardware.rdma_ports(ports)
    strays = look.strays()
    yield hardware.leftovers(strays)
    yield hardware.shared_segments(*look.shared_segments(), has_sglang=bool(strays))
    some = (
        hardware.visible(os.environ.get("CUDA_VISIBLE_DEVICES")),
        hardware.peer_memory(
            has_rdma=any(port.state == "ACTIVE" for port in ports),
            has_gpus=bool(found),
            has_module=look.PEER_MEMORY.exists(),
        ),
    )
    yield from (check for check in some if check is not None)


def _software(install: SglangInstall | None, why: str) -> Iterator[Check]:
    yield software.sglang(install, why)
    yield software.router(version("sglang-router"))
    has_rdma = any(port.state == "ACTIVE" for port in query_rdma_ports())
    check = software.backends(install, has_rdma=has_rdma)
    if check is not None:
        yield check


def _libraries(install: SglangInstall) -> Iterator[Check]:
    here = [name for name in install.backends if name in software.IMPORTS]
    problems = {name: look.import_problem(install.python, software.IMPORTS[name]) for name in here}
    yield from software.imports(problems)
    if problems.get("nixl", "absent") is None:
        check = software.nixl_plugins(look.nixl_plugin_names(install.python))
        if check is not None:
            yield check
