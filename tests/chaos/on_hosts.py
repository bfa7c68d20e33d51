"""Random histories of deployments on three hosts of a Slurm or a Ray, by the command line.

`python -m tests.chaos.on_hosts slurm|ray FIRST NUM` plays seeds; one line of JSON each. Whatever
happens, a deployment serves again, is `degraded` with a reason, or ended for one; afterwards
nothing of it is left on any host. PDCTL_CHAOS_KEEP: a directory that keeps the state of failures.
"""

import dataclasses
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.chaos.history import Outcome
from tests.cluster import ray_cluster, slurm
from tests.cluster.hosts import Host
from tests.cluster.pdctl_there import R1, OnSlurm, PdctlThere
from tests.cluster.ray_cluster import RayCluster
from tests.cluster.slurm import Slurm, until

RECOVERS_WITHIN_S = 90.0
ENGINES = "--port 2"  # a simulated engine or rank, and no router
NO_REASON = "not started yet"  # why not?
SUPERVISOR = "-m pdctl.engines.daemon"
VARIABLES = {"PDCTL_MOVE_AFTER_S": "3"}
There = PdctlThere[Any]


class Broken(AssertionError):
    """Something that must hold does not."""


class Stage:
    """One deployment on three hosts and the dice; told: what has been done to it, in words."""

    def __init__(self, on: str, there: There, dice: random.Random, name: str) -> None:
        self.on = on
        self.there = there
        self.dice = dice
        self.name = name
        self.told: list[str] = []
        self.is_over = False  # something ended it on purpose
        self.ends_with_supervisor = False

    @property
    def hosts(self) -> tuple[Host, ...]:
        nodes: tuple[Host, ...] = self.there.cluster.nodes
        return nodes

    def tell(self, what: str) -> None:
        self.told.append(what)

    def kill_one(self, what: str, word: str) -> None:
        """Kill one of the processes with a word in their command line."""
        found = [p for p in self.there.processes(word) if _is_itself(p)]
        if found:
            self.tell(f"kill {what}")
            with suppress(psutil.NoSuchProcess):
                self.dice.choice(sorted(found, key=lambda p: p.pid)).kill()


def _is_itself(process: psutil.Process) -> bool:
    """True unless it only starts the process that its command line names."""
    try:
        return process.name() != "srun" and "guard.py" not in " ".join(process.cmdline())
    except psutil.Error:
        return False


def kill_engine(stage: Stage) -> None:
    stage.kill_one("an engine", ENGINES)


def kill_rank(stage: Stage) -> None:
    stage.kill_one("a rank", "--nnodes 2")


def kill_router(stage: Stage) -> None:
    stage.kill_one("the router", "sglang_router")


def kill_agent(stage: Stage) -> None:
    if stage.on == "slurm":
        stage.kill_one("an agent", "pdctl.engines.node_agent")
        return
    with suppress(psutil.NoSuchProcess, IndexError):
        engine = stage.dice.choice(stage.there.processes(ENGINES))  # a child of its host's agent
        agent = engine.parent()
        if agent is not None and "RemoteAgent" in " ".join(agent.cmdline()):
            stage.tell("kill an agent")
            agent.kill()


def kill_supervisor(stage: Stage) -> None:
    stage.kill_one("the supervisor", SUPERVISOR)
    stage.is_over |= stage.ends_with_supervisor


def kill_for_good(stage: Stage) -> None:
    """The supervisor and its guard; somebody resumes the deployment from another host."""
    if stage.ends_with_supervisor:
        return
    host = stage.dice.choice(stage.hosts)
    stage.tell(f"kill supervisor and guard, resume on {host.name}")
    stage.there.kill(SUPERVISOR)
    stage.there.run("up", "--resume", "--name", stage.name, host=host)


def cut_off(stage: Stage) -> None:
    """A host is off the network for a while, perhaps long enough for its engines to leave it."""
    host, for_s = stage.dice.choice(stage.hosts), stage.dice.choice((0.5, 3.0, 10.0, 20.0))
    stage.tell(f"cut off {host.name} for {for_s:g} s")
    host.unplug()
    try:
        if stage.dice.random() < 0.3:
            kill_supervisor(stage)
        time.sleep(for_s)
    finally:
        host.plug()


def scale(stage: Stage) -> None:
    prefill, decode = stage.dice.choice([(1, 2), (1, 4), (2, 3), (3, 3), (2, 5)])
    stage.tell(f"scale to {prefill}P{decode}D")
    sizes = ("--prefill", str(prefill), "--decode", str(decode))
    stage.there.run("scale", stage.name, *sizes, "--no-wait")


def drain(stage: Stage) -> None:
    """The warning before a time limit; a stop by a person where there is none."""
    if stage.on == "slurm" and stage.ends_with_supervisor:
        stage.tell("SIGTERM to the batch script")
        jobs = stage.there.cluster.jobs()
        stage.there.cluster.run("scancel", "--batch", "--signal=TERM", *jobs)
    else:
        stage.tell("down")
        stage.there.run("down", stage.name)
    stage.is_over = True


def cancel(stage: Stage) -> None:
    if stage.on != "slurm":
        return
    stage.tell("scancel")
    stage.there.cluster.run("scancel", "--user=root")
    stage.is_over = True


ACTS: tuple[Callable[[Stage], None], ...] = (
    *(kill_engine, kill_engine, kill_rank, kill_router, kill_agent),
    *(kill_supervisor, kill_for_good, cut_off, cut_off, scale),
)
ENDS: tuple[Callable[[Stage], None], ...] = (drain, cancel)


