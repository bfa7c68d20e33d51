"""What `pdctl --help` costs: the first thing a newcomer types."""

import os
import resource
import subprocess
import sys

ROUNDS = 5
LIMIT_S = 0.15


def measure() -> list[tuple[str, float, float, str]]:
    """Rows of (what, measured, limit, unit)."""
    return [("pdctl --help, CPU", min(_cpu_s() for _ in range(ROUNDS)), LIMIT_S, "s")]


def _cpu_s() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    env = {**os.environ, "NO_COLOR": "1"}
    command = [sys.executable, "-m", "pdctl", "--help"]
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
