"""Slurm's own commands, as far as pdctl needs them."""

import fnmatch
import math
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.hosts import expanded

LAUNCHER = "slurm"  # its name in the registry, which is slow to import
JOB = "SLURM_JOB_ID"
COMMAND_S = 60.0
QUICK_S = 2.0  # for what a person waits for and can do without
_LEFT = re.compile(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)")
ENDED = ("", "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL",
         "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT")  # fmt: skip
TOPOLOGY_KEYS = {"block": "BlockName", "switch": "SwitchName"}
_BETWEEN_NAMES = re.compile(r",(?![^\[]*\])")
_TAKES_JOBS = ("idle", "mixed", "allocated")  # states of a node


@dataclass(frozen=True)
class SlurmJob:
    """A job as Slurm sees it now. left: time until its limit, as Slurm writes it.

    parts: the nodes of each component of a heterogeneous job; of another job, all of them.
    """

    number: str
    state: str  # "PENDING", "RUNNING", ...; "" for a job that Slurm no longer knows
    reason: str = ""
    left: str = ""
    parts: tuple[tuple[str, ...], ...] = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        return tuple(node for part in self.parts for node in part)

    @property
    def is_expected(self) -> bool:
        """True if it runs or will run: not in its last moments either."""
        return not self.is_over and self.state != "COMPLETING"

    @property
    def is_over(self) -> bool:
        return self.state in ENDED


def is_available() -> bool:
    """True if this machine has Slurm's commands."""
    return shutil.which("srun") is not None


def current_job() -> str | None:
    """The number of the allocation that this command runs in."""
    return os.environ.get(JOB) or None


def job(number: str) -> SlurmJob:
    """Slurm's view of a job."""
    found = _run("squeue", "-h", "-j", number, "-o", "%T|%r|%L|%N|%i", may_fail=True)
    # components of a heterogeneous job are "12+0", "12+1", ...
    rows = sorted(
        ((line.split("|") + [""] * 5)[:5] for line in found.splitlines()),
        key=lambda row: int(row[4].partition("+")[2] or 0),
    )
    state, reason, left, *_ = rows[0] if rows else [""] * 5
    parts = tuple(
        tuple(_run("scontrol", "show", "hostnames", row[3]).split()) for row in rows if row[3]
    )
    if state == "RUNNING":
        _parts[number] = parts
    return SlurmJob(number, state, "" if reason == "None" else reason, left, parts)


_parts: dict[str, tuple[tuple[str, ...], ...]] = {}  # of running jobs, which get no more nodes


def components_of(number: str) -> tuple[tuple[str, ...], ...]:
    """The nodes of each component of a heterogeneous job; () for any other job, or in silence."""
    with suppress(EnvironmentProblem):  # who starts a step learns more from srun
        parts = _parts.get(number) or job(number).parts
        return parts if len(parts) > 1 else ()
    return ()


def seconds_left(number: str) -> float | None:
    """The time until the limit of a job; infinite without one, None if Slurm does not know it."""
    found = _run("squeue", "-h", "-j", number, "-o", "%L", within_s=QUICK_S)
    return parse_left(found.partition("\n")[0])  # components have one limit


