"""The node and the GPUs there of each engine, on as many nodes as there are."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from pdctl.deployment.placement.policy import Held, NoRoom, Unplaced, choose_nodes, lost_with_a_node
from pdctl.deployment.records import HERE, Deployment, GpuPlace, ProcessSpec
from pdctl.deployment.resources import (
    assign_gpus,
    assign_more_gpus,
    chosen_gpus,
    freed,
    index_ranges,
    needs_gpus,
    nvlink_domains,
    only_engines,
    parts,
    unused_numbers,
)
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.gpus import is_free, room_text
from pdctl.inspection.records import Gpu
from pdctl.units import format_number_of

GpusByNode = Mapping[str, Sequence[Gpu]]
THIS_MACHINE = "this machine"
PRETENDED = Gpu(0, "pretended", "", None, None)


@dataclass(frozen=True)
class Place:
    """The place of an engine: a node, and GPU indices there. others: its parts on other nodes."""

    node: str
    gpus: tuple[int, ...]
    others: "tuple[Place, ...]" = ()

    @property
    def nodes(self) -> tuple[str, ...]:
        """Every node that the engine runs on."""
        return (self.node, *(other.node for other in self.others))


def cautions_of_places(
    deployment: Deployment, placed: Mapping[str, Place], gpus: GpusByNode
) -> tuple[str, ...]:
    """A sentence for each engine across NVLink domains, and each role that one node would end."""
    return (*_crossing(placed, gpus), *_together(deployment, placed))


def _crossing(placed: Mapping[str, Place], gpus: Mapping[str, Sequence[Gpu]]) -> tuple[str, ...]:
    """A sentence for each engine whose GPUs are not all in one NVLink domain."""
    known = {(node, gpu.index): gpu for node, found in gpus.items() for gpu in found}
    own = {
        name: [known[place.node, i] for i in place.gpus if (place.node, i) in known]
        for name, place in placed.items()
    }
    return tuple(
        f"{name} spans GPUs {index_ranges(placed[name].gpus)}, which have no NVLink between them: "
        "its GPUs communicate over PCIe."
        for name, found in own.items()
        if len(nvlink_domains(found)) > 1
    )


def place_engines(
    deployment: Deployment,
    present: Sequence[ProcessSpec],
    gpus: GpusByNode,
    *,
    pretended: Mapping[str, int] | None = None,
    domains: Mapping[str, str] | None = None,
) -> dict[str, Place]:
    """The node and GPUs of each engine by name; engines that stay keep theirs.

    New engines go where the deployment's policy puts them. An engine with more GPUs than any node
    has equal parts on several. New engines use the GPUs of leaving ones only if too few others are
    free. Simulated engines find room on full nodes, unless a policy was asked for.

    Args:
        present: the running processes.
        gpus: the GPUs of every node, those in use marked so.
        pretended: the GPUs that each node would have for engines that need none; else 8.
        domains: the NVLink domains of nodes that the cluster or its file tells.

    Raises:
        InvalidInput, EnvironmentProblem: as `assign_gpus`, or the nodes lack the room that the
            policy needs.
    """
    domains = domains or {}
    if needs_gpus(deployment):
        gpus = {node: chosen_gpus(deployment, found) for node, found in gpus.items()}
        deployment = replace(deployment, gpus=None)
    else:
        gpus = _pretended(deployment, present, gpus, pretended or {})
    place = _in_domain if deployment.place == "domain" else _placed
    placed = place(deployment, present, gpus, domains)
    if deployment.place == "spread" and not present:
        _refuse_together(deployment, placed, gpus)
    return placed


def _pretended(
    deployment: Deployment,
    present: Sequence[ProcessSpec],
    nodes: Collection[str],
    num_gpus: Mapping[str, int],
) -> dict[str, list[Gpu]]:
    """The GPUs that nodes would have for engines that need none."""
    held = _held_places(deployment, present).values()
    used = Counter(dict.fromkeys(nodes, 0))
    for place in held:
        used.update({part.node: len(part.gpus) for part in (place, *place.others)})
    return {
        node: [
            replace(PRETENDED, index=i, problem="taken" if i < used[node] else None)
            for i in range(num_gpus.get(node, 8))
        ]
        for node in nodes
    }


def _in_domain(
    deployment: Deployment,
    present: Sequence[ProcessSpec],
    gpus: GpusByNode,
    domains: Mapping[str, str],
) -> dict[str, Place]:
    """Places in one NVLink domain, which the engines that stay are in: the smallest with room."""
    nodes = {n for place in _held_places(deployment, present).values() for n in place.nodes}
    found = gpu_domains(gpus, domains)
    for name in sorted(found, key=lambda name: _num_free(found[name])):
        if nodes <= set(found[name]):
            try:
                return _placed(deployment, present, found[name], domains)
            except EnvironmentProblem:
                continue  # a larger one may have room
    raise EnvironmentProblem(
        f"No NVLink domain has room for {deployment.layout}, {deployment.num_gpus} GPUs: "
        f"{_room_of_each(found)}.",
        hint="--place spread, where KV moves over the network, or a smaller --total",
        code="not_enough_gpus",
    )


def gpu_domains(gpus: GpusByNode, domains: Mapping[str, str]) -> dict[str, dict[str, list[Gpu]]]:
    """The GPUs of each NVLink domain, by domain and node.

    A domain is what the cluster or its file says, or the fabric that the driver names, or else the
    GPUs of one node that NVLink joins. Pretended GPUs of one node are joined.
    """
    found: dict[str, dict[str, list[Gpu]]] = {}
    for node, own in gpus.items():
        for name, joined in _domains_of(node, own, domains.get(node)):
            found.setdefault(name, {})[node] = list(joined)
    return found


def _domains_of(
    node: str, gpus: Sequence[Gpu], known: str | None
) -> list[tuple[str, Sequence[Gpu]]]:
    if known is not None or all(gpu.name == PRETENDED.name for gpu in gpus):
        return [(known or node, gpus)]
    groups = nvlink_domains(gpus)
    whole = len(groups) == 1
    return [
        (
            group[0].fabric
            or (node if whole else f"{node} GPU {index_ranges([gpu.index for gpu in group])}"),
            group,
        )
        for group in groups
    ]


def _num_free(gpus: GpusByNode) -> int:
    return sum(is_free(gpu) for found in gpus.values() for gpu in found)


def _room_of_each(groups: Mapping[str, GpusByNode]) -> str:
    """The free GPUs of each group, as in "rack1 has 3 of 8 free"."""
    sizes = {
        name: (_num_free(found), sum(map(len, found.values()))) for name, found in groups.items()
    }
    return ", ".join(
        f"{name.strip() or THIS_MACHINE} has {num} of {of} free"
        for name, (num, of) in sizes.items()
    )


def _refuse_together(deployment: Deployment, placed: Mapping[str, Place], gpus: GpusByNode) -> None:
    for role, node in lost_with_a_node(_held(deployment, placed)).items():
        raise EnvironmentProblem(
            f"{deployment.roles[role].engines} {role} engines cannot be spread: all of them would "
            f"end with {node or THIS_MACHINE}; "
            f"{_room_of_each({node: {node: found} for node, found in gpus.items()})}.",
            hint="--place pack, more nodes, or a smaller --tp",
            code="not_enough_gpus",
        )


def _together(deployment: Deployment, placed: Mapping[str, Place]) -> tuple[str, ...]:
    """A sentence for each role that one node's loss would end although engines are on several."""
    nodes = {node for place in placed.values() for node in place.nodes}
    if deployment.place in ("pack", "domain") or len(nodes) < 2:
        return ()
    return tuple(
        f"Every {role} engine is on {node}, because no other node has room for one: losing {node} "
        f"ends them all."
        for role, node in lost_with_a_node(_held(deployment, placed)).items()
    )


