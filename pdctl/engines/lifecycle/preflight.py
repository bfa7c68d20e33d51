"""Check that the nodes of a deployment are alike and reach each other, before weights load."""

import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from pdctl.deployment.cluster_file import cluster_here
from pdctl.deployment.flags import ports_of
from pdctl.deployment.nics import IB_DEVICE, named_cards
from pdctl.deployment.records import HERE, Deployment, ProcessSpec
from pdctl.engines.launchers.each_node import of_each
from pdctl.engines.launchers.protocol import Door, Launcher, Nodes
from pdctl.engines.lifecycle.images import sglang_in_images
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.model_contents import REVISION, Contents, FileOnDisk
from pdctl.inspection.model_files import cache_folder
from pdctl.inspection.records import RdmaPort, SglangInstall
from pdctl.units import format_bytes

CLOCK_WITHIN_S = 5.0
CLOCK_READINGS = 3
# `pdctl explain` joins the halves of a request by times that differ by less than a second
MAX_OFFSET_S = 1.0
# no clock that is being synchronised is so far off: it will drift on, and log lines, events and
# the end of the job are in the wrong order by then
REFUSED_OFFSET_S = 10.0
NO_CARDS: Mapping[str, Sequence[str]] = {}


@dataclass(frozen=True)
class Fault:
    """One fault of a node. code: a word of errors.CODES. is_fatal: nothing may start there."""

    node: str
    text: str
    fix: str
    code: str
    is_fatal: bool = True


@dataclass(frozen=True)
class Clock:
    """A clock's lead over this machine's, known within `uncertainty_s`."""

    ahead_s: float
    uncertainty_s: float


@dataclass(frozen=True)
class Way:
    """A connection between nodes that a deployment needs.

    process: the one that listens. what: its port, for people.
    """

    source: str
    target: str
    door: Door
    process: str
    what: str


def check_equal(
    deployment: Deployment,
    install: SglangInstall | None,
    launcher: Launcher,
    nodes: Sequence[str],
) -> tuple[str, ...]:
    """Check that these nodes have the same model and SGLang, and clocks that agree; warnings.

    Nothing is checked on this machine alone.

    install: the SGLang of the first node; None for simulated engines.
    Raises EnvironmentProblem for a node that cannot run its part.
    """
    if HERE in nodes or not nodes:
        return ()
    others = [node for node in nodes if node != launcher.nodes()[0]]
    faults = [*_same_model(deployment, launcher, nodes)]
    faults += clock_faults(of_each(nodes, lambda node: read_clock(launcher, node)))
    warnings = refused_or_warned(faults)
    if install is not None and deployment.container is not None:
        sglang_in_images(deployment, launcher, nodes)
    elif install is not None:
        of_each(others, lambda node: _check_sglang(install, launcher, node))
    return warnings


def check_network(
    deployment: Deployment,
    specs: Sequence[ProcessSpec],
    stays: Collection[str],
    launcher: Nodes,
    rdma: Mapping[str, Sequence[RdmaPort]],
) -> tuple[str, ...]:
    """Check the RDMA ports of new processes, and the connections that they need; warnings.

    Listens on their own ports for a moment. Nothing is checked on this machine alone.

    Args:
        stays: the names of processes whose ports are in use.
        rdma: the RDMA ports of each node that is there.

    Raises:
        EnvironmentProblem: a connection fails, or a card that is to be used is not active.
    """
    if HERE in rdma:
        return ()
    new_specs = [spec for spec in specs if spec.name not in stays]
    may_do_without = deployment.transfer_backend != "auto"
    cards = {node: cluster_here().cards_of(node) for node in rdma}
    faults = rdma_faults(new_specs, rdma, cards, may_do_without=may_do_without)
    warnings = refused_or_warned(faults)
    new = (way for way in ways_of(specs) if way.process not in stays)
    ways = [way for way in new if {way.source, way.target} <= rdma.keys()]
    opened: dict[tuple[str, str], set[int]] = defaultdict(set)
    for way in ways:
        address, port = way.door
        opened[way.target, address].add(port)
    with ExitStack() as doors:
        for (node, address), ports in opened.items():
            doors.enter_context(launcher.listening(node, address, ports))
        refused_or_warned(reach_faults(blocked(ways, launcher)))
    return warnings


def refused_or_warned(faults: Iterable[Fault]) -> tuple[str, ...]:
    """The sentences of faults that only warn. Raises EnvironmentProblem for the first fatal one."""
    faults = tuple(faults)
    for fault in faults:
        if fault.is_fatal:
            raise EnvironmentProblem(fault.text, hint=fault.fix, code=fault.code)
    return tuple(f"{fault.text} Fix: {fault.fix}." for fault in faults)


# the model


