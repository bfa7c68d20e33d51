"""Checks of every node of a cluster, and of what the nodes must have in common.

`python -m pdctl.doctor.nodes` is the part that runs on a node.
"""

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

from pdctl.deployment.cluster_file import ClusterFile, cluster_text
from pdctl.doctor import machine_facts
from pdctl.doctor.diagnose import machine_checks
from pdctl.doctor.records import Check, CheckOutcome
from pdctl.doctor.tcp_rate import tcp_bytes_per_s
from pdctl.engines.launchers.command import after_preamble
from pdctl.engines.launchers.each_node import of_each
from pdctl.engines.launchers.protocol import Launcher, Nodes
from pdctl.engines.lifecycle.preflight import (
    Clock,
    Fault,
    Way,
    blocked,
    card_faults,
    clock_faults,
    model_faults,
    reach_faults,
    read_clock,
    read_models,
)
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.records import RdmaPort
from pdctl.paths import HOME_VARIABLE, state_home
from pdctl.perf_model.communication import TCP_BYTES_PER_S, tcp_link
from pdctl.units import format_bytes

CHECKS_WITHIN_S = 120.0  # the libraries of a cold shared file system
KNOWN_BY_START = ("gpus", "sglang", "router", "kv_backend")  # a start refuses these by itself

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class NodeFacts:
    """One node's report of itself. sglang: its version; None without one."""

    checks: tuple[Check, ...]
    sglang: str | None
    num_gpus: int | None


def check_nodes(
    launcher: Launcher,
    cluster: ClusterFile,
    *,
    python: str | None,
    quick: bool,
    kv_bandwidth: bool = False,
) -> tuple[Check, ...]:
    """Check every node, then what they have in common. A node that does not answer fails.

    Creates the state directory, as `up` does.
    python, quick: as in `machine_checks`, on each node. kv_bandwidth: and measure how fast each
    node sends to the next one over TCP, one after the other.
    """
    names = launcher.nodes()
    state_home().mkdir(parents=True, exist_ok=True, mode=0o700)  # every node looks for it
    options = (*(("--python", python) if python else ()), *(("--quick",) if quick else ()))
    found = _on_each(names, lambda node: _facts(launcher, node, cluster.preamble, options))
    facts = {node: one for node, one in found.items() if isinstance(one, NodeFacts)}
    addresses = _on_each(tuple(facts), launcher.address)
    clocks = _on_each(tuple(facts), lambda node: read_clock(launcher, node))
    doors = {node: one for node, one in addresses.items() if isinstance(one, str)}
    known = {node: one for node, one in clocks.items() if isinstance(one, Clock)}
    problems = [*_problems(found), *_problems(addresses)]
    return (
        *(replace(check, node=node) for node in facts for check in facts[node].checks),
        *(Check("node", "fail", p.message, p.hint, node=node) for node, p in problems),
        *num_gpus_rule({node: f.num_gpus for node, f in facts.items()}, cluster),
        *domain_rule(cluster.domains, launcher.domains(), _fabrics(launcher, tuple(facts))),
        *sglang_rule({node: one.sglang for node, one in facts.items()}),
        *fault_checks(clock_faults(known), "clock"),
        *(check for node in facts for check in _cards(launcher, cluster, node)),
        *_models(launcher, cluster, tuple(facts)),
        *_meetings(launcher, doors),
        *(tcp_rule(_tcp_rates(launcher, tuple(doors))) if kv_bandwidth else ()),
    )


def node_faults(launcher: Nodes, cluster: ClusterFile, nodes: Sequence[str]) -> tuple[Check, ...]:
    """The quick checks that fail on these nodes: limits, space, memory, remains of killed engines.

    Limits are those after the preamble, which may raise them.

    Raises EnvironmentProblem for a node that does not answer.
    """

    def ask(node: str) -> NodeFacts:
        return _facts(launcher, node, cluster.preamble, ("--quick",))

    return tuple(
        replace(check, node=node)
        for node, facts in of_each(nodes, ask).items()
        for check in facts.checks
        if check.outcome == "fail" and check.id not in KNOWN_BY_START
    )


