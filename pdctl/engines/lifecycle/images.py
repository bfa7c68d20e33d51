"""The SGLang of container images, asked in a container on the nodes that need it."""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from pdctl.deployment.containers import container_of
from pdctl.deployment.records import Container, Deployment
from pdctl.engines.launchers.each_node import of_each
from pdctl.engines.launchers.protocol import Nodes
from pdctl.errors import EnvironmentProblem
from pdctl.inspection import sglang_probe
from pdctl.inspection.records import SglangInstall

STARTS_WITHIN_S = 120.0  # pyxis unpacks an image first


def sglang_in_images(
    deployment: Deployment, launcher: Nodes, nodes: Collection[str]
) -> SglangInstall:
    """The SGLang that every image of a deployment has on every one of these nodes.

    Raises EnvironmentProblem for an image that is not there, does not start, has no SGLang, or has
    another one than the first.
    """
    containers = dict.fromkeys(_plain(deployment))
    pairs = [(node, container) for node in nodes for container in containers]
    found = list(of_each(pairs, lambda pair: _sglang_in(pair[1], launcher, pair[0])).values())
    first, (first_node, first_container) = found[0], pairs[0]
    for install, (node, container) in zip(found, pairs, strict=True):
        if install.version != first.version:
            raise EnvironmentProblem(
                f"{_on(container.image, node)} has SGLang {install.version}, and "
                f"{_on(first_container.image, first_node)} has {first.version}.",
                hint="the same image for prefill and decode, on every node",
                code="unequal_sglang",
            )
    common = set.intersection(*(set(install.backends) for install in found))
    return replace(first, backends=tuple(b for b in first.backends if b in common))


def _plain(deployment: Deployment) -> list[Container]:
    """The container of each role. Its SGLang is found without GPUs and without the model."""
    made = (container_of(replace(deployment, model=""), role) for role in deployment.roles)
    return [replace(container, gpus=False) for container in made if container is not None]


def _sglang_in(container: Container, launcher: Nodes, node: str) -> SglangInstall:
    source = Path(sglang_probe.__file__).read_text(encoding="utf-8")
    argv = (container.python, "-c", source)
    try:
        text = launcher.run(node, argv, timeout_s=STARTS_WITHIN_S, container=container)
        found = json.loads(text.strip().splitlines()[-1])
    except (EnvironmentProblem, ValueError, IndexError) as problem:
        said = problem.message if isinstance(problem, EnvironmentProblem) else "no answer."
        raise EnvironmentProblem(
            f"{_on(container.image, node)} does not start: {said}",
            hint=_fetch(container, node),
            code="no_image",
        ) from None
    if not found["sglang"]:
        raise EnvironmentProblem(
            f"{_on(container.image, node)} has no SGLang in {container.python}.",
            hint="container: {python: ...} names the interpreter inside the image",
            code="no_sglang",
        )
    return SglangInstall(
        container.python, found["sglang"], tuple(found["backends"]), found["router"]
    )


def _on(image: str, node: str) -> str:
    return f"Image {image} on {node or 'this machine'}"


def _fetch(container: Container, node: str) -> str:
    ways = {
        "docker": f"docker pull {container.image}",
        "podman": f"podman pull {container.image}",
        "apptainer": f"apptainer pull {container.image} docker://...",
        "pyxis": f"enroot import -o {container.image} docker://...",
    }
    return f"{ways[container.runtime]} on {node}" if node else ways[container.runtime]
