"""Checks of every node of a cluster, and of what the nodes must have in common.

`python -m pdctl.doctor.nodes` is the part that runs on a node.
"""

import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from pdctl.deployment.cluster_file import ClusterFile
from pdctl.doctor import machine_facts
from pdctl.doctor.diagnose import machine_checks
from pdctl.doctor.records import Check
from pdctl.engines.launchers.protocol import Nodes
from pdctl.errors import EnvironmentProblem
from pdctl.paths import HOME_VARIABLE, state_home

CHECKS_WITHIN_S = 120.0  # the libraries of a cold shared file system
MEET_WITHIN_S = 5.0
CLOCK_WITHIN_S = 5.0
MAX_OFFSET_S = 1.0
MAX_AT_ONCE = 32

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class NodeFacts:
    """One node's report of itself. sglang: its version; None without one."""

    checks: tuple[Check, ...]
    sglang: str | None
    num_gpus: int | None


@dataclass(frozen=True)
class Clock:
    """A clock's lead over this machine's, known within `uncertainty_s`."""

    ahead_s: float
    uncertainty_s: float


def check_nodes(
    launcher: Nodes, cluster: ClusterFile, *, python: str | None, quick: bool
) -> tuple[Check, ...]:
    """Check every node, then what they have in common. A node that does not answer fails.

    python, quick: as in `machine_checks`, on each node. Creates the state directory, as `up` does.
    """
    names = launcher.nodes()
    state_home().mkdir(parents=True, exist_ok=True, mode=0o700)  # every node looks for it
    options = (*(("--python", python) if python else ()), *(("--quick",) if quick else ()))
    found = _on_each(names, lambda node: _facts(launcher, node, options))
    facts = {node: one for node, one in found.items() if isinstance(one, NodeFacts)}
    addresses = _on_each(tuple(facts), launcher.address)
    clocks = _on_each(tuple(facts), lambda node: _clock(launcher, node))
    doors = {node: one for node, one in addresses.items() if isinstance(one, str)}
    problems = [*_problems(found), *_problems(addresses)]
    return (
        *(replace(check, node=node) for node in facts for check in facts[node].checks),
        *(Check("node", "fail", p.message, p.hint, node=node) for node, p in problems),
        *num_gpus_rule({node: f.num_gpus for node, f in facts.items()}, cluster.gpus_per_node),
        *sglang_rule({node: one.sglang for node, one in facts.items()}),
        *clock_rule({node: one for node, one in clocks.items() if isinstance(one, Clock)}),
        *meeting_rule(_unreached(launcher, doors)),
    )


def num_gpus_rule(found: Mapping[str, int | None], wanted: int) -> Iterator[Check]:
    """Every node has as many GPUs as cluster.yaml says. None: their number is unknown."""
    for node, number in found.items():
        if number is not None and number != wanted:
            text = f"{node} has {number} GPUs; gpus_per_node in cluster.yaml is {wanted}."
            yield Check("num_gpus", "fail", text, f"gpus_per_node: {number}", node=node)


def sglang_rule(found: Mapping[str, str | None]) -> Iterator[Check]:
    """Every node has the SGLang of the first one. None: it has none."""
    first = next(iter(found), "")
    for node, version in found.items():
        if version != found[first]:
            own, other = _named(version), _named(found[first])
            text = f"{node} has {own}; {first} has {other}."
            yield Check("same_sglang", "fail", text, f"the same SGLang on {node}", node=node)


def _named(version: str | None) -> str:
    return f"SGLang {version}" if version else "no SGLang"


def clock_rule(found: Mapping[str, Clock]) -> Iterator[Check]:
    """The clocks agree within MAX_OFFSET_S, as far as they can be read."""
    for node, clock in found.items():
        if abs(clock.ahead_s) - clock.uncertainty_s > MAX_OFFSET_S:
            side = "ahead of" if clock.ahead_s > 0 else "behind"
            text = f"The clock of {node} is {abs(clock.ahead_s):.1f} s {side} this machine's."
            yield Check("clock", "warn", text, f"chronyc makestep on {node}", node=node)


