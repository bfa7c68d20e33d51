"""`pdctl logs`: show the logs of engines, router and supervisor."""

import sys

import typer

from pdctl.console import print_json, printable
from pdctl.errors import InvalidInput


def logs(
    process: str | None = typer.Argument(None, help="An engine, or router. Default: all."),
    name: str | None = typer.Option(None, "--name", help="Name of the deployment."),
    follow: bool = typer.Option(False, "-f", "--follow", help="Keep printing new lines."),
    events: bool = typer.Option(False, "--events", help="Show the supervisor's decisions."),
    tail: int = typer.Option(40, "--tail", min=0, help="Number of last lines to show."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object; not with -f."),
) -> None:
    """Show logs, even of a deployment that has stopped.

    \b
    Examples:
      pdctl logs -f
      pdctl logs decode-0 --tail 200
    """
    from pdctl.engines.lifecycle import logs as log_files

    if as_json and follow:
        raise InvalidInput("--json and -f exclude each other.", hint="pdctl logs --json")
    deployment = log_files.deployment_of_logs(name)
    if events:
        lines = log_files.event_lines(deployment, tail=tail)
    else:
        lines = log_files.lines(deployment, process, tail=tail)
    if as_json:
        print_json("logs", {"name": deployment, "lines": list(lines)})
        return
    more = log_files.follow(deployment, process, of_events=events) if follow else ()
    for batch in (lines, more):
        for line in batch:
            sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()