def _same_model(
    deployment: Deployment, launcher: Launcher, nodes: Collection[str]
) -> Iterator[Fault]:
    """Faults of the model's files; of a model id only warnings, unless SGLang may not download.

    Ignores: ids of engines in containers, whose caches are elsewhere.
    """
    is_id = not Path(deployment.model).is_absolute()
    if is_id and (deployment.engine == "sim" or deployment.container is not None):
        return
    env = dict(os.environ)
    for plan in deployment.roles.values():
        env |= plan.env
    is_fatal = not is_id or env.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")
    found = read_models(deployment.model, launcher, nodes, env=env)
    for fault in model_faults(deployment.model, found):
        yield replace(fault, is_fatal=is_fatal)


def read_models(
    model: str,
    launcher: Launcher,
    nodes: Collection[str],
    *,
    env: Mapping[str, str] = os.environ,
) -> dict[str, Contents | None]:
    """The files of the model on each node; of an id, on those whose Hugging Face cache has it.

    env: the variables that say where the cache is.
    """
    path = Path(model) if Path(model).is_absolute() else cache_folder(model, env)
    if path is None:
        return {}
    found = of_each(nodes, lambda node: launcher.model_contents(node, path))
    if path == Path(model):
        return found
    return {node: contents for node, contents in found.items() if contents is not None}


def model_faults(model: str, found: Mapping[str, Contents | None]) -> Iterator[Fault]:
    """Nodes without the model, or with another one than most have."""
    for node, contents in found.items():
        if contents is None:
            fix = "a path that all nodes share, or copy the model to that node"
            yield Fault(node, f"{node} does not have {model}.", fix, code="no_model_there")
    present = {node: contents for node, contents in found.items() if contents is not None}
    if not present:
        return
    usual = _most_common(present)
    for node, contents in present.items():
        if contents != present[usual]:
            text = _difference(model, node, contents, usual, present[usual])
            fix = _same_files(model, node, usual, present[usual])
            yield Fault(node, text, fix, code="unequal_model")


def _most_common(found: Mapping[str, Contents]) -> str:
    """The first node whose files most nodes have."""
    counts = Counter(frozenset(contents.items()) for contents in found.values())
    return max(found, key=lambda node: counts[frozenset(found[node].items())])


def _difference(model: str, node: str, own: Contents, other: str, usual: Contents) -> str:
    """A sentence about the first file that differs."""
    if own.get(REVISION) != usual.get(REVISION):
        there, here = own[REVISION].digest[:12], usual[REVISION].digest[:12]
        return f"The cache of {node} has {model} at {there}, and that of {other} at {here}."
    name = next(n for n in sorted({*own, *usual}) if own.get(n) != usual.get(n))
    if name not in own:
        return f"{model} on {node} lacks {name}, which {other} has."
    if name not in usual:
        return f"{model} on {node} has {name}, which {other} lacks."
    return f"{name} in {model} {_how(own[name], usual[name], node, other)}."


def _same_files(model: str, node: str, other: str, usual: Contents) -> str:
    """A command that gives a node the files that another has."""
    if revision := usual.get(REVISION):
        return f"hf download {model} --revision {revision.digest} on {node}"
    return f"rsync -a {other}:{model}/ {model}/ on {node}"


def _how(own: FileOnDisk, usual: FileOnDisk, node: str, other: str) -> str:
    if own.size == usual.size:
        return f"has other content on {node} than on {other}"
    sizes = [format_bytes(file.size) for file in (own, usual)]
    if sizes[0] == sizes[1]:
        sizes = [f"{file.size:,} bytes" for file in (own, usual)]
    return f"has {sizes[0]} on {node} and {sizes[1]} on {other}"


# clocks


def read_clock(launcher: Nodes, node: str) -> Clock:
    """The clock of a node, by the reading with the shortest way there and back."""
    readings = (_reading(launcher, node) for _ in range(CLOCK_READINGS))
    return min(readings, key=lambda clock: clock.uncertainty_s)


def _reading(launcher: Nodes, node: str) -> Clock:
    before = time.time()
    theirs = float(launcher.run(node, ("date", "+%s.%N"), timeout_s=CLOCK_WITHIN_S))
    after = time.time()
    return Clock(theirs - (before + after) / 2, (after - before) / 2)


def clock_faults(found: Mapping[str, Clock]) -> Iterator[Fault]:
    """Clocks that certainly differ from the middle one by more than MAX_OFFSET_S."""
    if not found:
        return
    middle = statistics.median_low(clock.ahead_s for clock in found.values())
    agree = (n for n, clock in found.items() if abs(clock.ahead_s - middle) < MAX_OFFSET_S)
    other = next(agree)
    for node, clock in found.items():
        offset = clock.ahead_s - middle
        certain = abs(offset) - clock.uncertainty_s - found[other].uncertainty_s
        if certain > MAX_OFFSET_S:
            side = "ahead of" if offset > 0 else "behind"
            text = f"The clock of {node} is {abs(offset):.1f} s {side} that of {other}."
            fix = f"chronyc makestep on {node}"
            is_fatal = certain > REFUSED_OFFSET_S
            yield Fault(node, text, fix, code="unequal_clocks", is_fatal=is_fatal)


# RDMA


