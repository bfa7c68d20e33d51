"""Execute a program that dies together with the process that started it.

    python -I -S exec_shim.py PARENT_PID SIGNAL PROGRAM ARGUMENT...

Run by path, without importing pdctl; `tied` makes that command. It does what would otherwise run
between fork and exec, where a program with threads must not run Python code. SIGNAL is what the
kernel sends when the parent dies; 0 means none. Imports nothing slow: every process starts here.
"""

import os
import sys

PR_SET_PDEATHSIG = 1


def tied(argv: "list[str] | tuple[str, ...]", death_signal: int) -> list[str]:
    """The command that runs `argv` until this process dies. death_signal: 0 lets it live on."""
    shim = [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death_signal))]
    return [*shim, *argv]


def main(parent_pid: int, death_signal: int, argv: list[str]) -> None:
    """Execute the program, or write the reason to the log. Never returns."""
    if death_signal:
        import ctypes  # not needed, and slow, without a signal

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent_pid:  # the parent died before prctl took effect
            os._exit(1)
    try:
        os.execvp(argv[0], argv)
    except OSError as problem:
        sys.stderr.write(f"pdctl: cannot run {argv[0]}: {problem.strerror}\n")
        sys.stderr.flush()
        os._exit(127)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
