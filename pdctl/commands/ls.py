"""`pdctl ls`: list this user's running deployments."""

import dataclasses
import time

import typer

from pdctl.console import out, show


def ls(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """List the deployments that run on this machine. Tabs separate columns in a pipe.

    \b
    Examples:
      pdctl ls
      pdctl ls --json
    """
    from pdctl.engines.lifecycle import running
    from pdctl.tables.deployments import ls_table, ls_view
    from pdctl.tables.tabs import tab_lines

    states, now = running.states(), time.time()
    show(
        "ls",
        [dataclasses.asdict(state) for state in states],
        as_json=as_json,
        render=lambda: ls_view(states, now, out().width),
        lines=lambda: tab_lines(ls_table(states, now)),
    )
