"""Deployments in the formats of other programs: one entry of EXPORTS or FIXED for each format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pdctl.deployment.exports.grafana import dashboard
from pdctl.deployment.exports.k8s import disaggregated_set, one_each, renderer, role_based_group
from pdctl.deployment.exports.miles import NOTE, render_external, render_flags, render_yaml
from pdctl.deployment.exports.prometheus import render as render_prometheus
from pdctl.deployment.exports.prometheus import rules
from pdctl.deployment.exports.shell import render as render_shell
from pdctl.deployment.exports.slurm import render as render_slurm
from pdctl.deployment.records import Deployment, ProcessSpec


@dataclass(frozen=True)
class Export:
    """One format.

    render: the text for a deployment and its processes. needs_processes: the processes have to be
    resolved for it; otherwise it gets none. of_running: it gets those of the running deployment of
    this name. note: a remark for the user.
    """

    render: Callable[[Deployment, Sequence[ProcessSpec]], str]
    needs_processes: bool = False
    of_running: bool = False
    note: str = ""


EXPORTS: Mapping[str, Export] = {
    "miles": Export(render_flags, note=NOTE),
    "miles-yaml": Export(render_yaml, note=NOTE),
    "miles-external": Export(render_external, of_running=True),
    "shell": Export(render_shell, needs_processes=True),
    "slurm": Export(render_slurm),
    "k8s": Export(renderer(one_each)),
    "k8s-disaggregatedset": Export(renderer(disaggregated_set)),
    "k8s-rbg": Export(renderer(role_based_group)),
    "prometheus": Export(render_prometheus),
}

# texts that are the same for every deployment
FIXED: Mapping[str, Callable[[], str]] = {"prometheus-rules": rules, "grafana": dashboard}