def parse_left(text: str) -> float | None:
    """Seconds in "1-02:03:04", "2:03:04" or "3:04"; infinite for UNLIMITED, None for others."""
    if text.strip() == "UNLIMITED":
        return math.inf
    match = _LEFT.fullmatch(text.strip())
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def is_over(number: str) -> bool:
    """True if Slurm says that a job has ended. False while nobody knows: Slurm may be silent."""
    done = subprocess.run(
        ("squeue", "-h", "-j", number, "-o", "%T"),
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    if done.returncode:
        return "Invalid job id" in done.stderr
    return {*done.stdout.split()} <= {*ENDED}


def answering(nodes: Sequence[str]) -> tuple[str, ...]:
    """Those of these nodes that Slurm has not given up."""
    rows = _run("sinfo", "-h", "-N", "-n", ",".join(nodes), "-o", "%N|%T").split()
    lost = {row.partition("|")[0] for row in rows if _is_lost(row.partition("|")[2])}
    return tuple(node for node in nodes if node not in lost)


def _is_lost(state: str) -> bool:
    """True for the state of a failed node; "*" marks one that does not respond."""
    return state.endswith("*") or state.startswith(("down", "fail", "unknown"))


def submit_script(script: str, *, directory: str, output: str) -> str:
    """Submit a job; its number.

    Raises InvalidInput if Slurm refuses it, EnvironmentProblem if no Slurm answers.
    """
    argv = ("sbatch", "--parsable", "--export=ALL", f"--output={output}", f"--chdir={directory}")
    # without this a job that can never run would only wait
    _submit((*argv, "--test-only"), script)
    return _submit(argv, script).partition(";")[0]


def _submit(argv: Sequence[str], script: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
    if "SLURM_CONF" in os.environ:
        environment["SLURM_CONF"] = os.environ["SLURM_CONF"]
    done = subprocess.run(
        argv,
        input=script,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
    if done.returncode:
        _run("sinfo", "-h")  # fails where it is not the job that is wrong
        raise InvalidInput(
            f"Slurm refuses the job ({_size_of(script)}): {_sentence(done.stderr)}",
            hint=f"slurm: in cluster.yaml; free now: {free_gpus() or 'nothing'}",
            code="job_refused",
        )
    return done.stdout.strip()


def _size_of(script: str) -> str:
    """The options of a job script that say how much of the cluster it wants."""
    options = [line.removeprefix("#SBATCH ") for line in script.splitlines()]
    return " ".join(o for o in options if o.startswith(("--nodes=", "--gres=", "--gpus-per-node=")))


def cancel(number: str) -> None:
    """End a job, waiting or running."""
    _run("scancel", number, may_fail=True)


def signal_batch(number: str, name: str) -> None:
    """Signal the script of a job, and not its steps."""
    _run("scancel", "--batch", f"--signal={name}", number, may_fail=True)


def free_gpus() -> str:
    """The free GPUs of each node of each partition, in words; "" where none is free or known."""
    rows = _run("sinfo", "-h", "-N", "-o", "%N|%P|%T|%G", may_fail=True).splitlines()
    used = _run("sinfo", "-h", "-N", "-O", "NodeList:100,GresUsed:100", may_fail=True).splitlines()
    in_use = dict(line.split()[:2] for line in used if len(line.split()) >= 2)
    return ", ".join(_free(row.split("|"), in_use) for row in rows if row.count("|") == 3)


def _free(row: Sequence[str], in_use: dict[str, str]) -> str:
    node, partition, state, gres = row
    total, taken = num_gpus(gres), num_gpus(in_use.get(node, ""))
    return f"{node} {total - taken} of {total} GPUs ({partition.rstrip('*')}, {state})"


def num_gpus(gres: str) -> int:
    """The GPUs in Slurm's text for generic resources: "gpu:h100:8(S:0-1)" has 8."""
    return sum(_kinds(gres).values())


def _kinds(gres: str) -> Counter[str]:
    """The GPUs of each type; "" for those whose type Slurm does not give."""
    parts = (part.partition("(")[0].split(":") for part in gres.split(","))
    counted = (part for part in parts if part[0] == "gpu" and part[-1].isdecimal())
    return sum((Counter({":".join(p[1:-1]): int(p[-1])}) for p in counted), Counter())


def free_kinds(partition: str | None, *, is_exclusive: bool = False) -> dict[str, Counter[str]]:
    """The GPUs of each type that no job has, by node of a partition; None: of every partition.

    is_exclusive: only of nodes without any job.
    """
    states = ("idle",) if is_exclusive else _TAKES_JOBS
    columns = "NodeList:100,StateLong:40,Gres:200,GresUsed:200"
    within = ("-p", partition) if partition else ()
    rows = (line.split() for line in _run("sinfo", "-h", "-N", *within, "-O", columns).splitlines())
    return {
        row[0]: _kinds(row[2]) - _kinds(row[3])
        for row in rows
        if len(row) == 4 and row[1] in states
    }


def domains(told_by: str) -> dict[str, str]:
    """The NVLink domain of each node that Slurm names one for.

    told_by: "block" for the blocks of topology/block, "switch" for the leaf switches of
    topology/tree, or a pattern that one feature of each node matches.
    """
    if told_by not in TOPOLOGY_KEYS:
        rows = (line.split() for line in _run("sinfo", "-h", "-N", "-o", "%N %f").splitlines())
        features = {row[0]: fnmatch.filter(row[1].split(","), told_by) for row in rows}
        return {node: found[0] for node, found in features.items() if found}
    found: dict[str, str] = {}
    # fails where the plugin keeps no topology
    for line in _run("scontrol", "show", "topology", may_fail=True).splitlines():
        keys = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if (name := keys.get(TOPOLOGY_KEYS[told_by])) and keys.get("Level", "0") == "0":
            found |= dict.fromkeys(_hosts(keys.get("Nodes", "")), name)
    return found


def _hosts(listed: str) -> list[str]:
    """The names in "node[1-2],login"."""
    return [name for part in _BETWEEN_NAMES.split(listed) if part for name in expanded(part)]


def _run(*argv: str, may_fail: bool = False, within_s: float = COMMAND_S) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=within_s, check=False)
    except FileNotFoundError:
        raise no_slurm() from None
    except subprocess.TimeoutExpired:
        raise EnvironmentProblem(
            f"{argv[0]} did not answer in {within_s:.0f} s.",
            hint="sinfo shows if Slurm answers",
            code="slurm_silent",
        ) from None
    if done.returncode and not may_fail:
        raise EnvironmentProblem(
            f"{argv[0]} failed: {_sentence(done.stderr)}",
            hint="sinfo shows if Slurm answers",
            code="slurm_failed",
        )
    return done.stdout


def no_slurm() -> EnvironmentProblem:
    """The error where Slurm is asked for and absent."""
    return EnvironmentProblem(
        "Slurm is not installed here (no srun on PATH).",
        hint="run this on a login node of the cluster, or --on local",
        code="no_slurm",
    )


def _sentence(text: str) -> str:
    lines = [line.partition(": error: ")[2] or line for line in text.strip().splitlines()]
    return f"{'; '.join(lines).rstrip('.') or 'no reason given'}."