def meeting_rule(unreached: Mapping[str, Sequence[str]]) -> Iterator[Check]:
    """Every node reaches a port of every other one. unreached: by node, those that it does not."""
    fix = "open TCP ports 1024 to 65535 between the nodes, or interface: NAME in cluster.yaml"
    for node, others in unreached.items():
        if others:
            text = f"{node} does not reach {', '.join(others)} over TCP."
            yield Check("reachable", "fail", text, fix, node=node)
        else:
            yield Check("reachable", "pass", f"{node} reaches every other node.", node=node)


def _there() -> tuple[str, ...]:
    """The command that runs this file on a node, with the state directory of this command."""
    return ("env", f"{HOME_VARIABLE}={state_home()}", sys.executable, "-m", "pdctl.doctor.nodes")


def _facts(launcher: Nodes, node: str, options: Sequence[str]) -> NodeFacts:
    argv = (*_there(), "facts", *options)
    found = json.loads(launcher.run(node, argv, timeout_s=CHECKS_WITHIN_S))
    checks = tuple(Check(**check) for check in found["checks"])
    return NodeFacts(checks, found["sglang"], found["num_gpus"])


def _clock(launcher: Nodes, node: str) -> Clock:
    before = time.time()
    theirs = float(launcher.run(node, ("date", "+%s.%N"), timeout_s=CLOCK_WITHIN_S))
    after = time.time()
    return Clock(theirs - (before + after) / 2, (after - before) / 2)


def _unreached(launcher: Nodes, addresses: Mapping[str, str]) -> dict[str, list[str]]:
    """Have all nodes listen and connect to each other; by node, those that it does not reach."""
    doors = {node: f"{one}:{launcher.any_free_port(node)}" for node, one in addresses.items()}

    def meet(node: str) -> list[str]:
        argv = (*_there(), "meet", doors[node], *doors.values())
        missed = json.loads(launcher.run(node, argv, timeout_s=MEET_WITHIN_S + CLOCK_WITHIN_S))
        return [other for other, door in doors.items() if door in missed]

    found = _on_each(tuple(doors), meet)
    return {node: missed for node, missed in found.items() if isinstance(missed, list)}


def _on_each(
    nodes: Sequence[str], ask: Callable[[str], Answer]
) -> "dict[str, Answer | EnvironmentProblem]":
    """The answer of each node, or the problem instead."""

    def asked(node: str) -> "Answer | EnvironmentProblem":
        try:
            return ask(node)
        except EnvironmentProblem as problem:
            return problem

    with ThreadPoolExecutor(MAX_AT_ONCE) as each:
        return dict(zip(nodes, each.map(asked, nodes), strict=True))


def _problems(found: Mapping[str, object]) -> list[tuple[str, EnvironmentProblem]]:
    return [(node, one) for node, one in found.items() if isinstance(one, EnvironmentProblem)]


# on the node


def own_facts(options: Sequence[str]) -> NodeFacts:
    """This machine's own report. options: --python VALUE, --quick."""
    python = options[options.index("--python") + 1] if "--python" in options else None
    gpus, _ = machine_facts.usable_gpus()
    install, _ = machine_facts.install(python)
    checks = machine_checks(python=python, quick="--quick" in options)
    version = install.version if install else None
    return NodeFacts(checks, version, None if gpus is None else len(gpus))


def meet(own: str, doors: Sequence[str], within_s: float = MEET_WITHIN_S) -> list[str]:
    """Listen at `own` and connect to every door ("address:port"); the ones that did not open.

    It listens until the time is over, because the last node may start late.
    """
    deadline = time.monotonic() + within_s
    missed = list(doors)
    with socket.create_server(_parsed(own), backlog=len(doors)):
        while time.monotonic() < deadline:
            missed = [door for door in missed if not _opens(door)]
            time.sleep(0.2)
    return missed


def _opens(door: str) -> bool:
    with suppress(OSError), socket.create_connection(_parsed(door), timeout=1.0):
        return True
    return False


def _parsed(door: str) -> tuple[str, int]:
    host, _, port = door.rpartition(":")
    return host, int(port)


def main(do: str, *options: str) -> None:
    """Print one JSON value."""
    found = asdict(own_facts(options)) if do == "facts" else meet(options[0], options[1:])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
