"""CPU seconds of `pdctl --help`, the first thing a newcomer types, and of every verb's --help."""

import os
import sys

from pdctl.commands.command_line.verbs import VERBS

ROUNDS = 5
FIRST_LIMIT_S = 0.15
LIMIT_S = 0.3


def measure() -> list[tuple[str, float, float, str]]:
    """Rows of (what, measured, limit, unit); the best of a few rounds."""
    first = ("pdctl --help, CPU", _help_cpu_s(), FIRST_LIMIT_S, "s")
    return [first, *((f"{verb} --help, CPU", _help_cpu_s(verb), LIMIT_S, "s") for verb in VERBS)]


def _help_cpu_s(*verb: str) -> float:
    """Least CPU seconds of a verb's help over a few rounds; without a verb, of pdctl's own."""
    return min(_once(*verb) for _ in range(ROUNDS))


def _once(*verb: str) -> float:
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        os.execve(sys.executable, [sys.executable, "-m", "pdctl", *verb, "--help"], environment)
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise RuntimeError(f"pdctl {' '.join(verb)} --help failed")
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    for what, measured, limit, unit in measure():
        print(f"{what:24} {measured:6.3f} {unit} (limit {limit:g})")  # noqa: T201