def _held(deployment: Deployment, placed: Mapping[str, Place]) -> list[Held]:
    return [Held(deployment.engine_names[name], place.nodes) for name, place in placed.items()]


def _held_places(deployment: Deployment, present: Sequence[ProcessSpec]) -> dict[str, Place]:
    return {
        s.name: Place(s.node, s.gpus, tuple(Place(f.node, f.gpus) for f in s.followers))
        for s in present
        if s.name in deployment.engine_names
    }


def _placed(
    deployment: Deployment,
    present: Sequence[ProcessSpec],
    gpus: GpusByNode,
    domains: Mapping[str, str],
) -> dict[str, Place]:
    held = _held_places(deployment, present)
    ((node, here), *others) = gpus.items()
    # of this machine nothing says how many GPUs to pretend
    if not others and (needs_gpus(deployment) or node == HERE):
        indices = assign_more_gpus(deployment, present, here)
        return {name: held.get(name) or Place(node, found) for name, found in indices.items()}
    if not needs_gpus(deployment):
        return held | _on_nodes(deployment, held, gpus, domains)
    try:
        return held | _on_nodes(deployment, held, gpus, domains)
    except EnvironmentProblem:
        leaving = {place for s in present if s.name not in held for place in s.gpu_places}
        return held | _on_nodes(deployment, held, _freed_on_nodes(gpus, leaving), domains)


