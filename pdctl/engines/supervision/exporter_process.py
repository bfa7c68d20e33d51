"""Keep the process that serves pdctl's own metrics running beside the supervisor."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from pdctl.errors import EnvironmentProblem
from pdctl.hosts import bare

PAUSE_S = 5.0  # before it is started again
_SHIM = Path(__file__).parents[1] / "exec_shim.py"
_MODULE = "pdctl.status.exporter"  # a later stage, so it is named and not imported


def start_exporting(name: str, endpoint: str) -> None:
    """Serve the metrics of a deployment until this process exits. "" serves none."""
    if endpoint:
        threading.Thread(target=_keep, args=(name, endpoint), name="exporter", daemon=True).start()


def _keep(name: str, endpoint: str) -> None:
    """Run it again and again. It dies with this thread, which lives as long as the process."""
    shim = (sys.executable, "-I", "-S", str(_SHIM), str(os.getpid()), str(int(signal.SIGTERM)))
    while True:
        subprocess.run([*shim, sys.executable, "-m", _MODULE, name, endpoint], check=False)
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
