"""The commands of a deployment as a shell script."""

import shlex
from collections.abc import Sequence

from pdctl.deployment.containers import in_container
from pdctl.deployment.flags import with_engines
from pdctl.deployment.records import Deployment, ProcessSpec


def render(deployment: Deployment, specs: Sequence[ProcessSpec]) -> str:
    """A bash script that runs the processes; see `shell`."""
    return shell(specs)


def shell(specs: Sequence[ProcessSpec], notes: Sequence[str] = ()) -> str:
    """A bash script that starts every process, logs like pdctl, and stops everything on Ctrl-C.

    Without pdctl, nothing adds engines to the router, so its command lists them and it waits.

    Args:
        specs: the processes from `expand`, router first.
        notes: what was assumed, in sentences; comments of the script.
    """
    router, engines = specs[0], specs[1:]
    logs = sorted({str(spec.log.parent) for spec in specs})
    lines = [
        "#!/usr/bin/env bash",
        *(f"# {note}" for note in notes),
        "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT",
        *(f"mkdir -p {shlex.quote(directory)}" for directory in logs),
        *(_background(spec, spec.argv) for spec in engines),
        _background(router, with_engines(router, engines)),
        f"echo {shlex.quote(f'{router.url} answers once every engine is up')}",
        "wait",
    ]
    return "\n".join(lines) + "\n"


def _background(spec: ProcessSpec, argv: Sequence[str]) -> str:
    env = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(spec.env.items()))
    argv = in_container(spec, argv, name=f"pdctl-{spec.name}-{spec.port}")
    command = f"{shlex.join(argv)} >> {shlex.quote(str(spec.log))} 2>&1 &"
    return f"{env} {command}" if env else command
