"""Run a container that ends with this process, whatever ends it.

    python -I -S container_shim.py RUNTIME NAME PROGRAM ARGUMENT...

Run by path, without importing pdctl. PROGRAM is the client of docker or podman, and replaces this
process: signals and the exit code are its own. A client that is killed leaves its container behind,
so a second process waits for the end of the client and then removes the container by its name. It
carries no marker of the deployment, which would have it killed together with the client.
"""

import os
import select
import signal
import subprocess
import sys

MARKERS = ("PDCTL_RUN", "PDCTL_TASK")


def main(runtime: str, name: str, argv: list[str]) -> None:
    """Become the client. Never returns."""
    _remove(runtime, name)  # what a start before a crash of this machine's pdctl left
    clean = {key: value for key, value in os.environ.items() if key not in MARKERS}
    command = [sys.executable, "-I", "-S", __file__, "--watch", str(os.getpid()), runtime, name]
    watcher = subprocess.Popen(
        command,
        env=clean,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert watcher.stdout is not None
    watcher.stdout.readline()
    try:
        os.execvp(argv[0], argv)
    except OSError as problem:
        sys.stderr.write(f"pdctl: cannot run {argv[0]}: {problem.strerror}\n")
        sys.stderr.flush()
        os._exit(127)


def remove_after(pid: int, runtime: str, name: str) -> None:
    """Remove the container once the client has ended."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    client = os.pidfd_open(pid)
    os.write(1, b"watching\n")
    os.close(1)
    ends = select.poll()
    ends.register(client, select.POLLIN)
    ends.poll()
    _remove(runtime, name)


def _remove(runtime: str, name: str) -> None:
    """Remove a container, running or not. Podman's rm alone would ask it to stop and wait."""
    try:
        for how in (["kill"], ["rm", "--force"]):
            subprocess.run([runtime, *how, name], capture_output=True, check=False)
    except OSError:
        return  # there is no such runtime, so no container either


if __name__ == "__main__":
    if sys.argv[1] == "--watch":
        remove_after(int(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        main(sys.argv[1], sys.argv[2], sys.argv[3:])