def _freed_on_nodes(gpus: GpusByNode, leaving: Collection[GpuPlace]) -> dict[str, list[Gpu]]:
    return {
        node: [freed(gpu, {index for at, index in leaving if at == node}) for gpu in found]
        for node, found in gpus.items()
    }


def _on_nodes(
    deployment: Deployment,
    held: Mapping[str, Place],
    gpus: GpusByNode,
    domains: Mapping[str, str],
) -> dict[str, Place]:
    """Places of the engines that have none, on several nodes."""
    is_real = needs_gpus(deployment)
    names = [name for name in deployment.engine_names if name not in held]
    chosen = choose_nodes(
        wanted_places(deployment, names, max(map(len, gpus.values()), default=0)),
        {node: sum(map(is_free, found)) for node, found in gpus.items()},
        policy=deployment.place,
        held=_held(deployment, held),
        domains=_node_domains(gpus, domains),
        may_crowd=not is_real and deployment.place == "auto",
    )
    if isinstance(chosen, NoRoom):
        raise _no_room(chosen, gpus)
    if is_real:
        return _with_gpus(deployment, chosen, gpus)
    taken = (part.gpus for place in held.values() for part in (place, *place.others))
    numbers = unused_numbers(deployment, names, taken)
    return {name: _shared(chosen[name], numbers[name]) for name in names}


def wanted_places(deployment: Deployment, names: Sequence[str], per_node: int) -> list[Unplaced]:
    """Engines without a place. per_node: the GPUs of the largest node.

    Raises InvalidInput if an engine cannot be divided equally among several nodes.
    """
    found = []
    for name in names:
        role = deployment.engine_names[name]
        size = deployment.gpus_of(name) if per_node else 0
        found.append(Unplaced(name, role, *parts(name, size, per_node or 1)))
    return found


def _node_domains(gpus: GpusByNode, domains: Mapping[str, str]) -> dict[str, str]:
    """The domain of each node whose GPUs are all in one."""
    found = gpu_domains(gpus, domains)
    return {
        node: name
        for name, own in found.items()
        for node, joined in own.items()
        if len(joined) == len(gpus[node])
    }


def _shared(nodes: Sequence[str], gpus: tuple[int, ...]) -> Place:
    """An engine's GPUs in equal parts on its nodes."""
    each = len(gpus) // len(nodes)
    return _joined([Place(n, gpus[i * each : (i + 1) * each]) for i, n in enumerate(nodes)])


def _joined(places: Sequence[Place]) -> Place:
    return replace(places[0], others=tuple(places[1:]))


def _with_gpus(
    deployment: Deployment, chosen: Mapping[str, Sequence[str]], gpus: GpusByNode
) -> dict[str, Place]:
    """The GPUs of each engine on its nodes: engines of several nodes first."""
    placed: dict[str, Place] = {}
    for name, nodes in chosen.items():
        if len(nodes) > 1:
            each = deployment.roles[deployment.engine_names[name]].parallelism.num_gpus // len(
                nodes
            )
            free = {n: [gpu.index for gpu in gpus[n] if is_free(gpu)][:each] for n in nodes}
            placed[name] = _joined([Place(n, tuple(free[n])) for n in nodes])
            gpus = {
                node: [
                    replace(gpu, problem=name) if gpu.index in free.get(node, ()) else gpu
                    for gpu in found
                ]
                for node, found in gpus.items()
            }
    for node, found in gpus.items():
        own = [name for name in deployment.engine_names if chosen.get(name) == (node,)]
        indices = assign_gpus(only_engines(deployment, own), found) if own else {}
        placed |= {
            name: Place(node, some) for name, some in zip(own, indices.values(), strict=True)
        }
    return placed


def _no_room(found: NoRoom, gpus: GpusByNode) -> EnvironmentProblem:
    engine, free = found.engine, found.free
    if engine.num_nodes == 1:
        node = max(free, key=lambda node: free[node])
        text = (
            f"{engine.name} needs {format_number_of(engine.each, 'free GPU')} on one node; "
            f"the emptiest, {node}, has {room_text(free[node], gpus[node])}."
        )
    else:
        num = sum(free[node] >= engine.each for node in free)
        have = "1 node has" if num == 1 else f"{num or 'no'} nodes have"
        node = min(free, key=lambda node: free[node])
        full = f"; {node} has {room_text(free[node], gpus[node])}" if num else ""
        text = (
            f"{engine.name} needs {engine.each} free GPUs on each of {engine.num_nodes} nodes; "
            f"{have} as many{full}."
        )
    return EnvironmentProblem(
        text, hint="a smaller --total, or a smaller --tp", code="not_enough_gpus"
    )
