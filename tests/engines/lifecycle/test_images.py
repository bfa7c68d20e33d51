import json
from collections.abc import Sequence
from dataclasses import replace

import pytest

from pdctl.deployment.records import Container
from pdctl.engines.lifecycle.images import sglang_in_images
from pdctl.errors import EnvironmentProblem
from tests.deployment.examples import split
from tests.engines.launchers.in_memory import InMemoryLauncher

DOCKER = Container("docker", "sglang:1")
IN_CONTAINERS = split(container=DOCKER)


class Nodes(InMemoryLauncher):
    """Nodes on which images have SGLang: (node, image) -> version; "" for an image without it."""

    def __init__(self, versions: dict[tuple[str, str], str]) -> None:
        super().__init__(names=("a", "b"))
        self.images = versions

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        container: Container | None = None,
    ) -> str:
        assert container is not None
        assert not container.gpus
        if (node, container.image) not in self.images:
            raise EnvironmentProblem(f"docker failed: No such image: {container.image}")
        found = self.images[node, container.image] or None
        backends = ["mooncake", "nixl"] if node == "a" else ["nixl"]
        return "a banner\n" + json.dumps({"sglang": found, "router": None, "backends": backends})


def refusal(versions: dict[tuple[str, str], str]) -> EnvironmentProblem:
    with pytest.raises(EnvironmentProblem) as error:
        sglang_in_images(IN_CONTAINERS, Nodes(versions), ("a", "b"))
    return error.value


def test_equal_images_give_their_sglang_and_the_backends_of_all() -> None:
    nodes = Nodes({("a", "sglang:1"): "0.5.23", ("b", "sglang:1"): "0.5.23"})
    found = sglang_in_images(IN_CONTAINERS, nodes, ("a", "b"))
    assert (found.python, found.version, found.backends) == ("python3", "0.5.23", ("nixl",))


def test_a_node_without_the_image_is_named_with_the_fix() -> None:
    problem = refusal({("a", "sglang:1"): "0.5.23"})
    assert problem.message == (
        "Image sglang:1 on b does not start: docker failed: No such image: sglang:1"
    )
    assert problem.hint == "docker pull sglang:1 on b"


def test_an_image_with_another_sglang_or_without_any_is_named() -> None:
    first = {("a", "sglang:1"): "0.5.23"}
    assert refusal({**first, ("b", "sglang:1"): "0.5.15"}).message == (
        "Image sglang:1 on b has SGLang 0.5.15, and Image sglang:1 on a has 0.5.23."
    )
    assert refusal({**first, ("b", "sglang:1"): ""}).code == "no_sglang"


def test_the_image_of_each_role_is_asked() -> None:
    roles = dict(IN_CONTAINERS.roles)
    roles["decode"] = replace(roles["decode"], image="sglang:2")
    nodes = Nodes({("a", "sglang:1"): "0.5.23"})
    with pytest.raises(EnvironmentProblem) as error:
        sglang_in_images(replace(IN_CONTAINERS, roles=roles), nodes, ("a",))
    assert error.value.message.startswith("Image sglang:2 on a does not start")
