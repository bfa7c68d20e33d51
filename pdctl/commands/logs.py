"""`pdctl logs`: what engines, router and supervisor wrote."""

import sys

import typer


def logs(
    process: str | None = typer.Argument(None, help="An engine or the router; usual: all."),
    name: str | None = typer.Option(None, "--name", help="Of the deployment."),
    follow: bool = typer.Option(False, "-f", "--follow", help="Go on with new lines."),
    events: bool = typer.Option(False, "--events", help="What the supervisor decided, and when."),
    tail: int = typer.Option(40, "--tail", min=0, help="How many of the last lines; 0: none."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object; not with -f."),
) -> None:
    """Show logs, also of a deployment that has ended.

    \b
    Examples:
      pdctl logs -f
      pdctl logs decode-0 --tail 200
    """
    from pdctl.console import print_json, printable
    from pdctl.engines.lifecycle import logs as log_files
    from pdctl.errors import InvalidInput

    if as_json and follow:
        raise InvalidInput("--json and -f exclude each other.", hint="pdctl logs --json")
    chosen = log_files.deployment_of_logs(name)
    if events:
        lines = log_files.event_lines(chosen, tail=tail)
    else:
        lines = log_files.lines(chosen, process, tail=tail)
    if as_json:
        print_json("logs", {"name": chosen, "lines": list(lines)})
        return
    more = log_files.follow(chosen, process, of_events=events) if follow else ()
    for batch in (lines, more):
        for line in batch:
            sys.stdout.write(f"{printable(line)}\n")
        sys.stdout.flush()