def num_gpus_rule(found: Mapping[str, int | None], cluster: ClusterFile) -> Iterator[Check]:
    """Every node has as many GPUs as cluster.yaml says. None: their number is unknown."""
    for node, number in found.items():
        if number is not None and number != (wanted := cluster.gpus_of(node)):
            text = f"{node} has {number} GPUs; cluster.yaml says {wanted}."
            fix = f"hosts: {{{node}: {{gpus: {number}}}}} in cluster.yaml, or look at {node}"
            yield Check("num_gpus", "fail", text, fix, node=node)


def domain_rule(
    by_file: Mapping[str, str], by_cluster: Mapping[str, str], fabrics: Mapping[str, str]
) -> Iterator[Check]:
    """The NVLink domain of each node that has one, and if its driver names the same fabric.

    by_file: domains in cluster.yaml. by_cluster: those of Slurm or Ray. fabrics: of every node; ""
    where the driver names none.
    """
    told = {**by_cluster, **by_file}
    for node, fabric in fabrics.items():
        if not (domain := told.get(node) or fabric):
            continue
        by = "cluster.yaml" if node in by_file else "the cluster" if node in told else "the driver"
        other = next((n for n in fabrics if told.get(n) == domain and fabrics[n] != fabric), "")
        if other and fabric and fabrics[other]:
            text = f"{node} and {other} are in NVLink domain {domain} by {by}, but their drivers"
            fix = f"hosts: {{{node}: {{domain: NAME}}}} in cluster.yaml"
            yield Check("nvlink_domain", "warn", f"{text} name two fabrics.", fix, node=node)
        else:
            text = f"{node} is in NVLink domain {domain}, by {by}."
            yield Check("nvlink_domain", "pass", text, node=node)


def _fabrics(launcher: Nodes, nodes: Sequence[str]) -> dict[str, str]:
    """The one NVLink fabric that the driver of each node names; "" without one."""
    found = _on_each(nodes, launcher.gpus)
    own = {n: {g.fabric for g in gpus} for n, gpus in found.items() if isinstance(gpus, tuple)}
    return {node: next(iter(own[node])) if len(own.get(node, ())) == 1 else "" for node in nodes}


def cluster_file_of(launcher: Nodes) -> str:
    """The text of a cluster.yaml that says which GPUs and active RDMA cards each node has.

    Cards slower than the fastest are left out: they mostly serve storage or management.
    Raises EnvironmentProblem for a node that does not answer or has no GPU.
    """
    names = launcher.nodes()
    gpus = {node: len(found) for node, found in of_each(names, launcher.gpus).items()}
    cards = {node: _fastest(ports) for node, ports in of_each(names, launcher.rdma_ports).items()}
    return cluster_text(gpus, cards)


def _fastest(ports: Sequence[RdmaPort]) -> tuple[str, ...]:
    active = [port for port in ports if port.state == "ACTIVE"]
    rate = max((port.bytes_per_s or 0.0 for port in active), default=0.0)
    return tuple(dict.fromkeys(p.device for p in active if (p.bytes_per_s or 0.0) == rate))


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


def tcp_rule(found: "Mapping[tuple[str, str], float | EnvironmentProblem]") -> Iterator[Check]:
    """Every node sends as fast over TCP as a plan for nodes without RDMA assumes."""
    assumed = tcp_link(TCP_BYTES_PER_S).bytes_per_s
    for (source, target), rate in found.items():
        if isinstance(rate, EnvironmentProblem):
            yield Check("kv_bandwidth", "fail", rate.message, rate.hint, node=source)
            continue
        text = (
            f"{source} sends {format_bytes(rate)}/s to {target} over TCP (RDMA is not measured); a "
            f"plan for nodes without RDMA assumes {format_bytes(assumed)}/s of a node."
        )
        fix = "interface: NAME in cluster.yaml with a faster network; ethtool NAME, its MTU"
        outcome: CheckOutcome = "pass" if rate >= assumed else "warn"
        yield Check("kv_bandwidth", outcome, text, "" if rate >= assumed else fix, node=source)