def play(stage: Stage) -> str:
    """Start a deployment, let things happen, see that it recovers, stop it; how it ended."""
    start(stage)
    for _ in range(stage.dice.randint(1, 3)):
        if not stage.is_over:
            stage.dice.choice(ACTS)(stage)
            time.sleep(stage.dice.uniform(0.0, 1.5))
    if not stage.is_over and stage.dice.random() < 0.2:
        stage.dice.choice(ENDS)(stage)
    ended_as = "over" if stage.is_over else until_recovered(stage)
    stop(stage)
    return ended_as


def start(stage: Stage) -> None:
    """Two layouts: small engines, or one that needs two hosts."""
    there, dice = stage.there, stage.dice
    if dice.random() < 0.3:
        file = there.cwd / f"{stage.name}.yaml"
        file.write_text(R1.replace("name: r1", f"name: {stage.name}"))
        (there.cwd / "cluster.yaml").write_text("schema: 1\ngpus_per_node: 8\n")
    else:
        file = Path(there.write(stage.name, prefill=2, decode=4))
    stage.tell(f"up {file.read_text().count('tp: 16') and 'with an engine of two hosts' or '2P4D'}")
    there.done("up", "-f", str(file), "--on", stage.on, "-d")


def until_recovered(stage: Stage) -> str:
    """Serving, a request passing; or degraded with a reason that stays."""
    deadline = time.monotonic() + RECOVERS_WITHIN_S
    while time.monotonic() < deadline:
        state = stage.there.state(stage.name)
        if state["phase"] == "serving" and stage.there.serves(stage.name):
            return "serving"
        time.sleep(0.2)
    state = stage.there.state(stage.name)
    if state["phase"] == "degraded" and state["detail"] and NO_REASON not in state["detail"]:
        return f"degraded: {state['detail']}"
    raise Broken(f"neither serving nor degraded with a reason: {state['phase']} {state['detail']}")


def stop(stage: Stage) -> None:
    """Stop it; nothing is left on any host."""
    ran = stage.there.run("down", stage.name)
    if ran.returncode not in (0, 4, 7):  # no such job, or nothing runs
        raise Broken(f"down exited with {ran.returncode}: {ran.stderr}")
    if not stage.ends_with_supervisor:
        _cancel_jobs(stage)  # what `salloc` allocated
    try:
        stage.there.leaves_nothing()
        until(lambda: not _jobs(stage))
    except AssertionError:
        left = [" ".join(p.cmdline())[:120] for p in stage.there.processes("")]
        raise Broken(f"left: {left}, jobs {_jobs(stage)}") from None


def _cancel_jobs(stage: Stage) -> None:
    if isinstance(stage.there.cluster, Slurm):
        stage.there.cluster.run("scancel", "--user=root")


def _jobs(stage: Stage) -> list[str]:
    cluster = stage.there.cluster
    return cluster.jobs() if isinstance(cluster, Slurm) else []


@contextmanager
def stages(on: str, directory: Path) -> Iterator[Callable[[int], Stage]]:
    """A cluster, and what makes the stage of a seed there."""
    if on == "ray":
        with ray_cluster.ray_cluster(3, directory) as hosts:
            yield lambda seed: _on_ray(hosts, directory, seed)
        return
    with slurm.slurm(3, directory) as cluster:
        yield lambda seed: _on_slurm(cluster, directory, seed)


def _on_ray(hosts: RayCluster, directory: Path, seed: int) -> Stage:
    there = PdctlThere(hosts, _state(directory, seed), _work(directory), VARIABLES)
    return Stage("ray", there, random.Random(seed), f"chaos-{seed}")


def _on_slurm(cluster: Slurm, directory: Path, seed: int) -> Stage:
    """Submitted from outside by two seeds in five, inside an allocation otherwise."""
    until(lambda: not cluster.jobs())
    until(lambda: cluster.run("sinfo", "-h", "-o", "%t").stdout.split() == ["idle"])
    there = OnSlurm(cluster, _state(directory, seed), _work(directory), VARIABLES)
    is_submitted = seed % 5 in (1, 3)
    if not is_submitted:
        there = there.inside(there.allocate())
    stage = Stage("slurm", there, random.Random(seed), f"chaos-{seed}")
    stage.ends_with_supervisor = is_submitted
    return stage


def _state(directory: Path, seed: int) -> Path:
    return directory / "state" / str(seed)


def _work(directory: Path) -> Path:
    work = directory / "work"
    work.mkdir(exist_ok=True)
    return work


def outcomes(on: str, seeds: range, directory: Path) -> Iterator[Outcome]:
    """Play these seeds one after the other, on one cluster until it breaks."""
    with stages(on, directory) as stage_of:
        for seed in seeds:
            yield _outcome(stage_of(seed))


def _outcome(stage: Stage) -> Outcome:
    began = time.monotonic()
    ended_as, problem = "", ""
    try:
        ended_as = play(stage)
    except (AssertionError, OSError) as failed:
        problem = f"{type(failed).__name__}: {failed}"
        keep = os.environ.get("PDCTL_CHAOS_KEEP")
        if keep and stage.there.home.exists():
            shutil.copytree(stage.there.home, Path(keep) / stage.name, dirs_exist_ok=True)
        stage.there.kill("")
        _cancel_jobs(stage)
    took_s = round(time.monotonic() - began, 1)
    seed = int(stage.name.partition("-")[2])
    return Outcome(seed, tuple(stage.told), ended_as, problem, took_s)


def main(on: str, first: str, num: str) -> None:
    """Play seeds; print how each ended."""
    with tempfile.TemporaryDirectory() as directory:
        for one in outcomes(on, range(int(first), int(first) + int(num)), Path(directory)):
            sys.stdout.write(json.dumps(dataclasses.asdict(one)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
