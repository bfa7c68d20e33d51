"""The command that a launcher starts, made from the command of a process."""

import sys
from collections.abc import Sequence
from pathlib import Path

from pdctl.deployment.containers import in_container
from pdctl.deployment.records import ProcessSpec
from pdctl.engines.clients.api_key import api_key

WITH_KEY = Path(__file__).parents[1] / "with_key.py"
_CONTAINER_SHIM = Path(__file__).parents[1] / "container_shim.py"
_TAKE_NO_KEY_FROM_ENVIRONMENT = ("sglang.launch_server", "sglang_router.launch_router")


def command_of(spec: ProcessSpec, run_id: str) -> tuple[str, ...]:
    """The command of a process with the API key, in its container where it has one."""
    argv = with_key(spec.argv, api_key())
    runtime = spec.container.runtime if spec.container else ""
    name = f"pdctl-{spec.name}-{run_id[:12]}"
    inside = in_container(spec, argv, name=name, mounts=(str(WITH_KEY),))
    if runtime not in ("docker", "podman"):
        return inside
    return (sys.executable, "-I", "-S", str(_CONTAINER_SHIM), runtime, name, *inside)


def with_key(argv: tuple[str, ...], key: str | None) -> tuple[str, ...]:
    """The command, changed to read the API key from its environment where there is a key."""
    if key is None or argv[1:2] != ("-m",) or argv[2] not in _TAKE_NO_KEY_FROM_ENVIRONMENT:
        return argv
    return (argv[0], str(WITH_KEY), *argv[2:])


def after_preamble(preamble: str, argv: Sequence[str]) -> tuple[str, ...]:
    """The command after the preamble of cluster.yaml, whose limits and modules it gets."""
    if not preamble:
        return tuple(argv)
    return ("bash", "-c", f'{preamble}\nexec "$@"', "bash", *argv)
