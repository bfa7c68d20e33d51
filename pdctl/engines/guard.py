"""Restart a program when it is killed: the supervisor of a detached deployment.

    python -I -S guard.py PROGRAM ARGUMENT...

Run by path and kept minimal: it only waits, so little can go wrong. A program that exits by itself,
with any status, is not restarted. Open descriptors are inherited.
"""

import os
import signal
import sys
import time

# a supervisor that keeps dying at once has a bug, which restarts will not fix
MAX_STARTS = 5
WINDOW_S = 60.0
PAUSE_S = 0.5


def main(argv: list[str]) -> int:
    """Run the program; return its exit status, or 1 if it was killed too often."""
    guard = Guard(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, guard.pass_on)
    return guard.run()


class Guard:
    """One program. Signals to the guard are passed on, and the program is then not restarted."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv
        self._pid = 0
        self._must_end = False

    def pass_on(self, number: int, frame: object) -> None:
        self._must_end = True
        if self._pid:
            os.kill(self._pid, number)

    def run(self) -> int:
        starts: list[float] = []
        while len(starts) < MAX_STARTS and not self._must_end:
            starts = [at for at in starts if time.monotonic() - at < WINDOW_S] + [time.monotonic()]
            self._start()
            status = os.waitpid(self._pid, 0)[1]
            self._pid = 0
            if os.WIFEXITED(status):
                return os.WEXITSTATUS(status)
            time.sleep(PAUSE_S)
        return 1

    def _start(self) -> None:
        self._pid = os.posix_spawn(self._argv[0], self._argv, os.environ)
        if self._must_end:  # a signal came before there was a process to pass it on to
            os.kill(self._pid, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
