"""Change the engine counts of a running deployment.

Writes the new target and returns; the supervisor does the rest.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

from pdctl.deployment.build import Counts, counts_of, role_changes, scaled
from pdctl.deployment.flags import differing_flags, parse_version, role_switch_obstacle
from pdctl.deployment.pd_yaml import read_deployment
from pdctl.deployment.records import HERE, Deployment, ProcessSpec
from pdctl.deployment.resources import assign_gpus, index_ranges, needs_gpus
from pdctl.engines import state
from pdctl.engines.launchers.registry import LOCAL, launcher_named
from pdctl.engines.lifecycle import running, start
from pdctl.engines.lifecycle.place import nodes_of_roles
from pdctl.engines.lifecycle.stage import copy_for
from pdctl.engines.lifecycle.start import Prepared, planning, prepare
from pdctl.engines.records import Launch
from pdctl.errors import EnvironmentProblem, PdctlError, StateConflict

GUARD_WAIT_S = 3.0  # the guard restarts a killed supervisor within this time


@dataclass(frozen=True)
class Rescaled:
    """The new target. changes: the fate of each engine, with the reason, in sentences."""

    launch: Launch
    before: str  # the previous layout
    changes: tuple[str, ...]

    @property
    def is_changed(self) -> bool:
        return bool(self.changes)


def rescale(
    name: str,
    counts: Counts,
    *,
    drain_s: float | None = None,
    show: Callable[[str], None] = lambda text: None,
    held: ExitStack | None = None,
) -> Rescaled:
    """Write a new target for the supervisor of a running deployment.

    Asking for the present counts changes nothing. Concurrent calls take effect in turn.
    drain_s: longest time for the requests of a leaving engine; None: as before.
    show: is given a text of how far the copy of the model to new nodes is, where `stage:` is set.
    held: holds the ports of new engines until it is closed; close it once they listen.

    Raises InvalidInput if the result could not serve, EnvironmentProblem if GPUs or ports are
    missing, StateConflict if it does not run, is stopping, or would have to stop serving.
    """
    current = current_launch(name)
    copy_for(
        lambda: _new_specs(name, counts),
        chosen_deployment(current).model,
        current.launcher,
        show,
    )
    with planning():
        planned = _planned(name, counts)
        if planned.prepared is None or planned.change is None:
            return Rescaled(planned.current, planned.before.layout, ())
        if held is not None:
            held.enter_context(start.holding(planned.current.launcher, planned.added))
        wanted = start.change(
            planned.prepared,
            leaving=planned.change.leaving,
            changes=planned.sentences,
            drain_s=drain_s,
        )
        return Rescaled(wanted, planned.before.layout, planned.sentences)


def _new_specs(name: str, counts: Counts) -> tuple[ProcessSpec, ...]:
    """The processes that a change would start."""
    with planning():
        planned = _planned(name, counts)
    specs = planned.prepared.specs if planned.prepared else ()
    return tuple(spec for spec in specs if spec not in planned.current.specs)


def preview(name: str, counts: Counts) -> Rescaled:
    """The same without writing anything: what `rescale` would do now. Raises as it does."""
    with planning():
        planned = _planned(name, counts)
        wanted = replace(planned.current, layout=planned.after.layout)
        return Rescaled(wanted, planned.before.layout, planned.sentences)


def lacking_gpus(name: str, counts: Counts) -> str:
    """The reason why a change needs more GPUs than this machine or --gpus has; "" if it does not.

    Ignores: GPUs that other programs use, and the GPUs of other nodes.
    """
    try:
        current = current_launch(name)
        after = scaled(chosen_deployment(current), counts)
        if after.engine == "sim":
            assign_gpus(after, ())  # raises if --gpus describes too few
        elif current.launcher == LOCAL and needs_gpus(after):
            launcher = launcher_named(LOCAL)
            num = len(launcher.gpus(HERE))
            if num < after.num_gpus:
                return f"{after.layout} takes {after.num_gpus} GPUs, and this machine has {num}."
    except PdctlError as problem:
        return problem.message
    return ""


def undo_counts(name: str) -> Counts:
    """The numbers of engines before the last change. Raises StateConflict where there was none."""
    current = current_launch(name)
    if not current.previous_layout:
        raise StateConflict(
            f"Deployment {name!r} has not been rescaled since it started.",
            hint=f"pdctl scale {name} --prefill 3",
            code="nothing_to_undo",
        )
    return counts_of(current.previous_layout)


@dataclass(frozen=True)
class _Planned:
    """A change that is possible. change, prepared: None where everything stays as it is."""

    current: Launch
    before: Deployment
    after: Deployment
    change: "_Change | None" = None
    prepared: Prepared | None = None
    sentences: tuple[str, ...] = ()

    @property
    def added(self) -> tuple[ProcessSpec, ...]:
        """The processes with ports of their own, which the supervisor does not hold yet."""
        held = {spec.url for spec in (*self.current.specs, *self.current.leaving)}
        specs = self.prepared.specs if self.prepared else ()
        return tuple(spec for spec in specs if spec.url not in held)


def _planned(name: str, counts: Counts) -> _Planned:
    current = current_launch(name)
    before = chosen_deployment(current)
    after = scaled(before, counts)
    if after.layout == before.layout:
        return _Planned(current, before, after)
    if after.engine == "sim":
        assign_gpus(after, ())  # raises if --gpus describes too few
    change = _Change.of(before, after, current)
    prepared = _prepared(change)
    _refuse_kept_memory(change, prepared)
    return _Planned(current, before, after, change, prepared, change.sentences(prepared))


def _refuse_kept_memory(change: "_Change", prepared: Prepared) -> None:
    """Refuse a change over NIXL that would need the only prefill engine to restart."""
    senders = [spec for spec in change.kept if spec.role == "prefill"]
    if prepared.backend != "nixl" or len(senders) != 1:
        return
    for spec in prepared.specs:
        for old in change.leaving:
            # only an engine of the same node maps the memory
            keeper = senders[0].name if senders[0].node == old.node else ""
            takes_it = (
                keeper and old.role == "decode" and set(old.gpu_places) & set(spec.gpu_places)
            )
            if takes_it and spec.needs_gpus and spec.name not in change.places:
                total = change.after.total
                num_prefill = change.after.roles["prefill"].engines
                raise StateConflict(
                    f"{spec.name} needs the GPU memory of {old.name}, but {keeper} keeps "
                    "it mapped (NIXL) until it restarts, and it is the only prefill engine.",
                    hint=f"pdctl down, then pdctl up --prefill {num_prefill} --total {total}; or "
                    "free one more GPU",
                    code="memory_kept",
                )


def _prepared(change: "_Change") -> Prepared:
    try:
        return prepare(
            change.after,
            present=change.present,
            places=change.places,
            launcher=change.launcher,
            without=change.lost_nodes,
        )
    except EnvironmentProblem as problem:
        if problem.code != "not_enough_gpus":
            raise
        hint = f"--prefill N alone keeps the total at {change.before.total} engines"
        raise EnvironmentProblem(problem.message, hint=hint, code=problem.code) from problem


@dataclass(frozen=True)
class _Change:
    """A change from one layout to another."""

    before: Deployment
    after: Deployment
    specs: Mapping[str, ProcessSpec]  # before
    kept: tuple[ProcessSpec, ...]
    back: Mapping[str, ProcessSpec]  # engines that were leaving and are wanted again
    leaving: tuple[ProcessSpec, ...]
    were_prefill: frozenset[str]  # engines that had the prefill role before
    launcher: str
    lost_nodes: tuple[str, ...]

    @classmethod
    def of(cls, before: Deployment, after: Deployment, current: Launch) -> "_Change":
        wanted = {"router", *after.engine_names}
        last = state.read_state(current.name)
        seen = tuple(p for p in last.processes if p.handle is not None) if last else ()
        alive = {(process.name, process.url) for process in seen}
        again = [s for s in current.leaving if s.name in wanted and (s.name, s.url) in alive]
        kept = tuple(
            spec
            for spec in current.specs
            if spec.name in wanted
            # an engine that waits for the place of one that now stays needs another place
            and ((spec.name, spec.url) in alive or not any(map(spec.shares_a_place_with, again)))
        )
        gone = [
            spec
            for spec in (*current.leaving, *current.specs)
            if spec not in kept and (spec.name, spec.url) in alive
        ]
        back = _taken_back(gone, wanted - {spec.name for spec in kept}, kept)
        leaving = tuple(spec for spec in gone if spec not in back.values())
        specs = {spec.name: spec for spec in current.specs}
        were_prefill = frozenset(process.name for process in seen if process.was_prefill)
        lost = last.lost_nodes if last else ()
        return cls(before, after, specs, kept, back, leaving, were_prefill, current.launcher, lost)

    @property
    def role_changes(self) -> dict[str, str]:
        """New engine -> the engine of the other role that gives up its place."""
        found = role_changes(self.before, self.after)
        return {new: old for new, old in found.items() if new not in self.back}

    @property
    def places(self) -> dict[str, ProcessSpec]:
        """New engine -> the running engine that takes the new role without a restart."""
        return {
            new: self.specs[old]
            for new, old in self.role_changes.items()
            if self.specs[old].can_switch_role
            and not self._have_own_nodes
            and self.specs[old] in self.leaving
            and not self._was_met(old)
        }

    @property
    def _have_own_nodes(self) -> bool:
        return bool(nodes_of_roles(self.after, launcher_named(self.launcher)))

    def _was_met(self, old: str) -> bool:
        """True if decode engines have cached its address from its time as a prefill engine."""
        return self.specs[old].role == "decode" and old in self.were_prefill

    @property
    def present(self) -> tuple[ProcessSpec, ...]:
        """The running processes, without those whose place a new engine takes."""
        replaced = self.places.values()
        stay = (*self.kept, *self.back.values())
        return (*stay, *(spec for spec in self.leaving if spec not in replaced))

    def sentences(self, prepared: Prepared) -> tuple[str, ...]:
        """The fate of each engine that is new or leaves, with the reason."""
        kept = {spec.name for spec in self.kept}
        wanted = {spec.name for spec in prepared.specs}
        new = [spec for spec in prepared.specs if spec.name not in kept]
        given_up = set(self.role_changes.values())
        gone = (name for name in self.specs if name not in wanted)
        stops = (name for name in gone if name not in given_up)
        return (
            *(self._about(spec, prepared) for spec in new),
            *(f"{name} leaves once its requests have finished." for name in stops),
        )

    def _about(self, spec: ProcessSpec, prepared: Prepared) -> str:
        where = f" on GPU {index_ranges(spec.gpus)}" if spec.gpus else ""
        old = self.role_changes.get(spec.name)
        if spec.name in self.back:
            return f"{spec.name} stays; it was about to leave."
        if old is None:
            return f"{spec.name} starts{where}."
        if spec.name in self.places:
            keeps = differing_flags(self.after)
            flags = f", and keeps its {', '.join(keeps)}" if keeps else ""
            return (
                f"{old} becomes {spec.name} without a restart: SGLang switches its role while "
                f"the weights stay{flags}."
            )
        return self._restart(spec, old, where, prepared)

    def _restart(self, spec: ProcessSpec, old: str, where: str, prepared: Prepared) -> str:
        version = parse_version(prepared.version)
        obstacle = role_switch_obstacle(self.after, version=version, backend=prepared.backend)
        if self._have_own_nodes:
            obstacle = "prefill and decode have nodes of their own"
        elif not obstacle and self._was_met(old):
            obstacle = "decode engines have cached its earlier address as a prefill engine"
        why = obstacle or f"{old} was started without role switching, or does not run"
        if set(spec.gpu_places) & set(self.specs[old].gpu_places):
            order = f"{old} leaves, then {spec.name} starts{where}, because no other GPU is free"
            return f"{order} (no role switch: {why})."
        return f"{spec.name} starts{where}, then {old} leaves (no role switch: {why})."


def _taken_back(
    gone: list[ProcessSpec], missing: set[str], kept: tuple[ProcessSpec, ...]
) -> dict[str, ProcessSpec]:
    """Engines that still run and are wanted again, by name."""
    urls = {spec.url for spec in kept}
    places = {place for spec in kept for place in spec.gpu_places}
    return {
        spec.name: spec
        for spec in gone
        if spec.name in missing and spec.url not in urls and not places & set(spec.gpu_places)
    }


def current_launch(name: str) -> Launch:
    """The present target. Raises StateConflict if no supervisor would follow a change."""
    current = state.read_launch(name)
    file = state.state_dir(name) / "launch.json"
    if current is None and state.is_supervised(name) and file.exists():
        raise StateConflict(f"{file} is damaged.", hint=f"pdctl down {name}", code="bad_state")
    if current is None or not running.is_running(name):
        raise running.not_running(name)
    deadline = time.monotonic() + GUARD_WAIT_S
    while not state.is_supervised(name):
        if time.monotonic() > deadline:
            raise StateConflict(
                f"Deployment {name!r} lost its supervisor, so nothing would act on the change.",
                hint=f"pdctl up --resume --name {name}, then repeat the command",
                code="no_supervisor",
            )
        time.sleep(0.05)
    found = state.read_state(name)
    if found is not None and found.phase in ("stopping", "stopped", "failed"):
        raise StateConflict(
            f"Deployment {name!r} is {found.phase}.", hint=f"pdctl status {name}", code="stopping"
        )
    return current


def chosen_deployment(current: Launch) -> Deployment:
    """The user's choice, with the engine counts of launch.json, which is written last."""
    chosen = read_deployment(state.desired_path(current.name))
    roles = [spec.role for spec in current.specs]
    plans = {role: replace(p, engines=roles.count(role)) for role, p in chosen.roles.items()}
    return replace(chosen, roles=plans)
