"""`pdctl down`: stop a deployment and make sure that nothing of it is left."""

import sys
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pdctl.engines.records import DeploymentState


def down(
    name: str | None = typer.Argument(None, help="Of the deployment; not needed if one runs."),
    now: bool = typer.Option(False, "--now", help="Kill at once, requests in flight included."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object."),
) -> None:
    """Stop a deployment: the router first, requests in flight finish, then the engines.

    Works too when the supervisor of the deployment is dead.

    \b
    Examples:
      pdctl down
      pdctl down chat --now
    """
    from rich.text import Text

    from pdctl.console import printable, show
    from pdctl.engines.lifecycle import running, submitted
    from pdctl.tables.deployments import change_lines

    chosen = running.chosen_name(name)
    last: DeploymentState | None = None

    def tell(state: "DeploymentState") -> None:
        nonlocal last
        for line in change_lines(last, state) if last else ():
            sys.stderr.write(printable(f"{line}\n"))
        last = state

    job = submitted.submitted_job(chosen)
    waits = job is not None and not running.is_running(chosen)
    killed = () if waits else running.stop(chosen, now=now, tell=tell)
    if job is not None:
        submitted.end(job)
    data = {"name": chosen, "killed": list(killed)}
    by_force = f" Killed by force: {', '.join(killed)}." if killed else ""
    text = f"Cancelled Slurm job {job.number}." if job and waits else f"Stopped {chosen}.{by_force}"
    show("down", data, as_json=as_json, render=lambda: Text(text))
