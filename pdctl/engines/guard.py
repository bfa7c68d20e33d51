"""Start a program again when it is killed: the supervisor of a detached deployment.

    python -I -S guard.py PROGRAM ARGUMENT...

Run by path and as small as can be: it only waits, so that nothing can bring it down. A program
that ends by itself, whatever its exit status, is over. Descriptors are handed on.
"""

import os
import signal
import sys
import time

# a supervisor that dies at once, again and again, is broken and not unlucky
MAX_STARTS = 5
WINDOW_S = 60.0
PAUSE_S = 0.5


def main(argv: list[str]) -> int:
    """The exit status of the program, or 1 when it was killed too often."""
    guard = Guard(argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, guard.hand_on)
    return guard.run()


class Guard:
    """One program. A signal to the guard is one to the program, which then is not started again."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv
        self._pid = 0
        self._is_asked_to_end = False

    def hand_on(self, number: int, frame: object) -> None:
        self._is_asked_to_end = True
        if self._pid:
            os.kill(self._pid, number)

    def run(self) -> int:
        starts: list[float] = []
        while len(starts) < MAX_STARTS and not self._is_asked_to_end:
            starts = [at for at in starts if time.monotonic() - at < WINDOW_S] + [time.monotonic()]
            self._pid = os.posix_spawn(self._argv[0], self._argv, os.environ)
            status = os.waitpid(self._pid, 0)[1]
            self._pid = 0
            if os.WIFEXITED(status):
                return os.WEXITSTATUS(status)
            time.sleep(PAUSE_S)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
