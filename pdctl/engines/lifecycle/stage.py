"""Copies of the model on the nodes' own disks, as `stage:` in cluster.yaml asks for."""

import hashlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pdctl.deployment.cluster_file import cluster_here
from pdctl.deployment.records import HERE, Deployment, ProcessSpec
from pdctl.deployment.sglang_flags import options
from pdctl.engines.launchers.each_node import of_each
from pdctl.engines.launchers.protocol import Copied, Launcher
from pdctl.engines.launchers.registry import LOCAL, launcher_named
from pdctl.inspection.model_contents import WEIGHTS
from pdctl.units import format_bytes

LOOK_EVERY_S = 0.5
SERVED_NAME = "--served-model-name"


def copy_of(model: str) -> Path | None:
    """The place of a model's copy on every node; None where nothing is to be copied."""
    stage = cluster_here().stage
    if stage is None or not Path(model).is_absolute():
        return None
    # two models may have the same last name
    return Path(stage) / f"{Path(model).name}-{hashlib.sha256(model.encode()).hexdigest()[:8]}"


def copy_model(
    model: str, launcher: Launcher, nodes: Collection[str], show: Callable[[str], None]
) -> None:
    """Copy a model to these nodes at the same time, and wait; nothing where `stage:` is not set.

    show: is given a text of how far the slowest node is.
    Raises EnvironmentProblem for a node whose disk has no room, or that does not answer.
    """
    target = copy_of(model)
    if target is None:
        return

    def look(node: str) -> Copied:
        return launcher.stage(node, Path(model), target)

    waiting = tuple(nodes)
    while waiting:
        found = of_each(waiting, look)
        waiting = tuple(node for node in waiting if not found[node].is_done)
        if waiting:
            show(_progress(target, found))
            time.sleep(LOOK_EVERY_S)


def copy_for(
    make: Callable[[], Sequence[ProcessSpec]],
    model: str,
    launcher: str,
    show: Callable[[str], None],
) -> None:
    """Copy a model to every node of the engines that `make` plans; nothing where nothing is staged.

    Other commands may plan meanwhile: a plan that is to be carried out is made afterwards.
    """
    if launcher == LOCAL or copy_of(model) is None:
        return
    engines = (spec for spec in make() if spec.role != "router")
    nodes = dict.fromkeys(node for spec in engines for node, _ in spec.parts)
    copy_model(model, launcher_named(launcher), tuple(nodes), show)


def _progress(target: Path, found: Mapping[str, Copied]) -> str:
    node = min(found, key=lambda node: found[node].done_bytes)
    done, total = found[node].done_bytes, found[node].total_bytes
    of = f"{format_bytes(done)} of {format_bytes(total)} on {node}" if total else f"on {node}"
    return f"copying the model to {target.parent}: {of}"


def with_copy(deployment: Deployment, launcher: Launcher, nodes: Collection[str]) -> Deployment:
    """A deployment whose engines load the copy of the model, if all these nodes have all of it.

    The engines keep the name under which they serve the model.
    """
    target = copy_of(deployment.model)
    if target is None or HERE in nodes or not nodes:
        return deployment

    def is_whole(node: str) -> bool:
        own = launcher.model_contents(node, target)
        return own is not None and own == launcher.model_contents(node, Path(deployment.model))

    if not all(of_each(nodes, is_whole).values()):
        return deployment
    name = (SERVED_NAME, deployment.model)
    roles = {
        role: plan if SERVED_NAME in options(plan.args) else replace(plan, args=(*plan.args, *name))
        for role, plan in deployment.roles.items()
    }
    is_file = Path(deployment.model).suffix in WEIGHTS
    loaded = target / Path(deployment.model).name if is_file else target
    return replace(deployment, model=str(loaded), roles=roles)


def not_copied(
    deployment: Deployment, loaded: Deployment, nodes: Collection[str]
) -> tuple[str, ...]:
    """A sentence where engines should load a copy, and `with_copy` gave the model itself."""
    target = copy_of(deployment.model)
    if target is None or HERE in nodes or loaded.model != deployment.model:
        return ()
    text = f"Not every node has a whole copy in {target}: these engines load {deployment.model}."
    return (text,)
