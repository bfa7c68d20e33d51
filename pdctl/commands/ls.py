"""`pdctl ls`: list this user's running deployments."""

import dataclasses
import time

import typer

from pdctl.console import show


def ls(as_json: bool = typer.Option(False, "--json", help="Print one JSON object.")) -> None:
    """List the deployments that run on this machine.

    \b
    Examples:
      pdctl ls
      pdctl ls --json
    """
    from pdctl.engines.lifecycle import running
    from pdctl.tables.deployments import ls_view

    states = running.states()
    data = [dataclasses.asdict(state) for state in states]
    show("ls", data, as_json=as_json, render=lambda: ls_view(states, time.time()))
