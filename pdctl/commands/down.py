"""`pdctl down`: stop a deployment and every process of it."""

from typing import TYPE_CHECKING

import typer

from pdctl.commands.progress import say
from pdctl.console import show

if TYPE_CHECKING:
    from pdctl.engines.records import DeploymentState


def down(
    name: str | None = typer.Argument(None, help="Deployment. Default: the only one."),
    now: bool = typer.Option(False, "--now", help="Kill at once; drop requests in flight."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Stop a deployment: first the router, then the engines once requests in flight are done.

    Works even if the deployment's supervisor is dead.

    \b
    Examples:
      pdctl down
      pdctl down chat --now
    """
    from rich.text import Text

    from pdctl.engines.lifecycle import running, submitted
    from pdctl.tables.deployments import change_lines

    deployment = running.chosen_name(name)
    last: DeploymentState | None = None

    def tell(state: "DeploymentState") -> None:
        nonlocal last
        for line in change_lines(last, state) if last else ():
            say(line)
        last = state

    job = submitted.submitted_job(deployment)
    waits = job is not None and not running.is_running(deployment)
    killed = () if waits else running.stop(deployment, now=now, tell=tell)
    if job is not None:
        submitted.end(job)
    data = {"name": deployment, "killed": list(killed)}
    by_force = f" Killed by force: {', '.join(killed)}." if killed else ""
    text = f"Stopped {deployment}.{by_force}"
    if job is not None and waits:
        text = f"Cancelled Slurm job {job.number}."
    show("down", data, as_json=as_json, render=lambda: Text(text))
