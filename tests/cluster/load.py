"""Requests at an even rate from a host of a cluster, while something happens to a deployment.

`python -m tests.cluster.load URL RATE` sends until its stdin ends, then prints what failed.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.under_load import under_load
from tests.cluster.hosts import Host
from tests.cluster.pdctl_there import PdctlThere

ROOT = Path(__file__).parents[2]


@dataclass
class Sent:
    """What a load has sent. failed: when each failed request was sent, in Unix time, and why."""

    num: int = 0
    failed: list[tuple[float, str]] = field(default_factory=list)


@contextmanager
def load_from(host: Host, url: str, rate_rps: float) -> Iterator[Sent]:
    """Requests from a host while the block runs; what became of them is known after it."""
    sent = Sent()
    with subprocess.Popen(
        host.command((sys.executable, "-m", "tests.cluster.load", url, str(rate_rps)), ROOT),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    ) as client:
        try:
            yield sent
            found = json.loads(client.communicate(timeout=330)[0])
            sent.num, sent.failed = found["num"], [(at, why) for at, why in found["failed"]]
        finally:
            client.kill()


def scales_without_a_failed_request(there: PdctlThere[Any], name: str) -> None:
    """Change the counts of a running 2P8D five times under 20 requests/s."""
    with load_from(there.cluster.login, there.state(name)["endpoint"], 20.0) as sent:
        for prefill, decode in ((3, 7), (2, 7), (2, 9), (3, 8), (2, 6)):
            counts = ("--prefill", str(prefill), "--decode", str(decode))
            there.done("scale", name, *counts)
    assert sent.num > 100
    assert sent.failed == []


def main(url: str, rate_rps: str) -> None:
    """Send until stdin ends."""
    from_monotonic = time.time() - time.monotonic()
    with under_load(url, float(rate_rps)) as load:
        sys.stdin.read()
    failed = [(from_monotonic + at + o.sent_s, o.error or "truncated") for at, o in load.failed]
    sys.stdout.write(json.dumps({"num": len(load.sent), "failed": failed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
