"""Run processes beside the supervisor: exporters of metrics and spans, replays at low priority."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from pdctl.engines.exec_shim import tied
from pdctl.errors import EnvironmentProblem
from pdctl.hosts import bare

PAUSE_S = 5.0  # before an exporter is started again
EVERY_S = 120.0  # at least, between two replays
MOST_OF_A_CORE = 0.05
LOWEST_PRIORITY = 19
_METRICS = "pdctl.status.exporter"  # later stages are named and not imported
_WHAT_IF = "pdctl.measurement.live_what_if"
_SPANS = "pdctl.engines.tracer"
_OTEL = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.grpc")


def start_exporting(name: str, *, metrics: str, spans: str) -> None:
    """Serve the metrics of a deployment at HOST:PORT, and send spans of what the supervisor does to
    HOST:PORT, until this process exits. "" exports none.
    """
    for module, endpoint in ((_METRICS, metrics), (_SPANS, spans if sends_spans() else "")):
        if endpoint:
            arguments = (module, name, endpoint)
            threading.Thread(target=_keep, args=arguments, name=module, daemon=True).start()


def sends_spans() -> bool:
    """True if OpenTelemetry's SDK and its exporter are installed."""
    try:
        return all(map(importlib.util.find_spec, _OTEL))
    except ModuleNotFoundError:  # not even the package around it
        return False


def _keep(module: str, name: str, endpoint: str) -> None:
    """Run it again and again. It dies with this thread, which lives as long as the process."""
    command = tied((sys.executable, "-m", module, name, endpoint), signal.SIGTERM)
    while True:
        subprocess.run(command, check=False)
        time.sleep(PAUSE_S)


def check_free(endpoint: str) -> None:
    """Raise EnvironmentProblem if nothing can listen at HOST:PORT. "" is fine."""
    if not endpoint:
        return
    host, _, port = endpoint.rpartition(":")
    try:
        with socket.create_server(
            (bare(host), int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ):
            return
    except OSError as problem:
        raise EnvironmentProblem(
            f"pdctl cannot serve its metrics at {endpoint}: {os.strerror(problem.errno or 0)}.",
            hint=f"--metrics-endpoint {host}:{int(port) % 65535 + 1}",
            code="port_in_use",
        ) from problem


def start_replaying(name: str) -> None:
    """Keep the what-if of a deployment recent until this process exits."""
    threading.Thread(target=_repeat, args=(name,), name="replayer", daemon=True).start()


def _repeat(name: str) -> None:
    used_s = 0.0
    while True:
        time.sleep(pause_s(used_s))
        used_s = run_at_low_priority([sys.executable, "-m", _WHAT_IF, name])


def pause_s(used_s: float) -> float:
    """The pause after a replay of `used_s` CPU seconds, which bounds its share of a core.

    PDCTL_WHAT_IF_EVERY_S replaces it, in tests.
    """
    given = os.environ.get("PDCTL_WHAT_IF_EVERY_S")
    return float(given) if given else max(EVERY_S, used_s / MOST_OF_A_CORE)


def run_at_low_priority(command: list[str]) -> float:
    """Run a command that dies with this thread; return the CPU seconds that it took."""
    pid = os.posix_spawn(sys.executable, tied(command, signal.SIGTERM), os.environ)
    os.setpriority(os.PRIO_PROCESS, pid, LOWEST_PRIORITY)
    _, _, used = os.wait4(pid, 0)
    return used.ru_utime + used.ru_stime
