"""Check that the nodes of a deployment are alike, before any of them loads weights."""

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pdctl.deployment.records import Deployment
from pdctl.engines.launchers.protocol import Launcher
from pdctl.engines.lifecycle.images import sglang_in_images
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.records import SglangInstall


def refuse_unequal_nodes(
    deployment: Deployment,
    install: SglangInstall | None,
    launcher: Launcher,
    nodes: Collection[str],
) -> None:
    """Raise EnvironmentProblem for a node without the model, or with another SGLang.

    install: the SGLang of the first node; None for simulated engines.
    Ignores: the content of the model's files.
    """
    others = [node for node in nodes if node != launcher.nodes()[0]]
    with ThreadPoolExecutor(max_workers=max(len(nodes), 1)) as each:
        tuple(each.map(lambda node: _check_model(deployment.model, launcher, node), nodes))
        if install is not None and deployment.container is not None:
            sglang_in_images(deployment, launcher, nodes)
        elif install is not None:
            tuple(each.map(lambda node: _check_sglang(install, launcher, node), others))


def _check_model(model: str, launcher: Launcher, node: str) -> None:
    if Path(model).is_absolute() and not launcher.has_path(node, Path(model)):
        raise EnvironmentProblem(
            f"{node} does not have {model}.",
            hint="a path that all nodes share, or copy the model to that node",
            code="no_model_there",
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
