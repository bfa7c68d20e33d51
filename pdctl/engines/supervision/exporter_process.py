"""Keep the processes that export pdctl's own metrics and spans running beside the supervisor."""

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

PAUSE_S = 5.0  # before it is started again
_METRICS = "pdctl.status.exporter"  # a later stage, so it is named and not imported
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