def _tcp_rates(
    launcher: Nodes, nodes: Sequence[str]
) -> "dict[tuple[str, str], float | EnvironmentProblem]":
    pairs = zip(nodes, (*nodes[1:], *nodes[:1]), strict=True)
    found: dict[tuple[str, str], float | EnvironmentProblem] = {}
    for source, target in pairs if len(nodes) > 1 else ():
        try:
            found[source, target] = tcp_bytes_per_s(launcher, source, target)
        except EnvironmentProblem as problem:
            found[source, target] = problem
    return found


def fault_checks(faults: Iterable[Fault], id_: str) -> Iterator[Check]:
    """Faults that `up` would find too, as checks."""
    for one in faults:
        outcome: CheckOutcome = "fail" if one.is_fatal else "warn"
        yield Check(id_, outcome, one.text, one.fix, node=one.node)


def _there() -> tuple[str, ...]:
    """The command that runs this file on a node, with the state directory of this command."""
    return ("env", f"{HOME_VARIABLE}={state_home()}", sys.executable, "-m", "pdctl.doctor.nodes")


def _facts(launcher: Nodes, node: str, preamble: str, options: Sequence[str]) -> NodeFacts:
    argv = after_preamble(preamble, (*_there(), *options))
    found = json.loads(launcher.run(node, argv, timeout_s=CHECKS_WITHIN_S))
    checks = tuple(Check(**check) for check in found["checks"])
    return NodeFacts(checks, found["sglang"], found["num_gpus"])


def _cards(launcher: Nodes, cluster: ClusterFile, node: str) -> Iterator[Check]:
    """The cards that cluster.yaml names are active."""
    for card in cluster.cards_of(node):
        faults = card_faults(node, card, launcher.rdma_ports(node), "cluster.yaml")
        yield from fault_checks(faults, "rdma_cards")


def _meetings(launcher: Nodes, addresses: Mapping[str, str]) -> Iterator[Check]:
    """Have every node listen on a free port and connect to all others."""
    doors = {node: (one, launcher.any_free_port(node)) for node, one in addresses.items()}
    ways = [
        Way(source, target, door, "doctor", "port")
        for source in doors
        for target, door in doors.items()
        if source != target
    ]
    with ExitStack() as opened:
        for node, (address, port) in doors.items():
            opened.enter_context(launcher.listening(node, address, (port,)))
        faults = tuple(reach_faults(blocked(ways, launcher)))
    yield from fault_checks(faults, "reachable")
    for node in sorted(set(doors) - {fault.node for fault in faults}):
        yield Check("reachable", "pass", f"{node} reaches every other node.", node=node)


def _models(launcher: Launcher, cluster: ClusterFile, nodes: Collection[str]) -> Iterator[Check]:
    """Every node has the models that cluster.yaml names by their paths, and the same files."""
    for model in dict.fromkeys(cluster.models.values()):
        found = read_models(model, launcher, nodes)
        yield from fault_checks(model_faults(model, found), "same_model")


def _on_each(
    nodes: Sequence[str], ask: Callable[[str], Answer]
) -> "dict[str, Answer | EnvironmentProblem]":
    """The answer of each node, or the problem instead."""

    def asked(node: str) -> "Answer | EnvironmentProblem":
        try:
            return ask(node)
        except EnvironmentProblem as problem:
            return problem

    return of_each(nodes, asked)


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


def main(*options: str) -> None:
    """Print this machine's report as one JSON object."""
    sys.stdout.write(json.dumps(asdict(own_facts(options))) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
