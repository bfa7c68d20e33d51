"""Become another program that dies with the process which started it.

    python -I -S exec_shim.py PARENT_PID SIGNAL PROGRAM ARGUMENT...

Run by path, before anything of pdctl is imported: it replaces code between fork and exec, which
is not safe in a program with threads. SIGNAL 0: nothing is asked of the kernel, only exec.
"""

import os
import sys

PR_SET_PDEATHSIG = 1


def main(parent_pid: int, death_signal: int, argv: list[str]) -> None:
    """Never returns: the program runs, or a line in the log says why not."""
    if death_signal:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent_pid:  # it died before the kernel was told
            os._exit(1)
    try:
        os.execvp(argv[0], argv)
    except OSError as problem:
        sys.stderr.write(f"pdctl: cannot run {argv[0]}: {problem.strerror}\n")
        sys.stderr.flush()
        os._exit(127)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
