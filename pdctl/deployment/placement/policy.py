"""Policies that choose the nodes of engines, by the number of free GPUs alone."""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pdctl.deployment.records import PlacePolicy
from pdctl.perf_model.records import Role


@dataclass(frozen=True)
class Unplaced:
    """An engine without a place. It takes `each` GPUs on each of `num_nodes` nodes."""

    name: str
    role: Role
    num_nodes: int
    each: int


@dataclass(frozen=True)
class NoRoom:
    """The first engine that no nodes have room for. free: GPUs of each node that others left."""

    engine: Unplaced
    free: Mapping[str, int]


@dataclass(frozen=True)
class Held:
    """The nodes that an engine has."""

    role: Role
    nodes: tuple[str, ...]


Chosen = dict[str, tuple[str, ...]]


def choose_nodes(
    wanted: Sequence[Unplaced],
    free: Mapping[str, int],
    *,
    policy: PlacePolicy = "auto",
    held: Collection[Held] = (),
    domains: Mapping[str, str] | None = None,
    may_crowd: bool = False,
) -> Chosen | NoRoom:
    """The nodes of each engine by name, chosen one after the other: largest first, roles in turn.

    spread, and auto: the node with the fewest engines of the role, then the one with most free
    GPUs, so that a lost node takes as few engines of a role as possible. pack: the fullest node in
    use; a new one only if no other has room, and then the smallest that holds all that is left.
    Every policy keeps an engine of several nodes in one NVLink domain if a domain has room. Where
    a choice leaves no room, or a role on one node alone, others are tried.

    Args:
        free: the free GPUs of each node.
        domains: the NVLink domain of nodes that share one with others.
        may_crowd: where no node has room, full nodes get engines too.

    Ignores: "domain", which is as "spread" here; `place_engines` gives only the nodes of one.
    """
    ordered = _largest_first(wanted, held)
    ranks = (_by_use, _by_room) if policy == "pack" else (_by_role, _by_need, _by_room)
    roles = {engine.name: engine.role for engine in wanted}

    def chosen_by(rank: Rank) -> Chosen | NoRoom:
        return _chosen(ordered, _Board.of(free, held, ordered), rank, domains or {}, may_crowd)

    def cost(chosen: Chosen | NoRoom) -> int:
        if isinstance(chosen, NoRoom):
            return len(roles) + 1
        new = [Held(roles[name], nodes) for name, nodes in chosen.items()]
        return 0 if policy == "pack" else len(lost_with_a_node([*held, *new]))

    first, *others = ranks
    best = chosen_by(first)
    for rank in others:
        if cost(best):
            best = min(best, chosen_by(rank), key=cost)
    return best


def lost_with_a_node(held: Collection[Held]) -> dict[Role, str]:
    """Roles of two or more engines that one node's loss would end, and that node."""
    found: dict[Role, str] = {}
    for role in dict.fromkeys(engine.role for engine in held):
        nodes = [set(engine.nodes) for engine in held if engine.role == role]
        if len(nodes) > 1 and (common := set.intersection(*nodes)):
            found[role] = min(common)
    return found


def _largest_first(wanted: Sequence[Unplaced], held: Collection[Held]) -> list[Unplaced]:
    """Roles of one size in turn: otherwise one takes every small node before the other's turn.

    The only engine of a role comes after others of its size, because it cannot be spread.
    """
    num = Counter([engine.role for engine in wanted] + [engine.role for engine in held])
    turn: Counter[Role] = Counter()
    keys = {}
    for engine in wanted:
        size = engine.num_nodes * engine.each
        keys[engine.name] = -size, num[engine.role] == 1, turn[engine.role]
        turn[engine.role] += 1
    return sorted(wanted, key=lambda engine: keys[engine.name])


@dataclass
class _Board:
    """The GPUs left and the engines on each node. waiting: GPUs of engines without a node."""

    free: dict[str, int]
    waiting: int
    on_node: Counter[str] = field(default_factory=Counter)
    of_role: Counter[tuple[Role, str]] = field(default_factory=Counter)

    @classmethod
    def of(
        cls, free: Mapping[str, int], held: Collection[Held], ordered: Sequence[Unplaced]
    ) -> "_Board":
        board = cls(dict(free), sum(engine.num_nodes * engine.each for engine in ordered))
        for engine in held:
            board.count(engine.role, engine.nodes)
        return board

    def count(self, role: Role, nodes: Sequence[str]) -> None:
        self.on_node.update(nodes)
        self.of_role.update((role, node) for node in nodes)

    def give(self, engine: Unplaced, nodes: Sequence[str]) -> None:
        self.count(engine.role, nodes)
        self.free |= {node: self.free[node] - engine.each for node in nodes}
        self.waiting -= engine.num_nodes * engine.each


Rank = Callable[[_Board, Unplaced, str], tuple[int, ...]]  # of a node: the least comes first


def _by_role(board: _Board, engine: Unplaced, node: str) -> tuple[int, ...]:
    return board.of_role[engine.role, node], -board.free[node], board.on_node[node]


def _by_need(board: _Board, engine: Unplaced, node: str) -> tuple[int, ...]:
    """As `_by_role`, until the role is on two nodes: small nodes are left to roles that are not."""
    is_spread = sum(board.of_role[engine.role, other] > 0 for other in board.free) > 1
    return 0 if is_spread else board.of_role[engine.role, node], -board.free[node]


def _by_use(board: _Board, engine: Unplaced, node: str) -> tuple[int, ...]:
    is_new, free = not board.on_node[node], board.free[node]
    is_too_small = is_new and free < board.waiting
    return is_new, is_too_small, -free if is_too_small else free


def _by_room(board: _Board, engine: Unplaced, node: str) -> tuple[int, ...]:
    return (board.free[node],)


def _chosen(
    ordered: Sequence[Unplaced],
    board: _Board,
    rank: Rank,
    domains: Mapping[str, str],
    may_crowd: bool,
) -> Chosen | NoRoom:
    chosen: Chosen = {}
    for engine in ordered:
        roomy = [node for node, free in board.free.items() if free >= engine.each]
        if len(roomy) < engine.num_nodes and may_crowd:
            roomy = list(board.free)
        if len(roomy) < engine.num_nodes:
            return NoRoom(engine, board.free)
        ranked = sorted(roomy, key=partial(rank, board, engine))
        chosen[engine.name] = _in_one_domain(ranked, engine.num_nodes, domains)
        board.give(engine, chosen[engine.name])
    return chosen


def _in_one_domain(ranked: Sequence[str], num: int, domains: Mapping[str, str]) -> tuple[str, ...]:
    """The first `num` nodes that share an NVLink domain; the first ones where none do."""
    for first in ranked:
        domain = domains.get(first)
        near = [n for n in ranked if n == first or (domain and domains.get(n) == domain)]
        if len(near) >= num:
            return tuple(near[:num])
    return tuple(ranked[:num])
