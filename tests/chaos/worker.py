"""Plays histories one after the other in a network and on a disk of its own, where permitted.

python -m tests.chaos.worker SEED...    one line of JSON each; seeds that fail are in them
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pdctl.engines import state
from pdctl.paths import HOME_VARIABLE
from tests.chaos.history import play
from tests.real_engine.loopback import loopback_only

DISK_BYTES = 3 << 20
KEEP = "PDCTL_CHAOS_KEEP"  # a directory that keeps the state of histories that failed


def main() -> None:
    """Play every seed."""
    os.environ["PDCTL_BACKOFF_S"] = "0.5"
    with tempfile.TemporaryDirectory() as home, small_disk(Path(home)) as is_small:
        os.environ[HOME_VARIABLE] = home
        with loopback_only():
            for seed in map(int, sys.argv[1:]):
                outcome = play(seed, full_disk=is_small)
                keep(Path(home), seed, bool(outcome.problem))
                sys.stdout.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
                sys.stdout.flush()


def keep(home: Path, seed: int, has_failed: bool) -> None:
    """Put the logs of a history that failed where somebody asked for them."""
    if has_failed and (to := os.environ.get(KEEP)):
        Path(to).mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(home / f"chaos-{seed}"), to], check=False)
    state.forget(f"chaos-{seed}")


@contextmanager
def small_disk(home: Path) -> Iterator[bool]:
    """A tiny file system there, which an act can fill; False where that is not permitted."""
    options = f"size={DISK_BYTES}"
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(home)]
    is_mounted = os.geteuid() == 0 and not subprocess.run(mount, capture_output=True).returncode
    try:
        yield is_mounted
    finally:
        if is_mounted:
            subprocess.run(["umount", "-l", str(home)], check=False)


if __name__ == "__main__":
    main()
