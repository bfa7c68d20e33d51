"""Deployments on a Slurm and a Ray of three hosts in network namespaces: how fast, what is lost.

`python -m tests.bench.bench_cluster slurm|ray [PART...]`; without parts, all of them. Needs root.
PDCTL_SCALE_OPERATIONS: how many scale operations (100).
"""

import json
import os
import random
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.bench.bench_scale import some_operation
from tests.cluster import ray_cluster, slurm
from tests.cluster.load import load_from
from tests.cluster.pdctl_there import R1, OnSlurm, PdctlThere
from tests.cluster.slurm import until

RATE_RPS = 20.0
Row = tuple[str, float, float | None, str]
There = PdctlThere[Any]


@contextmanager
def pdctl_on(kind: str, directory: Path) -> Iterator[There]:
    """pdctl on a new cluster: inside an allocation of all nodes, or on a Ray."""
    (directory / "work").mkdir()
    state, work = directory / "state", directory / "work"
    early = {"PDCTL_MOVE_AFTER_S": "5"}
    if kind == "ray":
        with ray_cluster.ray_cluster(3, directory) as cluster:
            yield PdctlThere(cluster, state, work, early)
        return
    with slurm.slurm(3, directory) as nodes:
        outside = OnSlurm(nodes, state, work)
        yield OnSlurm(nodes, state, work, {**early, "SLURM_JOB_ID": outside.allocate()})


def ready(there: There, on: str) -> list[Row]:
    """2P8D from the command to serving, and what a look at it costs."""
    file = there.write("chat")
    up_s = took_s(lambda: there.done("up", "-f", file, "--on", on, "-d"))
    serving_s = there.state("chat")["ready_after_s"]
    looks = [cpu_ms(lambda: there.done("status", "chat", "--once")) for _ in range(5)]
    return [
        ("2P8D: up -d, from the command to serving", up_s, 5.0 if on == "slurm" else 15.0, "s"),
        ("2P8D: from the supervisor's start to serving", serving_s, None, "s"),
        ("status --once of 10 remote engines, best of 5", min(looks), 400, "ms CPU"),
    ]


def reattach(there: There, on: str) -> list[Row]:
    """Another host takes over a deployment whose supervisor and guard were killed."""
    tasks = there.tasks("chat")
    there.kill("pdctl.engines.daemon")
    other = next(node for node in there.cluster.nodes[1:])
    pid = there.state("chat")["supervisor_pid"]
    began = time.time()
    command_ms = cpu_ms(lambda: there.done("up", "--resume", "--name", "chat", host=other))
    returned_s = time.time() - began
    until(lambda: there.state("chat")["supervisor_pid"] != pid)
    there.until_serving("chat")
    assert there.tasks("chat") == tasks
    seen = [event for event in events(there) if event["at"] > began]
    adopted = [event["at"] for event in seen if event["event"] == "adopt"]
    ready = [event["at"] for event in seen if event["event"] == "ready"]
    assert len(adopted) == len(ready) == len(tasks)
    started_at = (there.home / "chat" / "launch.json").stat().st_mtime
    rows = [
        ("the command starts a supervisor", started_at - began, None, "s"),
        ("the supervisor knows every process", max(adopted) - began, None, "s"),
        ("every process has answered it", max(ready) - began, 1.0, "s"),
        ("the command returns", returned_s, None, "s"),
        ("the command", command_ms, None, "ms CPU"),
    ]
    return [(f"re-attach from another host: {what}", *more) for what, *more in rows]


def reattach_with_key(there: There, on: str) -> list[Row]:
    """The same with an API key, which the other host does not know."""
    there.done("down", "chat")
    key = {**there.variables, "PDCTL_API_KEY": "a-key-of-this-benchmark"}
    replace(there, variables=key).done("up", "-f", there.write("chat"), "--on", on, "-d")
    rows = reattach(there, on)
    there.done("down", "chat")
    there.done("up", "-f", there.write("chat"), "--on", on, "-d")
    return [(f"with an API key, {what}", took, aim, unit) for what, took, aim, unit in rows]