def rdma_faults(
    specs: Sequence[ProcessSpec],
    rdma: Mapping[str, Sequence[RdmaPort]],
    cards: Mapping[str, Sequence[str]] = NO_CARDS,
    *,
    may_do_without: bool = False,
) -> Iterator[Fault]:
    """Cards that are named and that are not there or not active; links that are down.

    A link that is down only warns where the node has others, which the engines use then.
    cards: by node, those that cluster.yaml names.
    may_do_without: and where the user chose a KV backend, which may be one without RDMA.
    """
    ranks = [rank for spec in specs for rank in ((spec.node, spec.argv), *_followers(spec))]
    own = {node: rdma.get(node, ()) for node, _ in ranks}
    named = {(node, card): "cluster.yaml" for node in own for card in cards.get(node, ())}
    named |= {(node, card): IB_DEVICE for node, argv in ranks for card in named_cards(argv)}
    for (node, card), where in named.items():
        yield from card_faults(node, card, own[node], where)
    elsewhere = {card for ports in own.values() for card in _active(ports)}
    for node, ports in own.items():
        is_fatal = not (_active(ports) or may_do_without)
        for port in ports:
            is_used = port.device in elsewhere and (node, port.device) not in named
            if is_used and port.state != "ACTIVE":
                what = f"{_port_on(port, node)}; on other nodes it is active."
                fix = f"ibstat {port.device} on {node}, or --transfer-backend nixl without RDMA"
                yield Fault(node, what, fix, code="no_rdma", is_fatal=is_fatal)


def card_faults(node: str, card: str, ports: Sequence[RdmaPort], where: str) -> Iterator[Fault]:
    """The fault of a card that is named somewhere, unless it has an active port."""
    own = [port for port in ports if port.device == card]
    if any(port.state == "ACTIVE" for port in own):
        return
    what = _port_on(own[0], node) if own else f"{node} has no RDMA card {card}"
    active = ", ".join(_active(ports)) or "none is"
    fix = f"cards that are active there, in {where}: {active}"
    yield Fault(node, f"{what}, and {where} names it.", fix, code="no_rdma")


def _port_on(port: RdmaPort, node: str) -> str:
    return f"Port {port.port} of {port.device} on {node} is {port.state}"


def _followers(spec: ProcessSpec) -> Iterator[tuple[str, tuple[str, ...]]]:
    return ((follower.node, follower.argv) for follower in spec.followers)


def _active(ports: Sequence[RdmaPort]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(port.device for port in ports if port.state == "ACTIVE"))


# ways


def ways_of(specs: Sequence[ProcessSpec]) -> tuple[Way, ...]:
    """The connections between nodes that these processes need, once each."""
    router = [spec for spec in specs if spec.role == "router"]
    engines = [spec for spec in specs if spec.role != "router"]
    prefills, decodes = ([s for s in engines if s.role == role] for role in ("prefill", "decode"))
    found = [_way(one, to, to.port, "HTTP port") for one in router for to in engines]
    for prefill in prefills:
        port = prefill.bootstrap_port
        found += [_way(one, prefill, port, "bootstrap port") for one in decodes if port]
        found += [_way(prefill, one, one.port, "HTTP port") for one in decodes]
    found += [
        Way(follower.node, spec.node, (spec.host, port), spec.name, "--dist-init-addr")
        for spec in engines
        if (port := ports_of(spec).dist_init)
        for follower in spec.followers
    ]
    between = (way for way in found if way.source != way.target)
    return tuple({(way.source, way.door): way for way in between}.values())


def _way(one: ProcessSpec, to: ProcessSpec, port: int, what: str) -> Way:
    return Way(one.node, to.node, (to.host, port), to.name, what)


def blocked(ways: Sequence[Way], launcher: Nodes) -> tuple[Way, ...]:
    """The connections that do not open, while something listens at each of their doors."""
    sources = tuple(dict.fromkeys(way.source for way in ways))

    def missed(source: str) -> set[Door]:
        return set(launcher.unreached(source, [w.door for w in ways if w.source == source]))

    found = of_each(sources, missed)
    return tuple(way for way in ways if way.door in found[way.source])


def reach_faults(missed: Iterable[Way]) -> Iterator[Fault]:
    """One fault for each pair of nodes between which a connection does not open."""
    for way in {(way.source, way.target): way for way in missed}.values():
        address, port = way.door
        yield Fault(
            way.source,
            f"{way.source} does not reach {way.target} at {address}:{port}, the {way.what} "
            f"of {way.process}.",
            "interface: NAME in cluster.yaml with the network that joins them, or open TCP ports "
            f"1024 to 65535 from {way.source} to {way.target}",
            code="unreachable",
        )


def _check_sglang(install: SglangInstall, launcher: Launcher, node: str) -> None:
    found = launcher.sglang(node, install.python)
    if found.version != install.version:
        raise EnvironmentProblem(
            f"{node} has SGLang {found.version or 'nowhere'} in {found.python}, and "
            f"{launcher.nodes()[0]} has {install.version}.",
            hint=f"install SGLang {install.version} there, or --python with one that all share",
            code="unequal_sglang",
        )
