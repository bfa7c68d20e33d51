"""A real Slurm on hosts made of namespaces: a login host with the controller, and nodes with GPUs.

The GPUs are device files without a driver: Slurm counts them and sets CUDA_VISIBLE_DEVICES.
"""

import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import hosts
from tests.cluster.hosts import Host

GPUS_PER_NODE = 8
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "mungekey")
PACKAGES = "slurmctld slurmd slurm-client munge"
NVIDIA_MAJOR = 195
PATIENCE_S = 60.0  # a busy machine is slow

_SLURM_CONF = """
ClusterName=pdctl
SlurmctldHost=login({login})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket
StateSaveLocation={directory}/ctld
SlurmctldPidFile={directory}/ctld.pid
SlurmctldLogFile={directory}/ctld.log
SlurmdSpoolDir={directory}/spool.%n
SlurmdPidFile={directory}/slurmd.%n.pid
SlurmdLogFile={directory}/slurmd.%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
JobAcctGatherType=jobacct_gather/none
KillWait=5
SchedulerParameters=bf_interval=1
TopologyPlugin=topology/tree
SlurmdTimeout=10
{nodes}
PartitionName=gpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
_NODE = (
    "NodeName={name} NodeAddr={address} CPUs=64 RealMemory=200000"
    f" Gres=gpu:{GPUS_PER_NODE} Feature={{feature}} State=UNKNOWN"
)
NUM_NEAR = 2  # the first nodes, which share a leaf switch


@dataclass(frozen=True)
class Slurm:
    """A running Slurm. directory: on the shared file system."""

    login: Host
    nodes: tuple[Host, ...]
    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    @property
    def hosts(self) -> tuple[Host, ...]:
        return (self.login, *self.nodes)

    def run(self, *argv: str, timeout_s: float = 60.0) -> "subprocess.CompletedProcess[str]":
        """A command on the login host."""
        return self.login.run(*argv, env=self.environment, timeout_s=timeout_s)

    def jobs(self) -> list[str]:
        """The numbers of the jobs that wait or run."""
        return self.run("squeue", "-h", "-o", "%i").stdout.split()


def missing() -> str:
    """Why Slurm cannot run here; "" if it can."""
    absent = [program for program in PROGRAMS if shutil.which(program) is None]
    if absent:
        return f"{', '.join(absent)} not installed: apt-get install {PACKAGES}"
    return hosts.missing()


@contextmanager
def slurm(num_nodes: int, directory: Path) -> Iterator[Slurm]:
    """A Slurm of `num_nodes` nodes with eight GPUs each; nothing of it is left afterwards."""
    names = [f"node{i + 1}" for i in range(num_nodes)]
    with hosts.network(["login", *names], directory) as machines:
        cluster = Slurm(machines["login"], tuple(machines[name] for name in names), directory)
        _write_configuration(cluster)
        with _munge(directory):
            _start(cluster)
            yield cluster


def _write_configuration(cluster: Slurm) -> None:
    directory = cluster.directory
    for i in range(GPUS_PER_NODE):
        os.mknod(directory / f"gpu{i}", stat.S_IFCHR | 0o600, os.makedev(NVIDIA_MAJOR, i))
    (directory / "ctld").mkdir()
    nodes = (
        _NODE.format(name=n.name, address=n.address, feature=f"nvl-{min(i, 1)}")
        for i, n in enumerate(cluster.nodes)
    )
    conf = _SLURM_CONF.format(
        login=cluster.login.address, directory=directory, nodes="\n".join(nodes)
    )
    (directory / "slurm.conf").write_text(conf)
    devices = f"{directory}/gpu[0-{GPUS_PER_NODE - 1}]"
    names = [node.name for node in cluster.nodes]
    every = ",".join(names)
    leaves = [leaf for leaf in (names[:NUM_NEAR], names[NUM_NEAR:]) if leaf]
    rows = [f"SwitchName=s{i} Nodes={','.join(leaf)}\n" for i, leaf in enumerate(leaves)]
    top = f"SwitchName=top Switches=s[0-{len(leaves) - 1}]\n"
    (directory / "topology.conf").write_text("".join([*rows, top]))
    (directory / "gres.conf").write_text(f"NodeName={every} Name=gpu File={devices}\n")
    (directory / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")


@contextmanager
def _munge(directory: Path) -> Iterator[None]:
    """A munge daemon; its socket is a file that every host has."""
    own = directory / "munge"
    own.mkdir(mode=0o755)
    subprocess.run(["mungekey", "--create", f"--keyfile={own}/key"], check=True)
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log"}
    places = [f"--{option}={own}/{name}" for option, name in files.items()]
    daemon = [*hosts.TIED, "munged", "--foreground", "--force", f"--seed-file={own}/seed", *places]
    with subprocess.Popen(daemon, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as munged:
        try:
            until(lambda: (own / "socket").exists())
            yield
        finally:
            munged.terminate()


def _start(cluster: Slurm) -> None:
    """The daemons, each on its host, and wait until every node is idle. They end with the hosts."""
    log = cluster.directory / "daemons.log"
    cluster.login.spawn("slurmctld", "-D", log=log, env=cluster.environment)
    for node in cluster.nodes:
        node.spawn("slurmd", "-D", "-N", node.name, log=log, env=cluster.environment)
    until(lambda: _states(cluster) == ["idle"] * len(cluster.nodes))


def _states(cluster: Slurm) -> list[str]:
    return cluster.run("sinfo", "-h", "-N", "-o", "%t").stdout.split()


def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """Wait for a condition, not for ever."""
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
