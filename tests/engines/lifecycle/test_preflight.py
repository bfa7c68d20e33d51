from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.engines.lifecycle.preflight import refuse_unequal_nodes
from pdctl.errors import EnvironmentProblem
from tests.deployment.examples import split
from tests.engines.launchers.in_memory import InMemoryLauncher

NODES = ("a", "b", "c")
ON_DISK = replace(split(), model="/models/llama")


def cluster(*with_model: str) -> InMemoryLauncher:
    made = InMemoryLauncher(names=NODES)
    made.files.update({(node, Path(ON_DISK.model)): "" for node in with_model})
    return made


def test_equal_nodes_pass() -> None:
    launcher = cluster(*NODES)
    refuse_unequal_nodes(ON_DISK, launcher.sglang("a", None), launcher, NODES)
    refuse_unequal_nodes(replace(split(), model="Qwen/Qwen3-8B"), None, cluster(), NODES)


def test_a_node_without_the_model_is_named() -> None:
    with pytest.raises(EnvironmentProblem) as error:
        refuse_unequal_nodes(ON_DISK, None, cluster("a", "b"), NODES)
    assert error.value.message == "c does not have /models/llama."


def test_a_node_that_runs_nothing_needs_no_model() -> None:
    refuse_unequal_nodes(ON_DISK, None, cluster("a", "b"), ("a", "b"))


def test_a_node_with_another_sglang_is_named() -> None:
    launcher = cluster(*NODES)
    launcher.versions["b"] = "0.5.23"
    with pytest.raises(EnvironmentProblem) as error:
        refuse_unequal_nodes(ON_DISK, launcher.sglang("a", None), launcher, NODES)
    assert error.value.message == "b has SGLang 0.5.23 in python, and a has 0.5.15."
