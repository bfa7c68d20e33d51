"""The launcher protocol is the only way to a machine."""

import re
from pathlib import Path

import pytest

import pdctl

PACKAGE = Path(pdctl.__file__).parent
MACHINE = re.compile(
    r"\bpids?\b|/proc\b|127\.0\.0\.1|\blocalhost\b|\bpsutil\b|os\.kill|subprocess|LocalLauncher"
)
# docs/decisions/0050 gives the reason for each
ALLOWED = {
    "engines/launchers/local.py": "this machine",
    "engines/launchers/local_ports.py": "this machine",
    "engines/launchers/registry.py": "creates the local launcher",
    "engines/launchers/agent_launcher.py": "what stands here for a process of another node",
    "engines/launchers/slurm.py": "steps of a Slurm job, whose srun runs here",
    "engines/launchers/slurm_commands.py": "Slurm's commands",
    "engines/launchers/agents.py": "starts the wires to agents",
    "engines/node_agent.py": "runs on the node that it answers for",
    "engines/lifecycle/supervisor_process.py": "the supervisor's own process",
    "engines/daemon.py": "the supervisor's own process",
    "engines/supervision/side_processes.py": "processes of the supervisor's own",
    "deployment/containers.py": "a flag of docker and podman",
    "deployment/build.py": "a hint for people",
    "engines/guard.py": "the supervisor's own process",
    "engines/container_shim.py": "runs inside the started process",
    "engines/exec_shim.py": "runs inside the started process",
    "engines/state.py": "the boot of the supervisor's machine, and states of an older pdctl",
    "engines/records.py": "the supervisor's own process",
    "engines/log_signatures.py": "texts for people",
    "engines/listen_address.py": "a hint for people",
}
FILES = sorted(
    path
    for folder in ("engines", "deployment")
    for path in (PACKAGE / folder).rglob("*.py")
    if "sim" not in path.parts and str(path.relative_to(PACKAGE)) not in ALLOWED
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_the_local_launcher_knows_this_machine(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    found = [line.strip() for line in lines if MACHINE.search(line)]
    assert not found
