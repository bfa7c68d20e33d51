"""Run all checks of `pdctl doctor`, in the order in which it shows them."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from pdctl.doctor import machine_facts, machine_rules
from pdctl.doctor.deployment_facts import ask_deployment, ask_through_router
from pdctl.doctor.deployment_rules import deployment_checks
from pdctl.doctor.records import Check
from pdctl.engines import log_file, state
from pdctl.engines.explain_log import LogExplanation, explain_end, explain_troubles, loud_line
from pdctl.engines.lifecycle import running
from pdctl.engines.lifecycle.deployment_key import use_key_of
from pdctl.engines.trouble_signatures import TROUBLES
from pdctl.inspection.gpus import query_rdma_ports
from pdctl.inspection.records import SglangInstall
from pdctl.inspection.sglang_probe import version
from pdctl.paths import state_home

USUAL_PORTS = (30000, 29000)


def machine_checks(*, python: str | None = None, quick: bool = False) -> tuple[Check, ...]:
    """All checks of this machine.

    python: the interpreter that has SGLang; None: the one that `up` would find.
    quick: skip the checks that import libraries.
    """
    install, why = machine_facts.install(python)
    checks = [*quick_checks(), *_software(install, why)]
    if not quick and install is not None and install.version is not None:
        checks += _libraries(install)
    return tuple(checks)


def quick_checks() -> tuple[Check, ...]:
    """Checks that take milliseconds, made before every start: limits, space, GPUs, leftovers."""
    return (*_system(), *_hardware(), machine_rules.ports(machine_facts.taken_ports(USUAL_PORTS)))


def _system() -> Iterator[Check]:
    environ = os.environ
    ports = query_rdma_ports()
    home = state_home()
    yield machine_rules.open_files(machine_facts.limit(resource.RLIMIT_NOFILE))
    yield machine_rules.locked_memory(machine_facts.soft_limit(resource.RLIMIT_MEMLOCK), ports)
    yield machine_rules.shared_memory(*machine_facts.file_system_bytes(machine_facts.SHM))
    yield machine_rules.cpu_memory(machine_facts.free_memory())
    yield machine_rules.port_range(*machine_facts.local_port_range())
    _, free = machine_facts.file_system_bytes(home)
    yield machine_rules.disk(str(home), free, machine_facts.is_writable(home))
    yield machine_rules.proxy(environ)
    address = environ.get("SGLANG_HOST_IP") or environ.get("HOST_IP")
    yield machine_rules.host_ip(environ, machine_facts.has_address(address) if address else None)


def _hardware() -> Iterator[Check]:
    found, why = machine_facts.usable_gpus()
    ports = query_rdma_ports()
    yield from machine_rules.gpus(found, why)
    yield machine_rules.rdma_ports(ports)
    strays = machine_facts.strays()
    yield machine_rules.stray_processes(strays)
    snapshots = machine_facts.load_snapshots()
    yield machine_rules.stale_snapshots(*snapshots, has_sglang=bool(strays))
    some = (
        machine_rules.hidden_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")),
        machine_rules.peer_memory(
            has_rdma=any(port.state == "ACTIVE" for port in ports),
            has_gpus=bool(found),
            has_module=machine_facts.PEER_MEMORY.exists(),
        ),
    )
    yield from (check for check in some if check is not None)


def _software(install: SglangInstall | None, why: str) -> Iterator[Check]:
    yield machine_rules.sglang(install, why)
    yield machine_rules.router(version("sglang-router"))
    has_rdma = any(port.state == "ACTIVE" for port in query_rdma_ports())
    check = machine_rules.backends(install, has_rdma=has_rdma)
    if check is not None:
        yield check


def _libraries(install: SglangInstall) -> Iterator[Check]:
    here = [name for name in install.backends if name in machine_rules.IMPORTS]
    problems = {
        name: machine_facts.import_problem(install.python, machine_rules.IMPORTS[name])
        for name in here
    }
    yield from machine_rules.imports(problems)
    if problems.get("nixl", "absent") is None:
        check = machine_rules.nixl_plugins(machine_facts.nixl_plugin_names(install.python))
        if check is not None:
            yield check


def diagnose(
    name: str | None = None,
    *,
    router: str = "",
    metrics_port: int | None = None,
    python: str | None = None,
    quick: bool = False,
) -> tuple[Check, ...]:
    """Check this machine, and the deployment `name` or else all that run.

    name: a deployment that runs or has failed to start. router: URL of a router that pdctl did
    not start, with `metrics_port` for Prometheus; skips this machine, because the router may run
    elsewhere.
    Raises StateConflict if there is no trace of `name`.
    """
    if router:
        return deployment_checks(ask_through_router(router, metrics_port))
    names = (name,) if name is not None else running.names()
    found = [check for one in names for check in _deployment(one)]
    return (*machine_checks(python=python, quick=quick), *found)


def _deployment(name: str) -> Iterator[Check]:
    if not running.is_running(name):
        yield from _ended(name)
        return
    use_key_of(name)
    found = state.read_state(name)
    if found is not None:
        yield from deployment_checks(ask_deployment(found))


def _ended(name: str) -> Iterator[Check]:
    """Explain from its logs why a deployment that is not running has ended."""
    logs = sorted(p for p in state.logs_dir(name).glob("*.log") if p.stem != "supervisor")
    if not logs:
        raise running.not_running(name)
    explained = False
    for log in logs:
        why = explain_end(_last_start(log)) or _trouble(_last_start(log))
        if why is not None:
            explained = True
            text = f"{log.stem} failed: {why.text} Its log says: {why.line}"
            yield Check(f"start_{why.id}", "fail", text, why.fix, why.source, deployment=name)
    if not explained:
        text = f"{name} is not running; pdctl recognises no failure in its logs.{_loudest(logs)}"
        yield Check("not_running", "unknown", text, f"pdctl up, pdctl logs --name {name}", "", name)


def _loudest(logs: list[Path]) -> str:
    """A sentence with the first line of the logs that looks like an error. "" if none does."""
    for log in logs:
        if line := loud_line(_last_start(log)):
            return f" This line of {log.stem} looks most like an error: {line[:300]}"
    return ""


def _trouble(log_text: str) -> LogExplanation | None:
    """The most serious trouble in the log of a run that ended without a failure or traceback.

    TROUBLES lists troubles by rank. Aborted requests come last: they never end an engine.
    """
    rank = {signature.id: i for i, signature in enumerate(TROUBLES)} | {"aborted": len(TROUBLES)}
    return min(explain_troubles(log_text), key=lambda trouble: rank[trouble.id], default=None)


def _last_start(log: Path) -> str:
    return "\n".join(log_file.last_start(log_file.read_log_lines(log)))
