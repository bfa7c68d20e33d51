"""Give the engines of lost nodes places on others: `python -m pdctl.engines.lifecycle.relocate`.

The supervisor runs it when nodes have been off the network for long. It writes a new target, as
`scale` does, and the supervisor does the rest.
"""

import sys
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pdctl.deployment.records import ProcessSpec
from pdctl.engines import state
from pdctl.engines.lifecycle import start
from pdctl.engines.lifecycle.rescale import chosen_deployment, current_launch
from pdctl.engines.lifecycle.stage import copy_for
from pdctl.engines.lifecycle.start import Prepared, planning, prepare
from pdctl.engines.records import Launch
from pdctl.engines.supervision.lost_nodes import nodes_of
from pdctl.errors import EnvironmentProblem, PdctlError


def relocate(name: str, lost: Collection[str]) -> Launch:
    """Write a target in which as many engines of lost nodes as there is room for run elsewhere.

    The others stay in the target, at their old places. If a node has come back meanwhile, the
    target stays: its engines serve there. A model that is staged is copied to their new nodes
    first; where a copy fails, they load the model itself. Raises EnvironmentProblem if there is no
    room for any, StateConflict if the deployment does not run.
    """
    current = current_launch(name)
    model = chosen_deployment(current).model
    with suppress(EnvironmentProblem):
        copy_for(lambda: _planned(name, lost).moved, model, current.launcher, lambda text: None)
    with planning():
        found = _plan(name, lost)
        if found.prepared is None or not set(lost) <= set(_lost_now(name)):
            return found.current
        changes = tuple(_sentence(found.old(spec), spec, found.without) for spec in found.moved)
        return start.change(found.prepared, leaving=found.current.leaving, changes=changes)


@dataclass(frozen=True)
class _Move:
    """A target without some nodes. prepared: None where no engine is on them."""

    current: Launch
    without: frozenset[str]
    prepared: Prepared | None

    @property
    def moved(self) -> tuple[ProcessSpec, ...]:
        """The engines that get another place."""
        specs = self.prepared.specs if self.prepared else ()
        return tuple(spec for spec in specs if spec != self.old(spec))

    def old(self, spec: ProcessSpec) -> ProcessSpec:
        """The engine as it is now."""
        return next(old for old in self.current.specs if old.name == spec.name)


def _planned(name: str, lost: Collection[str]) -> _Move:
    with planning():
        return _plan(name, lost)


def _plan(name: str, lost: Collection[str]) -> _Move:
    current = current_launch(name)
    without = frozenset((*lost, *_lost_now(name)))
    ordered = _in_order(current, lost)
    prepared = _prepared(current, ordered, without) if ordered else None
    return _Move(current, without, prepared)


def _lost_now(name: str) -> tuple[str, ...]:
    last = state.read_state(name)
    return last.lost_nodes if last else ()


def _in_order(current: Launch, lost: Collection[str]) -> list[ProcessSpec]:
    """The engines of lost nodes, most needed first."""
    engines = [spec for spec in current.specs if spec.role != "router"]
    staying = [spec for spec in engines if not set(nodes_of(spec)) & set(lost)]
    return most_needed_first([spec for spec in engines if spec not in staying], staying)


def _prepared(
    current: Launch, ordered: Sequence[ProcessSpec], without: Collection[str]
) -> Prepared:
    """The deployment with as many of these engines on other nodes as there is room for."""
    deployment = chosen_deployment(current)
    for num in range(len(ordered), 0, -1):
        present = tuple(spec for spec in current.specs if spec not in ordered[:num])
        try:
            return prepare(deployment, present=present, launcher=current.launcher, without=without)
        except EnvironmentProblem as problem:
            if num == 1 or problem.code != "not_enough_gpus":
                raise
    raise AssertionError("unreachable")


def most_needed_first(
    moving: Sequence[ProcessSpec], staying: Sequence[ProcessSpec]
) -> list[ProcessSpec]:
    """Engines in the order in which they get room: the role with the smallest share left first."""
    wanted = Counter(spec.role for spec in (*moving, *staying))
    num = Counter(spec.role for spec in staying)
    left, ordered = list(moving), []
    while left:
        first = min(left, key=lambda spec: num[spec.role] / wanted[spec.role])
        left.remove(first)
        ordered.append(first)
        num[first.role] += 1
    return ordered


def _sentence(old: ProcessSpec, new: ProcessSpec, lost: Collection[str]) -> str:
    gone = ", ".join(node for node in nodes_of(old) if node in lost)
    return f"{new.name} starts on {new.node}, because {gone} has left the network."


def main(name: str, *nodes: str) -> None:
    """Move the engines of these nodes; one line on stderr if that is impossible."""
    try:
        relocate(name, nodes)
    except PdctlError as problem:
        sys.exit(problem.message)


if __name__ == "__main__":
    main(*sys.argv[1:])
