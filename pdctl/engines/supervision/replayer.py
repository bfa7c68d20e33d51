"""Replay the latest requests on other layouts every few minutes, in a process of low priority."""

import os
import signal
import sys
import threading
import time

from pdctl.engines.exec_shim import tied

EVERY_S = 120.0  # at least
MOST_OF_A_CORE = 0.05
LOWEST_PRIORITY = 19
_MODULE = "pdctl.measurement.live_what_if"  # a later stage, so it is named and not imported


def start_replaying(name: str) -> None:
    """Keep the what-if of a deployment recent until this process exits."""
    threading.Thread(target=_repeat, args=(name,), name="replayer", daemon=True).start()


def _repeat(name: str) -> None:
    used_s = 0.0
    while True:
        time.sleep(pause_s(used_s))
        used_s = run_at_low_priority([sys.executable, "-m", _MODULE, name])


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