def scale(there: There, on: str) -> list[Row]:
    """Many scale operations under load."""
    dice, num = random.Random(4), int(os.environ.get("PDCTL_SCALE_OPERATIONS", "100"))
    tally: Counter[str] = Counter()
    began = time.time()
    with load_there(there) as sent:
        for _ in range(num):
            kind, counts = some_operation(dice, there.state("chat")["layout"])
            tally[kind] += 1
            sizes = ("--prefill", str(counts.prefill), "--decode", str(counts.decode))
            there.done("scale", "chat", *sizes)
        took_s = time.time() - began
    print(f"{on}: {dict(tally)}; {sent.num} requests", flush=True)  # noqa: T201
    return [
        (f"{num} scale operations, failed of {sent.num} requests", len(sent.failed), 0, ""),
        ("one scale operation under load", took_s / num, None, "s"),
    ]


def unplugged(there: There, on: str) -> list[Row]:
    """A host is cut off under load for good."""
    host = there.cluster.nodes[2]
    gone = {p["name"] for p in there.state("chat")["processes"] if p["node"] == host.name}
    assert gone
    with load_there(there) as sent:
        time.sleep(4)
        cut_at = time.time()
        host.unplug()
        until(lambda: not gone & there.serving("chat"))
        out_s = time.time() - cut_at
        until(lambda: not [p for p in there.state("chat")["processes"] if p["node"] == host.name])
        there.until_serving("chat")
        moved_s = time.time() - cut_at
        time.sleep(3)
    late = [at - cut_at for at, _ in sent.failed if at - cut_at > out_s]
    for at, why in sent.failed:
        print(f"{on}: sent at {at - cut_at:.2f} s: {why}", flush=True)  # noqa: T201
    host.plug()
    return [
        (f"host with {len(gone)} engines unplugged: out of the router after", out_s, 10.0, "s"),
        (f"host unplugged: failed of {sent.num} requests", len(sent.failed), None, ""),
        ("host unplugged: requests failed that were sent later", len(late), 0, ""),
        ("host unplugged: all serve elsewhere (left after 5 s)", moved_s, None, "s"),
    ]


def rank(there: There, on: str) -> list[Row]:
    """Rank 1 of an engine of two hosts is killed."""
    there.done("down", "chat")
    (there.cwd / "r1.yaml").write_text(R1)
    there.done("up", "-f", str(there.cwd / "r1.yaml"), "--on", on, "-d")
    start_s = next(
        p["ready_after_s"] for p in there.state("r1")["processes"] if p["name"] == "decode-0"
    )
    ranks = [p for p in there.processes("--nnodes 2") if p.name() != "srun"]
    began = time.time()
    next(p for p in ranks if p.cmdline()[-1] == "1").kill()
    until(lambda: there.phases("r1").get("decode-0") != "serving")
    there.until_serving("r1")
    took_s = time.time() - began
    there.done("down", "r1")
    return [("rank 1 killed: serving again, beyond the engine's start", took_s - start_s, 15, "s")]


PARTS: dict[str, Callable[[There, str], list[Row]]] = {
    "ready": ready,
    "reattach": reattach,
    "reattach_with_key": reattach_with_key,
    "scale": scale,
    "unplugged": unplugged,
    "rank": rank,
}


def load_there(there: There) -> Any:
    """The load, from the login host."""
    return load_from(there.cluster.login, there.state("chat")["endpoint"], RATE_RPS)


def events(there: There) -> list[dict[str, Any]]:
    """The event log of the deployment."""
    lines = (there.home / "chat" / "events.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def took_s(action: Callable[[], object]) -> float:
    """Seconds that an action takes."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


def cpu_ms(action: Callable[[], object]) -> float:
    """CPU time of the commands that an action runs to their end, in ms."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def main(kind: str, *parts: str) -> None:
    """Measure; print every row as soon as it is known."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed pdctl has its byte code
    with (
        tempfile.TemporaryDirectory() as directory,
        pdctl_on(kind, Path(directory)) as there,
    ):
        try:
            for part in ("ready", *(name for name in parts or PARTS if name != "ready")):
                for row in PARTS[part](there, kind):
                    print(kind, *row, flush=True)  # noqa: T201
        finally:
            there.run("down", "chat", "--now")


if __name__ == "__main__":
    main(*sys.argv[1:])
